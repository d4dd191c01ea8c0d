"""A step ends as one line and a record when its input is bad, with a traceback when the program is."""

import logging
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from cohort_factory import Hip, Results

from hipqct.errors import ScanError, SheetError
from hipqct.io.files import read_json
from hipqct.progress import failure_record
from hipqct.smk import find_models, finish_cohort, note_interrupts, step


@pytest.fixture(autouse=True)
def _same_logging_after():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def job(tmp_path):
    """What Snakemake gives a script, as far as the door looks at it."""
    log = tmp_path / "logs/crop_hip/A.left.log"
    return SimpleNamespace(log=[str(log)], rule="crop_hip", wildcards={"subject": "A", "side": "left"})


def fail(job, error) -> int:
    with pytest.raises(SystemExit) as stop, step(job):
        raise error
    return stop.value.code


def log_of(job) -> str:
    return Path(job.log[0]).read_text(encoding="utf-8")


def test_messages_go_to_the_rules_log(job, capsys):
    with step(job):
        logging.getLogger("hipqct.crop").info("the head is at 92 mm")
        logging.getLogger("hipqct.crop").warning("the scan is short")
    assert "INFO hipqct.crop: the head is at 92 mm" in log_of(job)
    err = capsys.readouterr().err
    assert "the scan is short" in err
    assert "92 mm" not in err


def test_a_bad_input_ends_as_one_line_status_one_and_a_record(job, capsys):
    assert fail(job, ScanError("There is no\nleft hip.")) == 1
    assert read_json(failure_record(job.log[0])) == {
        "step": "crop_hip",
        "subject": "A",
        "side": "left",
        "reason": "There is no left hip.",
    }
    err = capsys.readouterr().err
    assert "crop_hip: There is no left hip." in err
    assert "Traceback" not in err + log_of(job)
    assert err.count("\n") == 1


def test_an_unexpected_error_leaves_its_traceback_in_the_log(job):
    assert fail(job, KeyError("spacing")) == 1
    assert "Traceback" in log_of(job)
    reason = read_json(failure_record(job.log[0]))["reason"]
    assert reason.startswith("Unexpected KeyError: 'spacing'")
    assert job.log[0] in reason


def test_a_job_that_was_stopped_is_no_failure_of_its_input(job):
    with pytest.raises(KeyboardInterrupt), step(job):
        raise KeyboardInterrupt
    assert not failure_record(job.log[0]).exists()


def test_the_record_goes_when_the_step_starts_again(job):
    fail(job, ScanError("Bad."))
    with step(job):
        assert not failure_record(job.log[0]).exists()


def test_warnings_of_libraries_are_logged(job):
    with step(job):
        warnings.warn("a library grumbles", stacklevel=1)
    assert "a library grumbles" in log_of(job)


def test_after_failures_the_cohort_is_written_from_the_rest(tmp_path):
    study = Results(tmp_path, [Hip("A"), Hip("B")])
    study.fail("import_scan", "A", "Slice 5 is cut short.")
    finish_cohort(study.sheet, study.results, study.cohort, True, {})
    assert [row["status"] for row in study.table("subjects")] == ["failed", "done"]
    assert (study.cohort / "figures/measures.svg").exists()
    assert "Slice 5 is cut short." in (study.cohort / "report.html").read_text()


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").touch()
    (folder / "weights.h5.000").touch()
    return folder


def test_models_are_looked_for_in_the_study_and_then_in_the_project(tmp_path, monkeypatch):
    project, study = tmp_path / "project", tmp_path / "study"
    make_model(project / "resources/models/shipped")
    make_model(project / "mine")
    make_model(study / "mine")
    monkeypatch.chdir(study)
    found = find_models(["resources/models/shipped", "mine", str(project / "mine")], project)
    assert found == [Path("../project/resources/models/shipped"), Path("mine"), project / "mine"]


def test_a_model_that_is_not_there_is_refused_unless_training_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fold = "results/training/all/fold-0"
    assert find_models(fold, tmp_path, [fold]) == [Path(fold)]
    (tmp_path / "half").mkdir()
    for name in ("plan.json", "weights.h5.bak"):
        (tmp_path / "half" / name).touch()
    for folder in ("nope", "half", "results/training/all/fold-10"):
        with pytest.raises(SheetError, match=f"segment/model: {folder} holds no model"):
            find_models(folder, tmp_path, [fold])


def test_interrupts_are_noted_unless_they_are_ignored():
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert note_interrupts() == []
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        noted = note_interrupts()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert noted == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
