"""The door between Snakemake and the steps: logging, errors and the record of a failure."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hipqct.engine import gpu_is_visible
from hipqct.errors import HipqctError, SheetError
from hipqct.io.files import write_json
from hipqct.io.models import weights_files
from hipqct.progress import JobStates, failure_record

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def step(snakemake) -> Iterator[None]:
    """Run the body of a rule's script.

    Messages go to the rule's log file and to standard error. A `HipqctError` ends the job as one line and
    exit status 1; anything else also leaves its traceback in the log. Either way the reason is
    recorded beside the log, for the cohort's list of failures, until the step runs again.
    """
    log_path = Path(snakemake.log[0])
    record = failure_record(log_path)
    record.unlink(missing_ok=True)
    _start_logging(log_path)
    try:
        yield
    except HipqctError as error:
        reason = " ".join(str(error).split())
        log.error("%s: %s", snakemake.rule, reason)
    except Exception as error:
        detail = " ".join(str(error).split())
        reason = f"Unexpected {type(error).__name__}: {detail} (see {log_path} for the traceback)."
        log.exception("%s failed", snakemake.rule)
    else:
        return
    write_json({"step": snakemake.rule, **dict(snakemake.wildcards), "reason": reason}, record)
    sys.exit(1)


def _start_logging(log_path: Path):
    log_path.parent.mkdir(parents=True, exist_ok=True)
    handlers = [logging.FileHandler(log_path, mode="w", encoding="utf-8"), logging.StreamHandler(sys.stderr)]
    handlers[1].setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=handlers, force=True)
    logging.captureWarnings(True)


def may_use_gpu(device: str, workflow) -> bool:
    """Whether inference jobs ask for a GPU: where this machine has one, or where others run the jobs.

    Jobs that ask for one run one after the other under ``--resources gpu=1``; on the CPU they need not.

    Args:
        device: the config's ``segment/device``.
    """
    return device == "gpu" or (device == "auto" and (gpu_is_visible() or not workflow.local_exec))


def granted_device(device: str, gpus: int) -> str:
    """The device that a job may use: without a GPU of its own ``auto`` is the CPU, whatever can be seen.

    Args:
        device: the config's ``segment/device``; gpus: the job's share of the resource ``gpu``.
    """
    return "cpu" if device == "auto" and not gpus else device


def find_models(chosen: str | list[str], project, trained: Iterable[str] = ()) -> list[Path]:
    """Where the models of ``segment/model`` are; relative folders count from the working directory first.

    Models are no inputs of jobs: Snakemake would not report a missing one, and keep results of an older one.

    Args:
        project: from where relative folders count that the working directory does not have.
        trained: folders that the workflow's training writes, which need not be there yet.

    Raises:
        SheetError: one has no plan.json or no weights.
    """
    found, trained = [], {Path(folder) for folder in trained}
    for folder in [chosen] if isinstance(chosen, str) else chosen:
        tried = (Path(os.path.normpath(folder)), Path(os.path.relpath(Path(project) / folder)))
        there = [path for path in tried if path in trained or _is_model(path)]
        if not there:
            raise SheetError(
                f"segment/model: {folder} holds no model (plan.json and weights.h5), be it in the working "
                "directory or in the project; name a model's folder, such as resources/models/medium (folds "
                "of this study come from snakemake train)"
            )
        found.append(there[0])
    return found


def _is_model(folder: Path) -> bool:
    return (folder / "plan.json").is_file() and weights_files(folder)[0].is_file()


def note_interrupts() -> list[int]:
    """A list that gets the signal of Ctrl-C when it comes, which Snakemake leaves no trace of."""
    noted = []

    def note(number, frame):
        noted.append(number)
        signal.default_int_handler(number, frame)

    # Background jobs of a shell script ignore Ctrl-C: they are left to.
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, note)
    return noted


def job_states(dag) -> JobStates:
    """Whether each job of a run is over or was not needed, by (rule, subject, side)."""
    open_jobs = set(dag.needrun_jobs())  # without those that are finished
    return {
        (job.rule.name, job.wildcards.get("subject"), job.wildcards.get("side", "")): job not in open_jobs
        for job in dag.jobs
        if job.wildcards.get("subject")
    }


def finish_cohort(sheet_path, results_dir, cohort_dir, solving: bool, states: JobStates) -> None:
    """Write the cohort's tables, figures and report from the hips that are complete, after some failed.

    Called by the Snakefile's ``onerror``, where the rules of the cohort could not run for want of all inputs.
    The file that stands for a complete cohort (summary.json) goes, so that the next run makes the cohort
    again, and for it the hips that failed.

    Args:
        states: of the run's jobs, from `job_states`.
    """
    from hipqct.steps.cohort import aggregate_cohort, draw_figures, write_report

    cohort_dir = Path(cohort_dir)
    (cohort_dir / "summary.json").unlink(missing_ok=True)
    aggregate_cohort(sheet_path, results_dir, cohort_dir, solving, states)
    draw_figures(cohort_dir / "subjects.tsv", cohort_dir / "figures")
    write_report(cohort_dir, results_dir, cohort_dir / "report.html")
