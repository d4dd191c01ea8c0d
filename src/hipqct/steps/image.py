"""From a scan to the crop of one hip."""

from pathlib import Path

from hipqct.io.files import write_json
from hipqct.io.images import read_image, write_image
from hipqct.io.scans import read_scan
from hipqct.resample import resample_slices


def import_scan(
    scan: str | Path, ct_path: str | Path, facts_path: str | Path, series_uid: str | None = None
) -> None:
    """Bring a scan of any format to ct.nii.gz (HU, int16, axial LPS, z ascending) and scan.json (its facts).

    Raises ScanError with one sentence when the scan may not be used; neither file is written then.
    """
    ct, facts = read_scan(scan, series_uid)
    write_image(ct, ct_path)
    write_json(facts, facts_path)


def resample_ct(
    ct_path, resampled_path, facts_path, slice_mm: float, method: str, phase: str, tail: str
) -> None:
    """Bring ct.nii.gz to thicker slices (resampled.nii.gz) and write what was done (resampled.json).

    See `hipqct.resample.resample_slices` for the choices; raises ScanError when the spacing does not fit.
    """
    resampled, facts = resample_slices(read_image(ct_path), slice_mm, method, phase, tail)
    write_image(resampled, resampled_path)
    write_json(facts, facts_path)
