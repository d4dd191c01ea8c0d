"""A hip is done when every step of its chain is, and its first gap is named otherwise."""

import os

import pytest
from cohort_factory import Hip, Results

from hipqct.progress import (
    CHAIN,
    EVALUATION,
    chain_status,
    chain_status_by_times,
    failure_record,
    remove_results_after,
)


@pytest.fixture
def study(tmp_path):
    return Results(tmp_path, [Hip("A")])


def test_a_whole_chain_is_done(study):
    assert chain_status(study.results, "A", "left", True) == ("done", "", "")
    assert chain_status_by_times(study.results, "A", "left", True) == ("done", "", "")


@pytest.mark.parametrize("step", CHAIN, ids=lambda step: step.name)
def test_a_missing_output_names_its_step(study, step):
    study.path("A", "left", step.output).unlink()
    status, name, reason = chain_status(study.results, "A", "left", False)
    assert (status, name) == ("failed", step.name)
    assert step.name in reason


def test_the_first_failure_of_the_chain_is_the_one_told(study):
    study.fail("draw_qc", "A.left", "late")
    study.fail("crop_hip", "A.left", "early")
    assert chain_status(study.results, "A", "left", False) == ("failed", "crop_hip", "early")


def test_a_phantom_that_could_not_be_made_is_named(study):
    study.fail("make_phantom", "A", "the seed is no number")
    assert chain_status(study.results, "A", "left", False)[1:] == ("make_phantom", "the seed is no number")


def test_evaluation_counts_only_with_a_reference(study):
    study.fail("evaluate_mask", "A.left", "empty reference")
    assert chain_status(study.results, "A", "left", False)[0] == "done"
    assert chain_status(study.results, "A", "left", True)[1] == "evaluate_mask"


def test_clocks_may_differ_a_little(study):
    mask = study.path("A", "left", "{side}/mask.nii.gz").stat().st_mtime
    os.utime(study.path("A", "left", "{side}/volume.json"), (mask, mask - 1))
    assert chain_status_by_times(study.results, "A", "left", False)[0] == "done"
    os.utime(study.path("A", "left", "{side}/volume.json"), (mask, mask - 60))
    assert chain_status_by_times(study.results, "A", "left", False)[1] == "measure_volume"


def test_a_failure_lies_beside_its_log():
    assert str(failure_record("logs/crop_hip/A.left.log")) == "logs/crop_hip/A.left.failed.json"


@pytest.mark.parametrize(
    ("failed", "kept"),
    [
        ("import_scan", set()),
        ("make_phantom", set()),
        ("threshold_bone", {"import_scan", "resample_ct", "crop_hip", "segment_femur"}),
        ("draw_qc", {step.name for step in CHAIN} - {"draw_qc"} | {"evaluate_mask"}),
    ],
)
def test_only_what_builds_on_a_failed_step_is_removed(study, failed, kept):
    remove_results_after(study.results, "A", "left", failed)
    steps = (*CHAIN, EVALUATION)
    assert {s.name for s in steps if study.path("A", "left", s.output).exists()} == kept
