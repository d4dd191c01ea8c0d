"""Plausibility checks of a mask and its meshes: a valid mesh can come from a wrong mask."""

import numpy as np
from scipy import ndimage

from hipqct.anatomy import FemurFrame
from hipqct.image import Image
from hipqct.loads import overlapping_nodes
from hipqct.material import MaterialBins, material_name
from hipqct.mesh import (
    DISTAL_SLAB_MM,
    Mesh,
    Surface,
    boundary_faces,
    corner_jacobians_mm3,
    dihedral_angles_deg,
    enclosed_volume_mm3,
    euler_number,
    is_closed,
    surface_area_mm2,
    tet_volumes_mm3,
)
from hipqct.solid import bounding_box

# Round the outline there is bone: cortex, brighter than BONE_HU even when it is thin; farther out than
# OUTLINE_MM there is next to nothing as bright as compact bone.
OUTLINE_MM, BONE_HU, COMPACT_HU = 2.0, 150.0, 500.0
TOP_SHARE = 0.5  # the middle of the head, seen from above, in radii
DISTAL_NEXT_MM = 15.0  # what the held slab's sections are compared with
# A slice is the shaft's with this share of what those above it have; no femur ends higher than that.
WHOLE_SECTION, ENDS_BELOW_MM = 0.6, 45.0


def mask_facts(mask: Image, slab_mm: float = DISTAL_SLAB_MM) -> dict:
    """Volume of a mask of one solid piece, which ends of the image it touches, and how its lower end narrows.

    Args:
        slab_mm: depth of the slab that load cases hold.
    """
    solid = np.asarray(mask.array, bool)
    upwards = solid[:, :, :: 1 if mask.ascending else -1]
    return {
        "volume_mm3": float(solid.sum()) * mask.voxel_volume_mm3,
        "touches_lowest_slice": bool(upwards[:, :, 0].any()),
        "touches_highest_slice": bool(upwards[:, :, -1].any()),
        "touches_side": bool(solid[[0, -1]].any() or solid[:, [0, -1]].any()),
        "distal_slab_share": _distal_slab_share(upwards, mask.spacing_mm[2], slab_mm),
    }


def _distal_slab_share(upwards: np.ndarray, slice_mm: float, slab_mm: float) -> float:
    """Mean section of the lowest slab, which is held, over the median one of the 15 mm above them."""
    sections = upwards.sum(axis=(0, 1))
    sections = sections[sections > 0]
    slab, above = (max(1, round(mm / slice_mm)) for mm in (slab_mm, DISTAL_NEXT_MM))
    if len(sections) <= slab:
        return 1.0
    return float(sections[:slab].mean() / np.median(sections[slab : slab + above]))


def outline_facts(ct: Image, mask: Image) -> dict:
    """How far CT numbers agree with the mask's outline, slice by slice.

    Returns:
        ``bone_outside_percent``: of what lies 2 mm outside, what is as bright as compact bone: bone that was
        left out. ``no_bone_percent``: of the outline, what has no bone within 2 mm: soft tissue that was
        taken in.
    """
    x, y, _ = bounding_box(mask.array)
    rim = [int(np.ceil(2 * OUTLINE_MM / mm)) for mm in mask.spacing_mm[:2]]
    box = tuple(slice(max(0, side.start - n), side.stop + n) for side, n in zip((x, y), rim, strict=True))
    pixel_mm = mask.spacing_mm[:2]
    outside, far = [], []
    for z in np.flatnonzero(mask.array.any(axis=(0, 1))):
        hu, section = ct.array[(*box, z)], np.asarray(mask.array[(*box, z)], bool)
        ring = np.abs(_distance_mm(section, pixel_mm) - OUTLINE_MM) <= max(pixel_mm) / 2
        outside.append(hu[ring & ~section] > COMPACT_HU)
        outline = section & ~ndimage.binary_erosion(section)
        far.append(_distance_mm(hu > BONE_HU, pixel_mm)[outline] > OUTLINE_MM)
    return {"bone_outside_percent": _percent(outside), "no_bone_percent": _percent(far)}


