"""Windows of slices sliding along z: where they lie, what they say together, and how few of them will do."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label
from scipy.special import ndtr

from hipqct.engine import Engine

log = logging.getLogger(__name__)

STRIDE = 8  # three halvings: the network takes multiples of 8 along every axis
BLENDS = ("uniform", "gaussian")
LEAST_WEIGHT = 1e-3  # of a window's outermost slices under a Gaussian; they may lie in no other window

# Adaptive windows. Where femurs lie in their crops (`hipqct.crop`), as shares of x and y: surveyed first.
USUAL_PLACE = ((1 / 6, 23 / 24), (1 / 8, 19 / 24))
LEAST_SEEN = 0.01  # share of the voxels surveyed; a proximal femur takes four times as much and more
# What a survey of few windows gives this probability or more is looked at, with a margin.
SEEN, MARGIN_PIXELS = 0.1, 16
SURVEY_MARGIN_PIXELS = 8  # closer than this to a side of what was surveyed, and the bone may reach beyond
LEAST_PIECE = 0.05  # smaller pieces, as shares of the largest, are not looked at: the mask keeps one body
# Odd: the network halves its windows three times, so its answer depends on their start modulo 8.
LARGEST_STEP, FEW_STEPS = 7, 3
# More of the mask than this expected to change under all windows (as 1 - Dice), and they are all computed.
DOUBT = 0.002
# Voxels whose mean lies more standard errors than this from 0.5 will not change sides.
SURE_ERRORS = 5.0

Region = tuple[slice, slice]


def window_starts(slices: int, window: int, step: int) -> list[int]:
    """First slices of windows every ``step`` slices; the last window always ends with the last slice."""
    if step < 1 or slices < window:
        raise ValueError(f"step must be at least 1 and slices at least {window}, got {step} and {slices}")
    last = slices - window
    return [*range(0, last, step), last]


def window_weights(slices: int, blend: str) -> np.ndarray:
    """What each slice of a window counts in the mean: ``uniform`` 1, or ``gaussian`` about its middle.

    The Gaussian's standard deviation is an eighth of the window, as in nnU-Net.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend must be one of {BLENDS}, got {blend!r}")
    if blend == "uniform":
        return np.ones(slices, np.float32)
    away = (np.arange(slices) - (slices - 1) / 2) / (slices / 8)
    return np.maximum(np.exp(-0.5 * away**2), LEAST_WEIGHT).astype(np.float32)


