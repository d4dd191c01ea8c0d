"""Whether numbers are Hounsfield units, and their way into int16."""

import numpy as np
from scipy.ndimage import uniform_filter

from hipqct.errors import ScanError

AIR_HU = -1024
OUTSIDE_HU = -500  # between air, or what a scan writes beyond its field of view, and any tissue with noise
METAL_HU = 3000  # no bone reaches it
TISSUE_HU = (OUTSIDE_HU, METAL_HU)  # everything a body holds but lung; a padding value is outside
INT16_MAX = np.iinfo(np.int16).max
DENSE_HU = 800  # above it lie only dense cortical bone and metal
DENSE_SHARE_MAX = 0.15  # a tight field of view round one hip stays below 0.05
BODY_SHARE_MIN = 0.01  # of all voxels
METAL_MM3 = 100.0

# What CT numbers of a hip look like; a scan outside gets a warning and is not refused.
SOFT_HU = (-500, 500)
FAT_OR_MUSCLE_HU = ((-140, -60), (-10, 100))  # the commonest soft tissue is one of them
FAT_HU, FAT_PEAK_HU = (-250, -30), (-135, -65)  # where fat is looked for, and where its peak lies
FAT_SHARE = (0.1, 0.85)  # of soft voxels below -30 HU
FAT_SHARE_CLEAR = 0.25  # with so much fat its peak is one
SOFT_CM3_MIN = 1000.0  # less of a body is not judged
CUT_LOW_HU, CUT_LOW_SHARE = -900, 0.02  # no air below, and so much at the lowest value
CUT_HIGH_HU, CUT_HIGH_VOXELS = 2900, 200  # so many at a highest value that 12 bits would not have cut at
BIN_HU, SLAB_MM, MEAN_PIXELS = 10, 3.0, 3


def to_int16(values: np.ndarray, label: str) -> tuple[np.ndarray, int]:
    """HU rounded to int16, and how many voxels below ``AIR_HU`` (padding round the scan) were set to it.

    Raises ScanError, naming ``label``, on NaN or infinite values and on values above int16.
    """
    if values.dtype.kind == "f" and (bad := int((~np.isfinite(values)).sum())):
        raise ScanError(not_finite(label, bad))
    highest = values.max()
    if highest > INT16_MAX:
        raise ScanError(
            f"{label} reaches {highest:g} HU, more than int16 holds ({INT16_MAX}); check its rescale"
        )
    below = int((values < AIR_HU).sum())
    if below:
        values = np.maximum(values, AIR_HU)
    return np.rint(values).astype(np.int16), below


def shown_slices(ct: np.ndarray) -> tuple[int, int]:
    """The first and the last slice, along the third axis, that show more than air; all others are padding."""
    shown = np.flatnonzero((ct > OUTSIDE_HU).any((0, 1)))
    return (int(shown[0]), int(shown[-1])) if len(shown) else (0, ct.shape[2] - 1)


def not_finite(label: str, count: int) -> str:
    """The sentence for voxels that are no numbers."""
    return f"{label} has {count} voxel(s) that are NaN or infinite; export it again"


def check_hounsfield(ct: np.ndarray, label: str) -> None:
    """Refuse an int16 image that cannot be CT in HU.

    Raises:
        ScanError: one value everywhere, nothing below 0 (no air, no fat: an offset of 1024 is missing or
            these are grey levels), nothing but air, or more than ``DENSE_SHARE_MAX`` of it denser than bone
            (offset or slope wrong).
    """
    lowest, highest = int(ct.min()), int(ct.max())
    where = f"{label} ({lowest} to {highest})"
    if lowest == highest:
        raise ScanError(f"{where} has one value everywhere; export the scan again")
    if lowest >= 0:
        if highest <= 255:
            raise ScanError(f"{where} holds grey levels or labels, not HU; give the CT scan itself")
        raise ScanError(f"{where} has no value below 0, so it is not in HU: an offset of 1024 may be missing")
    dense = float(np.mean(ct > DENSE_HU))
    if dense > DENSE_SHARE_MAX:
        raise ScanError(
            f"{where} has {100 * dense:.0f} % of its voxels above {DENSE_HU} HU, more than any body: "
            "its offset or slope is wrong"
        )
    if np.mean(ct > OUTSIDE_HU) < BODY_SHARE_MIN:
        raise ScanError(f"{where} holds nothing but air; give the CT scan itself")