def _percent(parts: list[np.ndarray]) -> float:
    """How much is true of boolean arrays taken together, 0 of nothing."""
    whole = np.concatenate(parts)
    return 100 * float(whole.mean()) if len(whole) else 0.0


def _distance_mm(found: np.ndarray, pixel_mm: tuple[float, ...]) -> np.ndarray:
    """Distance of every pixel to the nearest that is found; infinite where none is."""
    if not found.any():
        return np.full(found.shape, np.inf)
    return ndimage.distance_transform_edt(~found, sampling=pixel_mm)


def head_above_mask_mm(mask: Image, frame: FemurFrame) -> float:
    """How far the head's sphere rises above the mask in the middle of the head: its top is missing then."""
    offset = mask.to_world(np.argwhere(mask.array)) - frame.head_center_mm
    height_mm = offset @ mask.up
    aside_mm = np.linalg.norm(offset - height_mm[:, None] * mask.up, axis=1)
    middle_mm = height_mm[aside_mm < TOP_SHARE * frame.head_radius_mm]
    return float(frame.head_radius_mm - middle_mm.max(initial=0) - mask.spacing_mm[2] / 2)


def missing_mm(mask: Image, frame: FemurFrame, distal_cut_mm: float) -> float:
    """How far the mask ends above a plane square to the shaft, so far below the head's centre, at most.

    It ends above the first slice, from `ENDS_BELOW_MM` down, with much less bone than those above it: a
    ragged end or a stub is no length.
    """
    down = np.flatnonzero(mask.array.any(axis=(0, 1)))[:: -1 if mask.ascending else 1]
    sections = mask.array[:, :, down].sum(axis=(0, 1))
    centres_mm = mask.to_world(np.column_stack([np.zeros((len(down), 2)), down]))
    below_mm = (frame.head_center_mm - centres_mm) @ mask.up
    above = max(1, round(DISTAL_NEXT_MM / mask.spacing_mm[2]))
    ends = [
        i
        for i in range(1, len(down))
        if below_mm[i] > ENDS_BELOW_MM
        and sections[i] < WHOLE_SECTION * np.median(sections[max(0, i - above) : i])
    ]
    last = down[(ends[0] if ends else len(down)) - 1]
    end = np.argwhere(mask.array[:, :, last])
    end_mm = mask.to_world(np.column_stack([end, np.full(len(end), last)]))
    reach_mm = (frame.head_center_mm - end_mm + mask.up * mask.spacing_mm[2] / 2) @ frame.shaft_axis
    return max(0.0, distal_cut_mm - float(reach_mm.min()))


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


def tet_facts(mesh: Mesh, mask_volume_mm3: float, bins: MaterialBins | None) -> dict:
    """Size, volume error, worst angle, boundary and sets (members of each) of a tetrahedral mesh."""
    volumes_mm3 = tet_volumes_mm3(mesh.points_mm, mesh.cells)
    boundary = Surface(mesh.points_mm, boundary_faces(mesh.cells[:, :4]))
    return {
        **mesh.facts,
        "nodes": len(mesh.points_mm),
        "elements": len(mesh.cells),
        "volume_mm3": float(volumes_mm3.sum()),
        "volume_error_percent": 100 * (float(volumes_mm3.sum()) / mask_volume_mm3 - 1),
        "min_volume_mm3": float(volumes_mm3.min()),
        "min_dihedral_deg": float(dihedral_angles_deg(mesh.points_mm, mesh.cells).min()),
        "boundary_closed": is_closed(boundary),
        "node_sets": {name: len(nodes) for name, nodes in mesh.node_sets.items()},
        "overlapping_nodes": overlapping_nodes(mesh),
        "element_sets": _element_sets(len(mesh.cells), bins),
    }


def _element_sets(elements: int, bins: MaterialBins | None) -> dict[str, int]:
    counts = [] if bins is None else np.bincount(bins.bin_of_cell)
    return {"ALL": elements} | {material_name(i): int(count) for i, count in enumerate(counts)}


