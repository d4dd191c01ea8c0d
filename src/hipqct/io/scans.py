"""One door for scans of any format: to an axial LPS image in HU, with facts that identify nobody."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from hipqct.errors import ScanError
from hipqct.fill import fill_to_air
from hipqct.hounsfield import check_hounsfield, check_tissues, metal_warnings, to_int16
from hipqct.image import Image, reorient_to_lps, view_in_lps
from hipqct.io.dicom import inspect_dicom, read_dicom
from hipqct.io.dicom_geometry import MIN_COVERAGE_MM, MIN_SLICES, too_few
from hipqct.io.image_headers import IMAGE_SUFFIXES, ImageHeader, read_image_header
from hipqct.io.images import read_image
from hipqct.io.nifti_header import check_length, is_nifti
from hipqct.io.scan_tree import dicom_rows, image_rows
from hipqct.resample import SLICE_RANGE_MM

COARSE_PIXEL_MM, UNEVEN_PIXEL = 3.5, 1.2
KEY_DIGITS = 8  # of a study's hash in a subject's name
AGE_TOLERANCE = 1.5  # years between the sheet's age and the header's
MAX_OBLIQUITY_DEG = 20.0  # femoral anteversion and abduction vary by as much; the model saw no more


def read_scan(path: str | Path, series_uid: str | None = None) -> tuple[Image, dict]:
    """Read a CT scan as int16 HU, axes turned to the nearest LPS axial order, z ascending, not interpolated.

    Args:
        path: a folder of DICOM (searched recursively), one multi-frame DICOM file, or a NIfTI, NRRD or
            MetaImage file.
        series_uid: SeriesInstanceUID, or its short hash as in scan.json, where a folder holds several series.

    Returns the image and facts (format, series, spacing, scanner, warnings, flags) without name, id, birth
    date, UID or path. Raises ScanError with one sentence when the scan is not one that may be used.
    """
    path = Path(path)
    _check_there(path)
    if is_image_file(path):
        stored, facts = _read_image_scan(path)
    else:
        stored, facts = read_dicom(path, series_uid)
    ct = reorient_to_lps(stored)
    label = f"series {facts['series']}" if "series" in facts else path.name  # a folder may carry a name
    warnings = [*facts.pop("warnings"), *check_geometry(ct)]
    check_hounsfield(ct.array, label)
    measured, filled, fill_warnings = fill_to_air(ct.array)
    if filled:
        ct = ct.with_array(measured)
        facts["voxels_set_to_air"] += filled
        check_hounsfield(ct.array, label)
    metal = metal_warnings(ct.array, ct.voxel_volume_mm3)
    warnings += fill_warnings + check_tissues(ct.array, ct.spacing_mm)
    flags = ["metal"] * bool(metal) + ["scan_warnings"] * bool(warnings)
    return ct, facts | _image_facts(stored, ct) | {"warnings": warnings + metal, "flags": flags}


class Finding(NamedTuple):
    """What ``check_scan`` found: ``severity`` is ``error`` (the import will refuse) or ``warning``."""

    severity: str
    text: str


def check_scan(
    path: str | Path, series_uid: str | None = None, sex: str | None = None, age: float | None = None
) -> list[Finding]:
    """What the headers of a scan say against it, without reading voxels; an empty list when nothing does.

    The same rules as ``read_scan``, but for those that need voxels (HU range, NaN, damaged compressed data).
    A ``sex`` or ``age`` (years) unlike the header's is a warning: rows of the sheet may have been shuffled.
    """
    path = Path(path)
    try:
        _check_there(path)
        if is_image_file(path):
            header = read_image_header(path)
            if is_nifti(path):
                check_length(path)
            warnings = check_geometry(view_in_lps(header.grid)) + _type_warnings(header)
        else:
            series, stack, facts = inspect_dicom(path, series_uid)
            data = series.headers[0].dataset
            size = (data.Columns, data.Rows, len(stack.order))
            grid = Image.empty(size, stack.spacing_mm, stack.origin_mm, stack.direction)
            warnings = facts["warnings"] + check_geometry(view_in_lps(grid)) + _unlike(facts, sex, age)
    except ScanError as error:
        return [Finding("error", str(error))]
    return [Finding("warning", text) for text in warnings]


def _unlike(facts: dict, sex: str | None, age: float | None) -> list[str]:
    warnings = []
    if sex and facts["sex"] and sex != facts["sex"]:
        warnings.append(f"the header says sex {facts['sex']}, the sheet {sex}")
    if age is not None and facts["age_years"] is not None and abs(age - facts["age_years"]) > AGE_TOLERANCE:
        warnings.append(f"the header says {facts['age_years']} years, the sheet {age:g}")
    return warnings


def _check_there(path: Path) -> None:
    if not path.exists():
        raise ScanError(f"the scan {path.name} is not there; correct the sample sheet")


def _type_warnings(header: ImageHeader) -> list[str]:
    if header.pixel_type in ("8-bit unsigned integer", "8-bit signed integer"):
        return [f"voxels are {header.pixel_type}s, which cannot hold HU"]
    return []


def is_image_file(path: Path) -> bool:
    """Whether the name says NIfTI, NRRD or MetaImage."""
    return path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)


def _read_image_scan(path: Path) -> tuple[Image, dict]:
    image = read_image(path)
    hu, below = to_int16(image.array, path.name)
    facts = {"format": path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1], "files": 1}
    return image.with_array(hu), facts | {"voxels_set_to_air": below, "warnings": []}


def check_geometry(ct: Image) -> list[str]:
    """Warnings about the grid of an LPS image; ScanError when it covers too little or no slices of use."""
    coverage_mm = ct.shape[2] * ct.spacing_mm[2]
    if ct.shape[2] < MIN_SLICES or coverage_mm < MIN_COVERAGE_MM:
        raise ScanError(too_few(ct.shape[2], coverage_mm))
    if not SLICE_RANGE_MM[0] <= ct.spacing_mm[2] <= SLICE_RANGE_MM[1]:
        raise ScanError(
            f"slices every {ct.spacing_mm[2]:g} mm; the method takes {SLICE_RANGE_MM[0]:g} to "
            f"{SLICE_RANGE_MM[1]:g} mm: choose a series with other slices"
        )
    warnings = []
    pixel_mm = sorted(ct.spacing_mm[:2])
    if pixel_mm[1] > COARSE_PIXEL_MM or pixel_mm[1] > UNEVEN_PIXEL * pixel_mm[0]:
        size = " x ".join(f"{mm:g}" for mm in ct.spacing_mm[:2])
        warnings.append(f"pixels of {size} mm in the axial plane: too coarse, or no axial scan")
    if obliquity_deg(ct) > MAX_OBLIQUITY_DEG:
        warnings.append(f"the slices lie {obliquity_deg(ct):.0f} degrees off the axial plane")
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


def find_scans(folder: str | Path) -> list[dict]:
    """Rows for a sample sheet from a tree of DICOM, NIfTI, NRRD and MetaImage, in order of path.

    One row per DICOM study (its best CT series by the rules of ``choose_series``) and per image file that is
    no label map. Keys: ``subject`` (from folder or file name, unique; where that holds the patient's name or
    id, ``S`` and a hash of the study's UID: the same whatever other scans come to the folder), ``scan``
    (path), ``series_uid`` (where the folder holds other CT series too), ``sex``, ``age``, ``note`` (what else
    was seen, another study of the same patient too). Unknown values are None. Image files that cannot be read
    are listed too, so that ``hipqct check`` tells why. Raises ScanError when ``folder`` is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ScanError(f"{folder} is not a folder; give the folder that holds the scans")
    rows = sorted(dicom_rows(folder) + image_rows(folder), key=lambda row: str(row["scan"]))
    taken, first_of = set(), {}
    for row in rows:
        key, patient = row.pop("key"), row.pop("patient")
        wanted = row["subject"] or f"S{key[:KEY_DIGITS]}"
        row["subject"], again = wanted, 2
        while row["subject"].lower() in taken:
            row["subject"], again = f"{wanted}-{again}", again + 1
        taken.add(row["subject"].lower())
        first = first_of.setdefault(patient, row["subject"]) if patient else row["subject"]
        if first != row["subject"]:
            notes = (
                row["note"],
                f"the same patient as {first}: give both one group, and train by it (train/group_by: group)",
            )
            row["note"] = "; ".join(filter(None, notes))
    return rows
