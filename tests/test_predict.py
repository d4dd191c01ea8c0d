"""Sliding windows, normalisation, and means of several models."""

import numpy as np
import pytest

from hipqct.engine import Engine
from hipqct.predict import (
    Votes,
    clear_outside,
    combine_models,
    first_step,
    normalise,
    predict_probability,
    window_starts,
    window_weights,
)

PLAN = {"window": [32, 32, 8], "normalisation": {"clip_hu": [-200, 1500]}}


def make_engine(function, batch=3) -> Engine:
    return Engine("test", "cpu", batch, function)


def random_ct(shape) -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 2000, shape, dtype=np.int16)


@pytest.mark.parametrize("slices", [8, 9, 15, 16, 30])
@pytest.mark.parametrize("step", [1, 3, 8])
def test_windows_hold_every_slice_and_end_with_the_last(slices, step):
    starts = window_starts(slices, 8, step)
    assert set().union(*(range(z, z + 8) for z in starts)) == set(range(slices))
    assert starts[-1] == slices - 8
    assert starts == sorted(set(starts))


def test_step_1_takes_the_papers_29_windows_of_60_slices():
    assert len(window_starts(60, 32, 1)) == 29


@pytest.mark.parametrize("step", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", [(32, 32, 21), (32, 32, 8), (32, 32, 3), (30, 17, 11)])
def test_pointwise_model_gives_the_pointwise_result_whatever_the_windows(shape, step):
    ct = random_ct(shape)
    result = predict_probability(make_engine(lambda w: w**2), ct, PLAN, step)
    np.testing.assert_allclose(result, normalise(ct, PLAN["normalisation"]) ** 2, atol=1e-6)
    assert result.dtype == np.float32


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


# ---- adaptive windows ----


class Counting:
    """An engine whose answer may hang on where a window starts, and that counts voxels computed."""

    def __init__(self, function):
        self.function, self.shapes = function, []

    def engine(self, batch=1) -> Engine:
        return make_engine(self.predict, batch)

    def predict(self, windows):
        self.shapes += [window.shape for window in windows]
        return self.function(windows)

    @property
    def voxels(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def beside(self, surveyed: tuple[int, int]) -> list:
        """The shapes of all windows but the survey's."""
        return [shape for shape in self.shapes if shape[:2] != surveyed]


USUAL = (slice(16, 128), slice(8, 80))  # where a crop of 128 x 96 pixels is surveyed first
WIDE = (112, 72)


def bone_ct(x: int = 40, y: int = 30) -> np.ndarray:
    """A block of bone of 24 x 20 pixels in a wide crop."""
    ct = np.full((128, 96, 40), -100, np.int16)
    ct[x : x + 24, y : y + 20, 6:30] = 1500
    return ct


def assert_like_step_1(probability: np.ndarray, ct: np.ndarray, looked=USUAL) -> None:
    """The mean of all windows where it was looked, 0 elsewhere."""
    wanted = np.zeros(ct.shape)
    wanted[looked] = predict_probability(make_engine(soft_step), ct, PLAN, 1)[looked]
    np.testing.assert_allclose(probability, wanted, atol=1e-6)


def soft_step(windows):
    """Probability by brightness alone."""
    return 1 / (1 + np.exp(-20 * (windows - 0.5)))


def test_adaptive_windows_give_the_mean_of_step_1_at_less_cost():
    every, adaptive = Counting(soft_step), Counting(soft_step)
    ct = bone_ct()
    predict_probability(every.engine(), ct, PLAN, 1)
    assert_like_step_1(predict_probability(adaptive.engine(), ct, PLAN, "adaptive"), ct)
    assert adaptive.voxels < every.voxels / 5
    assert adaptive.shapes[:5] == [(*WIDE, 8)] * 5
    assert {*adaptive.beside(WIDE)} == {(56, 64, 8)}  # 24 x 20 pixels, 16 round them, on the stride of 8


def test_the_survey_widens_until_the_bone_lies_within_it():
    """Bone that begins outside the usual place and bone that ends there."""
    ct = np.maximum(bone_ct(x=8), bone_ct(x=30, y=60))
    counted = Counting(soft_step)
    probability = predict_probability(counted.engine(), ct, PLAN, "adaptive")
    assert_like_step_1(probability, ct, (slice(0, 128), slice(8, 96)))
    assert counted.shapes[:10] == [(*WIDE, 8)] * 5 + [(128, 88, 8)] * 5


def test_the_whole_plane_is_surveyed_where_next_to_nothing_lies_in_the_usual_place():
    ct = bone_ct(x=90, y=76)
    ct[:, 76:80] = -100  # all bone lies beyond 80
    ct[64:68, 20:24, 10:14] = 1500  # but for a speck
    counted = Counting(soft_step)
    probability = predict_probability(counted.engine(), ct, PLAN, "adaptive")
    assert_like_step_1(probability, ct, (slice(None), slice(None)))
    assert counted.shapes[:10] == [(*WIDE, 8)] * 5 + [(128, 96, 8)] * 5
    assert {*counted.beside(WIDE)} == {(128, 96, 8), (56, 32, 8)}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_window_computed_alone_looks_round_what_is_seen_within_it(batch):
    """A broad head above a narrow shaft; windows computed together are all as large as the region."""
    ct = bone_ct()
    ct[40:72, 30:62, 6:14] = 1500
    counted = Counting(soft_step)
    probability = predict_probability(counted.engine(batch), ct, PLAN, "adaptive")
    wanted = predict_probability(make_engine(soft_step), ct, PLAN, 1)
    np.testing.assert_allclose(probability, wanted, atol=2e-4)  # what it gives soft tissue, here and there 0
    assert {*counted.beside(WIDE)} == {(64, 72, 8)} | ({(56, 64, 8)} if batch == 1 else set())


@pytest.mark.parametrize(
    ("windows", "step"), [(1, 1), (4, 1), (5, 3), (10, 3), (11, 5), (16, 5), (17, 7), (64, 7)]
)
def test_adaptive_windows_begin_with_an_odd_step(windows, step):
    assert first_step(windows) == step


def predict_contradictions(ct: np.ndarray) -> tuple[np.ndarray, Counting]:
    """By a network whose windows contradict each other; the same window always gets the same answer."""
    rng = np.random.default_rng(5)
    noisy = {}

    def contradict(windows):
        return np.stack(
            [noisy.setdefault(w.tobytes(), rng.uniform(0.2, 0.8, w.shape)) * (w > 0.5) for w in windows]
        )

    ct = ct + np.random.default_rng(1).integers(0, 9, ct.shape, dtype=np.int16)
    counted = Counting(contradict)
    return predict_probability(counted.engine(), ct, PLAN, "adaptive"), counted


def test_adaptive_windows_are_all_computed_where_they_contradict_each_other():
    ct = bone_ct()
    probability, counted = predict_contradictions(ct)
    near = {z for z in window_starts(40, 8, 1) if z <= 29 and z + 8 > 6}
    others = len(near - {*window_starts(40, 8, 8)})  # the survey's windows vote too
    assert counted.shapes[5:] == [(56, 64, 8)] * 5 + [(128, 96, 8)] * 5 + [(56, 64, 8)] * others
    assert probability.shape == ct.shape


def test_no_window_is_computed_twice_where_the_first_survey_was_of_the_whole_plane():
    _, counted = predict_contradictions(np.maximum(bone_ct(x=8, y=10), bone_ct(x=30, y=60)))
    near = {z for z in window_starts(40, 8, 1) if z <= 29 and z + 8 > 6}
    others = len(near - {*window_starts(40, 8, 8)})
    assert counted.shapes == [(*WIDE, 8)] * 5 + [(128, 96, 8)] * 5 + [(72, 96, 8)] * others


def test_adaptive_windows_leave_specks_to_the_survey():
    ct = bone_ct()
    ct[100:104, 70:74, 10:14] = 1500
    counted = Counting(soft_step)
    probability = predict_probability(counted.engine(), ct, PLAN, "adaptive")
    assert {*counted.beside(WIDE)} == {(56, 64, 8)}
    assert_like_step_1(probability, ct)  # the survey stands for the other


def test_adaptive_windows_see_nothing_where_there_is_nothing():
    counted = Counting(lambda windows: 0 * windows)
    probability = predict_probability(counted.engine(), bone_ct(), PLAN, "adaptive")
    assert not probability.any()
    assert (
        counted.shapes == [(*WIDE, 8)] * 5 + [(128, 96, 8)] * 5
    )  # the survey alone, then of the whole plane


def test_adaptive_takes_a_crop_thinner_than_a_window_and_odd_in_plane():
    ct = bone_ct()[:101, :77, 8:13]
    probability = predict_probability(make_engine(soft_step), ct, PLAN, "adaptive")
    assert_like_step_1(probability, ct, (slice(7, 101), slice(7, 77)))  # begins with a pixel of padding


def test_the_expected_change_is_that_of_scattered_votes():
    """Half the windows, each off a voxel's own value at random: the change expected is the one that comes."""
    rng, starts = np.random.default_rng(2), list(range(17))
    expected, real = [], []
    for _ in range(20):
        own = rng.uniform(0, 1, (16, 16, 24))
        stack = np.arange(24) * np.ones((16, 16, 1))  # the answer knows its place by the first slice

        def scatter(windows, own=own):
            places = [int(window[0, 0, 0]) for window in windows]
            return np.stack([own[:, :, z : z + 8] + rng.uniform(-0.3, 0.3, (16, 16, 8)) for z in places])

        votes = Votes(make_engine(scatter), stack, np.ones(8))
        votes.cast(starts[::2])
        expected.append(votes.expected_change(starts))
        before, twice = votes.mean() >= 0.5, votes.count > 1  # one vote does not tell its scatter
        votes.cast(starts[1::2])
        changed = before != (votes.mean() >= 0.5)
        real.append(changed[:, :, twice].sum() / (2 * before.sum()))
    assert np.mean(real) > 0.01
    assert np.mean(expected) == pytest.approx(np.mean(real), rel=0.15)


def test_bone_is_not_drawn_on_beyond_the_field_of_view():
    ct = np.full((12, 10, 3), 40, np.int16)
    ct[8:] = -1024  # the scan ends here
    ct[3:5, 3:5, 1] = -900  # gas or a streak within the body stays the network's affair
    probability = np.full(ct.shape, 0.9, np.float32)
    cleared = clear_outside(probability, ct)
    assert (cleared[8:] == 0).all() and (cleared[:8] == np.float32(0.9)).all()
    assert cleared.dtype == np.float32 and (probability == np.float32(0.9)).all()
