"""What can be chosen for meshes and models: defaults, what is allowed, and what fits together."""

from dataclasses import fields
from numbers import Real

from hipqct.errors import MeshError, SheetError
from hipqct.gates import gate_faults
from hipqct.hexahedra import BONE_FRACTION_MIN, CUBE_MM, SHAPES
from hipqct.io.fe_formats import WRITERS
from hipqct.io.laws import LAWS_FOLDER, choose_laws
from hipqct.loads import FIXATIONS, LoadCase
from hipqct.mesh import DISTAL_SLAB_MM
from hipqct.tetrahedra import SIZE_MM

DEFAULT_OPTIONS = {
    "distal_cut_mm": None,
    "distal_slab_mm": DISTAL_SLAB_MM,
    "cube_mm": CUBE_MM,
    "bone_fraction_min": BONE_FRACTION_MIN,
    "hex_shape": "mask",
    "tet_mm": SIZE_MM,
    "points_per_edge": 8,
    "average": "density",
    "beyond_mask": "extend",
    "density_laws": {"K2HPO4": ["keyak1994_ash"], "HA": ["schileo2008_ash"]},
    "modulus_law": "keyak_three_range",
    "minimum_modulus_mpa": 10.0,
    "poissons_ratio": 0.3,
    "bin_width": 0.05,
    "laws_folder": str(LAWS_FOLDER),
    "uncalibrated_modulus_mpa": None,
    "formats": [],
    "load_cases": {
        "stance": {
            "angle_to_shaft_deg": 20,
            "posterior_deg": 0,
            "head_cap_deg": 40,
            "contact_depth_mm": 0,
            "distal": "clamped",
            "displacement_mm": 1.0,
            "source": "usual direction of the hip's force in single-leg stance, "
            "20 deg to the shaft; our choice, no protocol copied",
        },
        "fall": {
            "angle_to_shaft_deg": 100,
            "posterior_deg": 15,
            "head_cap_deg": 40,
            "contact_depth_mm": 6,
            "distal": "hinged",
            "displacement_mm": 1.0,
            "source": "sideways fall, shaft 10 deg from the ground, 15 deg internal "
            "rotation (as open FAIM code); hinge as PMC3045472, fig. 4",
        },
    },
    "gates": {},
    "gate_errors": [],
}
OPTION_CHOICES = {"average": ("density", "modulus"), "beyond_mask": ("extend", "scan"), "hex_shape": SHAPES}
OPTION_RANGES = {
    "distal_cut_mm": (50, 500),
    "distal_slab_mm": (1, 50),
    "cube_mm": (0.5, 20),
    "bone_fraction_min": (0.01, 1),
    "tet_mm": (0.5, 20),
    "points_per_edge": (1, 32),
    "minimum_modulus_mpa": (1e-3, 1e4),
    "poissons_ratio": (0, 0.49),
    "uncalibrated_modulus_mpa": (1e-3, 1e6),
    "bin_width": (0, 0.5),
}
MAY_BE_NONE = ("distal_cut_mm", "uncalibrated_modulus_mpa")


def complete_options(options: dict) -> dict:
    """The options with defaults for those left out.

    Raises:
        SheetError: one is unknown, of the wrong kind or outside its range, or a load case is incomplete.
    """
    unknown = sorted(set(options) - set(DEFAULT_OPTIONS))
    if unknown:
        known = ", ".join(DEFAULT_OPTIONS)
        raise SheetError(f"mesh option {', '.join(unknown)} is unknown: use {known} in the configuration")
    options = DEFAULT_OPTIONS | options
    for name, (low, high) in OPTION_RANGES.items():
        value = options[name]
        if value is None and name in MAY_BE_NONE:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
            raise SheetError(
                f"mesh option {name} in the configuration must be {low:g} to {high:g}, got {value}"
            )
    for name, choices in OPTION_CHOICES.items():
        if options[name] not in choices:
            raise SheetError(f"mesh option {name} must be {' or '.join(choices)}, got {options[name]}")
    for name in options["formats"]:
        if name not in WRITERS:
            raise SheetError(f"mesh format {name} is unknown: use {', '.join(WRITERS)} in the configuration")
    faults = [fault for name, case in options["load_cases"].items() for fault in _case_faults(name, case)]
    if faults := faults + gate_faults(options["gates"], options["gate_errors"]):
        raise SheetError("; ".join(faults))
    return options


def _case_faults(name: str, case: dict) -> list[str]:
    """What is wrong with a load case of the options."""
    known = {field.name for field in fields(LoadCase)} - {"name"}
    faults = [
        f"mesh/load_cases/{name}: {', '.join(sorted(keys))} {word}"
        for word, keys in (("is missing", known - set(case)), ("is unknown", set(case) - known))
        if keys
    ]
    if not faults and case["distal"] not in FIXATIONS:
        faults = [f"mesh/load_cases/{name}/distal must be one of {FIXATIONS}, got {case['distal']}"]
    return faults


def law_faults(options: dict, basis: str) -> list[str]:
    """What is wrong with the options' material laws, for every calibration basis they name and the cohort's.

    Args:
        options: complete or not; basis: of the cohort's calibrations.
    """
    options, faults = DEFAULT_OPTIONS | options, []
    for each in dict.fromkeys([*options["density_laws"], basis]):
        try:
            choose_laws(options["laws_folder"], each, options["density_laws"], options["modulus_law"])
        except MeshError as error:
            faults.append(f"mesh/density_laws/{each}: {error}")
    return faults
