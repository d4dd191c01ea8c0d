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
from hipqct.io.dicom_headers import Header, frame_count, read_header, without_identity
from hipqct.io.dicom_series import Series, group_series, series_order, tie_texts, uid_key
from hipqct.io.image_headers import IMAGE_SUFFIXES, read_image_header
from hipqct.io.images import read_image
from hipqct.io.walk import is_broken_link, walk_files

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
    """One CT series in the tree, or the part of it in one folder.

    ``order`` sorts as ``choose_series`` does, ``text`` is its name in notes, ``images`` are the images' UIDs,
    ``copies`` other folders that hold the same images.
    """

    uid: str
    kind: str
    folder: Path
    count: int
    order: tuple
    text: str
    header: Header
    files: list[Path]
    images: frozenset[str]
    copies: tuple[Path, ...] = ()


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
        ranked = sorted(members, key=lambda series: series.order)
        best = ranked[0]
        dataset = best.header.dataset
        single = frame_count(dataset) == best.count
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
                "note": "; ".join(_notes(ranked, root)) or None,
            }
        )
    return rows


def _notes(ranked: list[FoundSeries], root: Path) -> list[str]:
    """What to know of a study, whose best series comes first."""
    others = len(ranked) - 1
    notes = [f"{others} other CT series in this study"] * bool(others)
    notes += tie_texts([(series.order[0], series.text) for series in ranked])
    if copies := [folder.relative_to(root).as_posix() for folder in ranked[0].copies]:
        notes.append(f"the same images lie in {', '.join(copies)} too: keep one copy")
    return notes


def _dicom_series(root: Path) -> list[FoundSeries]:
    """The CT series of at least ``MIN_SLICES`` slices; those spread over several folders are put together."""
    parts, seen = defaultdict(list), 0
    for folder, names in walk_files(root, _tell_unread):
        headers = []
        for name in names:
            seen += 1
            if seen % FILES_PER_MESSAGE == 0:
                log.info("%d files read, %d series found so far", seen, len(parts))
            path = Path(folder, name)
            if not name.lower().endswith(IMAGE_SUFFIXES):
                headers += _lenient_header(path, root)
        for series in group_series(headers):
            if series.is_ct:
                parts[series.uid, series.kind].append(_found(series, folder))
    found = [_together(members, root) for members in parts.values()]
    return [series for series in found if series.count >= MIN_SLICES]


def _found(series: Series, folder: Path, copies: tuple[Path, ...] = ()) -> FoundSeries:
    return FoundSeries(
        series.uid,
        series.kind,
        folder,
        series.count,
        series_order(series),
        str(series),
        series.headers[0],
        [header.path for header in series.headers],
        frozenset(header.text("SOPInstanceUID") for header in series.headers),
        copies,
    )


def _together(parts: list[FoundSeries], root: Path) -> FoundSeries:
    """One series of its parts in several folders, without folders whose images all lie in others, too."""
    kept, copies, images = [], [], set()
    for part in sorted(parts, key=lambda part: -len(part.images)):
        is_copy = "" not in part.images and part.images <= images
        (copies if is_copy else kept).append(part)
        images |= part.images
    copied = tuple(part.folder for part in copies)
    if len(kept) == 1:
        return replace(kept[0], copies=copied)
    files = sorted(path for part in kept for path in part.files)
    headers = [header for path in files for header in _lenient_header(path, root)]
    common = Path(os.path.commonpath([part.folder for part in kept]))
    return _found(Series(kept[0].uid, kept[0].kind, headers), common, copied)


def _tell_unread(error: OSError) -> None:
    log.warning("%s cannot be read (%s): what it holds is left out", error.filename, error.strerror)


def _lenient_header(path: Path, root: Path) -> list[Header]:
    if is_broken_link(path):
        log.warning("%s is a broken symbolic link: it is left out", path)
    try:
        header = read_header(path, root)
    except (ScanError, OSError):
        return []
    return [header] if header else []


def image_rows(root: Path) -> list[dict]:
    """One row per image file that is no label map, for ``find_scans``."""
    paths = (Path(folder, name) for folder, names in walk_files(root, _tell_unread) for name in names)
    files = sorted(path for path in paths if path.name.lower().endswith(IMAGE_SUFFIXES) and path.is_file())
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