def hex_facts(mesh: Mesh, mask_volume_mm3: float, bins: MaterialBins | None) -> dict:
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
        "overlapping_nodes": overlapping_nodes(mesh),
        "element_sets": _element_sets(len(mesh.cells), bins),
    }


def check_gates(facts: dict, limits: dict) -> dict:
    """Every check with its value and limits; one that does not pass becomes a flag of the same name.

    A shaft cut by the lowest slice is how hip scans are and no gate; a head cut by the highest is one.
    What cannot be looked at is left out: ``no_anatomical_frame`` or ``uncalibrated`` then says why.

    Args:
        facts: of mesh.json; before there are meshes, those of mask and anatomy alone.
        limits: the configuration's ``mesh/gates``, by name ``(low, high)``, None for no bound.
    """
    values = _mask_values(facts) | _anatomy_values(facts)
    if "surface" in facts:
        values |= _mesh_values(facts) | _material_values(facts)
    return {
        name: {"value": value, "low": low, "high": high, "passed": _within(value, low, high)}
        for name, value in values.items()
        for low, high in [limits[name]]
    }


def _within(value, low, high) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _mask_values(facts: dict) -> dict:
    mask = facts["mask"]
    return {
        "distal_slab_share": mask["distal_slab_share"],
        "touches_scan_top": int(mask["touches_highest_slice"]),
        "touches_scan_side": int(mask["touches_side"]),
        **facts["outline"],
        "uncalibrated": int(facts["uncalibrated"]),
    }


def _mesh_values(facts: dict) -> dict:
    surface, hexes, tets = facts["surface"], facts["hex"], facts["tet"]
    values = {
        "surface_handles": 1 - surface["euler_number"] // 2,
        "surface_not_manifold": int(not surface["closed"]),
        "surface_volume_error_percent": surface["volume_error_percent"],
        "tet_min_dihedral_deg": tets["min_dihedral_deg"],
        "tet_min_volume_mm3": tets["min_volume_mm3"],
        "tet_not_manifold": int(not tets["boundary_closed"]),
        "hex_min_jacobian_mm3": hexes["min_jacobian_mm3"],
    }
    if radii_mm := facts["contact_radii_mm"].values():
        values["contact_radius_mm"] = min(radii_mm)
    for name, mesh in (("hex", hexes), ("tet", tets)):
        values[f"{name}_volume_error_percent"] = mesh["volume_error_percent"]
        values[f"{name}_empty_sets"] = sum(count == 0 for count in mesh["node_sets"].values())
        values[f"{name}_sets_overlap"] = mesh["overlapping_nodes"]
    return values


def _anatomy_values(facts: dict) -> dict:
    anatomy = facts["anatomy"]
    if anatomy is None:
        return {"no_anatomical_frame": 1}
    radius_mm = anatomy["head_radius_mm"]
    names = ("head_radius_mm", "head_misfit_mm", "head_coverage", "neck_shaft_angle_deg")
    return {
        "no_anatomical_frame": 0,
        "head_above_mask_mm": facts["head_above_mask_mm"],
        "distal_cut_missing_mm": facts["to_cut"]["missing_mm"] if facts["to_cut"] else 0.0,
        **{name: anatomy[name] for name in (*names, "below_head_mm", "shaft_length_mm")},
        "head_leak_percent": 100 * anatomy["leak_mm3"] / (4 / 3 * np.pi * radius_mm**3),
        "neck_share": anatomy["neck_area_mm2"] / (np.pi * radius_mm**2),
    }


def _material_values(facts: dict) -> dict:
    values = {}
    for mesh in ("hex", "tet"):
        if material := facts[mesh]["material"]:
            values[f"{mesh}_at_minimum_percent"] = material["at_minimum_percent"]
            values[f"{mesh}_modulus_max_mpa"] = material["modulus_max_mpa"]
            error = material["mineral_mesh_mg"] / facts["material"]["mineral_mask_mg"] - 1
            values[f"{mesh}_mineral_error_percent"] = 100 * error
    return values
