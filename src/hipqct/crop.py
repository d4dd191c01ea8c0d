"""Finding a hip in a scan, and cutting the square crop round it on every slice."""

import numpy as np
from scipy import ndimage

from hipqct.errors import AnatomyError
from hipqct.hounsfield import AIR_HU
from hipqct.image import Image
from hipqct.solid import largest_component

COARSE_MM = 3.0  # the hip is looked for on voxels about this large
BODY_HU = -300.0  # between fat and air
TABLE_MM = 6.0  # opening that parts the table, sheets and tubes from the body
BONE_HU = 250.0  # cortical bone; contrast in vessels and rods of a calibration phantom lie below or are small
# Pieces of bone smaller than this are hands, calcified vessels or debris: a proximal femur has over 60 cm3.
MIN_BONE_MM3 = 12_000.0
MIN_HIP_BONE_MM3 = 20_000.0
# A calibration phantom under the patient lies in the rear sixth of what is seen of body and phantom.
REAR_SHARE = 0.84
# The bones of a hand or forearm beside the hip hold no circle this large on any slice, those of a hip do.
HIP_BONE_RADIUS_MM = 10.0
# Adults are wider than this at the hips, two hips never fit into less.
TWO_HIPS_MM = 240.0
# Nor do their bones: 240-340 mm from trochanter to trochanter. One hip's reach 130 mm beyond the midline.
TWO_HIPS_BONE_MM = 230.0
MIDLINE_MM = 25.0  # the femur and the joint lie farther than this from the midline
# From the outermost point of the greater trochanter to the middle of the femur between it and the head's
# inner edge: half of the 90-115 mm of adults.
TROCHANTER_TO_MIDDLE_MM = 52.0
TROCHANTER_MM = 40.0  # depth of bone below the outermost point whose middle gives the crop's height
LEVEL_MM = 15.0  # the outermost point must hold over this height, which a finger or a screw does not
# Going up from the greater trochanter the outermost bone recedes to the joint by 21-68 mm, by 11 mm where the
# scan ends close above; 0-5 mm along a thigh or where the femur is gone; over 85 mm above the iliac crest.
TROCHANTER_BULGE_MM = (8.0, 85.0)
NECK_HEIGHT_MM = 90.0
LONG_SCAN_MM = 260.0
HIP_BELOW_PUBIS_MM, HIP_ABOVE_PUBIS_MM = 70.0, 90.0
# Which hip a view of one shows follows from three signs, each counted only when it is clear.
SHAFT_TO_PELVIS_MM = 30.0
OFF_CENTRE_MM = 40.0
CUT_SHARE, SKIN_SHARE = 0.4, 0.15


