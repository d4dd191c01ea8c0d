"""From the results of all hips to the cohort's tables, figures and report."""

import logging
from pathlib import Path

import pandas as pd

from hipqct import __version__
from hipqct.cohort import (
    FAILURE_COLUMNS,
    NO_MESH,
    TEXT_COLUMNS,
    WITH_REFERENCE,
    flag_other_lengths,
    flag_same_scans,
    segmentation_table,
    subject_table,
    volume_agreement_table,
)
from hipqct.density import MM3_PER_CM3
from hipqct.errors import HipqctError
from hipqct.io.files import read_json, replace_when_done, write_json
from hipqct.io.tables import read_table, write_table
from hipqct.progress import (
    CHAIN,
    EVALUATION,
    MESH,
    PICTURE,
    SOLUTION,
    Gap,
    JobStates,
    Step,
    find_gap,
    forget_phantom,
    remove_results_after,
)
from hipqct.provenance import flag_other_settings
from hipqct.sheet import Subject, read_sheet
from hipqct.steps.solve import has_materials, read_solution

log = logging.getLogger(__name__)

NOT_SOLVED = Gap(
    SOLUTION.name,
    "There is no solution of this mesh and no message: the job was not run or was killed.",
    stale=True,
)


def aggregate_cohort(
    sheet_path, results_dir, cohort_dir, solving: bool = True, states: JobStates | None = None
) -> None:
    """Write subjects.tsv, segmentation.tsv, volume_agreement.tsv, failures.tsv; summary.json if none failed.

    Every hip of the sheet has its row, whether done, failed or excluded; only those that are done count in
    the statistics. A hip whose volume is measured is done, even where a later step (evaluation, mesh,
    picture, solution) failed: that step is among the failures, and its columns are empty. What an older
    success left behind a failed step is removed; where files are only missing, nothing else is.

    Args:
        sheet_path: the sample sheet; results_dir: the workflow's results folder.
        cohort_dir: where the tables are written.
        solving: whether this run solves finite-element models; else what earlier ones found is left out.
        states: of the jobs of a run that stopped early, see `hipqct.progress.find_gap`.

    Raises:
        HipqctError: a hip is not done although no job failed (without ``states``); the tables are written.
    """
    results_dir, cohort_dir = Path(results_dir), Path(cohort_dir)
    sheet = read_sheet(sheet_path, made_here=(results_dir / "phantoms",))
    hips, gaps = [], []
    for subject, side in [(row, side) for row in sheet for side in row.sides]:
        hips.append(hip := _describe(subject, side))
        if subject.exclude:
            continue
        if not subject.scan.resolve().is_relative_to(results_dir.resolve() / "phantoms"):
            forget_phantom(results_dir, subject.subject)
        measures, found = _judge_hip(results_dir, subject, side, solving, states)
        hip |= measures
        gaps += [(subject.subject, side, gap) for gap in found]
    failures = [dict(zip(FAILURE_COLUMNS, (*hip, gap.step, gap.reason), strict=True)) for *hip, gap in gaps]
    flag_other_lengths(hips)
    flag_same_scans(hips)
    flag_other_settings(hips, failures, results_dir)
    subjects = subject_table(hips)
    tables = {
        "subjects": subjects,
        "segmentation": segmentation_table(subjects),
        "volume_agreement": volume_agreement_table(subjects),
        "failures": pd.DataFrame(failures, columns=list(FAILURE_COLUMNS)),
    }
    for name, table in tables.items():
        write_table(table, cohort_dir / f"{name}.tsv")
    counts = {status: int((subjects["status"] == status).sum()) for status in ("done", "failed", "excluded")}
    log.info("%d hips: %s", len(subjects), counts)
    for subject, side, gap in gaps:
        if gap.stale:
            remove_results_after(results_dir, subject, side, gap.step)
    if not failures:
        write_json({"version": __version__, "hips": len(subjects), **counts}, cohort_dir / "summary.json")
    elif states is None:
        first = failures[0]
        raise HipqctError(
            f"{len(failures)} steps are not done, first {first['step']} of {first['subject']}, "
            f"{first['side']}: {first['reason']} Give the command again, without a target."
        )


def _describe(subject: Subject, side: str) -> dict:
    """What the sheet says of a hip."""
    return {
        "subject": subject.subject,
        "side": side,
        "sex": subject.sex,
        "age": subject.age,
        "group": subject.group,
        "status": "excluded",
        "exclude": subject.exclude,
        "reference": WITH_REFERENCE if side in subject.reference else None,
    }


def _judge_hip(
    results_dir: Path, subject: Subject, side: str, solving: bool, states: JobStates | None
) -> tuple[dict, list[Gap]]:
    """A hip's status with its measures, and every step that is not done."""

    def gap_of(*steps: Step):
        return find_gap(results_dir, subject.subject, side, steps, states)

    if gap := gap_of(*CHAIN):
        return {"status": "failed"}, [gap]
    folder, gaps = results_dir / "subjects" / subject.subject / side, [gap_of(PICTURE)]
    row = {"status": "done"} | read_json(folder / "volume.json") | _read_scan(folder.parent)
    row |= row.get("calibration") or {}
    flags = row["flags"]
    if side in subject.reference:
        gaps.append(gap := gap_of(EVALUATION))
        if not gap:
            row |= (scores := read_json(folder / "evaluation.json"))
            flags = flags + scores["flags"]
    gaps.append(gap := gap_of(MESH))
    if gap:
        flags = [*flags, NO_MESH]
    else:
        mesh = read_json(folder / "mesh" / "mesh.json")
        row |= {"below_head_mm": mesh.get("whole_below_head_mm")} | _read_cut(mesh)
        flags = flags + mesh["flags"]
        if solving and has_materials(mesh):
            solution = read_solution(folder)
            gaps.append(gap := gap_of(SOLUTION) or (NOT_SOLVED if solution is None else None))
            row |= {} if gap else solution
    return row | {"flags": list(dict.fromkeys(flags))}, [gap for gap in gaps if gap]


def _read_scan(subject_folder: Path) -> dict:
    """Which series a hip is of, and what densities depend on besides the calibration: voltage and kernel."""
    scan = read_json(subject_folder / "scan.json")
    return {key: scan.get(key) for key in ("series", "kvp", "kernel")}


def _read_cut(mesh: dict) -> dict:
    """Size and mineral of the femur down to the distal cut; empty where it does not reach so far."""
    if not (cut := mesh.get("to_cut")) or "distal_cut_missing_mm" in mesh["flags"]:
        return {}
    volume_mm3 = cut["volume_mm3"]
    found = {"volume_to_cut_mm3": volume_mm3}
    if (mineral_mg := cut.get("mineral_mg")) is not None:
        found["integral_density_to_cut_mg_cm3"] = MM3_PER_CM3 * mineral_mg / volume_mm3
        found["bone_mineral_content_to_cut_mg"] = mineral_mg
    return found


def draw_figures(subjects_tsv, figures_dir) -> None:
    """Draw the cohort's figures as SVG from subjects.tsv; the folder appears when all are drawn."""
    from hipqct.figures import draw_all

    draw_all(read_table(subjects_tsv, TEXT_COLUMNS), figures_dir)


def write_report(cohort_dir, results_dir, report_path) -> None:
    """Write the self-contained report.html from the cohort's tables and figures and the QC pictures."""
    from hipqct.report import render_report

    html = render_report(Path(cohort_dir), Path(results_dir))
    with replace_when_done(report_path) as temporary:
        temporary.write_text(html, encoding="utf-8")
