"""Mask to meshes: the closed surface, the voxel hexahedral and the quadratic tetrahedral model."""

from pathlib import Path

import numpy as np

import hipqct
from hipqct.errors import MeshError, SheetError
from hipqct.gates import check_gates, hex_facts, mask_facts, surface_facts, tet_facts
from hipqct.hexahedra import BONE_FRACTION_MIN, CUBE_MM, build_hexahedra
from hipqct.image import Image
from hipqct.io.files import write_json
from hipqct.io.images import read_image
from hipqct.io.meshes import write_inp, write_stl, write_vtu
from hipqct.material import MaterialBins
from hipqct.mesh import HexMesh, TetMesh
from hipqct.steps.materials import Calibration, add_hex_materials, add_tet_materials
from hipqct.surface import extract_surface, solid_mask
from hipqct.tetrahedra import SIZE_MM, build_tetrahedra

LAWS_FOLDER = Path(hipqct.__file__).resolve().parents[2] / "resources" / "materials"
DEFAULT_OPTIONS = {
    "cube_mm": CUBE_MM,
    "bone_fraction_min": BONE_FRACTION_MIN,
    "tet_mm": SIZE_MM,
    "points_per_edge": 8,
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
    options: dict,
    slope: float | None = None,
    intercept: float | None = None,
    basis: str = "K2HPO4",
):
    """Write surface.stl, hex and tet as inp and VTU, and what they are (mesh.json) into a folder.

    Without a calibration (``slope`` None) the models are geometry with CT numbers: no materials, marked
    ``uncalibrated`` in the decks' headers, the VTUs and the JSON.

    Args:
        options: keys of ``DEFAULT_OPTIONS``; those left out take its values.
        slope, intercept: calibration in mg/cm3 per HU and mg/cm3 of ``basis`` equivalent.

    Raises:
        MeshError: the mask cannot be meshed, or the laws do not fit.
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
    hexes, hex_bins, hex_material = _build_hex(mask, ct, calibration, options)
    tets = build_tetrahedra(mask, options["tet_mm"])
    tet_bins, tet_material = add_tet_materials(tets, ct, calibration, options["points_per_edge"])
    volume_mm3 = found["volume_mm3"]
    facts = {
        "software": f"hipqct {hipqct.__version__}",
        "frame": "LPS",
        "units": {"length": "mm", "force": "N", "stress": "MPa", "density": "mg/cm3"},
        "uncalibrated": calibration is None,
        "mask": found,
        "surface": surface_facts(surface, volume_mm3),
        "hex": hex_facts(hexes, volume_mm3, hex_bins) | {"material": hex_material},
        "tet": tet_facts(tets, volume_mm3, tet_bins) | {"material": tet_material},
        "material": calibration.facts() | {"mineral_mask_mg": mineral_mg} if calibration else None,
        "load_cases": {},
    }
    gates = check_gates(facts)
    facts |= {"gates": gates, "flags": [name for name, gate in gates.items() if not gate["passed"]]}
    write_stl(surface, folder / "surface.stl", f"{facts['software']} surface, mm, LPS")
    for name, mesh, bins in (("hex", hexes, hex_bins), ("tet", tets, tet_bins)):
        write_inp(mesh, folder / f"{name}.inp", _header(facts, name), bins, options["poissons_ratio"])
        write_vtu(mesh, folder / f"{name}.vtu", _cell_arrays(mesh, bins))
    write_json(facts, folder / "mesh.json")


def _build_hex(mask: Image, ct: Image, calibration: Calibration | None, options: dict):
    """The voxel model with, if calibrated, its material bins and their facts.

    ``average: density`` takes the law of a cube's mean density; ``modulus`` the mean of the law over the
    cube's voxels, which is stiffer where density varies inside a cube.
    """
    images = {"hu": ct.array}
    if calibration and options["average"] == "modulus":
        images["youngs_modulus_mpa"] = np.zeros(ct.shape, np.float32)
        images["youngs_modulus_mpa"][mask.array] = calibration.modulus_mpa(ct.array[mask.array])
    mesh = build_hexahedra(mask, images, options["cube_mm"], options["bone_fraction_min"])
    return mesh, *(add_hex_materials(mesh, calibration) if calibration else (None, None))


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


def _header(facts: dict, name: str) -> list[str]:
    """Lines on top of the deck: what it is, units, frame, calibration, laws with their sources."""
    mesh, shared = facts[name], facts["material"]
    kinds = {
        "hex": "voxel hexahedral model of a femur, C3D8",
        "tet": "quadratic tetrahedral model of a femur, C3D10",
    }
    lines = [
        f"{facts['software']}: {kinds[name]}",
        "units: mm, N, MPa",
        "frame: LPS of the scan (x to the left, y to the back, z to the head)",
        f"{mesh['nodes']} nodes, {mesh['elements']} elements",
        "flags: " + (", ".join(facts["flags"]) or "none"),
    ]
    if name == "hex":
        size = f"cubes of {mesh['cube_mm']:g} mm, bone fraction at least {mesh['bone_fraction_min']:g}"
    else:
        size = (
            f"edges of about {mesh['size_mm']:g} mm, dihedral angles from {mesh['min_dihedral_deg']:.1f} deg"
        )
    lines.insert(3, size)
    if shared is None:
        return [*lines, "UNCALIBRATED: the scan has no density calibration, so this deck has no materials"]
    scan, material = shared["calibration"], mesh["material"]
    lines.append(f"density mg/cm3 {scan['basis']} = {scan['slope']:.9g} HU + {scan['intercept']:.9g}")
    for law in [*shared["density_laws"], shared["modulus_law"]]:
        lines.append(f"law {law['name']}: {law['citation']}; {law['confidence']}")
    part = "the part of each cube inside the mask" if name == "hex" else "each element"
    return [
        *lines,
        f"mean {shared['average']} over {part}",
        f"minimum modulus {shared['minimum_modulus_mpa']:g} MPa",
        f"Poisson's ratio {shared['poissons_ratio']:g}",
        f"{material['bins']} materials in bins of {100 * shared['bin_width']:g}%, mean of the bin, "
        f"largest binning error {material['largest_binning_error_percent']:.2f}%",
    ]


def _cell_arrays(mesh: HexMesh | TetMesh, bins: MaterialBins | None) -> dict[str, np.ndarray]:
    """Cell arrays of the VTU: the mesh's own and the material's number, or the mark ``uncalibrated``."""
    if bins is None:
        return mesh.cell_data | {"uncalibrated": np.ones(len(mesh.cells), np.uint8)}
    return mesh.cell_data | {"material": (bins.bin_of_cell + 1).astype(np.int32)}