@dataclass
class Votes:
    """What windows say of each voxel of a stack: weighted sums of probabilities and of their squares.

    Windows are computed, and results read, within ``region`` of the plane, which may change between calls.
    Outside the region that it was computed in, a window counts as probability 0.
    """

    engine: Engine
    stack: np.ndarray
    weights: np.ndarray
    region: Region = (slice(None), slice(None))

    def __post_init__(self):
        self.total = np.zeros(self.stack.shape, np.float32)
        self.squares = np.zeros(self.stack.shape, np.float32)
        self.weight, self.count = np.zeros((2, self.stack.shape[2]), np.float32)
        self.starts = set()

    def cast(self, starts: list[int], seen: np.ndarray | None = None) -> None:
        """Compute the windows that start at these slices and were not cast yet.

        Where voxels ``seen`` are given, a window computed alone looks only round those within it. Windows
        computed together are of one size, the region's.
        """
        for z, region, probability in self.compute(sorted({*starts} - self.starts), seen):
            self.add(z, region, probability)

    def compute(
        self, starts: list[int], seen: np.ndarray | None = None
    ) -> Iterator[tuple[int, Region, np.ndarray]]:
        """First slice, place in the plane and probability of windows that are not yet cast; see `cast`."""
        slices, batch = len(self.weights), self.engine.batch
        for first in range(0, len(starts), batch):
            chunk, region = starts[first : first + batch], self.region
            if seen is not None and batch == 1:
                within = seen[:, :, chunk[0] : chunk[0] + slices]
                region = _around(within) if within.any() else region
            windows = np.stack([self.stack[region][:, :, z : z + slices] for z in chunk])
            for z, probability in zip(chunk, self.engine.predict_windows(windows), strict=True):
                yield z, region, probability

    def add(self, start: int, region: Region, probability: np.ndarray) -> None:
        """Cast a window that was computed in a region of the plane."""
        held = slice(start, start + len(self.weights))
        self.total[region][:, :, held] += self.weights * probability
        self.squares[region][:, :, held] += self.weights * probability**2
        self.weight[held] += self.weights
        self.count[held] += 1
        self.starts.add(start)

    def mean(self) -> np.ndarray:
        """Mean probability in the region; 0 in slices without a vote."""
        return self.total[self.region] / np.maximum(self.weight, np.finfo(np.float32).tiny)

    def expected_change(self, starts: list[int]) -> float:
        """How much of the mask (mean at least 0.5) all windows of ``starts`` would change, as 1 - Dice.

        Each voxel's mean over them is taken as normal about the mean so far, with the standard error of a
        sample without replacement. Slices with a single vote, at the ends, are left out.
        """
        possible = np.zeros_like(self.count)
        for z in starts:
            possible[z : z + len(self.weights)] += 1
        mean = self.mean()
        inside = int((mean >= 0.5).sum())
        some = (self.count > 1) & (self.count < possible)
        if not (inside and some.any()):
            return 0.0
        n, mean = self.count[some], mean[:, :, some]
        spread = self.squares[self.region][:, :, some] / self.weight[some] - mean**2
        error = np.sqrt(np.maximum(spread, 0) * n / (n - 1) * (1 / n - 1 / possible[some]))
        distance = np.abs(mean - 0.5)
        near = distance < SURE_ERRORS * error
        return float(ndtr(-distance[near] / error[near]).sum() / (2 * inside))


