"""Steps that make phantoms: one as files, its scan as a DICOM series, and whole cohorts."""

import csv
import tempfile
from pathlib import Path

from hipqct.errors import SheetError
from hipqct.io.dicom_writer import write_dicom_series
from hipqct.io.files import read_json, replace_folder_when_done, replace_when_done, write_json
from hipqct.io.images import read_image, write_image
from hipqct.phantom.cohort import draft_subject, plan_rows
from hipqct.phantom.generate import generate_phantom
from hipqct.phantom.parameters import PhantomParameters, sample_parameters
from hipqct.revisions import MAKE_PHANTOM
from hipqct.steps.workers import run_in_processes

# Columns of a phantom sheet that are not parameters of the phantom.
NOT_PARAMETERS = ("subject", "format", "resampled_slices", "left_volume_mm3")

# What a scan is called in a subject's folder, by format.
SCANS = {"dicom": "dicom", "nifti": "ct.nii.gz"}
TEXT_COLUMNS = ("subject", "sex", "metal_side", "basis")
SAMPLE_COLUMNS = (
    "subject", "scan", "sex", "age", "side", "reference_left", "reference_right",
    "slope", "intercept", "group",
)  # fmt: skip


def _number(text):
    """A cell of a sheet as a whole number, a number, a truth value, or the text itself."""
    if not isinstance(text, str):
        return text
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_empty(cell) -> bool:
    return cell is None or cell == "" or cell != cell


def read_parameters(row: dict) -> PhantomParameters:
    """The phantom of one row of a phantom sheet: ``seed`` is needed, empty cells are drawn.

    Raises:
        SheetError: no seed, or a column that names no parameter.
    """
    values = {k: _number(v) for k, v in row.items() if k not in NOT_PARAMETERS and not _is_empty(v)}
    if "seed" not in values:
        raise SheetError(f"phantom {row.get('subject', '?')}: there is no seed; give a whole number.")
    try:
        return sample_parameters(**values)
    except (TypeError, ValueError) as error:
        raise SheetError(f"phantom {row.get('subject', '?')}: {error}; correct that column.") from error


def make_phantom(parameters: dict, ct_path, left_path, right_path, truth_path) -> None:
    """Generate one phantom and write its scan, the masks of both femurs and the truth."""
    phantom = generate_phantom(read_parameters(parameters))
    write_image(phantom.ct, ct_path)
    write_image(phantom.left_femur, left_path)
    write_image(phantom.right_femur, right_path)
    write_json({"subject": str(parameters.get("subject", "phantom")), **phantom.truth}, truth_path)


def make_one(parameters: dict, folder, dicom: bool) -> None:
    """One phantom into a folder that holds none: its files come there together, when all are made.

    The subject is called as the folder is.

    Raises:
        SheetError: the folder holds a phantom's files, or the parameters are wrong.
    """
    folder = Path(folder).resolve()
    names = ("ct.nii.gz", "left_femur.nii.gz", "right_femur.nii.gz", "truth.json")
    for name in (*names, SCANS["dicom"]):
        if (folder / name).exists():
            raise SheetError(
                f"{folder} holds a phantom's {name} already: choose another folder, or remove it."
            )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp.", dir=folder) as temporary:
        made = Path(temporary)
        make_phantom({"subject": folder.name or "phantom"} | parameters, *(made / name for name in names))
        if dicom:
            write_phantom_dicom(made / "ct.nii.gz", made / "truth.json", made / SCANS["dicom"])
        for path in sorted(made.iterdir()):
            path.rename(folder / path.name)


def write_phantom_dicom(ct_path, truth_path, dicom_dir) -> None:
    """Write a phantom's scan as a DICOM series; the folder appears under its name only when complete."""
    truth = read_json(truth_path)
    drawn = truth["parameters"]
    with replace_folder_when_done(dicom_dir) as temporary:
        write_dicom_series(read_image(ct_path), temporary, drawn["sex"], drawn["age"], truth["subject"])


