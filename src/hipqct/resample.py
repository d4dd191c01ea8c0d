"""Thicker slices from thinner ones, and images brought to another grid.

The paper (arXiv 2006.05513) brings 2-mm slices to 3 mm by Fourier interpolation of groups of three slices and
averaging. It leaves open where the new slices lie and what happens at the stack's end: see `resample_slices`.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, sparse

from hipqct.errors import ScanError
from hipqct.hounsfield import AIR_HU
from hipqct.image import Image, beyond_box_mm, index_along
from hipqct.solid import bounding_box, signed_distance_mm

SLICE_RANGE_MM = (0.5, 5.0)
# Scanners write 2-mm spacing as 1.99 or 2.01; the new slices are then 2.985 or 3.015 mm apart.
GROUP_SPACING_MM, GROUP_TOLERANCE_MM = 2.0, 0.01
GROUP_SLICES, GROUP_SAMPLES, GROUP_SLICE_MM = 3, 6, 3.0
# A slab at the stack's upper end becomes a slice when at least this share of it lies in the scan.
END_SHARE = 0.5
# Of voxels covered by half, to rounding, every other one counts, as on a chessboard.
TIE = 2e-6
CHUNK_COLUMNS = 16  # columns of pixels at a time: bounds the memory of float copies
ALIGNED = 1e-6  # largest difference of direction cosines between two grids with parallel axes


@dataclass(frozen=True)
class SliceWeights:
    """New slices as weighted sums of old ones: ``matrix`` (new, old), spacing, first centre and facts."""

    matrix: np.ndarray
    slice_mm: float
    first_center_mm: float
    facts: dict


def resample_slices(
    ct: Image, slice_mm: float = 3.0, method: str = "auto", phase: str = "slab-centred", tail: str = "area"
) -> tuple[Image, dict]:
    """Bring a scan to slices of ``slice_mm``; in-plane pixels stay as they are.

    Args:
        ct: HU, slices along the third axis, 0.5 to 5 mm apart.
        method: ``fourier-group3`` (the paper's, 2-mm slices to 3 mm only), ``fourier-stack`` (the whole stack
            as one cosine series, integrated over the new slabs), ``area`` (slices taken as constant over
            their thickness), or ``auto``: the paper's for 2-mm slices, else ``area``.
        phase: for ``fourier-group3``, where the six samples lie. ``slab-centred``: at -0.5 to 4.5 mm from the
            first slice's centre, new slices at 0.5 and 3.5 mm, the middles of the group's two halves.
            ``samples``: at 0 to 5 mm, as plain zero-padding gives, new slices at 1 and 4 mm; since a group
            keeps its mean, whose place is 2 mm, anatomy then lies 0.5 mm too high. The other methods
            fill slabs from the lower face of the first slice.
        tail: what is left at the upper end and fills at least half a slab becomes a slice by its area average
            (``area``), or is left out (``drop``).

    Returns:
        The image, HU rounded to int16 (by at most 0.5 HU, far below noise), and what was done: ``method``,
        ``phase``, ``first_slice_offset_mm``, ``slices_before``, ``slices_after``, ``tail_slices``, ``tail``,
        ``lost_mm`` (thickness at the upper end that no new slice holds).

    Raises:
        ScanError: the slices' spacing is outside 0.5 to 5 mm, does not fit the method, or none would be left.
    """
    spacing_mm = ct.spacing_mm[2]
    if not SLICE_RANGE_MM[0] <= spacing_mm <= SLICE_RANGE_MM[1]:
        raise ScanError(
            f"the slices are {spacing_mm:g} mm apart; resampling takes {SLICE_RANGE_MM[0]} to "
            f"{SLICE_RANGE_MM[1]} mm: choose a series with other slices"
        )
    fits_group = abs(spacing_mm - GROUP_SPACING_MM) < GROUP_TOLERANCE_MM + 1e-6 and slice_mm == GROUP_SLICE_MM
    if method == "auto":
        method = "fourier-group3" if fits_group else "area"
    if method == "fourier-group3" and not fits_group:
        raise ScanError(
            f"resample/method fourier-group3 brings 2-mm slices to 3 mm, got {spacing_mm:g} to {slice_mm:g}: "
            "set it to auto, area or fourier-stack"
        )
    weights = slice_weights(ct.shape[2], spacing_mm, slice_mm, method, phase, tail)
    if len(weights.matrix) == 0:
        raise ScanError(f"{ct.shape[2]} slices of {spacing_mm:g} mm give no slice of {slice_mm:g} mm")
    origin_mm = ct.to_world((0, 0, weights.first_center_mm / spacing_mm))
    resampled = replace(
        ct,
        array=_weigh_slices(ct.array, weights.matrix),
        spacing_mm=(*ct.spacing_mm[:2], weights.slice_mm),
        origin_mm=tuple(origin_mm),
    )
    facts = {"method": method, "slices_before": ct.shape[2], "slices_after": len(weights.matrix)}
    return resampled, facts | {"first_slice_offset_mm": round(weights.first_center_mm, 6), **weights.facts}


def slice_weights(
    slices: int, spacing_mm: float, slice_mm: float, method: str, phase: str, tail: str
) -> SliceWeights:
    """The new slices of `resample_slices` as weights; positions count from the first slice's centre."""
    if phase not in ("samples", "slab-centred") or tail not in ("area", "drop"):
        raise ValueError(f"phase and tail must be as documented, got {phase!r} and {tail!r}")
    if method == "fourier-group3":
        shift = 0.0 if phase == "samples" else -0.25  # in slices
        groups = slices // GROUP_SLICES
        slice_mm = GROUP_SLICES / 2 * spacing_mm  # what two new slices of a group of 1.99 or 2.01 mm have
        first_mm, full = (shift + 0.5) * spacing_mm, 2 * groups
        matrix = np.kron(np.eye(groups), group_matrix(shift))
        matrix = np.pad(matrix, ((0, 0), (0, slices - GROUP_SLICES * groups)))
        tail_slices = slices - GROUP_SLICES * groups
    elif method in ("fourier-stack", "area"):
        first_mm = (slice_mm - spacing_mm) / 2
        full = int(slices * spacing_mm / slice_mm + 1e-6)
        rows = stack_weights if method == "fourier-stack" else area_weights
        matrix = rows(slices, spacing_mm, first_mm + slice_mm * np.arange(full), slice_mm)
        tail_slices = round(slices - full * slice_mm / spacing_mm, 6)
        phase = "slab-centred"
    else:
        raise ValueError(f"method must be one of those documented, got {method!r}")
    top_mm = (slices - 0.5) * spacing_mm
    reached_mm = first_mm + (full - 0.5) * slice_mm
    added = max(0, int((top_mm - reached_mm) / slice_mm + 1 - END_SHARE + 1e-6)) if tail == "area" else 0
    ends_mm = first_mm + slice_mm * np.arange(full, full + added)
    matrix = np.concatenate([matrix, area_weights(slices, spacing_mm, ends_mm, slice_mm)])
    lost_mm = max(0.0, top_mm - reached_mm - added * slice_mm)
    facts = {"phase": phase, "tail": tail, "tail_slices": tail_slices, "lost_mm": round(lost_mm, 6)}
    return SliceWeights(matrix, slice_mm, first_mm, facts)


