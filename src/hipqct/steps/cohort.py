"""From the results of all hips to the cohort's tables, figures and report."""

import logging
from pathlib import Path

import pandas as pd

from hipqct import __version__
from hipqct.cohort import (
    FAILURE_COLUMNS,
    TEXT_COLUMNS,
    flag_other_lengths,
    segmentation_table,
    subject_table,
    volume_agreement_table,
)
from hipqct.density import MM3_PER_CM3
from hipqct.io.files import read_json, replace_when_done, write_json
from hipqct.io.tables import read_table, write_table
from hipqct.progress import SOLUTION, chain_status, forget_phantom, remove_results_after, solution_failure
from hipqct.provenance import flag_other_settings
from hipqct.sheet import Subject, read_sheet
from hipqct.steps.solve import has_materials, read_solution

log = logging.getLogger(__name__)

NOT_SOLVED = "There is no solution of this mesh and no message: the job was not run or was killed."


def aggregate_cohort(
    sheet_path, results_dir, cohort_dir, solving: bool = True, status_of=chain_status
) -> None:
    """Write subjects.tsv, segmentation.tsv, volume_agreement.tsv, failures.tsv; summary.json if none failed.

    Every hip of the sheet has its row, whether done, failed or excluded; only those that are done count in
    the statistics. What an older success left behind a failed step is removed.

    Args:
        sheet_path: the sample sheet; results_dir: the workflow's results folder.
        cohort_dir: where the tables are written.
        solving: whether this run solves finite-element models; else what earlier ones found is left out.
        status_of: judges a hip, see `hipqct.progress`.
    """
    results_dir, cohort_dir = Path(results_dir), Path(cohort_dir)
    sheet = read_sheet(sheet_path, made_here=(results_dir / "phantoms",))
    hips, failures = [], []
    for subject, side in [(row, side) for row in sheet for side in row.sides]:
        hips.append(hip := _describe(subject, side))
        if subject.exclude:
            continue
        if not subject.scan.is_relative_to(results_dir.resolve() / "phantoms"):
            forget_phantom(results_dir, subject.subject)
        judged = status_of(results_dir, subject.subject, side, side in subject.reference)
        hip["status"], step, reason = judged
        if hip["status"] == "failed":
            failures.append({"subject": subject.subject, "side": side, "step": step, "reason": reason})
        else:
            folder = results_dir / "subjects" / subject.subject / side
            mesh = read_json(folder / "mesh" / "mesh.json")
            hip |= _read_results(folder, mesh, with_reference=side in subject.reference)
            hip |= (hip.get("calibration") or {}) | _read_scanner(folder.parent)
            if not (solving and has_materials(mesh)):
                continue
            reason, solution = solution_failure(results_dir, subject.subject, side), read_solution(folder)
            if reason or solution is None:
                failed = {"subject": subject.subject, "side": side, "step": SOLUTION.name}
                failures.append(failed | {"reason": reason or NOT_SOLVED})
            else:
                hip |= solution
    flag_other_lengths(hips)
    flag_other_settings(hips, results_dir)
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
    for failure in failures:
        remove_results_after(results_dir, failure["subject"], failure["side"], failure["step"])
    if not failures:
        write_json({"version": __version__, "hips": len(subjects), **counts}, cohort_dir / "summary.json")


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
    }


def _read_results(folder: Path, mesh: dict, with_reference: bool) -> dict:
    """The measures of a hip that is done, with the flags of all its steps; ``mesh``: its mesh.json."""
    parts, flags = [read_json(folder / "volume.json")], []
    if with_reference:
        parts.append(read_json(folder / "evaluation.json"))
    for part in (*parts, mesh):
        flags += part.get("flags", [])
    measures = {key: value for part in parts for key, value in part.items()} | _read_cut(mesh)
    below_head_mm = mesh.get("whole_below_head_mm")
    return measures | {"below_head_mm": below_head_mm, "flags": list(dict.fromkeys(flags))}


def _read_cut(mesh: dict) -> dict:
    """Size and mineral of the femur down to the mesh's distal cut; empty where it does not reach so far."""
    cut = mesh.get("distal_cut_mm") is not None and mesh["anatomy"]
    if not cut or "distal_cut_missing_mm" in mesh["flags"]:
        return {}
    volume_mm3, mineral_mg = mesh["mask"]["volume_mm3"], (mesh.get("material") or {}).get("mineral_mask_mg")
    found = {"volume_to_cut_mm3": volume_mm3}
    if mineral_mg is not None:
        found["integral_density_to_cut_mg_cm3"] = MM3_PER_CM3 * mineral_mg / volume_mm3
        found["bone_mineral_content_to_cut_mg"] = mineral_mg
    return found


def _read_scanner(subject_folder: Path) -> dict:
    """What densities hang on besides the calibration: tube voltage and kernel."""
    scan = read_json(subject_folder / "scan.json")
    return {key: scan.get(key) for key in ("kvp", "kernel")}


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
