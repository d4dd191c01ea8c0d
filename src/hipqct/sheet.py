"""The sample sheet: one row per subject, read and checked before any job starts."""

import csv
import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hipqct
from hipqct.density import BASES, SLOPE_RANGE
from hipqct.errors import SheetError
from hipqct.sheet_row import Row

SIDES = {"left": ("left",), "right": ("right",), "both": ("left", "right")}
COLUMNS = (
    "subject",
    "scan",
    "series_uid",
    "sex",
    "age",
    "side",
    "exclude",
    "reference_left",
    "reference_right",
    "slope",
    "intercept",
    "basis",
    "group",
    "center_left",
    "center_right",
)
REQUIRED = ("subject", "scan")
SUBJECT = re.compile(r"[A-Za-z0-9_-]+")
SERIES_UID = re.compile(r"[0-9]+(\.[0-9]+)+|[0-9a-f]{12}")  # or the short hash of scan.json

DEMO = Path(hipqct.__file__).resolve().parents[2] / "resources" / "demo" / "phantoms.tsv"
DEMO_FILES = ("ct.nii.gz", "left_femur.nii.gz", "right_femur.nii.gz", "dicom")
ANYWHERE = Path("/")  # as a folder of files that need not exist yet
INTERCEPT_RANGE_MG_CM3 = (-500.0, 500.0)
AGE_RANGE_YEARS = (0.0, 120.0)


@dataclass(frozen=True)
class Subject:
    """One row: a scan and what is known of it; empty cells are None (group: "").

    Absolute paths are as the sheet has them, others relative to the working directory: a folder that holds
    both sheet and scans may move, or a link to it may point elsewhere, without their names changing.
    """

    subject: str
    scan: Path
    series_uid: str | None = None
    sex: str | None = None
    age: float | None = None
    sides: tuple[str, ...] = ("left",)
    exclude: str | None = None
    reference: dict[str, Path] = field(default_factory=dict)
    slope: float | None = None
    intercept: float | None = None
    basis: str | None = None
    group: str = ""
    center_mm: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def scan_keys(subjects: Sequence[Subject]) -> list[tuple]:
    """A key per row: rows with equal keys use, or may use, the same scan.

    A series may stand as its UID or as the key of it in scan.json; where one row of a folder leaves the
    choice to the rules, every other row may name the series they choose.
    """
    from hipqct.io.dicom_series import uid_key

    named = [
        (subject.scan.resolve(), uid_key(uid) if "." in (uid := subject.series_uid or "") else uid)
        for subject in subjects
    ]
    chosen = {scan for scan, key in named if not key}
    return [(scan, "" if scan in chosen else key) for scan, key in named]


def first_rows(subjects: Sequence[Subject]) -> list[str]:
    """For every row the first of the rows that must be the same patient's, by subject.

    Such rows have one scan (`scan_keys`), or name one reference mask, as two reconstructions of a scan do.
    """
    subjects = list(subjects)
    first, first_with = list(range(len(subjects))), {}

    def find(i: int) -> int:
        while first[i] != i:
            i = first[i]
        return i

    for i, (scan, subject) in enumerate(zip(scan_keys(subjects), subjects, strict=True)):
        for mark in (scan, *(path.resolve() for path in subject.reference.values())):
            low, high = sorted((find(i), find(first_with.setdefault(mark, i))))
            first[high] = low
    return [subjects[find(i)].subject for i in range(len(subjects))]


def is_labelled(subject: Subject) -> bool:
    """Whether a row has a hip to train on: a reference for one of its sides, and is not excluded."""
    return not subject.exclude and bool({*subject.sides} & {*subject.reference})


def sheet_hash(subjects: Iterable[Subject], columns: Iterable[str]) -> str:
    """A hash of these columns of all rows, and of who has references.

    Times do not tell: a sheet that was copied with its time is older than what it changes.
    """
    cells = [[s.subject, s.sides, sorted(s.reference), *(getattr(s, c) for c in columns)] for s in subjects]
    return hashlib.sha256(repr(cells).encode()).hexdigest()


def demo_files(phantoms_dir) -> list[Path]:
    """What the workflow makes of the demo's phantoms: their scans and masks below ``phantoms_dir``.

    Nothing where the package was installed without its project.
    """
    if not DEMO.is_file():
        return []
    lines = DEMO.read_text(encoding="utf-8").splitlines()
    names = [row["subject"] for row in csv.DictReader(lines, delimiter="\t")]
    return [Path(phantoms_dir) / name / file for name in names for file in DEMO_FILES]