def adapt_windows(engine: Engine, padded: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over windows of step 1 from a fraction of them, and from all of them where that leaves doubt.

    A survey of windows end to end finds where the femur may be (`survey_femur`). Every seventh window, or
    more of few (`first_step`), is computed 16 pixels round what the survey saw within it, and joins the
    survey's. How the windows scatter tells how much of the mask the others would change (systematic sampling
    taken as random, which overestimates). Where that is more than `DOUBT`, the whole plane is surveyed,
    unless it was, and all windows are computed round what is seen there. Where nothing is seen, the survey
    stands, and 0 where that did not look.

    Args:
        padded: normalised, in plane a multiple of 8.
        weights: of a window's slices.
    """
    shares = zip(padded.shape[:2], USUAL_PLACE, strict=True)
    usual = tuple(_on_stride(size * low, size * high, size) for size, (low, high) in shares)
    survey = survey_femur(engine, padded, weights, usual)
    mean, change = _refine(survey, every_window=False)
    if change > DOUBT:
        if not survey.of_whole_plane:
            survey = survey_femur(engine, padded, weights, whole_plane(padded))
        mean, _ = _refine(survey, every_window=True)
    return mean


@dataclass(frozen=True)
class Survey:
    """Windows laid end to end: their votes, mean probability, what they take for femur, where they looked."""

    votes: Votes
    mean: np.ndarray
    seen: np.ndarray
    of_whole_plane: bool  # all of them


def survey_femur(engine: Engine, padded: np.ndarray, weights: np.ndarray, region: Region) -> Survey:
    """Where in a stack the femur may be, from windows laid end to end.

    A window looks at ``region`` of the plane; again with those sides moved to the plane's edge that what it
    sees comes closer to than 8 pixels. All look at the whole plane where they see next to nothing.
    """
    plane = whole_plane(padded)
    votes, left, of_whole_plane = Votes(engine, padded, weights, region), _end_to_end(padded, weights), True
    while left:
        again, wider = [], votes.region
        for z, place, probability in votes.compute(left):
            found = probability >= SEEN
            wanted = _widen(place, found, plane)
            if wanted != place:  # because of more than specks?
                wanted = _widen(place, _pieces(found), plane)
            if wanted == place:
                votes.add(z, place, probability)
                of_whole_plane &= place == plane
            else:
                again.append(z)
                wider = _hull(wider, wanted)
        left, votes.region = again, wider
    mean, seen = np.zeros(padded.shape, np.float32), np.zeros(padded.shape, bool)
    mean[votes.region] = votes.mean()
    seen[votes.region] = found = _pieces(mean[votes.region] >= SEEN)
    if region != plane and found.sum() < LEAST_SEEN * found.size:
        return survey_femur(engine, padded, weights, plane)
    return Survey(votes, mean, seen, of_whole_plane)


def _refine(survey: Survey, every_window: bool) -> tuple[np.ndarray, float]:
    """The mean once more windows joined a survey's, and how much of the mask the rest would change.

    The windows lie round what the survey saw: every one of them, or one in `first_step`.
    """
    votes, seen, slices = survey.votes, survey.seen, len(survey.votes.weights)
    mean = survey.mean.copy()
    if not seen.any():
        return mean, 0.0
    held = np.flatnonzero(seen.any(axis=(0, 1)))
    every = window_starts(seen.shape[2], slices, 1)
    near = [z for z in every if z <= held[-1] and z + slices > held[0]]
    votes.region = _around(seen)
    votes.cast(near if every_window else [*near[:: first_step(len(near))], near[-1]], seen)
    mean[votes.region] = refined = votes.mean()
    change = votes.expected_change(sorted({*near, *_end_to_end(seen, votes.weights)}))
    size = " x ".join(map(str, refined.shape[:2]))
    log.info("%s windows within %s pixels, expected change %.5f", len(votes.starts), size, change)
    return mean, change


def _end_to_end(stack: np.ndarray, weights: np.ndarray) -> list[int]:
    return window_starts(stack.shape[2], len(weights), len(weights))


def first_step(windows: int) -> int:
    """The narrowest odd step that goes from the first of so many windows to the last in three; 7 at most."""
    step = min(LARGEST_STEP, max(1, -(-(windows - 1) // FEW_STEPS)))
    return step if step % 2 else step + 1


def multiple_of_stride(voxels: float) -> int:
    """The next size that the network takes."""
    return int(-(-voxels // STRIDE)) * STRIDE


def whole_plane(stack: np.ndarray) -> Region:
    """All of a stack's slices."""
    return slice(0, stack.shape[0]), slice(0, stack.shape[1])


def _pieces(found: np.ndarray) -> np.ndarray:
    """What was found, without pieces much smaller than the largest."""
    pieces, count = label(found)
    if count < 2:
        return found
    voxels = np.bincount(pieces.ravel())
    voxels[0] = 0
    return found & (voxels >= LEAST_PIECE * voxels.max())[pieces]


def _widen(region: Region, seen: np.ndarray, plane: Region) -> Region:
    """The region with those sides moved to the plane's edge that what is seen in it comes close to."""
    sides = []
    for axis, (place, all_of_it) in enumerate(zip(region, plane, strict=True)):
        places = place.start + np.flatnonzero(seen.any(axis=(1 - axis, 2)))
        low = len(places) and places[0] - SURVEY_MARGIN_PIXELS < place.start
        high = len(places) and places[-1] + SURVEY_MARGIN_PIXELS >= place.stop
        sides.append(slice(0 if low else place.start, all_of_it.stop if high else place.stop))
    return tuple(sides)


def _hull(one: Region, other: Region) -> Region:
    """The smallest region that holds both."""
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _around(seen: np.ndarray) -> Region:
    """The part of the plane that holds what is seen, with its margin."""
    ranges = []
    for axis, size in enumerate(seen.shape[:2]):
        places = np.flatnonzero(seen.any(axis=(1 - axis, 2)))
        ranges.append(_on_stride(places[0] - MARGIN_PIXELS, places[-1] + 1 + MARGIN_PIXELS, size))
    return tuple(ranges)


def _on_stride(low: float, high: float, size: int) -> slice:
    """The range between two places along an axis, widened to the network's stride."""
    return slice(max(0, int(low // STRIDE) * STRIDE), min(size, multiple_of_stride(high)))
