"""Painting a bone into a scan, computing only the blocks of voxels that it touches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hipqct.density import MM3_PER_CM3
from hipqct.image import Image
from hipqct.phantom import shapes

BLOCK_MM = 6.0  # small enough to skip most of the empty space, large enough for few blocks

# A block is skipped when its centre is farther outside than its half diagonal by this factor: distances of
# blended and bent solids overestimate by less.
BLOCK_MARGIN = 1.35

BLOCKS_AT_ONCE = 2000  # bounds the memory

# A ramp w wide at a surface of radius R overestimates by (w / 2R)^2: half a cell keeps that very small.
RAMP = 0.5


@dataclass(frozen=True)
class Bone:
    """A bone in the world: functions of points ``(3, n)`` in LPS mm.

    ``distance_mm`` to the outer surface (negative inside); ``density`` of points and their depths (mm) gives
    cortex thickness (mm), cortical and trabecular density (mg/cm3).
    """

    name: str
    distance_mm: Callable
    density: Callable


def _touched_blocks(ct: Image, bone: Bone, sizes: list[int]) -> np.ndarray:
    """First indices ``(n, 3)`` of the blocks (``sizes`` voxels) that the bone may touch."""
    starts = [np.arange(0, n, size) for n, size in zip(ct.shape, sizes, strict=True)]
    centers = [s + (size - 1) / 2 for s, size in zip(starts, sizes, strict=True)]
    index = np.stack(np.meshgrid(*centers, indexing="ij")).reshape(3, -1)
    points_mm = ct.to_world(index.T).T.astype(np.float32)
    reach_mm = 0.5 * np.linalg.norm(np.array(sizes) * ct.spacing_mm) * BLOCK_MARGIN + 1
    near = bone.distance_mm(points_mm) < reach_mm
    first = np.stack(np.meshgrid(*starts, indexing="ij")).reshape(3, -1)
    return first[:, near].T


def _block_points(ct: Image, first: np.ndarray, sizes: list[int], steps: tuple[int, int, int]) -> np.ndarray:
    """World points ``(3, blocks, x, y, z)`` of sub-cells: voxels split into ``steps`` per axis."""
    offsets = [(np.arange(size * step) + 0.5) / step - 0.5 for size, step in zip(sizes, steps, strict=True)]
    grids = [ct.origin_mm[a] + ct.spacing_mm[a] * (first[:, a, None] + offsets[a][None]) for a in range(3)]
    shape = (len(first), *[len(o) for o in offsets])
    points = np.empty((3, *shape), dtype=np.float32)
    points[0] = grids[0][:, :, None, None]
    points[1] = grids[1][:, None, :, None]
    points[2] = grids[2][:, None, None, :]
    return points


def _voxel_mean(values: np.ndarray, steps: int) -> np.ndarray:
    """Mean over the sub-slices of every voxel along the last axis."""
    return values.reshape(*values.shape[:-1], -1, steps).mean(axis=-1)


def paint_bone(ct: Image, bone: Bone, scan) -> tuple[np.ndarray, float]:
    """Paint ``bone`` over ``ct`` in place.

    Returns:
        The fraction of every voxel inside the bone's outer surface, and the mineral (mg, of the scan's basis)
        painted into the image.

    In-plane partial volume comes from the distance at the voxel's centre, along z from sub-slices about
    ``scan.substep_mm`` thick.
    """
    steps = max(1, round(ct.spacing_mm[2] / scan.substep_mm))
    sizes = [max(1, round(BLOCK_MM / s)) for s in ct.spacing_mm]
    occupied, mineral_mg = np.zeros(ct.shape, dtype=np.float32), 0.0
    first = _touched_blocks(ct, bone, sizes)
    for start in range(0, len(first), BLOCKS_AT_ONCE):
        part = first[start : start + BLOCKS_AT_ONCE]
        points = _block_points(ct, part, sizes, (1, 1, steps))
        shape = points.shape[1:]
        points = points.reshape(3, -1)
        distance = bone.distance_mm(points)
        inside = distance < ct.spacing_mm[0]
        fraction = np.zeros(distance.shape, dtype=np.float32)
        density = np.zeros(distance.shape, dtype=np.float32)
        fraction[inside] = shapes.occupancy(distance[inside], ct.spacing_mm[0])
        thickness, cortical, trabecular = bone.density(points[:, inside], -distance[inside])
        marrow = shapes.occupancy(distance[inside] + thickness, ct.spacing_mm[0])
        density[inside] = cortical * (fraction[inside] - marrow) + trabecular * marrow
        fraction_voxel, density_voxel = (_voxel_mean(v.reshape(shape), steps) for v in (fraction, density))
        bone_hu = (density_voxel - np.float32(scan.intercept) * fraction_voxel) / np.float32(scan.slope)
        within = _write(ct.array, occupied, part, fraction_voxel, bone_hu)
        mineral_mg += float(density_voxel[within].sum(dtype=np.float64)) * ct.voxel_volume_mm3 / MM3_PER_CM3
    return occupied, mineral_mg


def _write(hu, occupied, first, fraction, bone_hu):
    """Blend blocks of bone over the image; blocks may stick out of it: returns which voxels lie within."""
    index = [first[:, a, None] + np.arange(fraction.shape[a + 1]) for a in range(3)]
    grid = np.broadcast_arrays(
        index[0][:, :, None, None], index[1][:, None, :, None], index[2][:, None, None, :]
    )
    within = np.logical_and.reduce([g < n for g, n in zip(grid, hu.shape, strict=True)])
    grid = tuple(g[within] for g in grid)
    fraction, bone_hu = fraction[within], bone_hu[within]
    hu[grid] = hu[grid] * (1 - fraction) + bone_hu
    occupied[grid] = fraction
    return within


def solid_volume_mm3(ct: Image, bone: Bone, step_mm: float) -> float:
    """Volume (mm3) of the bone within the box that the scan's voxels fill, by integration."""
    return float(layer_volumes_mm3(ct, bone, step_mm).sum())