def read_sheet(path, made_here: tuple[Path, ...] = ()) -> list[Subject]:
    """Read and check a sample sheet (tab-separated; columns in `COLUMNS`, see config/README.md).

    Cells are trimmed, identifiers stay text; blank lines and those whose first cell starts with ``#`` are
    skipped.

    Args:
        path: the sheet; relative paths in it count from its folder.
        made_here: files, or folders of files, that the workflow itself makes and that need not exist yet.

    Raises:
        SheetError: every fault at once, each with its line, its column and the fix.
    """
    path = Path(path)
    header, lines = _read_cells(path)
    faults = _check_header(header)
    if faults:
        raise SheetError(f"{path}: " + "; ".join(faults))
    made_here = tuple(Path(folder).resolve() for folder in made_here)
    subjects, seen = [], {}
    for line, cells in lines:
        if len(cells) > len(header):
            faults.append(
                f"line {line}: {len(cells)} cells under {len(header)} columns; remove the extra tabs"
            )
            continue
        row = Row(line, dict(zip(header, cells, strict=False)), path.parent)
        subject = _read_subject(row, made_here)
        first = seen.setdefault(subject.subject.lower(), line)
        if first != line:
            text = f"{subject.subject!r} stands in line {first} too (capitals apart)"
            row.fault("subject", f"{text}; give each its own name")
        faults += row.faults
        subjects.append(subject)
    if not lines:
        faults.append("no subjects stand below the header; `hipqct samples DIR` writes rows for a folder")
    if faults:
        raise SheetError(
            f"{path} has {len(faults)} fault(s):\n" + "\n".join(f"  {fault}" for fault in faults)
        )
    return subjects


def _read_cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the (line number, cells) of every row that counts."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SheetError(f"{path}: there is no such sample sheet; set `samples` in the config") from None
    except (IsADirectoryError, PermissionError) as error:
        raise SheetError(f"{path} cannot be read as a sample sheet: {error.strerror.lower()}") from None
    except UnicodeDecodeError:
        raise SheetError(
            f"{path} is not UTF-8 text; save it as tab-separated text in UTF-8, not as a workbook"
        ) from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not at marks that a path may hold
        is_comment = line.lstrip(" ").startswith("#")
        if is_comment and rows and rows[0][1][0] != "subject" and line.count("\t") >= len(REQUIRED) - 1:
            raise SheetError(
                f"{path}, line {number}: a line that starts with # is a comment, and this one has cells; put "
                "the column subject first, or remove the line"
            )
        if line.strip() and not is_comment:
            if line.count('"') % 2:
                raise SheetError(f'{path}, line {number}: a quotation mark (") is not closed; remove it')
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter="\t"))]
            while len(cells) > 1 and not cells[-1]:  # empty columns that spreadsheets leave at the end
                cells.pop()
            rows.append((number, cells))
    if not rows:
        raise SheetError(f"{path} is empty; its first line must name the columns, separated by tabs")
    return rows[0][1], rows[1:]


def _check_header(header: list[str]) -> list[str]:
    faults = []
    if len(header) == 1 and any(mark in header[0] for mark in ",;"):
        return ["the columns must be separated by tabs, not by commas or semicolons"]
    for column in header:
        if column not in COLUMNS:
            near = difflib.get_close_matches(column, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}"
            faults.append(f"unknown column {column!r}: {hint}")
    faults += [f"column {c!r} is missing" for c in REQUIRED if c not in header]
    faults += [f"column {c!r} stands twice" for c in sorted({c for c in header if header.count(c) > 1})]
    return faults


def _read_subject(row: Row, made_here: tuple[Path, ...]) -> Subject:
    name = row.text("subject") or ""
    if not SUBJECT.fullmatch(name):
        row.fault("subject", f"{name!r}: use letters, digits, _ and - only, at least one")
    scan = row.path("scan", made_here if not row.text("exclude") else (ANYWHERE,))
    if scan is None:
        row.fault("scan", "is empty; give a DICOM folder or an image file")
    series_uid = row.text("series_uid")
    if series_uid and not SERIES_UID.fullmatch(series_uid):
        row.fault(
            "series_uid",
            f"{series_uid!r}: give a DICOM UID (digits and points), or its 12 digits in scan.json",
        )
    sides = SIDES[row.choice("side", tuple(SIDES)) or "left"]
    slope = row.number("slope", SLOPE_RANGE, "mg/cm3 per HU")
    intercept = row.number("intercept", INTERCEPT_RANGE_MG_CM3, "mg/cm3")
    if (row.text("slope") is None) != (row.text("intercept") is None):
        row.fault("slope", "slope and intercept go together; give both or neither")
    references = {side: row.path(f"reference_{side}", made_here) for side in ("left", "right")}
    centers = {side: row.point(f"center_{side}") for side in ("left", "right")}
    return Subject(
        subject=name,
        scan=scan,
        series_uid=series_uid,
        sex=row.choice("sex", ("F", "M")),
        age=row.number("age", AGE_RANGE_YEARS, "years"),
        sides=sides,
        exclude=row.reason("exclude"),
        reference={side: path for side, path in references.items() if path},
        slope=slope,
        intercept=intercept,
        basis=row.choice("basis", BASES),
        group=row.word("group"),
        center_mm={side: point for side, point in centers.items() if point},
    )
