"""From a probability map to the femur's mask: Otsu's threshold, one component, no holes."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from hipqct.errors import AnatomyError
from hipqct.image import Image
from hipqct.resample import interpolate_map, overlap_lengths
from hipqct.solid import air_outside, bounding_box, largest_component
from hipqct.surface import smooth_level_set

# A trained network is sure of most of a femur: its best voxels are near 1. Below this no voxel is.
MIN_PEAK_PROBABILITY = 0.5
# A femoral head of 36 mm alone is 24,000 mm3; anything smaller than a third of it is no femur.
MIN_COMPONENT_MM3 = 8_000.0
# No femur, whole and of the largest man, is this large: such a mask fills the crop.
MAX_COMPONENT_MM3 = 1_000_000.0
# Smallest head and neck of a woman to a whole large proximal half femur of a man (about 16 cm: 185,000 mm3;
# 30 cm: 400,000 mm3).
PLAUSIBLE_MM3 = (30_000.0, 500_000.0)
# A femur leaves a scan of the hip at its lowest slice, unless it is whole. What ends higher is a piece of
# pelvis, or a femur whose shaft was lost: above the joint, masks ended 18-21 mm higher.
MAX_GAP_BELOW_MM, WHOLE_FEMUR_MM = 9.0, 300.0
# Where the network is in doubt, the mask's volume depends on the threshold. On 14 hips (6 phantoms, 8 of real
# or real-shaped anatomy, one early network) this share was 0.09-0.14 for a Dice above 0.93, else above 0.3.
DOUBTFUL_PROBABILITY = (0.25, 0.75)
MAX_DOUBTFUL_SHARE = 0.2
# A second component this large is no speck: the other femur, a piece of pelvis, or a femur cut in two.
SECOND_COMPONENT_MM3 = 1_000.0
# Voxels kept round the mask before interpolation.
HALO_VOXELS = 2
# Gap of probability above which no voxel lies between the classes.
WIDE_GAP = 0.05
# Bone this near to the end of the field of view may be cut by it.
EDGE_PIXELS = 2
# That end is looked for this far round the mask.
AROUND_PIXELS = 10
SLICE_FACES = ndimage.generate_binary_structure(3, 1)[:, :, 1:2]


@dataclass(frozen=True)
class BoneMask:
    """A femur's mask on the crop's grid, the threshold that made it, and what to beware of.

    ``doubtful_share`` is the volume with a probability between 0.25 and 0.75, divided by the mask's.
    """

    mask: Image
    otsu_threshold: float
    components: int
    doubtful_share: float
    flags: list[str]


def segment_probability(probability: Image, lowest_slice: int = 0, highest_slice: int = -1) -> BoneMask:
    """Threshold a probability map by Otsu's method, keep the largest face-connected part, fill its holes.

    Holes are filled in space and then in each slice, since a medullary canal is open where the scan ends.

    Flags: ``low_confidence`` (``doubtful_share`` above 0.2), ``touches_scan_end`` (bone in the topmost
    slice: the head is cut off; that the shaft leaves the scan below is expected and no flag),
    ``touches_crop_border``, ``implausible_volume``, ``several_components``.

    Args:
        probability: 0..1 on the crop's grid, slices along the third axis, ascending.
        lowest_slice, highest_slice: the first and the last slice that show anything; the others are padding.

    Raises:
        AnatomyError: the map shows no femur.
    """
    array = np.asarray(probability.array, np.float32)
    peak = float(array.max())
    if peak < MIN_PEAK_PROBABILITY:
        raise _no_femur(f"its largest probability is {peak:.2f}, at least {MIN_PEAK_PROBABILITY} is needed")
    threshold = _middle_otsu(array) if array.min() < peak else peak / 2
    largest, sizes = largest_component(array > threshold)
    sizes_mm3 = sizes * probability.voxel_volume_mm3
    if not MIN_COMPONENT_MM3 <= sizes_mm3.max() <= MAX_COMPONENT_MM3:
        raise _no_femur(
            f"the largest piece is {sizes_mm3.max():,.0f} mm3, {MIN_COMPONENT_MM3:,.0f} to "
            f"{MAX_COMPONENT_MM3:,.0f} mm3 are possible"
        )
    mask = fill_holes(largest)
    _check_reaches_down(mask, lowest_slice, probability.spacing_mm[2])
    low, high = DOUBTFUL_PROBABILITY
    doubtful_share = np.count_nonzero((array > low) & (array < high)) / np.count_nonzero(mask)
    flags = _flags(mask, highest_slice, doubtful_share, probability.voxel_volume_mm3, sizes_mm3)
    return BoneMask(probability.with_array(mask), threshold, len(sizes), doubtful_share, flags)


def _check_reaches_down(mask: np.ndarray, lowest_slice: int, slice_mm: float) -> None:
    levels = np.flatnonzero(mask.any((0, 1)))
    gap_mm, length_mm = (levels[0] - lowest_slice) * slice_mm, np.ptp(levels) * slice_mm
    if gap_mm > MAX_GAP_BELOW_MM and length_mm < WHOLE_FEMUR_MM:
        raise _no_femur(
            f"the largest piece ends {gap_mm:.0f} mm above the scan's lowest slice, where a shaft would go on"
        )


def _no_femur(why: str) -> AnatomyError:
    return AnatomyError(
        f"the network found no femur: {why}; look at the crop and set center_left or center_right"
    )


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill cavities in space, then those closed within an axial slice."""
    filled = ndimage.binary_fill_holes(mask)
    for z in np.flatnonzero(filled.any((0, 1))):
        filled[:, :, z] = ndimage.binary_fill_holes(filled[:, :, z])
    return filled


