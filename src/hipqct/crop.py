"""Finding a hip in a scan, and cutting the square crop round it on every slice."""

import numpy as np
from scipy import ndimage

from hipqct.errors import AnatomyError
from hipqct.image import Image
from hipqct.resample import AIR_HU, resample_to

COARSE_MM = 3.0  # the hip is looked for on voxels about this large
BODY_HU = -300.0  # between fat and air
TABLE_MM = 6.0  # opening that parts the table, sheets and tubes from the body
BONE_HU = 250.0  # cortical bone; contrast in vessels and rods of a phantom lie below or are small
# Pieces of bone smaller than this are hands, calcified vessels or debris: a proximal femur has over 60 cm3.
MIN_BONE_MM3 = 12_000.0
MIN_HIP_BONE_MM3 = 20_000.0
# A phantom under the patient lies in the rear sixth of what is seen of body and phantom.
REAR_SHARE = 0.84
# Adults are wider than this at the hips, two hips never fit into less.
TWO_HIPS_MM = 240.0
MIDLINE_MM = 25.0  # the femur and the joint lie farther than this from the midline
# From the outermost point of the greater trochanter to the middle of the femur between it and the head's
# inner edge: half of the 90-115 mm of adults.
TROCHANTER_TO_MIDDLE_MM = 52.0
TROCHANTER_MM = 40.0  # depth of bone below the outermost point whose middle gives the crop's height
LEVEL_MM = 15.0  # the outermost point must hold over this height, which a finger or a screw does not
LONG_SCAN_MM = 260.0
HIP_BELOW_PUBIS_MM, HIP_ABOVE_PUBIS_MM = 70.0, 90.0


def locate_hip(ct: Image, side: str) -> np.ndarray:
    """Find the middle of a proximal femur from the image itself.

    The patient's left is where x grows; left and right are told from the body's midline, or, where only one
    hip is in view, from the shaft, which lies to the outside of head and pelvis. The middle is placed inwards
    of the outermost point of the greater trochanter, so that a crop of 150 mm holds the whole femur.

    Args:
        ct: HU; slices along the third axis, x to the patient's left.
        side: ``left`` or ``right``.

    Returns:
        World position (x, y, z) in LPS mm.

    Raises:
        AnatomyError: no hip is seen on that side.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side must be left or right, got {side!r}")
    coarse, factors = _coarsen(ct)
    step_mm = factors * ct.spacing_mm
    body, bone = _find_bone(coarse, step_mm)
    outward = 1 if side == "left" else -1
    middle = _midline(body, bone, step_mm, outward)
    if middle is None:
        raise AnatomyError(_no_hip(side))
    half = _keep_hip_level(bone, middle, step_mm)
    x = np.arange(bone.shape[0])[:, None, None]
    half = half & ((x - middle) * outward > MIDLINE_MM / step_mm[0])
    if np.count_nonzero(half) * np.prod(step_mm) < MIN_HIP_BONE_MM3:
        raise AnatomyError(_no_hip(side))
    index = _middle_of_femur(half, step_mm, outward)
    return ct.to_world(index * factors + (factors - 1) / 2)


def _no_hip(side: str) -> str:
    return (
        f"no {side} hip is seen in the scan: check the side, or give its middle in center_{side} "
        "of the sample sheet"
    )


def _coarsen(ct: Image) -> tuple[np.ndarray, np.ndarray]:
    """The scan in block means of about `COARSE_MM`, and the blocks' sizes in voxels."""
    factors = np.maximum(1, np.rint(COARSE_MM / np.array(ct.spacing_mm)).astype(int))
    shape = np.array(ct.shape) // factors
    nx, ny = shape[:2] * factors[:2]
    coarse = np.empty(shape, np.float32)
    for z in range(shape[2]):  # slab by slab: no float copy of the whole scan
        slab = ct.array[:nx, :ny, z * factors[2] : (z + 1) * factors[2]].astype(np.float32)
        coarse[:, :, z] = slab.reshape(shape[0], factors[0], shape[1], factors[1], -1).mean((1, 3, 4))
    return coarse, factors


