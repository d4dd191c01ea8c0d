"""How far the workflow has come with one hip, judged from the files that stand in the results."""

from dataclasses import dataclass
from pathlib import Path

from hipqct.io.files import read_json

# Clocks of a cluster's machines and its file server differ: an output this little older than its input counts
# as newer.
CLOCK_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Step:
    """One step of the chain: the file that stands for its success, and the step whose output it needs."""

    name: str
    output: str
    after: str | None = None


CHAIN = (
    Step("import_scan", "ct.nii.gz"),
    Step("resample_ct", "resampled.nii.gz", "import_scan"),
    Step("crop_hip", "{side}/roi.h5", "resample_ct"),
    Step("segment_femur", "{side}/probability.h5", "crop_hip"),
    Step("threshold_bone", "{side}/mask.nii.gz", "segment_femur"),
    Step("measure_volume", "{side}/volume.json", "threshold_bone"),
    Step("export_mesh", "{side}/mesh/mesh.json", "threshold_bone"),
    Step("draw_qc", "{side}/qc.png", "measure_volume"),
)
EVALUATION = Step("evaluate_mask", "{side}/evaluation.json", "threshold_bone")


def failure_record(log_path) -> Path:
    """Where a failed step leaves its one-sentence reason: beside the rule's log file."""
    return Path(log_path).with_suffix(".failed.json")


def chain_status(results_dir, subject: str, side: str, with_reference: bool) -> tuple[str, str, str]:
    """Whether every step of one hip is done, and if not, where and why it stopped.

    A step counts as done when its file is there, is not older than the file it was made from, and its last
    run did not fail: results of an older success that lie downstream of a new failure do not count.

    Args:
        results_dir: the workflow's results folder.
        with_reference: whether the hip must also be evaluated against a reference mask.

    Returns:
        ``("done", "", "")`` or ``("failed", step, one-sentence reason)``.
    """
    results_dir = Path(results_dir)
    folder = results_dir / "subjects" / subject
    written = {}
    for step in (*CHAIN, EVALUATION) if with_reference else CHAIN:
        name = f"{subject}.{side}" if "{side}" in step.output else subject
        log_path = results_dir / "logs" / step.name / f"{name}.log"
        record = failure_record(log_path)
        if record.exists():
            return "failed", step.name, read_json(record)["reason"]
        output = folder / step.output.format(side=side)
        if not output.exists():
            reason = (
                f"There is neither result nor message: the job was not run or was killed; see {log_path}."
            )
            return "failed", step.name, reason
        written[step.name] = output.stat().st_mtime
        if step.after and written[step.name] < written[step.after] - CLOCK_TOLERANCE_S:
            reason = f"The result is older than that of {step.after}: it was not made again; see {log_path}."
            return "failed", step.name, reason
    return "done", "", ""
