"""One door for scans of any format: to an axial LPS image in HU, with facts that identify nobody."""

from pathlib import Path

import numpy as np

from hipqct.errors import ScanError
from hipqct.image import Image, reorient_to_lps
from hipqct.io.dicom import read_dicom
from hipqct.io.dicom_geometry import MIN_COVERAGE_MM, MIN_SLICES, too_few
from hipqct.io.hounsfield import check_hounsfield, to_int16
from hipqct.io.image_headers import IMAGE_SUFFIXES
from hipqct.io.images import read_image

MAX_OBLIQUITY_DEG = 20.0  # femoral anteversion and abduction vary by as much; the model saw no more
SLICE_MM = (0.5, 5.0)  # what the resampling was made for


def read_scan(path: str | Path, series_uid: str | None = None) -> tuple[Image, dict]:
    """Read a CT scan as int16 HU, axes turned to the nearest LPS axial order, z ascending, not interpolated.

    Args:
        path: a folder of DICOM (searched recursively), one multi-frame DICOM file, or a NIfTI, NRRD or
            MetaImage file.
        series_uid: SeriesInstanceUID, or its short hash as in scan.json, where a folder holds several series.

    Returns the image and facts (format, series, spacing, scanner, warnings) without name, id, birth date, UID
    or path. Raises ScanError with one sentence when the scan is not one that may be used.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(f"the scan {path} is not there; correct the sample sheet")
    if is_image_file(path):
        stored, facts = _read_image_scan(path)
    else:
        stored, facts = read_dicom(path, series_uid)
    ct = reorient_to_lps(stored)
    warnings = (
        facts.pop("warnings")
        + check_geometry(ct)
        + check_hounsfield(ct.array, ct.voxel_volume_mm3, path.name)
    )
    return ct, facts | _image_facts(stored, ct) | {"warnings": warnings}


def is_image_file(path: Path) -> bool:
    """Whether the name says NIfTI, NRRD or MetaImage."""
    return path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)


def _read_image_scan(path: Path) -> tuple[Image, dict]:
    image = read_image(path)
    hu, below = to_int16(image.array, path.name)
    facts = {"format": path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1], "files": 1}
    return image.with_array(hu), facts | {"voxels_set_to_air": below, "warnings": []}


def check_geometry(ct: Image) -> list[str]:
    """Warnings about the grid of an LPS image; ScanError when it covers too little for a hip."""
    coverage_mm = ct.shape[2] * ct.spacing_mm[2]
    if ct.shape[2] < MIN_SLICES or coverage_mm < MIN_COVERAGE_MM:
        raise ScanError(too_few(ct.shape[2], coverage_mm))
    warnings = []
    if obliquity_deg(ct) > MAX_OBLIQUITY_DEG:
        warnings.append(f"the slices lie {obliquity_deg(ct):.0f} degrees off the axial plane")
    if not SLICE_MM[0] <= ct.spacing_mm[2] <= SLICE_MM[1]:
        warnings.append(
            f"slices every {ct.spacing_mm[2]:g} mm; the method is made for {SLICE_MM[0]} to {SLICE_MM[1]} mm"
        )
    return warnings


def obliquity_deg(ct: Image) -> float:
    """Largest angle between an array axis of an LPS image and its world axis."""
    return float(np.degrees(np.arccos(np.clip(np.diag(ct.direction).min(), -1, 1))))


def _image_facts(stored: Image, ct: Image) -> dict:
    return {
        "stored_axes": axis_letters(stored),
        "size": list(ct.shape),
        "spacing_mm": [round(s, 6) for s in ct.spacing_mm],
        "coverage_mm": round(ct.shape[2] * ct.spacing_mm[2], 3),
        "obliquity_deg": round(obliquity_deg(ct), 3),
        "hu_min": int(ct.array.min()),
        "hu_max": int(ct.array.max()),
    }


def axis_letters(image: Image) -> str:
    """Where each array axis points, nearest of L R P A S I, such as LPS."""
    letters = ("RL", "AP", "IS")
    largest = np.abs(image.direction).argmax(axis=0)
    return "".join(letters[w][int(image.direction[w, axis] > 0)] for axis, w in enumerate(largest))
