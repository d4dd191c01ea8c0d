"""Folds: nobody in two of them, everybody in one, and each with its share of women, men and ages."""

from collections import Counter

import pytest

from hipqct.errors import SheetError
from hipqct.folds import TEST, age_band, assign_folds


def cohort(count=400):
    """Patients with two hips each, women and men of four ages."""
    patients = [f"P{i // 2:03d}" for i in range(count)]
    strata = [("FM"[(i // 2) % 2], (i // 2) % 4) for i in range(count)]
    return patients, strata


def test_everybody_has_one_fold_and_patients_stay_together():
    patients, strata = cohort()
    folds = assign_folds(patients, strata, 10, 0.1, seed=1)
    assert len(folds) == len(patients)
    assert all(folds[i] == folds[i + 1] for i in range(0, 400, 2))
    sizes = Counter(folds)
    assert sizes[TEST] == 40
    assert {sizes[fold] for fold in range(10)} == {36}


def test_strata_are_balanced():
    patients, strata = cohort()
    folds = assign_folds(patients, strata, 10, 0.1, seed=1)
    women = Counter(fold for fold, (sex, _) in zip(folds, strata, strict=True) if sex == "F")
    assert women[TEST] == pytest.approx(20, abs=2)
    assert all(abs(women[fold] - 18) <= 4 for fold in range(10))


def test_the_order_of_the_sheet_does_not_matter_and_the_seed_does():
    patients, strata = cohort()
    first = dict(zip(patients, assign_folds(patients, strata, 5, 0.2, 1), strict=True))
    turned = dict(zip(patients[::-1], assign_folds(patients[::-1], strata[::-1], 5, 0.2, 1), strict=True))
    other = dict(zip(patients, assign_folds(patients, strata, 5, 0.2, 2), strict=True))
    assert first == turned != other
    twice, bands = [f"P{i // 2}" for i in range(80)], [("F", 2 + i % 2) for i in range(80)]  # at 44 and at 46
    first = dict(zip(twice, assign_folds(twice, bands, 5, 0.2, 1), strict=True))
    assert first == dict(zip(twice[::-1], assign_folds(twice[::-1], bands[::-1], 5, 0.2, 1), strict=True))


def test_too_few_patients_are_refused_with_the_way_out():
    with pytest.raises(SheetError, match="train/folds"):
        assign_folds(["a", "a", "b"], ["F"] * 3, 3, 0.0, 1)
    with pytest.raises(SheetError, match="folds"):
        assign_folds([], [], 2, 0.1, 1)


def test_ages_fall_into_bands_and_unknown_ages_into_one():
    assert age_band(44.9) == 2
    assert age_band(45) == 3
    assert age_band(None) is None
