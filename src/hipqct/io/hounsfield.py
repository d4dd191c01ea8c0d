"""Whether numbers are Hounsfield units, and their way into int16."""

import numpy as np

from hipqct.errors import ScanError

AIR_HU = -1024
INT16_MAX = np.iinfo(np.int16).max
TISSUE_HU = (-500, 3000)  # everything a body holds but lung; a padding value is outside
DENSE_HU = 800  # above it lie only dense cortical bone and metal
DENSE_SHARE_MAX = 0.15  # a tight field of view round one hip stays below 0.05
BODY_SHARE_MIN = 0.01  # of all voxels
METAL_HU = 3000  # no bone reaches it
METAL_MM3 = 100.0


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


def not_finite(label: str, count: int) -> str:
    """The sentence for voxels that are no numbers."""
    return f"{label} has {count} voxel(s) that are NaN or infinite; export it again"


def check_hounsfield(ct: np.ndarray, voxel_mm3: float, label: str) -> list[str]:
    """Warnings about an int16 image that should be CT in HU.

    Raises ScanError when it cannot be: one value everywhere, nothing below 0 (no air, no fat: an offset of
    1024 is missing or these are grey levels), nothing but air, or more than ``DENSE_SHARE_MAX`` of it denser
    than bone (offset or slope wrong).
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
    if np.mean(ct > TISSUE_HU[0]) < BODY_SHARE_MIN:
        raise ScanError(f"{where} holds nothing but air; give the CT scan itself")
    metal_mm3 = float((ct > METAL_HU).sum() * voxel_mm3)
    if metal_mm3 > METAL_MM3:
        return [
            f"{metal_mm3:.0f} mm3 above {METAL_HU} HU: metal, whose streaks spoil mask and density near it"
        ]
    return []
