"""Mask to meshes: the closed surface and the voxel hexahedral model."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

import hipqct
from hipqct.density import bone_mineral_content_mg, calibrate
from hipqct.errors import MeshError, SheetError
from hipqct.gates import check_gates, hex_facts, mask_facts, surface_facts
from hipqct.hexahedra import BONE_FRACTION_MIN, CUBE_MM, build_hexahedra
from hipqct.image import Image
from hipqct.io.files import write_json
from hipqct.io.images import read_image
from hipqct.io.laws import read_laws
from hipqct.io.meshes import write_inp, write_stl, write_vtu
from hipqct.material import (
    MG_CM3_PER_G_CM3,
    DensityLaw,
    MaterialBins,
    ModulusLaw,
    bin_modulus,
    convert_density,
    share_outside,
    youngs_modulus_mpa,
)
from hipqct.mesh import HexMesh, Surface
from hipqct.surface import extract_surface, solid_mask

LAWS_FOLDER = Path(hipqct.__file__).resolve().parents[2] / "resources" / "materials"
DEFAULT_OPTIONS = {
    "cube_mm": CUBE_MM,
    "bone_fraction_min": BONE_FRACTION_MIN,
    "average": "density",
    "density_laws": {"K2HPO4": ["keyak1994_ash"], "HA": ["schileo2008_ash"]},
    "modulus_law": "keyak_three_range",
    "minimum_modulus_mpa": 10.0,
    "poissons_ratio": 0.3,
    "bin_width": 0.05,
    "laws_folder": str(LAWS_FOLDER),
}
OPTION_RANGES = {
    "cube_mm": (0.5, 20),
    "bone_fraction_min": (0.01, 1),
    "minimum_modulus_mpa": (1e-3, 1e4),
    "poissons_ratio": (0, 0.49),
    "bin_width": (0, 0.5),
}


def export_mesh(
    mask_path,
    resampled_path,
    surface_path,
    hex_inp_path,
    hex_vtu_path,
    mesh_json_path,
    options: dict,
    slope: float | None = None,
    intercept: float | None = None,
    basis: str = "K2HPO4",
):
    """Write the closed surface (STL) and the voxel model (inp, VTU) of a mask, and what they are (JSON).

    Without a calibration (``slope`` None) the model is geometry with CT numbers: no materials, marked
    ``uncalibrated`` in the deck's header, the VTU and the JSON.

    Args:
        options: keys of ``DEFAULT_OPTIONS``; those left out take its values.
        slope, intercept: calibration in mg/cm3 per HU and mg/cm3 of ``basis`` equivalent.

    Raises:
        MeshError: the mask cannot be meshed, or the laws do not fit.
        SheetError: an option is unknown, or the calibration is half given or impossible.
    """
    options = _complete(options, slope, intercept)
    mask, ct = read_image(mask_path), read_image(resampled_path)
    if not mask.same_grid(ct):
        raise MeshError(
            f"{mask_path} is not on the grid of {resampled_path}: make both from the same scan again"
        )
    found = mask_facts(mask)
    mask = mask.with_array(solid_mask(mask.array)[0])
    surface = extract_surface(mask)
    if slope is None:
        mesh, bins, material = _build(mask, {"hu": ct.array}, options), None, None
    else:
        calibration = {"slope": slope, "intercept": intercept, "basis": basis}
        mesh, bins, material = _build_with_materials(mask, ct, calibration, options)
    facts = _describe(found, surface, mesh, bins, material)
    write_stl(surface, surface_path, f"{facts['software']} surface, mm, LPS")
    write_inp(mesh, hex_inp_path, _header(facts), bins, options["poissons_ratio"])
    write_vtu(mesh, hex_vtu_path, _cell_arrays(mesh, bins))
    write_json(facts, mesh_json_path)


def _describe(found: dict, surface: Surface, mesh: HexMesh, bins: MaterialBins | None, material) -> dict:
    """The content of mesh.json: frame, units, sizes, materials, gates and the flags that follow from them."""
    facts = {
        "software": f"hipqct {hipqct.__version__}",
        "frame": "LPS",
        "units": {"length": "mm", "force": "N", "stress": "MPa", "density": "mg/cm3"},
        "uncalibrated": bins is None,
        "mask": found,
        "surface": surface_facts(surface, found["volume_mm3"]),
        "hex": hex_facts(mesh, found["volume_mm3"], bins),
        "material": material,
        "load_cases": {},
    }
    gates = check_gates(facts)
    return facts | {"gates": gates, "flags": [name for name, gate in gates.items() if not gate["passed"]]}


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
    if options["average"] not in ("density", "modulus"):
        raise SheetError(f"mesh option average must be density or modulus, got {options['average']}")
    return options


def _build(mask: Image, images: dict[str, np.ndarray], options: dict) -> HexMesh:
    return build_hexahedra(mask, images, options["cube_mm"], options["bone_fraction_min"])


def _build_with_materials(mask, ct, calibration, options) -> tuple[HexMesh, MaterialBins, dict]:
    """The mesh with density and modulus per cell, its material bins, and what was used for them.

    ``average: density`` takes the law of a cube's mean density; ``modulus`` the mean of the law over the
    cube's voxels, which is stiffer where density varies inside a cube.
    """
    laws = _choose_laws(calibration["basis"], options)
    minimum_mpa = options["minimum_modulus_mpa"]
    voxels_mg_cm3 = calibrate(ct.array[mask.array], calibration["slope"], calibration["intercept"])
    if voxels_mg_cm3.mean() <= 0:
        raise SheetError(
            f"slope {calibration['slope']:g} and intercept {calibration['intercept']:g} give a mean density "
            f"of {voxels_mg_cm3.mean():.1f} mg/cm3 in the mask: mend the calibration in the sample sheet"
        )
    images = {"hu": ct.array}
    if options["average"] == "modulus":
        images["youngs_modulus_mpa"] = np.zeros(ct.shape, np.float32)
        images["youngs_modulus_mpa"][mask.array] = _modulus_mpa(voxels_mg_cm3, calibration, laws, minimum_mpa)
    mesh = _build(mask, images, options)
    # The calibration is linear: the mean density is the density of the mean CT number.
    density_mg_cm3 = calibrate(mesh.cell_data["hu"], calibration["slope"], calibration["intercept"])
    mesh.cell_data["density_mg_cm3"] = density_mg_cm3
    if options["average"] == "density":
        mesh.cell_data["youngs_modulus_mpa"] = _modulus_mpa(density_mg_cm3, calibration, laws, minimum_mpa)
    bins = bin_modulus(mesh.cell_data["youngs_modulus_mpa"], options["bin_width"])
    material = _material_facts(mesh, bins, calibration, laws, options)
    mask_volume_mm3 = voxels_mg_cm3.size * mask.voxel_volume_mm3
    material["mineral_mask_mg"] = bone_mineral_content_mg(voxels_mg_cm3.mean(), mask_volume_mm3)
    return mesh, bins, material


def _modulus_mpa(density_mg_cm3, calibration, laws, minimum_mpa) -> np.ndarray:
    density_g_cm3, basis = convert_density(density_mg_cm3 / MG_CM3_PER_G_CM3, calibration["basis"], laws[0])
    return youngs_modulus_mpa(laws[1], density_g_cm3, basis, minimum_mpa)


def _material_facts(mesh, bins, calibration, laws, options) -> dict:
    """Calibration, laws with their sources, and how the moduli of the mesh came out."""
    density_laws, modulus_law = laws
    modulus_mpa, density_mg_cm3 = mesh.cell_data["youngs_modulus_mpa"], mesh.cell_data["density_mg_cm3"]
    start_g_cm3 = density_mg_cm3 / MG_CM3_PER_G_CM3
    law_density_g_cm3, _ = convert_density(start_g_cm3, calibration["basis"], density_laws)
    at_minimum = modulus_mpa <= options["minimum_modulus_mpa"]
    return {
        "calibration": calibration,
        "density_laws": [asdict(law) for law in density_laws],
        "modulus_law": _law_facts(modulus_law),
        **{key: options[key] for key in ("average", "poissons_ratio", "minimum_modulus_mpa", "bin_width")},
        "modulus_min_mpa": float(modulus_mpa.min()),
        "modulus_max_mpa": float(modulus_mpa.max()),
        "at_minimum_percent": 100 * float(at_minimum.mean()),
        "outside_validity_percent": 100 * share_outside(modulus_law, law_density_g_cm3),
        "bins": len(bins.modulus_mpa),
        "largest_binning_error_percent": 100 * bins.largest_error,
        "mineral_mesh_mg": bone_mineral_content_mg(density_mg_cm3.sum(), options["cube_mm"] ** 3),
    }


def _choose_laws(basis: str, options: dict) -> tuple[list[DensityLaw], ModulusLaw]:
    """The laws that the options name for a calibration's basis; MeshError where one is missing."""
    laws = read_laws(options["laws_folder"])
    if basis not in options["density_laws"]:
        raise MeshError(
            f"no density laws for a calibration in {basis}: name some as density_laws in the configuration"
        )
    chosen = []
    named = [(name, DensityLaw) for name in options["density_laws"][basis]] + [
        (options["modulus_law"], ModulusLaw)
    ]
    for name, kind in named:
        if not isinstance(laws.get(name), kind):
            names = ", ".join(sorted(key for key, law in laws.items() if isinstance(law, kind)))
            raise MeshError(f"material law {name} is unknown or of the wrong kind: choose from {names}")
        chosen.append(laws[name])
    return chosen[:-1], chosen[-1]


