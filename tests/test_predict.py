"""Probabilities from windows, normalisation, and means of several models."""

import numpy as np
import pytest

from hipqct.engine import Engine
from hipqct.predict import WindowScheme, clear_outside, combine_models, normalise, predict_probability
from hipqct.windows import window_weights

PLAN = {"window": [32, 32, 8], "normalisation": {"clip_hu": [-200, 1500]}}


def make_engine(function, batch=3) -> Engine:
    return Engine("test", "cpu", batch, function)


def random_ct(shape) -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 2000, shape, dtype=np.int16)


@pytest.mark.parametrize("step", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", [(32, 32, 21), (32, 32, 8), (32, 32, 3), (30, 17, 11)])
def test_pointwise_model_gives_the_pointwise_result_whatever_the_windows(shape, step):
    ct = random_ct(shape)
    result = predict_probability(make_engine(lambda w: w**2), ct, PLAN, step)
    np.testing.assert_allclose(result, normalise(ct, PLAN["normalisation"]) ** 2, atol=1e-6)
    assert result.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("1,uniform,as-is", (1, "uniform", "as-is")),
        ("adaptive,gaussian,reflect", ("adaptive", "gaussian", "reflect")),
        ("16", (16, "uniform", "as-is")),
    ],
)
def test_a_scheme_is_read_from_its_words(text, scheme):
    assert WindowScheme.parse(text) == scheme


def test_each_slice_is_the_mean_over_the_windows_that_hold_it():
    calls = iter(range(100))
    engine = make_engine(lambda w: np.full_like(w, next(calls)), batch=1)
    result = predict_probability(
        engine, random_ct((8, 8, 10)), PLAN, 1
    )  # windows 0, 1, 2 start at slices 0, 1, 2
    np.testing.assert_allclose(result[0, 0], [0, 0.5, 1, 1, 1, 1, 1, 1, 1.5, 2])


def test_a_gaussian_blend_trusts_a_windows_middle():
    engine = make_engine(lambda w: np.broadcast_to(np.abs(np.arange(8) - 3.5), w.shape))
    uniform, gaussian = (
        predict_probability(engine, random_ct((8, 8, 20)), PLAN, 1, blend)
        for blend in ("uniform", "gaussian")
    )
    assert (gaussian[0, 0, 8:12] < uniform[0, 0, 8:12] - 0.5).all()  # far from a window's middle: large
    weights = window_weights(8, "gaussian")
    assert np.array_equal(weights, weights[::-1])
    assert weights[4:] == pytest.approx(np.exp(-0.5 * np.arange(0.5, 4) ** 2), rel=1e-6)  # SD of one slice


def test_one_pass_over_the_whole_stack():
    seen = []
    engine = make_engine(lambda w: seen.append(w.shape) or w)
    ct = random_ct((8, 8, 20))
    result = predict_probability(engine, ct, PLAN, "whole")
    assert seen == [(1, 8, 8, 24)]
    np.testing.assert_allclose(result, normalise(ct, PLAN["normalisation"]), atol=1e-6)


def test_reflected_ends_lie_in_as_many_windows_as_the_middle():
    profile = np.abs(np.arange(8) - 3.5)
    engine = make_engine(lambda w: np.broadcast_to(profile, w.shape))
    result = predict_probability(engine, random_ct((8, 8, 20)), PLAN, 1, ends="reflect")
    np.testing.assert_allclose(result, profile.mean(), atol=1e-6)  # every place in a window once
    as_is = predict_probability(engine, random_ct((8, 8, 20)), PLAN, 1)
    np.testing.assert_allclose(as_is[0, 0, [0, -1]], profile[0])
    np.testing.assert_allclose(as_is[0, 0, 8:12], profile.mean(), atol=1e-6)


def test_windows_are_batched():
    sizes = []
    engine = make_engine(lambda w: sizes.append(len(w)) or w, batch=4)
    predict_probability(engine, random_ct((8, 8, 17)), PLAN, 1)
    assert sizes == [4, 4, 2]


def test_a_thin_stack_is_padded_by_its_own_edge():
    seen = []
    predict_probability(make_engine(lambda w: seen.append(w) or w), random_ct((8, 8, 4)), PLAN, 1)
    window = seen[0][0]
    assert window.shape == (8, 8, 8)
    np.testing.assert_array_equal(window[..., :2], window[..., 2:3].repeat(2, -1))
    np.testing.assert_array_equal(window[..., 6:], window[..., 5:6].repeat(2, -1))


def test_normalisation_clips_and_scales():
    hu = np.array([-1024, -200, 650, 1500, 3000], np.int16)
    np.testing.assert_allclose(normalise(hu, PLAN["normalisation"]), [0, 0, 0.5, 1, 1])


def test_models_that_agree_and_models_that_do_not():
    first = np.zeros((8, 8, 8), np.float32)
    first[2:6, 2:6, 2:6] = 0.9
    shifted = np.roll(first, 2, axis=0)
    mean, spread, facts = combine_models([first, first])
    np.testing.assert_array_equal(mean, first)
    assert spread.max() == 0
    assert facts == {"models_dice_min": 1.0}
    mean, spread, facts = combine_models([first, first, shifted])
    assert facts["models_dice_min"] == pytest.approx(0.5)
    assert spread.max() == pytest.approx(0.9 * np.sqrt(2) / 3)
    assert combine_models([first])[1:] == (None, {})
    assert combine_models([first * 0, first * 0])[2] == {}


def test_bone_is_not_drawn_on_beyond_the_field_of_view():
    ct = np.full((12, 10, 3), 40, np.int16)
    ct[8:] = -1024  # the scan ends here
    ct[3:5, 3:5, 1] = -900  # gas or a streak within the body stays the network's affair
    probability = np.full(ct.shape, 0.9, np.float32)
    cleared = clear_outside(probability, ct)
    assert (cleared[8:] == 0).all() and (cleared[:8] == np.float32(0.9)).all()
    assert cleared.dtype == np.float32 and (probability == np.float32(0.9)).all()
