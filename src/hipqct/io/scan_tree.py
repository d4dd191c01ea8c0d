"""CT scans in a tree of folders."""

import logging
import os
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from hipqct.errors import ScanError
from hipqct.io.dicom import age_years
from hipqct.io.dicom_geometry import MIN_SLICES
from hipqct.io.dicom_headers import Header, read_header, without_identity
from hipqct.io.dicom_series import group_series, series_rank, uid_key
from hipqct.io.image_headers import IMAGE_SUFFIXES, read_image_header
from hipqct.io.images import read_image

log = logging.getLogger(__name__)

# Progress is told every so many files, some seconds from a file server; images are read whole.
FILES_PER_MESSAGE, IMAGES_PER_MESSAGE = 2000, 20

# folder and file names that tell no subject from another: kinds of data, numbers of series, UIDs, dates
GENERIC_NAME = re.compile(
    r"(dicom|dcm|ct|scans?|images?|img|nifti|nii|nrrd|data|(series|study|se|st|im)[-_ ]?\d*|"
    r"\d+(\.\d+)+|\d{8})",
    re.I,
)
LABEL_MAX = 255  # no voxel below 0 and none above this: a mask or a label map


@dataclass(frozen=True)
class FoundSeries:
    """One CT series in the tree: where, how good, and the header of one of its files."""

    uid: str
    folder: Path
    count: int
    rank: tuple
    header: Header


def dicom_rows(root: Path) -> list[dict]:
    """One row per DICOM study, for ``find_scans``; ``subject`` is empty where no name is fit.

    Series without a study's UID, as some programs leave them, are a study for each folder. ``key`` tells
    studies apart wherever they lie; ``patient`` is the header's id.
    """
    found = _dicom_series(root)
    studies = defaultdict(list)
    for series in found:
        study = series.header.text("StudyInstanceUID") or str(series.folder.relative_to(root))
        studies[series.header.text("PatientID"), study].append(series)
    rows = []
    for (patient, study), members in studies.items():
        best = min(members, key=lambda series: (series.rank, series.header.text("SeriesNumber"), series.uid))
        dataset = best.header.dataset
        single = int(dataset.get("NumberOfFrames") or 1) == best.count
        scan = best.header.path if single else best.folder
        beside = [
            series for series in found if series is not best and series.folder.is_relative_to(best.folder)
        ]
        sex = best.header.text("PatientSex").upper()
        name = _subject(scan, root)
        rows.append(
            {
                "subject": name if without_identity(name, dataset) == name else "",
                "scan": str(scan),
                "series_uid": best.uid if beside and not single else None,
                "sex": sex if sex in ("F", "M") else None,
                "age": age_years(best.header),
                "key": uid_key(study),
                "patient": patient,
                "note": f"{len(members) - 1} other CT series in this study" if len(members) > 1 else None,
            }
        )
    return rows


def _dicom_series(root: Path) -> list[FoundSeries]:
    """The CT series of at least ``MIN_SLICES`` slices; those spread over several folders are put together."""
    found, seen = {}, 0
    for folder, _, names in os.walk(root):
        headers = []
        for name in sorted(names):
            seen += 1
            if seen % FILES_PER_MESSAGE == 0:
                log.info("%d files read, %d series found so far", seen, len(found))
            path = Path(folder, name)
            if not name.lower().endswith(IMAGE_SUFFIXES):
                headers += _lenient_header(path, root)
        for series in group_series(headers):
            if not series.is_ct:
                continue
            here = FoundSeries(series.uid, Path(folder), series.count, series_rank(series), series.headers[0])
            before = found.get(series.uid)
            if before:
                common = Path(os.path.commonpath([before.folder, folder]))
                here = replace(before, folder=common, count=before.count + series.count)
            found[series.uid] = here
    return [series for series in found.values() if series.count >= MIN_SLICES]


def _lenient_header(path: Path, root: Path) -> list[Header]:
    try:
        header = read_header(path, root)
    except (ScanError, OSError):
        return []
    return [header] if header else []


def image_rows(root: Path) -> list[dict]:
    """One row per image file that is no label map, for ``find_scans``."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name.lower().endswith(IMAGE_SUFFIXES))
    empty = dict.fromkeys(("series_uid", "sex", "age", "patient", "note"))
    rows = []
    for number, path in enumerate(files, start=1):
        if number % IMAGES_PER_MESSAGE == 0:
            log.info("%d of %d image files read", number, len(files))
        if not path.name.startswith(".") and not _is_label_map(path):
            key = uid_key(path.relative_to(root))
            rows.append({"subject": _subject(path, root), "scan": str(path), "key": key} | empty)
    return rows


def _is_label_map(path: Path) -> bool:
    try:
        if read_image_header(path).pixel_type == "8-bit unsigned integer":
            return True
        array = read_image(path).array
    except ScanError:
        return False
    return array.min() >= 0 and array.max() <= LABEL_MAX


def _subject(scan: Path, root: Path) -> str:
    """A subject's id from the path, from its end, passing by names that say nothing; empty when all do."""
    stem = re.sub(r"\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|dcm|ima)$", "", scan.name, flags=re.I)
    parts = [*scan.relative_to(root).parts[:-1], stem] if scan != root else []
    for part in [*reversed(parts), root.resolve().name]:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", part).strip("-")
        if name and not GENERIC_NAME.fullmatch(part):
            return name
    return ""
