"""How far the workflow has come with one hip, judged from the files that stand in the results."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hipqct.io.files import read_json

# Clocks of a cluster's machines and its file server differ: an output this little older than its input counts
# as newer.
CLOCK_TOLERANCE_S = 2.0


MESH_FILES = (
    "surface.stl",
    "surface.vtp",
    "mesh.png",
    *(f"{model}.{suffix}" for model in ("hex", "tet") for suffix in ("inp", "vtu", "feb", "bdf", "cdb")),
)


@dataclass(frozen=True)
class Step:
    """One step: the file that stands for its success, the step whose output it needs, its other files."""

    name: str
    output: str
    after: str | None = None
    besides: tuple[str, ...] = ()


CHAIN = (
    Step("import_scan", "ct.nii.gz", None, ("scan.json",)),
    Step("resample_ct", "resampled.nii.gz", "import_scan", ("resampled.json",)),
    Step("crop_hip", "{side}/roi.h5", "resample_ct"),
    Step("segment_femur", "{side}/probability.h5", "crop_hip"),
    Step(
        "threshold_bone",
        "{side}/mask.nii.gz",
        "segment_femur",
        ("{side}/mask_native.nii.gz", "{side}/bone.json"),
    ),
    Step("measure_volume", "{side}/volume.json", "threshold_bone"),
    Step(
        "export_mesh",
        "{side}/mesh/mesh.json",
        "threshold_bone",
        tuple(f"{{side}}/mesh/{name}" for name in (*MESH_FILES, "load_cases")),
    ),
    Step("draw_qc", "{side}/qc.png", "measure_volume"),
)
# A phantom of the workflow's own is made before its import; only a failure of these tells something.
BEFORE = ("make_phantom", "write_phantom_dicom")
# Judged by themselves: a hip whose model was not solved is done all the same.
SOLUTION = Step("solve_mesh", "{side}/solution", "export_mesh")
EVALUATION = Step("evaluate_mask", "{side}/evaluation.json", "threshold_bone")


def failure_record(log_path) -> Path:
    """Where a failed step leaves its one-sentence reason: beside the rule's log file."""
    return Path(log_path).with_suffix(".failed.json")


def chain_status(results_dir, subject: str, side: str, with_reference: bool) -> tuple[str, str, str]:
    """Whether every step of one hip is done, and if not, where and why it stopped.

    A step counts as done when its file is there and its last run did not fail: results of an older success
    that lie downstream of a new failure do not count.

    Args:
        results_dir: the workflow's results folder.
        with_reference: whether the hip must also be evaluated against a reference mask.

    Returns:
        ``("done", "", "")`` or ``("failed", step, one-sentence reason)``.
    """
    results_dir = Path(results_dir)
    for name in BEFORE:
        record = failure_record(results_dir / "logs" / name / f"{subject}.log")
        if record.exists():
            return "failed", name, read_json(record)["reason"]
    for step in _steps(with_reference):
        log_path = _log_path(results_dir, step, subject, side)
        record = failure_record(log_path)
        if record.exists():
            return "failed", step.name, read_json(record)["reason"]
        if not _output(results_dir, step, subject, side).exists():
            reason = (
                f"There is neither result nor message: the job was not run or was killed; see {log_path}."
            )
            return "failed", step.name, reason
    return "done", "", ""


def chain_status_by_times(results_dir, subject: str, side: str, with_reference: bool) -> tuple[str, str, str]:
    """`chain_status` after a run that stopped early: a result older than what it was made from is not done.

    While a run goes well Snakemake sees to the order: it rightly leaves a file alone whose input was made
    again with the same content, which this function, knowing only times, would call not done.
    """
    results_dir = Path(results_dir)
    status = chain_status(results_dir, subject, side, with_reference)
    if status[0] == "failed":
        return status
    written = {}
    for step in _steps(with_reference):
        written[step.name] = _output(results_dir, step, subject, side).stat().st_mtime
        if step.after and written[step.name] < written[step.after] - CLOCK_TOLERANCE_S:
            log_path = _log_path(results_dir, step, subject, side)
            reason = f"The result is older than that of {step.after}: it was not made again; see {log_path}."
            return "failed", step.name, reason
    return status


def solution_failure(results_dir, subject: str, side: str) -> str:
    """Why the last try to solve a hip's finite-element model failed; empty where it did not."""
    record = failure_record(_log_path(Path(results_dir), SOLUTION, subject, side))
    return read_json(record)["reason"] if record.exists() else ""


def forget_phantom(results_dir, subject: str) -> None:
    """Take away the record of a phantom that could not be made: the subject's scan is another one now."""
    for name in BEFORE:
        failure_record(Path(results_dir) / "logs" / name / f"{subject}.log").unlink(missing_ok=True)


def remove_results_after(results_dir, subject: str, side: str, failed: str) -> None:
    """Remove what an older success left behind a step that has failed since.

    It belongs to another input than the one that failed, and as long as it stands, Snakemake sees no need to
    run the failed step again.

    Args:
        failed: name of the step; its own files, if any, and those of all steps that build on it go.
    """
    gone = {failed, *BEFORE} if failed in BEFORE else {failed}
    for step in (*_steps(with_reference=True), SOLUTION):
        if step.name in gone or step.after in gone or (failed in BEFORE and step.after is None):
            gone.add(step.name)
            for name in (step.output, *step.besides):
                path = Path(results_dir) / "subjects" / subject / name.format(side=side)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _steps(with_reference: bool) -> tuple[Step, ...]:
    return (*CHAIN, EVALUATION) if with_reference else CHAIN


def _output(results_dir: Path, step: Step, subject: str, side: str) -> Path:
    return results_dir / "subjects" / subject / step.output.format(side=side)


def _log_path(results_dir: Path, step: Step, subject: str, side: str) -> Path:
    name = f"{subject}.{side}" if "{side}" in step.output else subject
    return results_dir / "logs" / step.name / f"{name}.log"
