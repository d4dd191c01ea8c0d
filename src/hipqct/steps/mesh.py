"""Mask to meshes: the closed surface, the voxel hexahedral and the quadratic tetrahedral model."""

from pathlib import Path

import numpy as np

import hipqct
from hipqct.anatomy import FemurFrame, find_frame
from hipqct.errors import AnatomyError, MeshError, SheetError
from hipqct.gates import check_gates, gate_faults, hex_facts, mask_facts, surface_facts, tet_facts
from hipqct.hexahedra import BONE_FRACTION_MIN, CUBE_MM, SHAPES, build_hexahedra
from hipqct.image import Image
from hipqct.io.fe_formats import WRITERS
from hipqct.io.files import write_json
from hipqct.io.images import read_image
from hipqct.io.laws import LAWS_FOLDER
from hipqct.io.meshes import write_stl, write_vtp
from hipqct.loads import FIXATIONS, LoadCase, add_load_sets
from hipqct.mapping import extend_beyond
from hipqct.material import MaterialBins, bin_modulus
from hipqct.mesh import HexMesh, TetMesh
from hipqct.steps.decks import load_case_facts, write_load_cases, write_model, write_picture
from hipqct.steps.materials import Calibration, add_hex_materials, add_tet_materials
from hipqct.surface import extract_surface, solid_mask
from hipqct.tetrahedra import SIZE_MM, build_tetrahedra

DEFAULT_OPTIONS = {
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
    "cube_mm": (0.5, 20),
    "bone_fraction_min": (0.01, 1),
    "tet_mm": (0.5, 20),
    "points_per_edge": (1, 32),
    "minimum_modulus_mpa": (1e-3, 1e4),
    "poissons_ratio": (0, 0.49),
    "bin_width": (0, 0.5),
}


def export_mesh(
    mask_path,
    resampled_path,
    folder,
    side: str,
    options: dict,
    slope: float | None = None,
    intercept: float | None = None,
    basis: str = "K2HPO4",
):
    """Write surface.stl and .vtp, hex and tet as inp and VTU, a deck per load case, mesh.png and mesh.json.

    Without a calibration (``slope`` None) the models are geometry with CT numbers, marked ``uncalibrated`` in
    the decks' headers, the VTUs and the JSON: no materials and no load cases, unless the options give one
    modulus for all of the bone.

    Args:
        side: ``left`` or ``right``.
        options: keys of ``DEFAULT_OPTIONS``; those left out take its values.
        slope, intercept: calibration in mg/cm3 per HU and mg/cm3 of ``basis`` equivalent.

    Raises:
        MeshError: the mask cannot be meshed, the laws do not fit, or a gate named in ``gate_errors`` fails.
        SheetError: an option is unknown, or the calibration is half given or impossible.
    """
    options, folder = _complete(options, slope, intercept), Path(folder)
    mask, ct = read_image(mask_path), read_image(resampled_path)
    if not mask.same_grid(ct):
        raise MeshError(
            f"{mask_path} is not on the grid of {resampled_path}: make both from the same scan again"
        )
    found = mask_facts(mask)
    mask = mask.with_array(solid_mask(mask.array)[0])
    calibration = None if slope is None else Calibration(slope, intercept, basis, options)
    mineral_mg = calibration.check_mask(ct, mask) if calibration else None
    surface = extract_surface(mask)
    frame, no_frame = _find_frame(mask, side)
    models = {
        "hex": _build_hex(mask, ct, calibration, options),
        "tet": _build_tet(mask, ct, calibration, options),
    }
    cases = [LoadCase(name, **case) for name, case in options["load_cases"].items()]
    cases = cases if frame and models["hex"][1] else []
    for mesh, _, _ in models.values():
        add_load_sets(mesh, frame, cases, surface)
    volume_mm3 = found["volume_mm3"]
    (hexes, hex_bins, hex_material), (tets, tet_bins, tet_material) = models.values()
    facts = {
        "software": f"hipqct {hipqct.__version__}",
        "frame": "LPS",
        "units": {"length": "mm", "force": "N", "stress": "MPa", "density": "mg/cm3"},
        "side": side,
        "uncalibrated": calibration is None,
        "uncalibrated_modulus_mpa": None if calibration else options["uncalibrated_modulus_mpa"],
        "poissons_ratio": options["poissons_ratio"],
        "mask": found,
        "anatomy": frame.facts() if frame else None,
        "no_anatomical_frame": no_frame,
        "surface": surface_facts(surface, volume_mm3),
        "hex": hex_facts(hexes, volume_mm3, hex_bins) | {"material": hex_material},
        "tet": tet_facts(tets, volume_mm3, tet_bins) | {"material": tet_material},
        "material": calibration.facts() | {"mineral_mask_mg": mineral_mg} if calibration else None,
        "load_cases": load_case_facts(cases, frame),
    }
    facts |= _judge(facts, options)
    title = f"{facts['software']} surface, mm, LPS{', UNCALIBRATED' if facts['uncalibrated'] else ''}"
    write_stl(surface, folder / "surface.stl", title)
    write_vtp(surface, folder / "surface.vtp", title)
    for name, (mesh, bins, _) in models.items():
        write_model(name, mesh, bins, facts, options["formats"], folder)
        write_load_cases(name, mesh, frame, cases, facts, folder)
    write_picture(hexes, frame, facts, folder / "mesh.png")
    write_json(facts, folder / "mesh.json")


