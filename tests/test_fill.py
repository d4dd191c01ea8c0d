"""What a program filled beyond the measured field becomes air, and measured tissue stays."""

import numpy as np
import pytest
from scipy import ndimage

from hipqct.fill import fill_to_air

AIR_HU = -1024


@pytest.fixture(scope="module")
def hip() -> np.ndarray:
    """HU of a made-up hip: fat round muscle round bone in air, noise everywhere."""
    x, y = np.meshgrid(np.linspace(-1, 1, 90), np.linspace(-1, 1, 80), indexing="ij")
    away = np.hypot(x, y)
    plane = np.select([away < 0.2, away < 0.5, away < 0.8], [700.0, 50.0, -100.0], -1000.0)
    noise = np.random.default_rng(0).normal(0, 10, (90, 80, 24))
    return np.rint(np.maximum(plane[..., None] + noise, AIR_HU)).astype(np.int16)


@pytest.mark.parametrize("value", [0, -400, 100])
@pytest.mark.parametrize(
    "where", [np.s_[:, :, 20:], np.s_[:, :, :1], np.s_[60:], np.s_[:, :2], np.s_[55:, 40:, 3:9]]
)
def test_a_region_filled_up_to_the_border_is_air(hip, where, value):
    filled, expected = hip.copy(), hip.copy()
    filled[where], expected[where] = value, AIR_HU
    measured, count, (warning,) = fill_to_air(filled)
    np.testing.assert_array_equal(measured, expected)
    assert count == filled[where].size
    assert f"exactly {value} HU up to its border: filled, not measured; taken as air" in warning


def test_the_corners_of_a_turned_scan_are_air(hip):
    turned = ndimage.rotate(hip[20:70, 20:60], 20, axes=(0, 2), reshape=True, order=1)
    beyond = ndimage.rotate(np.ones((50, 40, 24)), 20, axes=(0, 2), reshape=True, order=1) == 0
    measured, count, (warning,) = fill_to_air(turned)
    assert "exactly 0 HU" in warning
    assert (measured[beyond] == AIR_HU).mean() > 0.99
    assert count < 1.01 * beyond.sum()


def test_two_fills_are_told(hip):
    filled = hip.copy()
    filled[:, :, :2], filled[:10] = 0, -200
    _, count, warnings = fill_to_air(filled)
    assert count == (filled == 0)[:, :, :2].sum() + filled[:10].size - (filled == 0)[:10, :, :2].sum()
    assert len(warnings) == 2


def test_measured_voxels_stay(hip):
    for scan in (hip, hip[20:70, 20:60], hip[35:55, 35:45], np.maximum(hip, -100), np.minimum(hip, 30)):
        measured, count, warnings = fill_to_air(scan)
        assert (count, warnings) == (0, [])
        np.testing.assert_array_equal(measured, scan)
    for step in (4, 10, 16):
        stepped = (np.rint(hip[25:60, 20:60] / step) * step).astype(np.int16)
        assert fill_to_air(stepped)[1:] == (0, []), step
    inside = hip.copy()
    inside[30:50, 30:50, 5:9] = 0  # a region that reaches no border may be anything
    inside[:3, :3, 4] = 3071  # clipped metal
    inside[-3:, :3, 4] = 40
    assert fill_to_air(inside)[1:] == (0, [])
