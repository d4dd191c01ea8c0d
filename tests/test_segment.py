"""From a crop to its femur: what steps and benchmarks share."""

import numpy as np
import pytest

from hipqct.engine import Engine
from hipqct.errors import AnatomyError
from hipqct.predict import clear_outside, combine_models, predict_probability
from hipqct.segment import mask_crop, predict_crop, segment_crop

SPACING_MM, WINDOWS = (2.0, 2.0, 3.0), (2, "uniform", "as-is")
PLAN = {"window": [32, 32, 8], "normalisation": {"clip_hu": [0, 1000]}, "side": "left"}


def make_engine(gain: float = 1.0) -> Engine:
    """Bright is bone, the brighter the farther along x: mirrored it would answer otherwise."""
    return Engine("test", "cpu", 1, lambda w: gain * w * np.linspace(0.8, 1, w.shape[1])[:, None, None])


def make_ct(padding: int = 0) -> np.ndarray:
    """A bright cylinder in tissue, cut at x = 26 by the end of the field of view, over slices of padding."""
    x, y = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    inside = (x - 18) ** 2 + (y - 16) ** 2 < 10**2
    ct = np.repeat(np.where(inside, 1000, 40)[:, :, None], 16, axis=2)
    ct[26:] = -1024
    return np.pad(ct, ((0, 0), (0, 0), (padding, 0)), constant_values=-1024).astype(np.int16)


@pytest.mark.parametrize(("known", "side"), [("left", "left"), ("left", "right"), ("both", "right")])
def test_a_hip_is_turned_to_what_its_network_knows_and_back(known, side):
    turn = np.s_[::-1] if (known, side) == ("left", "right") else np.s_[:]
    left = make_ct()
    mean, spread, facts = predict_crop([(make_engine(), PLAN | {"side": known})], left[turn], WINDOWS, side)
    wanted = clear_outside(predict_probability(make_engine(), left, PLAN, *WINDOWS), left)
    np.testing.assert_array_equal(mean, wanted[turn])
    assert (spread, facts) == (None, {})


def test_several_models_are_averaged():
    networks = [(make_engine(gain), PLAN) for gain in (1.0, 0.7)]
    maps = [predict_crop([network], make_ct(), WINDOWS)[0] for network in networks]
    found, wanted = predict_crop(networks, make_ct(), WINDOWS), combine_models(maps)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])
    assert found[2] == wanted[2]


def test_the_mask_ends_with_the_field_of_view_and_may_begin_above_padding():
    drawn_on = Engine("test", "cpu", 1, lambda w: np.full(w.shape, 0.9, np.float32))
    ct = make_ct()
    mask = mask_crop(np.full(ct.shape, 0.9, np.float32), ct, SPACING_MM).mask.array
    assert not mask[26:].any() and mask[:26].all()
    np.testing.assert_array_equal(segment_crop([(drawn_on, PLAN)], ct, SPACING_MM, WINDOWS).mask.array, mask)
    padded = segment_crop([(make_engine(), PLAN)], make_ct(padding=6), SPACING_MM, WINDOWS)
    assert padded.mask.array[:, :, 6].any() and not padded.mask.array[:, :, :6].any()


def test_no_femur_is_told():
    blind = Engine("test", "cpu", 1, np.zeros_like)
    with pytest.raises(AnatomyError, match="the network found no femur"):
        segment_crop([(blind, PLAN)], make_ct(), SPACING_MM, WINDOWS)