def _find_bone(coarse: np.ndarray, step_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The body, and the large pieces of bone in it without table, hands and calibration phantom."""
    tissue = coarse > BODY_HU
    radius = max(1, round(TABLE_MM / step_mm[0]))
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    labels, pieces = ndimage.label(ndimage.binary_opening(tissue, disk[:, :, None]))
    if pieces == 0:
        raise AnatomyError("no body is seen in the scan: it holds air only")
    body = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    body = ndimage.binary_fill_holes(ndimage.binary_dilation(body, disk[:, :, None]) & tissue)
    inside = body.copy()
    rows = np.flatnonzero(body.any((0, 2)))
    inside[:, rows[0] + int(REAR_SHARE * len(rows)) :] = False
    labels, _ = ndimage.label((coarse > BONE_HU) & inside, np.ones((3, 3, 3)))
    large = np.bincount(labels.ravel()) * np.prod(step_mm) >= MIN_BONE_MM3
    large[0] = False
    return body, large[labels]


def _midline(body: np.ndarray, bone: np.ndarray, step_mm: np.ndarray, outward: int) -> float | None:
    """Index along x of the body's middle; in a view of one hip its inner border, None if it is the other."""
    columns = [np.flatnonzero(body[:, :, z].any(1)) for z in range(body.shape[2])]
    ends = np.array([(c[0], c[-1]) for c in columns if len(c)])
    first, last = np.median(ends, axis=0)
    if (last - first + 1) * step_mm[0] >= TWO_HIPS_MM:
        return float(first + last) / 2
    if not bone.any() or _only_hip(bone) != outward:
        return None
    return float(first if outward > 0 else last) - outward * MIDLINE_MM / step_mm[0]


def _keep_hip_level(bone: np.ndarray, middle: float, step_mm: np.ndarray) -> np.ndarray:
    """Of a long scan, the bone at the height of the hip: about the pubis, the lowest bone at the midline."""
    if bone.shape[2] * step_mm[2] <= LONG_SCAN_MM:
        return bone
    away = np.abs(np.arange(bone.shape[0]) - middle) * step_mm[0]
    levels = np.flatnonzero(bone[away <= 2 * MIDLINE_MM].any((0, 1)))
    if len(levels) == 0:
        return bone
    low = max(0, int(levels[0] - HIP_BELOW_PUBIS_MM / step_mm[2]))
    high = int(levels[0] + HIP_ABOVE_PUBIS_MM / step_mm[2])
    kept = np.zeros_like(bone)
    kept[:, :, low:high] = bone[:, :, low:high]
    return kept


def _only_hip(bone: np.ndarray) -> int:
    """Which hip a view of one shows, left 1, right -1: the shaft below lies outwards of the pelvis above."""
    levels = np.flatnonzero(bone.any((0, 1)))
    third = max(1, len(levels) // 3)
    below, above = bone[:, :, levels[:third]], bone[:, :, levels[-third:]]
    shaft, pelvis = (
        np.average(np.arange(bone.shape[0]), weights=part.sum((1, 2))) for part in (below, above)
    )
    return 1 if shaft > pelvis else -1


def _middle_of_femur(half: np.ndarray, step_mm: np.ndarray, outward: int) -> np.ndarray:
    """Coarse index of the femur's middle, inwards of the outermost bone that holds over `LEVEL_MM`."""
    x = np.arange(half.shape[0]) * outward
    levels = np.flatnonzero(half.any((0, 1)))
    outermost = np.array([x[half[:, :, z].any(1)].max() for z in levels], float)
    window = max(1, round(LEVEL_MM / step_mm[2]))
    edge = ndimage.minimum_filter1d(outermost, window, mode="nearest").max()
    outer = half & (x > edge - TROCHANTER_MM / step_mm[0])[:, None, None]
    _, y, z = np.nonzero(outer)
    middle_x = outward * (edge - TROCHANTER_TO_MIDDLE_MM / step_mm[0])
    return np.array([middle_x, np.median(y), np.median(z)])


def crop_roi(ct: Image, center_mm, pixels: int = 192, pixel_mm: float | None = 0.8) -> Image:
    """Cut a square crop in plane round a position, on every slice; air (-1024 HU) outside the scan.

    Args:
        center_mm: world position; its place along the slices does not matter.
        pixels: side of the square; the box is half-open.
        pixel_mm: pixel size to interpolate to (linear), or None for the scan's own pixels, untouched.

    Returns:
        int16 HU, shape ``(pixels, pixels, slices of ct)``.
    """
    center = ct.to_index(center_mm)[:2]
    spacing_mm = ct.spacing_mm if pixel_mm is None else (pixel_mm, pixel_mm, ct.spacing_mm[2])
    step = np.array(spacing_mm[:2]) / ct.spacing_mm[:2]
    first = center - step * (pixels - 1) / 2
    if pixel_mm is None:
        first = np.rint(first)
    origin_mm = tuple(ct.to_world((*first, 0)))
    shape = (pixels, pixels, ct.shape[2])
    target = Image(np.broadcast_to(np.int16(0), shape), spacing_mm, origin_mm, ct.direction)
    if pixel_mm is None:
        return target.with_array(_cut(ct.array, first.astype(int), pixels))
    array = np.empty(shape, np.int16)
    for z in range(ct.shape[2]):
        slice_ct = Image(
            ct.array[:, :, z : z + 1], ct.spacing_mm, tuple(ct.to_world((0, 0, z))), ct.direction
        )
        flat = Image(target.array[:, :, :1], spacing_mm, tuple(target.to_world((0, 0, z))), ct.direction)
        array[:, :, z] = np.rint(resample_to(slice_ct, flat, fill=AIR_HU).array[:, :, 0])
    return target.with_array(array)


def _cut(array: np.ndarray, first: np.ndarray, pixels: int) -> np.ndarray:
    """A box in plane that may reach beyond the array; air there."""
    out = np.full((pixels, pixels, array.shape[2]), AIR_HU, np.int16)
    low = np.clip(first, 0, array.shape[:2])
    high = np.clip(first + pixels, low, array.shape[:2])
    inside = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    out[inside] = array[low[0] : high[0], low[1] : high[1]]
    return out