def layer_volumes_mm3(ct: Image, bone: Bone, step_mm: float) -> np.ndarray:
    """Volume (mm3) of the bone in equal layers about ``step_mm`` thick that fill the scan's box, from below.

    The part of a cell inside is the distance at its centre divided by the slope of the distance, so
    the error falls with the square of ``step_mm``.
    """
    cells = [max(1, round(n * s / step_mm)) for n, s in zip(ct.shape, ct.spacing_mm, strict=True)]
    size_mm = [n * s / c for n, s, c in zip(ct.shape, ct.spacing_mm, cells, strict=True)]
    corner = np.array(ct.origin_mm) - 0.5 * np.array(ct.spacing_mm) + 0.5 * np.array(size_mm)
    grid = Image.empty(cells, size_mm, corner)
    sizes = [max(1, round(BLOCK_MM / s)) for s in size_mm]
    layers = np.zeros(cells[2] + sizes[2])  # blocks may stick out of the box
    first = _touched_blocks(grid, bone, sizes)
    for start in range(0, len(first), BLOCKS_AT_ONCE):
        part = first[start : start + BLOCKS_AT_ONCE]
        points = _block_points(grid, part, sizes, (1, 1, 1))
        distance = bone.distance_mm(points.reshape(3, -1)).reshape(points.shape[1:])
        within = np.ones(distance.shape, dtype=bool)
        for a in range(3):
            ahead = part[:, a, None] + np.arange(sizes[a]) < cells[a]
            within &= ahead.reshape(len(part), *[-1 if a == b else 1 for b in range(3)])
        inside = (_fraction_inside(distance, size_mm) * within).sum(axis=(1, 2), dtype=np.float64)
        np.add.at(layers, part[:, 2, None] + np.arange(sizes[2]), inside)
    return layers[: cells[2]] * float(np.prod(size_mm))


def _fraction_inside(distance: np.ndarray, size_mm) -> np.ndarray:
    """Part of every cell inside: a ramp over ``RAMP`` cells along the surface's normal."""
    slopes = [np.gradient(distance, size_mm[a], axis=a + 1) for a in range(3)]
    width = np.sqrt(sum((s * h) ** 2 for s, h in zip(slopes, size_mm, strict=True)))
    return np.clip(0.5 - distance / np.maximum(RAMP * width, 1e-3), 0, 1)
