"""From a scan to the crop of one hip."""

import logging
from pathlib import Path

import numpy as np

from hipqct.crop import crop_roi, lies_on_side, locate_hip
from hipqct.errors import SheetError
from hipqct.image import Image
from hipqct.io.files import write_json
from hipqct.io.hdf5 import write_roi
from hipqct.io.images import read_image, write_image
from hipqct.io.scans import read_scan
from hipqct.phantom import SYNTHETIC
from hipqct.resample import resample_slices

log = logging.getLogger(__name__)


PHANTOM_MANUFACTURER, TRUTH = "hipqct", "truth.json"  # as our phantoms are written


def import_scan(
    scan: str | Path, ct_path: str | Path, facts_path: str | Path, series_uid: str | None = None
) -> None:
    """Bring a scan of any format to ct.nii.gz (HU, int16, axial LPS, z ascending) and scan.json (its facts).

    ``flags`` in scan.json go on to volume.json and the cohort's table: ``synthetic`` (a phantom, by its
    header or by the truth.json beside the scan), ``metal``, and ``scan_warnings`` for other ``warnings``.
    Raises ScanError with one sentence when the scan may not be used; neither file is written then.
    """
    ct, facts = read_scan(scan, series_uid)
    write_image(ct, ct_path)
    phantom = facts.get("manufacturer") == PHANTOM_MANUFACTURER or (Path(scan).parent / TRUTH).exists()
    flags = [SYNTHETIC] * phantom + facts["flags"]
    write_json(facts | {"flags": flags}, facts_path)
    for warning in facts["warnings"]:
        log.warning("%s", warning)


def resample_ct(
    ct_path, resampled_path, facts_path, slice_mm: float, method: str, phase: str, tail: str
) -> None:
    """Bring ct.nii.gz to thicker slices (resampled.nii.gz) and write what was done (resampled.json).

    See `hipqct.resample.resample_slices` for the choices; raises ScanError when the spacing does not fit.
    """
    resampled, facts = resample_slices(read_image(ct_path), slice_mm, method, phase, tail)
    write_image(resampled, resampled_path)
    write_json(facts, facts_path)


def crop_hip(
    resampled_path, roi_path, side: str, pixels: int, pixel_mm: float | None, center_mm=None
) -> None:
    """Crop one hip from resampled.nii.gz to roi.h5, round ``center_mm`` (LPS) or where the hip is found.

    Raises:
        AnatomyError: no hip is seen on that side.
        SheetError: the given centre lies outside the scan or on the body's other side.
    """
    ct = read_image(resampled_path)
    located = center_mm is None
    if located:
        center_mm = locate_hip(ct, side)
    else:
        _check_center(ct, center_mm, side)
    attributes = {
        "side": side,
        "center_mm": center_mm,
        "center_from": "image" if located else "sample sheet",
        "scan_shape": ct.shape,
        "scan_spacing_mm": ct.spacing_mm,
        "scan_origin_mm": ct.origin_mm,
        "scan_direction": ct.direction,
    }
    write_roi(crop_roi(ct, center_mm, pixels, pixel_mm), roi_path, attributes)


def _check_center(ct: Image, center_mm, side: str) -> None:
    index = ct.to_index(center_mm)
    if (index < -0.5).any() or (index > np.array(ct.shape) - 0.5).any():
        low, high = ct.to_world((0, 0, 0)).round(), ct.to_world(np.array(ct.shape) - 1).round()
        raise SheetError(
            f"center_{side} {tuple(center_mm)} lies outside the scan, from {tuple(low.tolist())} to "
            f"{tuple(high.tolist())} mm (LPS): correct the sample sheet"
        )
    if not lies_on_side(ct, center_mm, side):
        raise SheetError(
            f"center_{side} {tuple(center_mm)} lies on the other side of the body (LPS: x grows to "
            "the patient's left): correct the sample sheet"
        )
