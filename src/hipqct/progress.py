"""How far the workflow has come with one hip, judged from the files that stand in the results."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hipqct.io.files import read_json

# Clocks of a cluster's machines and its file server differ: an output this little older than its input counts
# as newer.
CLOCK_TOLERANCE_S = 2.0


MODELS = ("hex", "tet")
MESH_FILES = (
    "surface.stl",
    "surface.vtp",
    "hex.inp",
    "hex.vtu",
    "tet.inp",
    "tet.vtu",
    "mesh.png",
    "load_cases",
)


@dataclass(frozen=True)
class Step:
    """One step: its files, the step whose output it needs, and files that only some configurations write.

    ``output`` stands for the step's success; ``besides`` are written with it.
    """

    name: str
    output: str
    after: str | None = None
    besides: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


# From a scan to a hip's volume: a hip is done when these are.
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
)
# Judged by themselves: a hip whose mask could not be evaluated, meshed, drawn or solved keeps its volume.
EVALUATION = Step("evaluate_mask", "{side}/evaluation.json", "threshold_bone")
MESH = Step(
    "export_mesh",
    "{side}/mesh/mesh.json",
    "threshold_bone",
    tuple(f"{{side}}/mesh/{name}" for name in MESH_FILES),
    tuple(f"{{side}}/mesh/{model}.{suffix}" for model in MODELS for suffix in ("feb", "bdf", "cdb")),
)
PICTURE = Step("draw_qc", "{side}/qc.png", "measure_volume")
SOLUTION = Step("solve_mesh", "{side}/solution", "export_mesh")
STEPS = (*CHAIN, EVALUATION, MESH, PICTURE, SOLUTION)
# A phantom of the workflow's own is made before its import; only a failure of these tells something.
BEFORE = ("make_phantom", "write_phantom_dicom")

# What a run says of its jobs: whether one is over or was not needed, by (step, subject, side).
JobStates = dict[tuple[str, str, str], bool]


class Gap(NamedTuple):
    """An unfinished step, the reason in one sentence, and whether results from it on are stale.

    They are stale (made from older input) where the step failed, or where this run was to do it again and did
    not. A file that was removed by hand or looks old tells nothing against the others.
    """

    step: str
    reason: str
    stale: bool = False


def failure_record(log_path) -> Path:
    """Where a failed step leaves its one-sentence reason: beside the rule's log file."""
    return Path(log_path).with_suffix(".failed.json")


def find_gap(
    results_dir, subject: str, side: str, steps: tuple[Step, ...] = CHAIN, states: JobStates | None = None
) -> Gap | None:
    """The first step of a hip that failed or is of older input, else the first not done; None if all are.

    A step is done when its files are there and its last run did not fail: results of an older success that
    lie downstream of a new failure do not count.

    Args:
        results_dir: the workflow's results folder.
        states: after a run that stopped early: a job that it did not get to has left an older result. Steps
            that the run did not plan are then judged by the times of their files. While a run goes well
            Snakemake sees to the order: it rightly leaves a file alone whose input was made again with the
            same content, which would look too old.
    """
    results_dir = Path(results_dir)
    if steps[0].after is None:
        for name in BEFORE:
            record = failure_record(results_dir / "logs" / name / f"{subject}.log")
            if record.exists():
                return Gap(name, read_json(record)["reason"], stale=True)
    found = [(step, gap) for step in steps if (gap := _gap(results_dir, step, subject, side, states))]
    for i, (step, gap) in enumerate(found):
        later = [after for after, _ in found[i + 1 :]]
        if gap.stale and not _was_undone(results_dir, step, later, subject, side):
            return gap
    return found[0][1] if found else None


def _was_undone(results_dir: Path, step: Step, later: list[Step], subject: str, side: str) -> bool:
    """Whether a step was done, and its files went with those of a later step of its group, which failed."""
    log_path = _log_path(results_dir, step, subject, side)
    output = results_dir / "subjects" / subject / step.output.format(side=side)
    if output.exists() or failure_record(log_path).exists() or not log_path.exists():
        return False
    records = [failure_record(_log_path(results_dir, each, subject, side)) for each in later]
    begun_s = log_path.stat().st_mtime
    return any(record.exists() and record.stat().st_mtime >= begun_s for record in records)


def _gap(results_dir: Path, step: Step, subject: str, side: str, states: JobStates | None) -> Gap | None:
    log_path = _log_path(results_dir, step, subject, side)
    record = failure_record(log_path)
    if record.exists():
        return Gap(step.name, read_json(record)["reason"], stale=True)
    folder = results_dir / "subjects" / subject
    missing = [n for n in (step.output, *step.besides) if not (folder / n.format(side=side)).exists()]
    over = (states or {}).get((step.name, subject, side if "{side}" in step.output else ""))
    stale = over is False
    if step.output in missing:
        reason = (
            "There is neither result nor message: the job was not run or was killed, or what it wrote was "
            f"removed; see {log_path}."
        )
    elif missing:
        reason = (
            f"{missing[0].format(side=side)} is missing: it was removed; the next whole run makes it again."
        )
    elif stale:
        reason = f"The result is an older one: it was not made again; see {log_path}."
    elif states is not None and over is None and _is_older(folder, step, side):
        reason = (
            "The result is older than what it is made from; the next whole run makes it again if need be."
        )
    else:
        return None
    return Gap(step.name, reason, stale)


def _is_older(folder: Path, step: Step, side: str) -> bool:
    """Whether a step's result is older than what it was made from."""
    before = next((each for each in STEPS if each.name == step.after), None)
    if before is None or not (source := folder / before.output.format(side=side)).exists():
        return False
    written_s, source_s = (path.stat().st_mtime for path in (folder / step.output.format(side=side), source))
    return written_s < source_s - CLOCK_TOLERANCE_S


def forget_phantom(results_dir, subject: str) -> None:
    """Take away the record of a phantom that could not be made: the subject's scan is another one now."""
    for name in BEFORE:
        failure_record(Path(results_dir) / "logs" / name / f"{subject}.log").unlink(missing_ok=True)


def remove_results_after(results_dir, subject: str, side: str, failed: str) -> None:
    """Remove what an older success left from a step on that has failed since, or was not done again.

    It belongs to another input than the one that failed, and as long as it stands, Snakemake sees no need to
    run the failed step again.

    Args:
        failed: name of the step; its own files, if any, and those of all steps that build on it go.
    """
    gone = {failed, *BEFORE} if failed in BEFORE else {failed}
    for step in STEPS:
        if step.name in gone or step.after in gone or (failed in BEFORE and step.after is None):
            gone.add(step.name)
            for name in (step.output, *step.besides, *step.optional):
                path = Path(results_dir) / "subjects" / subject / name.format(side=side)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _log_path(results_dir: Path, step: Step, subject: str, side: str) -> Path:
    name = f"{subject}.{side}" if "{side}" in step.output else subject
    return results_dir / "logs" / step.name / f"{name}.log"
