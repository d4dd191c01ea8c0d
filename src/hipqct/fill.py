"""What a program filled with one value beyond the measured field, set to air."""

import numpy as np
from scipy import ndimage

from hipqct.hounsfield import AIR_HU, TISSUE_HU

FILL_SHARE_MIN = 0.001  # of the image; a slice that is all fill counts at any share
RUN_SHARE_MIN = 0.1  # of a slice's side, in one piece; smooth tissue and coarse steps of HU leave less
FILLS_MAX = 3  # so many values are tried
SQUARE = np.ones((3, 3), bool)


def fill_to_air(ct: np.ndarray) -> tuple[np.ndarray, int, list[str]]:
    """Set to air what has one value of tissue up to the image's sides in plane, as resampling leaves it.

    0 HU is the usual fill. Bone that it cuts off would seem to end in soft tissue; at air it is noticed.
    Noise lets no measured tissue be flat (3 x 3 equal pixels) along so much of a side. The image's lowest
    and highest value are passed by: a range that was cut is flat, too; ``check_tissues`` tells of it.

    Args:
        ct: int16 HU, slices along the third axis; not changed.

    Returns the image (the same where nothing is filled), how many voxels were set, and warnings.
    """
    measured, count, warnings = ct, 0, []
    for value in _flat_values_at_sides(ct):
        filled = _flat_from_sides(ct == value)
        share = filled.mean()
        if share < FILL_SHARE_MIN and not filled.all((0, 1)).any():
            continue
        measured = np.where(filled, np.int16(AIR_HU), measured)
        count += int(filled.sum())
        warnings.append(
            f"{100 * share:.2g} % of the image have exactly {value} HU up to its border: filled, not "
            "measured; taken as air"
        )
    return measured, count, warnings


def _flat_values_at_sides(ct: np.ndarray) -> list[int]:
    """The values of tissue that most often fill three pixels in a row along the image's sides in plane."""
    low, high = max(TISSUE_HU[0], int(ct.min())), min(TISSUE_HU[1], int(ct.max()))
    found = []
    for side in (ct[0], ct[-1], ct[:, 0], ct[:, -1]):
        middle = side[1:-1]
        flat = (side[:-2] == middle) & (side[2:] == middle) & (middle > low) & (middle < high)
        found.append(middle[flat])
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    return values[np.argsort(-counts, kind="stable")][:FILLS_MAX].tolist()


def _flat_from_sides(same: np.ndarray) -> np.ndarray:
    """Where 3 x 3 pixels of a slice are set (beyond its sides all are), joined to a run along a side."""
    found = np.zeros_like(same)
    at_side = same[[0, -1]].any((0, 1)) | same[:, [0, -1]].any((0, 1))
    for k in np.flatnonzero(at_side):
        plane = same[:, :, k]
        pieces, count = ndimage.label(ndimage.binary_erosion(plane, SQUARE, border_value=1))
        runs = np.zeros(count + 1, bool)
        for side in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
            runs |= np.bincount(side, minlength=count + 1) > RUN_SHARE_MIN * len(side)
        runs[0] = False
        found[:, :, k] = plane & ndimage.binary_dilation(runs[pieces], SQUARE)
    return found