def group_matrix(shift: float) -> np.ndarray:
    """The paper's step for one group: weights (2, 3) of its slices in the two new slices.

    The group's discrete Fourier transform is zero-padded to six samples, half a slice apart, the first
    ``shift`` slices from the first slice's centre, and the samples are averaged in threes.
    """
    times = shift + np.arange(GROUP_SAMPLES) * GROUP_SLICES / GROUP_SAMPLES
    frequencies = np.array([-1, 0, 1])
    forward = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(GROUP_SLICES)) / GROUP_SLICES)
    inverse = np.exp(2j * np.pi * np.outer(times, frequencies) / GROUP_SLICES) / GROUP_SLICES
    samples = (inverse @ forward).real
    return samples.reshape(2, GROUP_SAMPLES // 2, GROUP_SLICES).mean(axis=1)


def stack_weights(slices: int, spacing_mm: float, centers_mm: np.ndarray, slice_mm: float) -> np.ndarray:
    """Slab means of the band-limited curve through all slices, weights (new, old).

    The curve is the cosine series (DCT-II) of the stack: its even continuation at both ends keeps the head
    from leaking into the shaft, as the periodic one of a plain Fourier transform would.
    """
    low = np.clip((centers_mm - slice_mm / 2) / spacing_mm + 0.5, 0, slices) / slices
    high = np.clip((centers_mm + slice_mm / 2) / spacing_mm + 0.5, 0, slices) / slices
    k = np.arange(1, slices)
    means = (np.sin(np.pi * np.outer(high, k)) - np.sin(np.pi * np.outer(low, k))) / (np.pi * k)
    means = np.hstack([np.ones((len(low), 1)), means / (high - low)[:, None]])
    analysis = 2 / slices * np.cos(np.pi * np.outer(np.arange(slices), np.arange(slices) + 0.5) / slices)
    analysis[0] /= 2
    return means @ analysis


def area_weights(size: int, spacing_mm: float, centers_mm: np.ndarray, width_mm: float) -> np.ndarray:
    """Means of piecewise-constant voxels over boxes, weights (new, old); only what voxels cover counts."""
    edges_mm = (np.arange(size + 1) - 0.5) * spacing_mm
    overlap = overlap_lengths(centers_mm - width_mm / 2, centers_mm + width_mm / 2, edges_mm)
    total = overlap.sum(axis=1, keepdims=True)
    return np.divide(overlap, total, out=np.zeros_like(overlap), where=total > 0)


def overlap_lengths(low: np.ndarray, high: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Length that each interval ``low`` to ``high`` shares with each cell between two neighbouring edges.

    Shape ``(intervals, edges - 1)``, all in one unit.
    """
    overlap = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    return np.maximum(overlap, 0)


def _weigh_slices(array: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply (new, old) weights along the last axis, in chunks; HU rounded to int16."""
    nx, ny, _ = array.shape
    result = np.empty((nx, ny, len(matrix)), np.int16)
    columns = matrix.T.astype(np.float32)
    limits = np.iinfo(np.int16)
    for x in range(0, nx, CHUNK_COLUMNS):
        weighed = array[x : x + CHUNK_COLUMNS].astype(np.float32) @ columns
        result[x : x + CHUNK_COLUMNS] = np.clip(np.rint(weighed), limits.min, limits.max)
    return result


def resample_to(image: Image, target: Image, fill: float = AIR_HU) -> Image:
    """Interpolate an image linearly on another's grid by world position; ``fill`` outside it. float32."""
    # Rounded: an index of -1e-15, from the inverse of an oblique affine, would count as outside the image.
    to_source = np.round(np.linalg.inv(image.affine) @ target.affine, 9)
    array = ndimage.affine_transform(
        image.array.astype(np.float32),
        to_source[:3, :3],
        to_source[:3, 3],
        output_shape=target.shape,
        order=1,
        mode="constant",
        cval=fill,
    )
    return target.with_array(array)


def interpolate_map(level: Image, target: Image) -> np.ndarray:
    """A map of a body on another grid: linear, with the outer halves of its end slices; 0 beyond.

    Thinner slices whose centres lie beyond those of the first and last slice here would be lost otherwise.
    """
    padded = np.pad(np.asarray(level.array, np.float32), ((0, 0), (0, 0), (1, 1)), mode="edge")
    more = Image(padded, level.spacing_mm, tuple(level.to_world((0, 0, -1))), level.direction)
    values = resample_to(more, target, fill=0).array
    height = index_along(level, 2, target)
    return np.where((height > -0.5) & (height < level.shape[2] - 0.5), values, 0)


def resample_mask_slices(mask: Image, target: Image) -> Image:
    """Bring a reference mask to another grid: a voxel is inside when at least half of it is.

    On parallel grids each target voxel takes the mask's mean over its own box (per axis: exact overlap where
    the target is coarser, linear interpolation where it is finer); otherwise it is interpolated linearly. On
    grids that share voxel edges many voxels are covered by exactly a half: of those every other one counts,
    as on a chessboard, so that the volume stays.

    Returns:
        A boolean image on the target's grid, False where the mask's image does not reach.
    """
    inside = np.asarray(mask.array) > 0
    if not inside.any():
        return target.with_array(np.zeros(target.shape, bool))
    if np.abs(mask.direction - target.direction).max() > ALIGNED:
        return target.with_array(interpolate_map(mask.with_array(inside), target) >= 0.5)
    offset = mask.to_index(target.origin_mm)
    share = inside.astype(np.float32)
    for axis in (2, 1, 0):
        scale = target.spacing_mm[axis] / mask.spacing_mm[axis]
        centers = offset[axis] + scale * np.arange(target.shape[axis])
        weights = _axis_weights(share.shape[axis], centers, scale)
        moved = np.moveaxis(share, axis, 0)
        weighed = weights @ moved.reshape(moved.shape[0], -1)
        share = np.moveaxis(weighed.reshape(-1, *moved.shape[1:]), 0, axis)
    white = np.indices(target.shape, sparse=True)
    return target.with_array(share >= np.where(sum(white) % 2, 0.5 + TIE, 0.5 - TIE))


def distance_to_mask_mm(mask: Image, target: Image) -> np.ndarray:
    """Signed distance of a grid's voxel centres to a mask's surface, negative inside; float32.

    Between the centres of the mask's own voxels, so it exceeds that to the surface by half of one; linear
    between them, and right within a target voxel's diagonal of the surface. Where the mask's image ends, the
    mask does.
    """
    far_mm = float(np.linalg.norm(target.spacing_mm))
    voxels = np.asarray(mask.array) > 0
    if not voxels.any():
        return np.full(target.shape, far_mm, np.float32)
    corners = mask.to_index(target.corners_mm)
    margin = np.ceil(far_mm / np.array(mask.spacing_mm)).astype(int) + 1
    box = bounding_box(voxels)
    low = np.maximum([side.start for side in box], np.floor(corners.min(axis=0)).astype(int)) - margin
    high = np.minimum([side.stop for side in box], np.ceil(corners.max(axis=0)).astype(int) + 1) + margin
    held = (np.arange(a, b).clip(0, n - 1) for a, b, n in zip(low, high, voxels.shape, strict=True))
    part = voxels[np.ix_(*held)]
    if not part.any():
        return np.full(target.shape, far_mm, np.float32)
    distance_mm = signed_distance_mm(part, mask.spacing_mm)
    level = Image(distance_mm, mask.spacing_mm, tuple(mask.to_world(low)), mask.direction)
    return np.maximum(resample_to(level, target, fill=far_mm).array, beyond_box_mm(target, mask))


def _axis_weights(size: int, centers: np.ndarray, scale: float) -> sparse.csr_matrix:
    """Weights (target, source) along one axis, in source voxels; a target voxel outside gets none."""
    if scale >= 1:
        overlap = overlap_lengths(centers - scale / 2, centers + scale / 2, np.arange(size + 1) - 0.5)
        return sparse.csr_matrix(overlap.astype(np.float32) / np.float32(scale))
    reach = np.abs(centers[:, None] - np.arange(size))
    weights = np.maximum(1 - reach, 0)
    at_end = ((centers > size - 1) & (centers < size - 0.5)) | ((centers < 0) & (centers > -0.5))
    weights[at_end] /= weights[at_end].sum(axis=1, keepdims=True)
    return sparse.csr_matrix(weights.astype(np.float32))
