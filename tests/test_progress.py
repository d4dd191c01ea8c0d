"""A hip is done when every step of its chain is, and its first gap is named otherwise."""

import os
import re

import pytest
from cohort_factory import Hip, Results
from rule_texts import rules

from hipqct.progress import (
    CHAIN,
    EVALUATION,
    MESH,
    PICTURE,
    STEPS,
    Gap,
    failure_record,
    find_gap,
    remove_results_after,
)


@pytest.fixture
def study(tmp_path):
    return Results(tmp_path, [Hip("A")])


def test_a_whole_chain_is_done(study):
    assert find_gap(study.results, "A", "left") is None
    assert find_gap(study.results, "A", "left", states={}) is None


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_the_files_of_a_step_are_those_of_its_rule(step):
    text = rules()[step.name].split("    output:")[1].split("    log:")[0]
    written = re.findall(r'"<(subject|side)>/([^"{}]+)"', text)
    places = {"subject": "", "side": "{side}/"}
    assert {places[place] + name for place, name in written} == {step.output, *step.besides}


@pytest.mark.parametrize("step", CHAIN, ids=lambda step: step.name)
def test_a_missing_output_names_its_step(study, step):
    study.path("A", "left", step.output).unlink()
    gap = find_gap(study.results, "A", "left")
    assert gap.step == step.name
    assert step.name in gap.reason


@pytest.mark.parametrize("name", ["scan.json", "{side}/mask_native.nii.gz"])
def test_a_file_that_was_removed_is_named(study, name):
    study.path("A", "left", name).unlink()
    gap = find_gap(study.results, "A", "left")
    assert name.format(side="left") in gap.reason
    assert not gap.stale  # the others are what they were


def test_a_failure_is_told_before_a_file_that_was_removed_to_save_space(study):
    study.path("A", "left", "ct.nii.gz").unlink()
    assert find_gap(study.results, "A", "left").step == "import_scan"
    study.fail("segment_femur", "A.left", "no memory")
    assert find_gap(study.results, "A", "left") == Gap("segment_femur", "no memory", stale=True)


def test_the_first_failure_of_the_chain_is_the_one_told(study):
    study.fail("measure_volume", "A.left", "late")
    study.fail("crop_hip", "A.left", "early")
    assert find_gap(study.results, "A", "left") == Gap("crop_hip", "early", stale=True)


def test_a_phantom_that_could_not_be_made_is_named(study):
    study.fail("make_phantom", "A", "the seed is no number")
    assert find_gap(study.results, "A", "left") == Gap("make_phantom", "the seed is no number", stale=True)
    assert find_gap(study.results, "A", "left", (PICTURE,)) is None


@pytest.mark.parametrize("step", [EVALUATION, MESH, PICTURE])
def test_steps_after_the_volume_are_judged_by_themselves(study, step):
    study.fail(step.name, "A.left", "odd mask")
    assert find_gap(study.results, "A", "left") is None
    assert find_gap(study.results, "A", "left", (step,)) == Gap(step.name, "odd mask", stale=True)


def test_clocks_may_differ_a_little(study):
    mask = study.path("A", "left", "{side}/mask.nii.gz").stat().st_mtime
    os.utime(study.path("A", "left", "{side}/volume.json"), (mask, mask - 1))
    assert find_gap(study.results, "A", "left", states={}) is None
    os.utime(study.path("A", "left", "{side}/volume.json"), (mask, mask - 60))
    gap = find_gap(study.results, "A", "left", states={})
    assert gap.step == "measure_volume" and not gap.stale
    assert find_gap(study.results, "A", "left") is None


def test_the_run_knows_better_than_times_what_it_did_not_get_to(study):
    """An older file whose input was written again with the same content is up to date."""
    mask = study.path("A", "left", "{side}/mask.nii.gz").stat().st_mtime
    os.utime(study.path("A", "left", "{side}/volume.json"), (mask, mask - 60))
    assert find_gap(study.results, "A", "left", states={("measure_volume", "A", "left"): True}) is None
    gap = find_gap(study.results, "A", "left", states={("resample_ct", "A", ""): False})
    assert gap.step == "resample_ct" and "not made again" in gap.reason and gap.stale


@pytest.mark.parametrize(
    ("before", "failed"), [("import_scan", "resample_ct"), ("threshold_bone", "measure_volume")]
)
def test_a_group_that_failed_is_named_by_the_step_that_did(study, before, failed):
    """Snakemake removes what the group's other steps had made."""
    step = next(step for step in CHAIN if step.name == before)
    name = "A.left" if "{side}" in step.output else "A"
    states = {(before, "A", "left" if "{side}" in step.output else ""): False}
    log = study.results / "logs" / before / f"{name}.log"
    study.path("A", "left", step.output).unlink()
    study.fail(failed, name, "odd slices")
    assert find_gap(study.results, "A", "left", states=states).step == before  # that never began
    log.parent.mkdir(parents=True)
    log.touch()
    record = failure_record(study.results / "logs" / failed / f"{name}.log")
    os.utime(record, (log.stat().st_mtime + 1,) * 2)
    assert find_gap(study.results, "A", "left", states=states) == Gap(failed, "odd slices", stale=True)
    os.utime(record, (log.stat().st_mtime - 1,) * 2)  # of an older run: this time the first step was killed
    assert find_gap(study.results, "A", "left", states=states).step == before


def test_a_failure_lies_beside_its_log():
    assert str(failure_record("logs/crop_hip/A.left.log")) == "logs/crop_hip/A.left.failed.json"


@pytest.mark.parametrize(
    ("failed", "kept"),
    [
        ("import_scan", set()),
        ("make_phantom", set()),
        ("threshold_bone", {"import_scan", "resample_ct", "crop_hip", "segment_femur"}),
        ("export_mesh", {step.name for step in CHAIN} | {"evaluate_mask", "draw_qc"}),
        ("measure_volume", {step.name for step in CHAIN[:-1]} | {"evaluate_mask", "export_mesh"}),
    ],
)
def test_only_what_builds_on_a_failed_step_is_removed(study, failed, kept):
    remove_results_after(study.results, "A", "left", failed)
    assert {s.name for s in STEPS if study.path("A", "left", s.output).exists()} == kept
