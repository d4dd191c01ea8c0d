"""From a scan to the crop of one hip."""

from pathlib import Path

from hipqct.io.files import write_json
from hipqct.io.images import write_image
from hipqct.io.scans import read_scan


def import_scan(
    scan: str | Path, ct_path: str | Path, facts_path: str | Path, series_uid: str | None = None
) -> None:
    """Bring a scan of any format to ct.nii.gz (HU, int16, axial LPS, z ascending) and scan.json (its facts).

    Raises ScanError with one sentence when the scan may not be used; neither file is written then.
    """
    ct, facts = read_scan(scan, series_uid)
    write_image(ct, ct_path)
    write_json(facts, facts_path)