def metal_warnings(ct: np.ndarray, voxel_mm3: float) -> list[str]:
    """A warning about metal in an int16 image in HU, if there is any."""
    metal_mm3 = float((ct > METAL_HU).sum() * voxel_mm3)
    if metal_mm3 <= METAL_MM3:
        return []
    return [f"{metal_mm3:.0f} mm3 above {METAL_HU} HU: metal, whose streaks spoil mask and density near it"]


def check_tissues(ct: np.ndarray, spacing_mm: tuple[float, float, float]) -> list[str]:
    """Warnings about CT numbers (int16) that a hip should not have: shifted, scaled or cut.

    Soft tissue of a hip is fat round -100 and muscle round 50 HU; a wrong rescale slope or intercept moves
    them, and a display window cuts what lies beyond it. Tissue is judged on means over 3 x 3 pixels and some
    3 mm, in which noise keeps its peaks apart.
    """
    voxel_mm3, slab = float(np.prod(spacing_mm)), max(1, round(SLAB_MM / spacing_mm[2]))
    lowest, highest = int(ct.min()), int(ct.max())
    at_lowest, at_highest = np.count_nonzero(ct == lowest), np.count_nonzero(ct == highest)
    warnings = []
    if lowest > CUT_LOW_HU and at_lowest > CUT_LOW_SHARE * ct.size:
        share = 100 * at_lowest / ct.size
        warnings.append(
            f"{share:.0f} % of its voxels have its lowest value, {lowest} HU: cut, or no air is in HU"
        )
    if highest < CUT_HIGH_HU and at_highest > CUT_HIGH_VOXELS:
        warnings.append(
            f"{at_highest} voxels have its highest value, {highest} HU: dense bone may be cut off"
        )
    soft = _soft_histogram(ct, slab)
    if soft.sum() * slab * voxel_mm3 < 1000 * SOFT_CM3_MIN:
        return warnings
    smooth = np.convolve(soft, np.ones(3) / 3, "same")
    at_hu = SOFT_HU[0] + BIN_HU * (np.arange(len(soft)) + 0.5)
    commonest_hu = at_hu[smooth.argmax()]
    fat = np.flatnonzero((at_hu > FAT_HU[0]) & (at_hu < FAT_HU[1]))
    peak = fat[smooth[fat].argmax()]
    fat_hu, is_peak = at_hu[peak], fat[0] < peak < fat[-1]
    fat_share = soft[at_hu < FAT_HU[1]].sum() / soft.sum()
    odd = not any(low <= commonest_hu <= high for low, high in FAT_OR_MUSCLE_HU)
    odd |= not FAT_SHARE[0] <= fat_share <= FAT_SHARE[1]
    odd |= fat_share > FAT_SHARE_CLEAR and is_peak and not FAT_PEAK_HU[0] <= fat_hu <= FAT_PEAK_HU[1]
    if odd:
        warnings.append(
            f"its soft tissue lies oddly, most round {commonest_hu:.0f} HU and fat round {fat_hu:.0f} (usual "
            "are muscle round 50, fat round -100): check rescale slope and intercept before you use densities"
        )
    return warnings


def _soft_histogram(ct: np.ndarray, slab: int) -> np.ndarray:
    """How many smoothed voxels lie in each bin of ``SOFT_HU``; slices are averaged by ``slab``."""
    edges = np.arange(SOFT_HU[0], SOFT_HU[1] + 1, BIN_HU)
    histogram = np.zeros(len(edges) - 1, np.int64)
    for k in range(0, ct.shape[2] - slab + 1, slab):
        plane = uniform_filter(ct[..., k : k + slab].mean(axis=2, dtype=np.float32), MEAN_PIXELS)
        histogram += np.histogram(plane, edges)[0]
    return histogram
