"""Agreement of masks and of volumes."""

import math

import numpy as np
import pytest
import SimpleITK as sitk

from hipqct.metrics import (
    average_surface_distance_mm,
    bootstrap_interval,
    dice,
    hausdorff95_mm,
    relative_error_percent,
    sensitivity,
    specificity,
    surface_distances_mm,
    volume_agreement,
)

# Table 1 of arXiv 2006.05513: mean and SD of the femur's volume in mm3; 17 men and 20 women make "all".
MEN, WOMEN = (17, 105_490, 18_344), (20, 76_833, 13_341)
POOLED_MM3 = (89_999.59, 21_325.23)


def boxes(shift=0):
    a, b = np.zeros((2, 20, 20, 20), bool)
    a[4:14, 4:14, 4:14] = True
    b[4 + shift : 14 + shift, 4:14, 4:14] = True
    return a, b


def cohort(n, mean_mm3, sd_mm3):
    """Volumes of exactly this mean and population SD."""
    volumes = np.linspace(-1, 1, n)
    return mean_mm3 + volumes * sd_mm3 / volumes.std()


def test_overlaps_of_shifted_boxes():
    a, b = boxes(shift=2)
    assert dice(a, b) == dice(b, a) == pytest.approx(0.8)
    assert sensitivity(a, b) == pytest.approx(0.8)
    assert specificity(a, b) == pytest.approx(1 - 200 / 7000)


def test_sensitivity_and_specificity_tell_too_much_from_too_little():
    large, _ = boxes()
    small = large.copy()
    small[4:9] = False
    assert (sensitivity(large, small), specificity(large, small)) == (0.5, 1.0)
    assert (sensitivity(small, large), specificity(small, large)) == (1.0, pytest.approx(7000 / 7500))


def test_specificity_depends_on_the_image_and_dice_does_not():
    a, b = boxes(shift=2)
    assert specificity(np.pad(a, 10), np.pad(b, 10)) > specificity(a, b)
    assert dice(np.pad(a, 10), np.pad(b, 10)) == dice(a, b)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, o: dice(o, o),
        lambda a, o: sensitivity(o, a),
        lambda a, o: specificity(~o, a),
        lambda a, o: hausdorff95_mm(a, o, (1, 1, 1)),
        lambda a, o: average_surface_distance_mm(o, a, (1, 1, 1)),
        lambda a, o: dice(a, o[1:]),
        lambda a, o: surface_distances_mm(a, o[1:], (1, 1, 1)),
        lambda a, o: relative_error_percent(0.0, 1.0),
        lambda a, o: volume_agreement([1.0], [1.0, 2.0]),
    ],
)
def test_what_has_no_answer_is_refused(call):
    a, _ = boxes()
    with pytest.raises(ValueError, match=r"need|must"):
        call(a, np.zeros_like(a))


def test_a_mask_is_no_distance_from_itself():
    a, _ = boxes()
    assert hausdorff95_mm(a, a, (0.8, 0.8, 3)) == average_surface_distance_mm(a, a, (0.8, 0.8, 3)) == 0


def test_distances_are_millimetres_along_the_axis_of_the_shift():
    a, b = boxes(shift=2)
    assert hausdorff95_mm(a, b, (3.0, 0.8, 0.8)) == pytest.approx(6.0)
    assert hausdorff95_mm(a, b, (0.8, 0.8, 3.0)) == pytest.approx(1.6)


def test_the_percentile_bears_a_speck_that_the_mean_notices():
    a, _ = boxes()
    speck = a.copy()
    speck[19, 19, 19] = True
    assert hausdorff95_mm(a, speck, (1, 1, 1)) == 0
    assert average_surface_distance_mm(a, speck, (1, 1, 1)) == pytest.approx(math.sqrt(108) / (488 + 489))


def test_concentric_balls_are_their_radii_apart():
    r = np.linalg.norm(np.indices((60, 60, 60)) - 29.5, axis=0)
    assert average_surface_distance_mm(r < 20, r < 24, (1, 1, 1)) == pytest.approx(4, abs=0.3)
    assert hausdorff95_mm(r < 20, r < 24, (1, 1, 1)) == pytest.approx(4, abs=0.6)


def test_the_largest_distance_is_simpleitks_hausdorff():
    r = np.linalg.norm(
        (np.indices((40, 36, 20)) - np.reshape((18, 17, 9), (3, 1, 1, 1))).T * (1, 1.2, 3), axis=-1
    )
    a, b = r.T < 12, np.roll(r.T < 15, 2, axis=0)
    images = [sitk.GetImageFromArray(m.T.astype(np.uint8)) for m in (a, b)]
    for image in images:
        image.SetSpacing((0.8, 0.8, 3.0))
    peer = sitk.HausdorffDistanceImageFilter()
    peer.Execute(*images)
    ours = max(d.max() for d in surface_distances_mm(a, b, (0.8, 0.8, 3.0)))
    # ITK takes every voxel of a mask, not its surface alone: the farthest is the same one here.
    assert ours == pytest.approx(peer.GetHausdorffDistance(), abs=1e-5)


