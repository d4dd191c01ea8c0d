"""From the results of all hips to the cohort's tables, figures and report."""

import logging
from pathlib import Path

import pandas as pd

from hipqct.cohort import (
    FAILURE_COLUMNS,
    SYNTHETIC,
    segmentation_table,
    subject_table,
    to_text,
    volume_agreement_table,
)
from hipqct.io.files import read_json, replace_when_done
from hipqct.progress import chain_status
from hipqct.sheet import Subject, read_sheet

log = logging.getLogger(__name__)


def aggregate_cohort(sheet_path, results_dir, cohort_dir):
    """Write subjects.tsv, segmentation.tsv, volume_agreement.tsv and failures.tsv.

    Every hip of the sheet has its row, whether done, failed or excluded; only those that are done count in
    the statistics.

    Args:
        sheet_path: the sample sheet; results_dir: the workflow's results folder.
        cohort_dir: where the tables are written.
    """
    results_dir, cohort_dir = Path(results_dir), Path(cohort_dir)
    hips, failures = [], []
    for subject in read_sheet(sheet_path, made_here=(results_dir / "phantoms",)):
        for side in subject.sides:
            hip, failure = _read_hip(results_dir, subject, side)
            hips.append(hip)
            failures += failure
    subjects = subject_table(hips)
    tables = {
        "subjects": subjects,
        "segmentation": segmentation_table(subjects),
        "volume_agreement": volume_agreement_table(subjects),
        "failures": pd.DataFrame(failures, columns=list(FAILURE_COLUMNS)),
    }
    for name, table in tables.items():
        with replace_when_done(cohort_dir / f"{name}.tsv") as temporary:
            temporary.write_text(to_text(table), encoding="utf-8")
    done = int((subjects["status"] == "done").sum())
    log.info("%d hips: %d done, %d failed", len(subjects), done, len(failures))


def _read_hip(results_dir: Path, subject: Subject, side: str) -> tuple[dict, list[dict]]:
    """A hip's row of subjects.tsv, and its row of failures.tsv if it has one."""
    hip = {
        "subject": subject.subject,
        "side": side,
        "sex": subject.sex,
        "age": subject.age,
        "group": subject.group,
        "status": "excluded",
    }
    if subject.exclude:
        return hip, []
    status, step, reason = chain_status(results_dir, subject.subject, side, side in subject.reference)
    hip["status"] = status
    if status == "failed":
        return hip, [{"subject": subject.subject, "side": side, "step": step, "reason": reason}]
    folder = results_dir / "subjects" / subject.subject / side
    hip |= read_json(folder / "volume.json")
    if side in subject.reference:
        evaluation = read_json(folder / "evaluation.json")
        hip |= evaluation | {"flags": [*hip["flags"], *evaluation.get("flags", [])]}
    mesh_flags = read_json(folder / "mesh" / "mesh.json").get("flags", [])
    made_here = subject.scan.is_relative_to((results_dir / "phantoms").resolve())
    flags = ([SYNTHETIC] if made_here else []) + hip["flags"] + mesh_flags
    hip["flags"] = list(dict.fromkeys(flags))
    return hip, []


def draw_figures(subjects_tsv, figures_dir):
    """Draw the cohort's figures as SVG from subjects.tsv; the folder appears when all are drawn."""
    from hipqct.figures import draw_all

    draw_all(pd.read_csv(subjects_tsv, sep="\t", dtype={"subject": str}), figures_dir)


def write_report(cohort_dir, results_dir, report_path):
    """Write the self-contained report.html from the cohort's tables and figures and the QC pictures."""
    from hipqct.report import render_report

    html = render_report(Path(cohort_dir), Path(results_dir))
    with replace_when_done(report_path) as temporary:
        temporary.write_text(html, encoding="utf-8")
