"""Cohorts of phantoms: volumes as in the paper, seeds, slices, and files that go on where they stopped."""

import numpy as np
import pytest

from hipqct.errors import SheetError
from hipqct.image import Image
from hipqct.io.files import read_json
from hipqct.phantom import cohort
from hipqct.phantom.cohort import Draft, draft_subject, plan_rows, subject_seed, summarise_rows
from hipqct.phantom.generate import RandomStreams, scan_grid
from hipqct.phantom.parameters import sample_parameters
from hipqct.phantom.patient import Patient
from hipqct.phantom.seeds import COHORT_SEEDS
from hipqct.resample import resample_slices
from hipqct.sheet import read_sheet
from hipqct.steps.phantom import make_cohort, make_subject, plan_cohort, read_parameters

COARSE = {"matrix": 64, "pixel_mm": 7.0, "slice_mm": 12.0}  # scans of some 20,000 voxels


def cylinders(count: int, sex: str = "M") -> list[Draft]:
    """Drafts whose femurs are cylinders of different girth: volume grows evenly with depth."""
    rng = np.random.default_rng(0)
    parameters = sample_parameters(COHORT_SEEDS[0], sex)
    depths_mm = np.array([-30.0, 75.0])
    return [
        Draft(f"{sex}{i}", parameters, 40, rng.normal(), depths_mm, depths_mm * area + 30 * area)
        for i, area in enumerate(rng.normal(1550, 190, count))
    ]


def test_a_large_cohort_has_the_papers_volumes():
    table = summarise_rows(plan_rows(cylinders(150)))[0]
    assert table["mean_mm3"] == pytest.approx(table["paper_mean_mm3"], rel=1e-4)
    assert table["sd_mm3"] == pytest.approx(table["paper_sd_mm3"], rel=1e-3)


def test_a_small_cohort_is_placed_as_a_large_one():
    few = cylinders(3)
    expected = cohort.BOTTOM_MM["M"][0] + cohort.BOTTOM_MM["M"][1] * few[1].deviate
    assert plan_rows(few)[1]["bottom_mm"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("sex", "number"), [("F", 3), ("F", 104), ("M", 60)])
def test_the_planned_volume_is_the_phantoms(sex, number):
    draft = draft_subject(1, sex, number)
    row = plan_rows([draft])[0]
    parameters = read_parameters(row)
    bone = Patient(parameters, RandomStreams(parameters.seed).anatomy).femur("left", np.random.default_rng(0))
    truth_mm3 = cohort.layer_volumes_mm3(scan_grid(parameters), bone, 1.0).sum()
    assert row["left_volume_mm3"] == pytest.approx(truth_mm3, rel=2e-3)
    assert parameters.scanner.slices == np.ceil(row["resampled_slices"] * 3 / 2)


def test_no_two_subjects_or_cohorts_share_a_seed():
    assert subject_seed(1, "F", 0) != subject_seed(1, "M", 0)
    assert len({subject_seed(c, s, i) for c in (0, 1, 2) for s in "FM" for i in (0, 4999)}) == 12
    with pytest.raises(SheetError, match="5000"):
        subject_seed(1, "F", 5000)


def test_slices_of_two_millimetres_become_the_number_drawn():
    for drawn in range(cohort.FEWEST_SLICES, cohort.MOST_SLICES + 1):
        slices = int(np.ceil(drawn * cohort.RESAMPLED_MM / cohort.SLICE_MM))
        ct = Image(np.zeros((2, 2, slices), np.int16), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
        assert resample_slices(ct)[0].shape[2] == drawn


def test_a_plan_is_the_same_for_any_number_of_processes(tmp_path):
    rows = plan_cohort(tmp_path / "one", 2, 1, seed=1)
    again = plan_cohort(tmp_path / "two", 2, 1, seed=1, processes=2)
    assert rows == again == plan_cohort(tmp_path / "two", 2, 1, seed=1)
    assert [r["sex"] for r in rows] == ["F", "F", "M"]
    sheets = [(tmp_path / name / "phantoms.tsv").read_bytes() for name in ("one", "two")]
    assert sheets[0] == sheets[1]
    with pytest.raises(SheetError, match="another cohort"):
        plan_cohort(tmp_path / "two", 3, 1, seed=1)
    with pytest.raises(SheetError, match="at least one"):
        plan_cohort(tmp_path / "none", 0, 0, seed=1)


def coarse_rows() -> list[dict]:
    first = {"sex": "F", "age": 60, "slope": 0.8, "intercept": -2.0, "top_mm": 36.0, "bottom_mm": 36.0}
    return [{"subject": f"F000{i}", "seed": 1_000_000 + i, **first, **COARSE} for i in (1, 2)]


def test_a_cohort_goes_on_where_it_stopped_and_gives_the_same_bytes(tmp_path):
    told = []
    make_cohort(tmp_path / "a", coarse_rows(), "nifti", 2, lambda *counts: told.append(counts))
    assert told == [(0, 2), (1, 2), (2, 2)]
    make_subject(coarse_rows()[0], tmp_path / "b" / "F0001", "nifti")
    written = (tmp_path / "b" / "F0001" / "ct.nii.gz").stat().st_mtime_ns
    make_cohort(tmp_path / "b", coarse_rows(), "nifti", 1, lambda *_: None)
    assert (tmp_path / "b" / "F0001" / "ct.nii.gz").stat().st_mtime_ns == written
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(names) == 9
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    with pytest.raises(SheetError, match="no dicom"):
        make_cohort(tmp_path / "b", coarse_rows(), "dicom", 1, lambda *_: None)


def test_a_cohorts_sheet_is_one_the_workflow_reads(tmp_path):
    make_cohort(tmp_path, coarse_rows(), "dicom", 1, lambda *_: None)
    subjects = read_sheet(tmp_path / "samples.tsv")
    assert [s.subject for s in subjects] == ["F0001", "F0002"]
    assert subjects[0].slope == read_json(tmp_path / "F0001" / "truth.json")["slope"]
    assert subjects[0].reference["left"].is_file()
    assert [set(s.reference) for s in subjects] == [set(s.sides) for s in subjects]
    assert len(list(subjects[0].scan.iterdir())) == 6


def test_the_studied_hip_is_whole_and_without_metal():
    for number in range(12):
        drawn = draft_subject(2, "M", number).parameters
        assert drawn.confounders.metal_side != "left"
        assert drawn.scanner.basis == "K2HPO4"
        left_edge_mm = drawn.scanner.field_center_mm + drawn.scanner.matrix / 2 * drawn.scanner.pixel_mm
        assert left_edge_mm > drawn.pelvis.half_width_mm + drawn.left.offset_mm + 30
