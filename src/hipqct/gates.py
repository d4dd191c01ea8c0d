"""A mask and its meshes in numbers, and their gates: a clean mesh of a wrong mask is the trap."""

import numpy as np

from hipqct.image import Image
from hipqct.material import MaterialBins, material_name
from hipqct.mesh import (
    HexMesh,
    Surface,
    TetMesh,
    corner_jacobians_mm3,
    dihedral_angles_deg,
    enclosed_volume_mm3,
    euler_number,
    is_closed,
    surface_area_mm2,
    tet_volumes_mm3,
)
from hipqct.surface import solid_mask

# Promised by the contract; the surface is built to a tenth of it.
SURFACE_VOLUME_LIMIT_PERCENT = 0.1
# Cubes of half the bone or more balance out within about 1% on femurs; more says thin or torn mask.
HEX_VOLUME_LIMIT_PERCENT = 3.0
# Mineral in full cubes at their mean in-mask density, against the mask's: follows the volume.
HEX_MINERAL_LIMIT_PERCENT = 5.0
# The mesh is built to a tenth of it.
TET_VOLUME_LIMIT_PERCENT = 0.5
# Isosurface stuffing promises 10.7 degrees; femurs have 14 to 18.
TET_DIHEDRAL_LIMIT_DEG = 10.0
# Mineral integrated over the tetrahedra, air and fat at their edge included, against the mask's.
TET_MINERAL_LIMIT_PERCENT = 5.0
# More than this share of the volume at the minimum modulus: fat round the mask, or a wrong calibration.
# Fatty marrow of a long shaft makes 2% to 9% on the scans tried.
AT_MINIMUM_LIMIT_PERCENT = 10.0
# Compact bone ends near 20,000 MPa; stiffer is metal in the mask, or a wrong calibration.
MODULUS_LIMIT_MPA = 25_000.0


def mask_facts(mask: Image) -> dict:
    """Volume of the solid mask, what had to be mended in it, and which ends of the image it touches."""
    solid, facts = solid_mask(mask.array)
    occupied = np.flatnonzero(mask.array.any(axis=(0, 1)))
    return {
        "volume_mm3": float(solid.sum()) * mask.voxel_volume_mm3,
        **facts,
        "empty_slices": int(occupied[-1] - occupied[0] + 1 - len(occupied)),
        "touches_first_slice": bool(solid[:, :, 0].any()),
        "touches_last_slice": bool(solid[:, :, -1].any()),
        "touches_side": bool(solid[[0, -1]].any() or solid[:, [0, -1]].any()),
    }


def surface_facts(surface: Surface, mask_volume_mm3: float) -> dict:
    """Size, topology and volume error of a surface."""
    volume_mm3 = enclosed_volume_mm3(surface)
    return {
        "volume_mm3": volume_mm3,
        "volume_error_percent": 100 * (volume_mm3 / mask_volume_mm3 - 1),
        "area_mm2": surface_area_mm2(surface),
        "points": len(surface.points_mm),
        "triangles": len(surface.triangles),
        "euler_number": euler_number(surface),
        "closed": is_closed(surface),
    }


def tet_facts(mesh: TetMesh, mask_volume_mm3: float, bins: MaterialBins | None) -> dict:
    """Size, volume error, worst angle and sets (members of each) of a tetrahedral mesh."""
    volumes_mm3 = tet_volumes_mm3(mesh.points_mm, mesh.cells)
    return {
        **mesh.facts,
        "nodes": len(mesh.points_mm),
        "elements": len(mesh.cells),
        "volume_mm3": float(volumes_mm3.sum()),
        "volume_error_percent": 100 * (float(volumes_mm3.sum()) / mask_volume_mm3 - 1),
        "min_volume_mm3": float(volumes_mm3.min()),
        "min_dihedral_deg": float(dihedral_angles_deg(mesh.points_mm, mesh.cells).min()),
        "node_sets": {name: len(nodes) for name, nodes in mesh.node_sets.items()},
        "element_sets": _element_sets(len(mesh.cells), bins),
    }


def _element_sets(elements: int, bins: MaterialBins | None) -> dict[str, int]:
    counts = [] if bins is None else np.bincount(bins.bin_of_cell)
    return {"ALL": elements} | {material_name(i): int(count) for i, count in enumerate(counts)}


def hex_facts(mesh: HexMesh, mask_volume_mm3: float, bins: MaterialBins | None) -> dict:
    """Size, volume error, worst Jacobian and sets (members of each) of a hexahedral mesh."""
    volume_mm3 = len(mesh.cells) * mesh.facts["cube_mm"] ** 3
    return {
        **mesh.facts,
        "nodes": len(mesh.points_mm),
        "elements": len(mesh.cells),
        "volume_mm3": volume_mm3,
        "volume_error_percent": 100 * (volume_mm3 / mask_volume_mm3 - 1),
        "min_jacobian_mm3": float(corner_jacobians_mm3(mesh.points_mm, mesh.cells).min()),
        "node_sets": {name: len(nodes) for name, nodes in mesh.node_sets.items()},
        "element_sets": _element_sets(len(mesh.cells), bins),
    }


def check_gates(facts: dict) -> dict:
    """Every check with its value and limit; one that does not pass becomes a flag of the same name.

    A shaft that is cut by the first slice is how hip scans are and no gate; a head cut by the last is one.
    """
    mask, shared = facts["mask"], facts["material"]
    at_most = {
        "several_components": (mask["components"], 1),
        "empty_slices": (mask["empty_slices"], 0),
        "filled_cavities": (mask["filled_voxels"], 0),
        "touches_scan_top": (int(mask["touches_last_slice"]), 0),
        "touches_scan_side": (int(mask["touches_side"]), 0),
        "surface_handles": (1 - facts["surface"]["euler_number"] // 2, 0),
        "surface_volume_error_percent": (
            abs(facts["surface"]["volume_error_percent"]),
            SURFACE_VOLUME_LIMIT_PERCENT,
        ),
        "hex_volume_error_percent": (abs(facts["hex"]["volume_error_percent"]), HEX_VOLUME_LIMIT_PERCENT),
        "tet_volume_error_percent": (abs(facts["tet"]["volume_error_percent"]), TET_VOLUME_LIMIT_PERCENT),
        "tet_sharpness_deg": (90 - facts["tet"]["min_dihedral_deg"], 90 - TET_DIHEDRAL_LIMIT_DEG),
        "uncalibrated": (int(facts["uncalibrated"]), 0),
    }
    for name, mineral_limit in (("hex", HEX_MINERAL_LIMIT_PERCENT), ("tet", TET_MINERAL_LIMIT_PERCENT)):
        if shared is None:
            continue
        material = facts[name]["material"]
        error = 100 * abs(material["mineral_mesh_mg"] / shared["mineral_mask_mg"] - 1)
        at_most[f"{name}_mineral_error_percent"] = (error, mineral_limit)
        at_most[f"{name}_at_minimum_percent"] = (material["at_minimum_percent"], AT_MINIMUM_LIMIT_PERCENT)
        at_most[f"{name}_modulus_max_mpa"] = (material["modulus_max_mpa"], MODULUS_LIMIT_MPA)
    return {
        name: {"value": value, "limit": limit, "passed": value <= limit}
        for name, (value, limit) in at_most.items()
    }
