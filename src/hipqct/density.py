"""Equivalent mineral density from CT numbers, by a linear calibration of the scan."""

import math

import numpy as np

from hipqct.errors import AnatomyError, SheetError
from hipqct.image import Image

# mg/cm3 per HU. Ten times below or above what calibration phantoms give (USUAL_SLOPE) the unit is wrong: a
# slope in g/cm3 is about 0.0008.
SLOPE_RANGE = (0.05, 15.0)
# What the rods of calibration phantoms are made of: a density counts in mg/cm3 of it.
BASES = ("K2HPO4", "HA")
MM3_PER_CM3 = 1000.0
# What calibration phantoms give on scanners in use, at 80 to 140 kVp; another calibration is flagged.
# Outside lie a swapped pair, the inverse of a common slope (1.06 HU per mg/cm3 and more for up to 0.94), and
# an intercept of the size of HU's offset (1000).
USUAL_SLOPE, USUAL_INTERCEPT_MG_CM3 = (0.5, 1.05), (-60.0, 60.0)
# Whole femurs with marrow, thin and thick.
PLAUSIBLE_DENSITY_MG_CM3 = (50.0, 700.0)


def check_calibration(slope: float, intercept: float) -> None:
    """Refuse a calibration that cannot be mg/cm3 per HU (SheetError, one sentence)."""
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise SheetError(
            f"calibration slope {slope} and intercept {intercept} must be finite numbers: "
            "correct them in the sample sheet or leave both empty"
        )
    low, high = SLOPE_RANGE
    if not low <= slope <= high:
        raise SheetError(
            f"calibration slope must be {low:g} to {high:g} mg/cm3 per HU, got {slope:g}: "
            "correct it in the sample sheet (mg/cm3, not g/cm3)"
        )


def is_usual_calibration(slope: float, intercept: float) -> bool:
    """Whether a calibration lies where those of common calibration phantoms do."""
    limits = ((slope, USUAL_SLOPE), (intercept, USUAL_INTERCEPT_MG_CM3))
    return all(low <= value <= high for value, (low, high) in limits)


def calibrate(hu, slope: float, intercept: float) -> np.ndarray:
    """Equivalent density in mg/cm3, ``slope * hu + intercept``.

    The density is that of the calibration phantom's material: K2HPO4 (liquid) or hydroxyapatite (HA).
    The two are not interchangeable; the material laws ask which one it is. Fat and air give negative
    densities, which are kept. Float64, same shape as ``hu``.

    Raises:
        SheetError: the slope or intercept cannot be in mg/cm3 per HU.
    """
    check_calibration(slope, intercept)
    return slope * np.asarray(hu, dtype=float) + intercept


def mean_hu(ct: Image, mask: Image) -> float:
    """Mean CT number over the voxels of the mask.

    Raises:
        AnatomyError: the mask is empty.
        ValueError: the mask is on another grid.
    """
    if not mask.same_grid(ct):
        raise ValueError(
            f"mask must be on the grid of ct {ct.shape}, got shape {mask.shape} or another place"
        )
    inside = mask.array.astype(bool)
    if not inside.any():
        raise AnatomyError("the mask is empty, so it has no density: look at the segmentation first")
    return float(ct.array[inside].mean(dtype=float))


def integral_density(ct: Image, mask: Image, slope: float, intercept: float) -> float:
    """Mean equivalent density over the mask in mg/cm3 (integral vBMD: cortical and trabecular bone together).

    Raises:
        SheetError, AnatomyError, ValueError: as ``calibrate`` and ``mean_hu``.
    """
    return float(calibrate(mean_hu(ct, mask), slope, intercept))


def bone_mineral_content_mg(density_mg_cm3: float, volume_mm3: float) -> float:
    """Mineral in mg: density times volume, mm3 turned into cm3."""
    return float(density_mg_cm3 * volume_mm3 / MM3_PER_CM3)
