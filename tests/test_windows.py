"""Windows along z: where they lie, their votes, and adaptive ones."""

import numpy as np
import pytest

from hipqct.engine import Engine
from hipqct.predict import predict_probability
from hipqct.windows import Votes, first_step, window_starts

PLAN = {"window": [32, 32, 8], "normalisation": {"clip_hu": [-200, 1500]}}


def make_engine(function, batch=3) -> Engine:
    return Engine("test", "cpu", batch, function)


@pytest.mark.parametrize("slices", [8, 9, 15, 16, 30])
@pytest.mark.parametrize("step", [1, 3, 8])
def test_windows_hold_every_slice_and_end_with_the_last(slices, step):
    starts = window_starts(slices, 8, step)
    assert set().union(*(range(z, z + 8) for z in starts)) == set(range(slices))
    assert starts[-1] == slices - 8
    assert starts == sorted(set(starts))


def test_step_1_takes_the_papers_29_windows_of_60_slices():
    assert len(window_starts(60, 32, 1)) == 29


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


def bone_ct(x: int = 40, y: int = 30, slices: slice = slice(6, 30)) -> np.ndarray:
    """A block of bone of 24 x 20 pixels in a wide crop."""
    ct = np.full((128, 96, 40), -100, np.int16)
    ct[x : x + 24, y : y + 20, slices] = 1500
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
    ct = np.maximum(bone_ct(x=8, slices=slice(None)), bone_ct(x=30, y=60, slices=slice(None)))
    counted = Counting(soft_step)
    probability = predict_probability(counted.engine(), ct, PLAN, "adaptive")
    assert_like_step_1(probability, ct, (slice(0, 128), slice(8, 96)))
    assert counted.shapes[:10] == [(*WIDE, 8)] * 5 + [(128, 88, 8)] * 5


@pytest.mark.parametrize("batch", [1, 3])
def test_only_windows_whose_bone_comes_close_to_a_side_are_surveyed_again(batch):
    """A head that reaches beyond the usual place, above a shaft within it."""
    ct = bone_ct(slices=slice(None))
    ct[40:64, 70:90, 10:14] = ct.max()
    counted = Counting(soft_step)
    probability = predict_probability(counted.engine(batch), ct, PLAN, "adaptive")
    assert counted.shapes[:6] == [(*WIDE, 8)] * 5 + [(112, 88, 8)]
    wanted = predict_probability(make_engine(soft_step), ct, PLAN, 1)
    np.testing.assert_allclose(probability, wanted, atol=2e-4)  # what it gives soft tissue, here and there 0
    np.testing.assert_array_equal(probability >= 0.5, wanted >= 0.5)


@pytest.mark.parametrize(("gap", "again"), [(8, False), (7, True)])
def test_bone_8_pixels_from_a_side_of_the_survey_lies_within_it(gap, again):
    counted = Counting(soft_step)
    predict_probability(counted.engine(), bone_ct(y=8 + gap), PLAN, "adaptive")
    assert ((112, 80, 8) in counted.shapes) is again


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
    everywhere = np.maximum(bone_ct(8, 10, slice(None)), bone_ct(30, 60, slice(None)))
    everywhere[116:120, 40:44, 10:14] = 1500
    probability, counted = predict_contradictions(everywhere)
    others = len({*window_starts(40, 8, 1)} - {*window_starts(40, 8, 8)})
    assert counted.shapes == [(*WIDE, 8)] * 5 + [(128, 96, 8)] * 5 + [(72, 96, 8)] * others
    assert (probability[116:120, 40:44, 10:14] > 0).all()  # a speck, left to the survey


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
    assert_like_step_1(probability, ct, (slice(15, 101), slice(7, 63)))  # begins with a pixel of padding


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