def locate_hip(ct: Image, side: str) -> np.ndarray:
    """Find the middle of a proximal femur from the image itself.

    The patient's left is where x grows; left and right follow from the body's midline, or, where only one
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
    first, last = _body_columns(body)
    if not bone.any():
        raise AnatomyError(_no_hip(side))
    one_hip = _shows_one_hip(body, bone, step_mm)
    if one_hip:
        seen = _only_hip(body, bone, step_mm, _offset_from_isocentre(ct))
        if seen != outward:
            raise AnatomyError(_unknown_side(side) if seen == 0 else _no_hip(side))
        middle = (first if outward > 0 else last) - outward * MIDLINE_MM / step_mm[0]
    else:
        middle = (first + last) / 2
    half = _keep_hip_level(bone, middle, step_mm)
    x = np.arange(bone.shape[0])[:, None, None]
    half = half & ((x - middle) * outward > MIDLINE_MM / step_mm[0])
    if np.count_nonzero(half) * np.prod(step_mm) < MIN_HIP_BONE_MM3:
        raise AnatomyError(_no_hip(side))
    outermost = _outermost(half, step_mm, outward)
    if not _has_trochanter(outermost * step_mm[0], step_mm[2], one_hip):
        raise AnatomyError(_no_hip(side))
    index = _middle_of_femur(half, outermost.max(), step_mm, outward)
    return ct.to_world(index * factors + (factors - 1) / 2)


def lies_on_side(ct: Image, center_mm, side: str) -> bool:
    """Whether a position lies on that side of the midline; any does in a view that may be of that hip."""
    coarse, factors = _coarsen(ct)
    step_mm = factors * ct.spacing_mm
    body, bone = _find_bone(coarse, step_mm)
    outward = 1 if side == "left" else -1
    if _shows_one_hip(body, bone, step_mm):
        return _only_hip(body, bone, step_mm, _offset_from_isocentre(ct)) in (0, outward)
    first, last = _body_columns(body)
    middle = (first + last) / 2 * factors[0] + (factors[0] - 1) / 2
    return bool((ct.to_index(center_mm)[0] - middle) * outward > 0)


def _no_hip(side: str) -> str:
    return (
        f"no {side} hip is seen in the scan: check the side, or give its middle in center_{side} "
        "of the sample sheet"
    )


def _unknown_side(side: str) -> str:
    return (
        f"one hip is in view and it cannot be told whether it is the {side} one: give its middle in "
        f"center_{side} of the sample sheet"
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
    body, _ = largest_component(ndimage.binary_opening(tissue, disk[:, :, None]))
    if not body.any():
        raise AnatomyError("no body is seen in the scan: it holds air only")
    body = ndimage.binary_fill_holes(ndimage.binary_dilation(body, disk[:, :, None]) & tissue)
    inside = body.copy()
    rows = np.flatnonzero(body.any((0, 2)))
    inside[:, rows[0] + int(REAR_SHARE * len(rows)) :] = False
    labels, _ = ndimage.label((coarse > BONE_HU) & inside, np.ones((3, 3, 3)))
    large = np.bincount(labels.ravel()) * np.prod(step_mm) >= MIN_BONE_MM3
    large[0] = False
    bone = large[labels]
    wide = np.unique(labels[_round_wide_circles(bone, step_mm)])
    return body, bone & np.isin(labels, wide)


def _round_wide_circles(bone: np.ndarray, step_mm: np.ndarray) -> np.ndarray:
    """The bone about which, with its marrow, a circle of `HIP_BONE_RADIUS_MM` fits on its slice."""
    near = np.zeros_like(bone)
    for z in np.flatnonzero(bone.any((0, 1))):
        closed = ndimage.binary_closing(np.pad(bone[:, :, z], 2), iterations=2)
        filled = ndimage.binary_fill_holes(closed)
        depth_mm = ndimage.distance_transform_edt(filled, sampling=step_mm[:2])
        if depth_mm.max() >= HIP_BONE_RADIUS_MM:
            away_mm = ndimage.distance_transform_edt(depth_mm < HIP_BONE_RADIUS_MM, sampling=step_mm[:2])
            near[:, :, z] = (away_mm <= HIP_BONE_RADIUS_MM)[2:-2, 2:-2]
    return bone & near


def _body_columns(body: np.ndarray) -> tuple[float, float]:
    """First and last index along x of the body, the medians over the slices."""
    columns = [np.flatnonzero(body[:, :, z].any(1)) for z in range(body.shape[2])]
    first, last = np.median([(c[0], c[-1]) for c in columns if len(c)], axis=0)
    return float(first), float(last)


def _offset_from_isocentre(ct: Image) -> float:
    """World x of the middle of the view in mm; 0 where the file's origin was never set."""
    low, high = sorted((ct.to_world((0, 0, 0))[0], ct.to_world((ct.shape[0] - 1, 0, 0))[0]))
    unset = min(abs(low), abs(high)) < 1e-3
    return 0.0 if unset else (low + high) / 2


def _side_areas(body: np.ndarray) -> tuple[float, float]:
    """The body's area at the view's sides of low and of high x, as shares of its largest sagittal area."""
    areas = body.sum((1, 2)) / body.sum((1, 2)).max()
    return float(areas[0]), float(areas[-1])


def _shows_one_hip(body: np.ndarray, bone: np.ndarray, step_mm: np.ndarray) -> bool:
    """Whether body or bone is too narrow for two hips; a small body with skin on both sides holds both."""
    first, last = _body_columns(body)
    if (last - first + 1) * step_mm[0] < TWO_HIPS_MM:
        return True
    columns = np.flatnonzero(bone.any((1, 2)))
    narrow = len(columns) > 0 and (columns[-1] - columns[0] + 1) * step_mm[0] < TWO_HIPS_BONE_MM
    return bool(narrow and max(_side_areas(body)) > SKIN_SHARE)