def plan_cohort(folder, women: int, men: int, seed: int, processes: int = 1) -> list[dict]:
    """Draw a cohort and write its phantom sheet ``phantoms.tsv``; the same whatever ``processes``.

    Returns:
        The sheet's rows: women first. A folder that holds this cohort already keeps its sheet.

    Raises:
        SheetError: the folder holds another cohort, or the cohort is empty or larger than seeds allow.
    """
    folder = Path(folder)
    wanted = {"women": women, "men": men, "seed": seed, "revision": MAKE_PHANTOM}
    if women + men < 1 or min(women, men) < 0:
        raise SheetError(f"a cohort needs at least one subject; got {women} women and {men} men.")
    facts, sheet = folder / "cohort.json", folder / "phantoms.tsv"
    if facts.exists():
        found = read_json(facts)
        if found != wanted:
            raise SheetError(f"{folder} holds another cohort ({found}); choose an empty folder.")
        with sheet.open(newline="", encoding="utf-8") as file:
            return [
                {k: v if k in TEXT_COLUMNS else _number(v) for k, v in row.items()}
                for row in csv.DictReader(file, delimiter="\t")
            ]
    who = [("F", i) for i in range(women)] + [("M", i) for i in range(men)]
    rows = plan_rows(run_in_processes(processes, draft_subject, [(seed, *one) for one in who]))
    _write_table(rows, sheet)
    write_json(wanted, facts)
    return rows


def make_cohort(folder, rows: list[dict], file_format: str, processes: int, report) -> None:
    """Make every phantom of a planned cohort that is not there yet, then the sample sheet ``samples.tsv``.

    Each subject's folder (scan, masks of both femurs, truth.json) appears under its name only when complete.

    Args:
        folder: the cohort's folder.
        rows: from `plan_cohort`.
        file_format: ``"dicom"`` (a folder ``dicom``) or ``"nifti"`` (``ct.nii.gz``).
        processes: phantoms made at the same time; each takes up to 1.2 GB.
        report: called with the number of subjects done and all, after each.

    Raises:
        SheetError: a subject's folder lacks its scan in this format: it was made in the other.
    """
    folder, scan = Path(folder), SCANS[file_format]
    for row in rows:
        if (folder / row["subject"]).exists() and not (folder / row["subject"] / scan).exists():
            raise SheetError(f"{folder / row['subject']} has no {scan}; go on in the format it was made in.")
    missing = [row for row in rows if not (folder / row["subject"]).exists()]
    done = len(rows) - len(missing)
    report(done, len(rows))
    calls = [(row, folder / row["subject"], file_format) for row in missing]
    run_in_processes(processes, make_subject, calls, lambda more: report(done + more, len(rows)))
    _write_table([_sample(row, scan) for row in rows], folder / "samples.tsv")


def make_subject(row: dict, folder, file_format: str) -> None:
    """One phantom as a folder, complete or absent: scan, masks and truth.json."""
    phantom = generate_phantom(read_parameters(row))
    drawn = phantom.truth["parameters"]
    with replace_folder_when_done(folder) as temporary:
        if file_format == "dicom":
            write_dicom_series(phantom.ct, temporary / "dicom", drawn["sex"], drawn["age"], row["subject"])
        else:
            write_image(phantom.ct, temporary / "ct.nii.gz")
        write_image(phantom.left_femur, temporary / "left_femur.nii.gz")
        write_image(phantom.right_femur, temporary / "right_femur.nii.gz")
        write_json({"subject": row["subject"], **phantom.truth}, temporary / "truth.json")


def _sample(row: dict, scan: str) -> dict:
    """A row of the sample sheet, of the studied left hip alone; paths count from the cohort's folder."""
    subject = row["subject"]
    cells = {
        **row,
        "scan": f"{subject}/{scan}",
        "side": "left",
        "reference_left": f"{subject}/left_femur.nii.gz",
        "reference_right": "",
        "group": "phantom",
    }
    return {column: cells[column] for column in SAMPLE_COLUMNS}


def _write_table(rows: list[dict], path: Path) -> None:
    """Rows as tab-separated text under their common keys."""
    lines = ["\t".join(rows[0]), *("\t".join(str(cell) for cell in row.values()) for row in rows)]
    with replace_when_done(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
