"""CT numbers that a hip should not have are told of."""

import numpy as np
import pytest

from hipqct.hounsfield import check_tissues

SPACING_MM = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def hip() -> np.ndarray:
    """HU of a made-up hip: a ring of fat round muscle round bone, noise everywhere."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, 120), np.linspace(-1, 1, 120), indexing="ij")
    away = np.hypot(x, y)
    plane = np.select([away < 0.15, away < 0.55, away < 0.8], [700.0, 50.0, -100.0], -1000.0)
    return plane[..., None] + rng.normal(0, 15, (120, 120, 30))


def check(hu: np.ndarray) -> list[str]:
    return check_tissues(np.rint(np.maximum(hu, -1024)).astype(np.int16), SPACING_MM)


def test_a_hip_in_hounsfield_units_is_fine(hip):
    assert check(hip) == []
    assert check(hip * 1.1) == []  # as another tube voltage may make it


@pytest.mark.parametrize("noise_hu", [40, 60, 80])
def test_noise_alone_is_no_fault(hip, noise_hu):
    noisy = hip + np.random.default_rng(3).normal(0, noise_hu, hip.shape)
    assert check(noisy) == []
    assert any("check rescale slope" in warning for warning in check(noisy + 100))


@pytest.mark.parametrize("wrong", [-200, -100, -60, 60, 100, 200])
def test_a_shift_is_told(hip, wrong):
    (warning,) = check(hip + wrong)
    assert "check rescale slope and intercept" in warning


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_wrong_slope_is_told(hip, factor):
    assert any("check rescale slope" in warning for warning in check(hip * factor))


def test_a_display_window_is_told(hip):
    low, high = check(np.clip(hip, -150, 650))
    assert "lowest value, -150 HU" in low
    assert "highest value, 650 HU: dense bone may be cut off" in high


def test_a_scan_of_next_to_nothing_is_not_judged(hip):
    assert check(hip[50:70, 50:70] + 200) == []