def _find_frame(mask: Image, side: str) -> tuple[FemurFrame | None, str]:
    """The anatomical frame, or None and why there is none: the models are then written without load cases."""
    try:
        return find_frame(mask, side), ""
    except AnatomyError as error:
        return None, str(error)


def _judge(facts: dict, options: dict) -> dict:
    """Gates and flags; MeshError for a gate that the options make an error."""
    gates = check_gates(facts, options["gates"])
    failed = [name for name, gate in gates.items() if not gate["passed"]]
    for name in failed:
        if name in options["gate_errors"]:
            gate = gates[name]
            bounds = {"at least": gate["low"], "at most": gate["high"]}
            allowed = " and ".join(f"{word} {n:g}" for word, n in bounds.items() if n is not None)
            raise MeshError(
                f"gate {name} is not passed: {gate['value']:.4g} where {allowed} is allowed; look at the "
                "segmentation, or mend gates and gate_errors in the configuration"
            )
    return {"gates": gates, "flags": failed}


def _build_hex(mask: Image, ct: Image, calibration: Calibration | None, options: dict):
    """The voxel model with, if calibrated, its material bins and their facts.

    ``average: density`` takes the law of a cube's mean density; ``modulus`` the mean of the law over the
    cube's voxels, which is stiffer where density varies inside a cube.
    """
    images = {"hu": ct.array}
    for name, function in (calibration.voxel_fields() if calibration else {}).items():
        images[name] = np.zeros(ct.shape, np.float32)
        images[name][mask.array] = function(ct.array[mask.array])
    mesh = build_hexahedra(
        mask, images, options["cube_mm"], options["bone_fraction_min"], options["hex_shape"]
    )
    if calibration:
        return mesh, *add_hex_materials(mesh, calibration)
    return mesh, _one_material(mesh, options), None


def _build_tet(mask: Image, ct: Image, calibration: Calibration | None, options: dict):
    """The tetrahedral model with, if calibrated, its material bins and their facts.

    ``beyond_mask: extend`` continues the bone's CT numbers beyond the mask before integrating, so that
    elements at its edge do not take in the fat and muscle next to it; with ``scan`` they do, as Bonemat's.
    """
    mesh = build_tetrahedra(mask, options["tet_mm"])
    if options["beyond_mask"] == "extend":
        ct = extend_beyond(ct, mask)
    bins, material = add_tet_materials(mesh, ct, calibration, options["points_per_edge"])
    return mesh, bins or _one_material(mesh, options), material


def _one_material(mesh: HexMesh | TetMesh, options: dict) -> MaterialBins | None:
    """The one modulus of an uncalibrated model, if the options give one."""
    if options["uncalibrated_modulus_mpa"] is None:
        return None
    mesh.cell_data["youngs_modulus_mpa"] = np.full(
        len(mesh.cells), float(options["uncalibrated_modulus_mpa"])
    )
    return bin_modulus(mesh.cell_data["youngs_modulus_mpa"], 0)


def _complete(options: dict, slope, intercept) -> dict:
    """Options with the defaults filled in; SheetError for a wrong one or half a calibration."""
    unknown = sorted(set(options) - set(DEFAULT_OPTIONS))
    if unknown:
        known = ", ".join(DEFAULT_OPTIONS)
        raise SheetError(f"mesh option {', '.join(unknown)} is unknown: use {known} in the configuration")
    if (slope is None) != (intercept is None):
        raise SheetError(
            f"calibration needs both slope and intercept, got slope {slope} and intercept {intercept}: "
            "fill in or empty both in the sample sheet"
        )
    options = DEFAULT_OPTIONS | options
    for name, (low, high) in OPTION_RANGES.items():
        if not low <= options[name] <= high:
            raise SheetError(
                f"mesh option {name} in the configuration must be {low:g} to {high:g}, got {options[name]}"
            )
    for name, choices in OPTION_CHOICES.items():
        if options[name] not in choices:
            raise SheetError(f"mesh option {name} must be {' or '.join(choices)}, got {options[name]}")
    for name in options["formats"]:
        if name not in WRITERS:
            raise SheetError(f"mesh format {name} is unknown: use {', '.join(WRITERS)} in the configuration")
    for name, case in options["load_cases"].items():
        if case["distal"] not in FIXATIONS:
            raise SheetError(
                f"mesh option load_cases/{name}/distal must be one of {FIXATIONS}, got {case['distal']}"
            )
    if faults := gate_faults(options["gates"], options["gate_errors"]):
        raise SheetError("; ".join(faults))
    return options