def _middle_otsu(array: np.ndarray) -> float:
    """Otsu's threshold; of all equally good ones between two far levels, the middle one.

    The lowest of them, which the histogram gives, would dilate masks that are interpolated on other grids.
    """
    threshold = float(threshold_otsu(array.astype(float)))  # sums in float32 are off by a level at times
    above = array > threshold
    low, high = float(array[~above].max()), float(array[above].min())
    return (low + high) / 2 if high - low > WIDE_GAP else threshold


def touches_field_edge(mask: np.ndarray, ct: np.ndarray) -> bool:
    """Whether bone lies within two pixels of the field of view's end in plane, so that it may go on there.

    The field ends at the image's sides, and at what a scanner writes outside its circle: air that reaches the
    sides of the mask's surroundings.

    Args:
        mask, ct: of one shape ``(x, y, z)``; ``ct`` in HU.
    """
    if not mask.any():
        return False
    box = bounding_box(mask)[:2]
    at_side = any(
        s.start < EDGE_PIXELS or s.stop > n - EDGE_PIXELS for s, n in zip(box, mask.shape, strict=False)
    )
    wide = tuple(slice(max(0, s.start - AROUND_PIXELS), s.stop + AROUND_PIXELS) for s in box)
    grown = ndimage.binary_dilation(mask[wide], SLICE_FACES, EDGE_PIXELS)
    return at_side or bool((grown & air_outside(ct[wide])).any())


def _flags(
    mask: np.ndarray, highest_slice: int, doubtful_share: float, voxel_mm3: float, sizes_mm3: np.ndarray
) -> list[str]:
    volume_mm3 = np.count_nonzero(mask) * voxel_mm3
    found = {
        "low_confidence": doubtful_share > MAX_DOUBTFUL_SHARE,
        "touches_scan_end": mask[:, :, highest_slice:].any(),
        "touches_crop_border": mask[[0, -1]].any() or mask[:, [0, -1]].any(),
        "implausible_volume": not PLAUSIBLE_MM3[0] <= volume_mm3 <= PLAUSIBLE_MM3[1],
        "several_components": np.count_nonzero(sizes_mm3 > SECOND_COMPONENT_MM3) > 1,
    }
    return [flag for flag, holds in found.items() if holds]


def mask_on_grid(probability: Image, bone: BoneMask, target: Image) -> Image:
    """The same mask on other pixels: the probability, interpolated linearly, at the same threshold.

    Before interpolating, other components are cut off (two voxels beyond the mask) and filled holes set to 1;
    after it, the largest component is kept, so that the masks on all grids show one femur.
    """
    mask = bone.mask.array
    near = ndimage.binary_dilation(mask, iterations=HALO_VOXELS)
    level = np.where(near, probability.array, 0).astype(np.float32)
    level = np.where(mask & (level <= bone.otsu_threshold), 1, level)
    level = np.where(~mask, np.minimum(level, bone.otsu_threshold), level)
    box, part = _part_of(target, bone.mask)
    inside = interpolate_map(probability.with_array(level), part) > bone.otsu_threshold
    whole = np.zeros(target.shape, bool)
    whole[box] = fill_holes(largest_component(inside)[0])
    return target.with_array(whole)


def mask_on_slices(mask: Image, target: Image) -> Image:
    """The same mask on slices of another thickness: the voxels whose centres lie within its smooth surface.

    A probability cut there would give a slice midway between two of the mask's what either of them holds, 3
    to 5% too much. The surface is a level of `smooth_level_set`, the one that leaves as many voxels as the
    slices' overlap with the mask's own slices makes up. On the mask's own grid it is the mask itself.

    Args:
        target: pixels and axes as the mask's.

    Raises:
        MeshError: the mask is empty.
    """
    if mask.same_grid(target):
        return target.with_array(mask.array > 0)
    smooth = smooth_level_set(mask)
    box, part = _part_of(target, mask)
    index = mask.to_index(part.to_world(np.moveaxis(np.indices(part.shape), 0, -1)))
    depth_mm = ndimage.map_coordinates(
        smooth.values, np.moveaxis((index - smooth.start) / smooth.step, -1, 0), order=1, mode="nearest"
    )
    height, half = index[0, 0, :, 2], part.spacing_mm[2] / mask.spacing_mm[2] / 2
    shared = overlap_lengths(height - half, height + half, np.arange(mask.shape[2] + 1) - 0.5) / (2 * half)
    voxels = round(float((shared @ smooth.mask.array.sum((0, 1))).sum()))
    level_mm = np.partition(depth_mm.ravel(), -voxels)[-voxels]
    whole = np.zeros(target.shape, bool)
    whole[box] = fill_holes(largest_component(depth_mm >= level_mm)[0])
    return target.with_array(whole)


def _part_of(target: Image, mask: Image) -> tuple[tuple[slice, ...], Image]:
    """The part of a grid round a mask: its half-open box of indices and itself as an image."""
    corners = np.argwhere(mask.array)
    low, high = corners.min(0) - 1, corners.max(0) + 1
    box_mm = mask.to_world(np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T)
    index = target.to_index(box_mm)
    first = np.clip(np.floor(index.min(0)).astype(int), 0, target.shape)
    last = np.clip(np.ceil(index.max(0)).astype(int) + 1, first, target.shape)
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    array = target.array[box]
    return box, Image(array, target.spacing_mm, tuple(target.to_world(first)), target.direction)