@pytest.mark.parametrize(("group", "r2"), [(MEN, 0.99768), (WOMEN, 0.98959)])
def test_r2_is_one_minus_rmse_over_sd_squared_as_in_table_1(group, r2):
    reference = cohort(*group)
    rmse_mm3 = group[2] * math.sqrt(1 - r2)
    predicted = reference + rmse_mm3 * np.where(np.arange(group[0]) % 2, 1, -1)
    agreement = volume_agreement(reference, predicted)
    assert agreement["rmse_mm3"] == agreement["mae_mm3"] == pytest.approx(rmse_mm3)
    assert agreement["r2"] == pytest.approx(r2, abs=1e-9)
    assert agreement["r2"] == pytest.approx(1 - (agreement["rmse_mm3"] / agreement["volume_sd_mm3"]) ** 2)
    assert 0 < agreement["r2_p"] < 1e-6


def test_men_and_women_pool_to_table_1s_all():
    agreement = volume_agreement(*[np.concatenate([cohort(*MEN), cohort(*WOMEN)])] * 2)
    assert agreement["n"] == 37
    # The group rows are printed in whole mm3, so the pooled ones are good to half of one.
    assert agreement["volume_mean_mm3"] == pytest.approx(POOLED_MM3[0], abs=0.5)
    assert agreement["volume_sd_mm3"] == pytest.approx(POOLED_MM3[1], abs=0.5)
    assert agreement["r2"] == 1


def test_r2_is_not_the_squared_correlation():
    reference = cohort(*MEN)
    agreement = volume_agreement(reference, 1.2 * reference)
    assert agreement["r2"] < 0
    assert agreement["r2_p"] < 1e-6
    assert (agreement["re_min_percent"], agreement["re_max_percent"]) == pytest.approx((20, 20))


def test_bland_altmans_limits():
    difference = np.array([-300.0, 100.0, 500.0])
    agreement = volume_agreement(np.array([9e4, 1e5, 1.1e5]), np.array([9e4, 1e5, 1.1e5]) + difference)
    assert agreement["bias_mm3"] == pytest.approx(100)
    assert agreement["loa_high_mm3"] == pytest.approx(100 + 1.96 * 400)
    assert agreement["loa_low_mm3"] == pytest.approx(100 - 1.96 * 400)
    assert agreement["re_min_percent"] == pytest.approx(-100 * 300 / 9e4)


def test_relative_error_is_negative_when_too_small():
    assert relative_error_percent(100_000.0, 99_000.0) == pytest.approx(-1)


def test_too_few_hips_leave_gaps():
    none, one, two = (volume_agreement(*[np.arange(1.0, n + 1)] * 2) for n in range(3))
    assert none["n"] == 0 and all(math.isnan(v) for k, v in none.items() if k != "n")
    assert {k for k, v in one.items() if math.isnan(v)} == {"r2", "r2_p", "loa_low_mm3", "loa_high_mm3"}
    assert {k for k, v in two.items() if math.isnan(v)} == {"r2_p"}
    alike = volume_agreement([5.0, 5.0, 5.0], [4.0, 5.0, 6.0])
    assert {k for k, v in alike.items() if math.isnan(v)} == {"r2", "r2_p"}


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(10, 2, 200)
    low, high = bootstrap_interval(np.mean, values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06)


def test_paired_samples_are_resampled_together():
    reference = np.random.default_rng(0).normal(90, 20, 40)
    low, high = bootstrap_interval(lambda r, p: (p - r).mean(), reference, reference + 3)
    assert (low, high) == pytest.approx((3, 3))
    assert np.isnan(bootstrap_interval(np.mean, np.array([1.0, 2.0]))).all()


def test_the_bootstrap_draws_whole_patients():
    values = np.random.default_rng(2).normal(size=60)
    alone = bootstrap_interval(np.mean, values)
    twice = np.concatenate([values, values])
    patients = np.tile(np.arange(60), 2)
    assert bootstrap_interval(np.mean, twice, groups=patients) == pytest.approx(alone, abs=1e-12)
    narrow = bootstrap_interval(np.mean, twice)
    assert narrow[1] - narrow[0] < 0.8 * (alone[1] - alone[0])
    assert np.isnan(bootstrap_interval(np.mean, values, groups=np.arange(60) % 2)).all()
