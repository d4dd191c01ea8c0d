"""Density from CT numbers."""

import numpy as np
import pytest

from hipqct.density import bone_mineral_content_mg, calibrate, integral_density, is_usual_calibration
from hipqct.errors import AnatomyError, SheetError
from hipqct.image import Image


def test_calibration_is_linear_and_keeps_negative_densities():
    hu = np.array([-100, 0, 1000], dtype=np.int16)
    assert np.allclose(calibrate(hu, 0.8, -5.0), [-85.0, -5.0, 795.0])


def test_integral_density_is_the_mean_over_the_mask_and_commutes_with_the_calibration():
    rng = np.random.default_rng(0)
    ct = Image(rng.integers(-200, 1500, (8, 9, 10)).astype(np.int16), (0.8, 0.8, 3.0))
    mask = ct.with_array(rng.random(ct.shape) > 0.5)
    expected = calibrate(ct.array, 0.75, 12.0)[mask.array].mean()
    assert integral_density(ct, mask, 0.75, 12.0) == pytest.approx(expected, rel=1e-12)


def test_one_cubic_centimetre_at_a_density_holds_that_many_milligrams():
    assert bone_mineral_content_mg(300.0, 1000.0) == pytest.approx(300.0)


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [(0.0, 0.0), (-0.8, 0.0), (np.nan, 0.0), (0.8, np.inf), (0.0008, 0.0), (800.0, 0.0)],
)
def test_a_calibration_in_another_unit_is_refused(slope, intercept):
    with pytest.raises(SheetError, match="sample sheet"):
        calibrate([100.0], slope, intercept)


@pytest.mark.parametrize("slope", [0.6, 0.7, 0.75, 0.84, 0.87, 0.9, 0.94])
def test_the_inverse_of_a_common_slope_is_not_usual(slope):
    assert is_usual_calibration(slope, 0.0)
    assert not is_usual_calibration(1 / slope, 0.0)


def test_an_empty_mask_has_no_density():
    ct = Image(np.zeros((4, 4, 4), np.int16), (1, 1, 1))
    with pytest.raises(AnatomyError, match="empty"):
        integral_density(ct, ct.with_array(np.zeros(ct.shape, bool)), 0.8, 0.0)


def test_a_mask_from_another_place_is_a_programming_error():
    ct = Image(np.zeros((4, 4, 4), np.int16), (1, 1, 1))
    with pytest.raises(ValueError, match="grid"):
        integral_density(ct, Image(np.ones((4, 4, 4), bool), (1, 1, 1), (0, 0, 5)), 0.8, 0.0)