def _law_facts(law: ModulusLaw) -> dict:
    facts = asdict(law)
    keys = ("up_to_g_cm3", "factor_mpa", "exponent", "offset_mpa")
    facts["pieces"] = [dict(zip(keys, piece, strict=True)) for piece in law.pieces]
    facts["pieces"][-1]["up_to_g_cm3"] = None
    return facts


def _header(facts: dict) -> list[str]:
    """Lines on top of the deck: what it is, units, frame, calibration, laws with their sources."""
    hexahedra, material = facts["hex"], facts["material"]
    lines = [
        f"{facts['software']}: voxel hexahedral model of a femur, C3D8",
        "units: mm, N, MPa",
        "frame: LPS of the scan (x to the left, y to the back, z to the head)",
        f"cubes of {hexahedra['cube_mm']:g} mm, bone fraction at least {hexahedra['bone_fraction_min']:g}",
        f"{hexahedra['nodes']} nodes, {hexahedra['elements']} elements",
        "flags: " + (", ".join(facts["flags"]) or "none"),
    ]
    if material is None:
        return [*lines, "UNCALIBRATED: the scan has no density calibration, so this deck has no materials"]
    scan = material["calibration"]
    lines.append(f"density mg/cm3 {scan['basis']} = {scan['slope']:.9g} HU + {scan['intercept']:.9g}")
    for law in [*material["density_laws"], material["modulus_law"]]:
        lines.append(f"law {law['name']}: {law['citation']}; {law['confidence']}")
    return [
        *lines,
        f"mean {material['average']} over the part of each cube inside the mask",
        f"minimum modulus {material['minimum_modulus_mpa']:g} MPa",
        f"Poisson's ratio {material['poissons_ratio']:g}",
        f"{material['bins']} materials in bins of {100 * material['bin_width']:g}%, mean of the bin, "
        f"largest binning error {material['largest_binning_error_percent']:.2f}%",
    ]


def _cell_arrays(mesh: HexMesh, bins: MaterialBins | None) -> dict[str, np.ndarray]:
    """Cell arrays of the VTU: the mesh's own and the material's number, or the mark ``uncalibrated``."""
    if bins is None:
        return mesh.cell_data | {"uncalibrated": np.ones(len(mesh.cells), np.uint8)}
    return mesh.cell_data | {"material": (bins.bin_of_cell + 1).astype(np.int32)}