def _only_hip(body: np.ndarray, bone: np.ndarray, step_mm: np.ndarray, offset_mm: float) -> int:
    """Which hip a view of one shows: left 1, right -1, or 0 where the signs are unclear or disagree.

    The signs: the view lies off the scanner's middle on the hip's side; the shaft below lies outwards of the
    pelvis above; the body is cut by the view's border inwards and ends in skin outwards.
    """
    levels = np.flatnonzero(bone.any((0, 1)))
    if len(levels) == 0:
        return 0
    third = max(1, len(levels) // 3)
    columns = np.arange(bone.shape[0])
    below, above = (
        np.average(columns, weights=bone[:, :, part].sum((1, 2))) * step_mm[0]
        for part in (levels[:third], levels[-third:])
    )
    low, high = _side_areas(body)
    signs = [
        np.sign(offset_mm) * (abs(offset_mm) >= OFF_CENTRE_MM),
        np.sign(below - above) * (abs(below - above) >= SHAFT_TO_PELVIS_MM),
        int(low >= CUT_SHARE and high <= SKIN_SHARE) - int(high >= CUT_SHARE and low <= SKIN_SHARE),
    ]
    if 1 in signs and -1 in signs:
        return 0
    return int(np.sign(sum(signs)))


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


def _outermost(half: np.ndarray, step_mm: np.ndarray, outward: int) -> np.ndarray:
    """For each level with bone, how far out bone reaches that holds over `LEVEL_MM`, in coarse steps."""
    x = np.arange(half.shape[0]) * outward
    levels = np.flatnonzero(half.any((0, 1)))
    outermost = np.array([x[half[:, :, z].any(1)].max() for z in levels], float)
    return ndimage.minimum_filter1d(outermost, max(1, round(LEVEL_MM / step_mm[2])), mode="nearest")


def _has_trochanter(outermost_mm: np.ndarray, level_mm: float, one_hip: bool) -> bool:
    """Whether the outermost bone recedes above its widest place as it does above a greater trochanter."""
    reach = max(1, round(NECK_HEIGHT_MM / level_mm))
    bulge_mm = max(
        (here - outermost_mm[i + 1 : i + 1 + reach].min() for i, here in enumerate(outermost_mm[:-1])),
        default=0.0,
    )
    least, most = TROCHANTER_BULGE_MM
    return least <= bulge_mm and (one_hip or bulge_mm <= most)


def _middle_of_femur(half: np.ndarray, edge: float, step_mm: np.ndarray, outward: int) -> np.ndarray:
    """Coarse index of the femur's middle, inwards of the outermost bone."""
    x = np.arange(half.shape[0]) * outward
    outer = half & (x > edge - TROCHANTER_MM / step_mm[0])[:, None, None]
    _, y, z = np.nonzero(outer)
    middle_x = outward * (edge - TROCHANTER_TO_MIDDLE_MM / step_mm[0])
    return np.array([middle_x, np.median(y), np.median(z)])


def crop_roi(ct: Image, center_mm, pixels: int = 192, pixel_mm: float | None = 0.8) -> Image:
    """Cut a square crop in plane round a position, on every slice; air (-1024 HU) outside the scan.

    Args:
        ct: HU, slices along the third axis.
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
    target = Image.empty(shape, spacing_mm, origin_mm, ct.direction)
    if pixel_mm is None:
        return target.with_array(_cut(ct.array, first.astype(int), pixels))
    array = np.empty(shape, np.int16)
    for z in range(ct.shape[2]):  # slices stay where they are: plane by plane, no float copy of the scan
        plane = ct.array[:, :, z].astype(np.float32)
        cut = ndimage.affine_transform(plane, step, first, shape[:2], order=1, cval=AIR_HU)
        array[:, :, z] = np.rint(cut)
    return target.with_array(array)


def _cut(array: np.ndarray, first: np.ndarray, pixels: int) -> np.ndarray:
    """A box in plane that may reach beyond the array; air there."""
    out = np.full((pixels, pixels, array.shape[2]), AIR_HU, np.int16)
    low = np.clip(first, 0, array.shape[:2])
    high = np.clip(first + pixels, low, array.shape[:2])
    inside = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    out[inside] = array[low[0] : high[0], low[1] : high[1]]
    return out
