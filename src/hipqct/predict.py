"""From a CT crop to the probability of femur: windows of slices sliding along z, and their mean."""

import logging
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label
from scipy.special import ndtr

from hipqct.engine import Engine
from hipqct.metrics import dice
from hipqct.solid import air_outside

log = logging.getLogger(__name__)

STRIDE = 8  # three halvings: the network takes multiples of 8 along every axis
WHOLE, ADAPTIVE = "whole", "adaptive"
BLENDS, ENDS = ("uniform", "gaussian"), ("as-is", "reflect")
LEAST_WEIGHT = 1e-3  # of a window's outermost slices under a Gaussian; they may lie in no other window

# Adaptive windows. Where femurs lie in their crops (`hipqct.crop`), as shares of x and y: surveyed first.
USUAL_PLACE = ((1 / 8, 23 / 24), (1 / 8, 19 / 24))
LEAST_SEEN = 0.01  # share of the voxels surveyed; a proximal femur takes four times as much and more
# What a survey of few windows gives this probability or more is looked at, with a margin.
SEEN, MARGIN_PIXELS = 0.1, 16
LEAST_PIECE = 0.05  # smaller pieces, as shares of the largest, are not looked at: the mask keeps one body
# Odd: the network halves its windows three times, so its answer depends on their start modulo 8.
LARGEST_STEP, FEW_STEPS = 7, 3
# More of the mask than this expected to change under all windows (as 1 - Dice), and they are all computed.
DOUBT = 0.002
# Voxels whose mean lies more standard errors than this from 0.5 will not change sides.
SURE_ERRORS = 5.0


def normalise(ct: np.ndarray, normalisation: dict) -> np.ndarray:
    """HU to the network's input: clipped to ``clip_hu`` (low, high), then scaled to 0..1, float32."""
    low, high = normalisation["clip_hu"]
    return (np.clip(ct.astype(np.float32), low, high) - low) / np.float32(high - low)


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


def predict_probability(
    engine: Engine,
    ct: np.ndarray,
    plan: dict,
    step: int | str,
    blend: str = "uniform",
    ends: str = "as-is",
) -> np.ndarray:
    """Probability of femur for every voxel: the weighted mean over all windows along z that hold it.

    A crop smaller than the window along z, or not divisible by 8 in plane, is padded by repeating its edge
    (bone that leaves the scan goes on) and the result is cut back.

    Args:
        ct: HU, shape ``(x, y, z)``, a left hip on the plan's spacing.
        plan: the model's ``window`` (its last number is the slices per window) and ``normalisation``.
        step: slices between windows, 1 is the paper's; ``whole``: one pass over the whole stack;
            ``adaptive``: see `adapt_windows`.
        blend: see `window_weights`; the paper's mean is ``uniform``.
        ends: ``as-is``, where the outermost slices lie in one window only; ``reflect``: the stack is first
            continued by its mirror image, so that they lie in as many windows as those in the middle; a stack
            that one window holds has all its slices in that window and stays as it is.

    Returns:
        float32, the shape of ``ct``.
    """
    if ends not in ENDS:
        raise ValueError(f"ends must be one of {ENDS}, got {ends!r}")
    slices = plan["window"][2]
    if step == WHOLE:
        slices, step = _multiple_of_stride(max(ct.shape[2], slices)), 1
    wanted = [*map(_multiple_of_stride, ct.shape[:2]), max(ct.shape[2], slices)]
    before = [(w - n) // 2 for w, n in zip(wanted, ct.shape, strict=True)]
    widths = [(b, w - n - b) for b, w, n in zip(before, wanted, ct.shape, strict=True)]
    padded = np.pad(normalise(ct, plan["normalisation"]), widths, mode="edge")
    if ends == "reflect" and padded.shape[2] > slices:
        margin = min(slices, padded.shape[2]) - 1
        padded = np.pad(padded, ((0, 0), (0, 0), (margin, margin)), mode="reflect")
        before[2] += margin
    weights = window_weights(slices, blend)
    if step == ADAPTIVE:
        mean = adapt_windows(engine, padded, weights)
    else:
        votes = Votes(engine, padded, weights)
        votes.cast(window_starts(padded.shape[2], slices, step))
        mean = votes.mean()
    inside = tuple(slice(b, b + n) for b, n in zip(before, ct.shape, strict=True))
    return mean[inside]


def clear_outside(probability: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """The probability, 0 in air that reaches the crop's sides: round the body, beyond the field of view.

    A network goes on drawing a bone that the field of view cuts; nothing was measured there.

    Args:
        probability, ct: of one shape ``(x, y, z)``; ``ct`` in HU.
    """
    return np.where(air_outside(ct), np.float32(0), probability)


def adapt_windows(engine: Engine, padded: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over windows of step 1 from a fraction of them, and from all of them where that leaves doubt.

    A survey of windows end to end finds where the femur may be (`survey_femur`). Every seventh window, or
    more of few (`first_step`), is computed 16 pixels round what the survey saw within it, and joins the
    survey's. How the windows scatter tells how much of the mask the others would change (systematic sampling
    taken as random, which overestimates). Where that is more than `DOUBT`, the whole plane is surveyed,
    unless it was, and all windows are computed round what is seen there. A window gives 0 where it did not
    look; where none but the survey's came, the survey stands, and 0 where that did not look.

    Args:
        padded: normalised, in plane a multiple of 8.
        weights: of a window's slices.
    """
    slices = len(weights)
    every = window_starts(padded.shape[2], slices, 1)
    ends = window_starts(padded.shape[2], slices, slices)
    shares = zip(padded.shape[:2], USUAL_PLACE, strict=True)
    usual = tuple(_on_stride(size * low, size * high, size) for size, (low, high) in shares)
    whole, surveyed = _whole(padded), None
    for place, all_of_them in ((usual, False), (whole, True)):
        if surveyed != whole:
            votes, seen = survey_femur(engine, padded, weights, ends, place)
            surveyed = votes.region
            result = np.zeros(padded.shape, np.float32)
            result[surveyed] = votes.mean()
        if not seen.any():
            break
        held = np.flatnonzero(seen.any(axis=(0, 1)))
        near = [z for z in every if z <= held[-1] and z + slices > held[0]]
        votes.region = _around(seen)
        votes.cast(near if all_of_them else [*near[:: first_step(len(near))], near[-1]], seen)
        result[votes.region] = mean = votes.mean()
        change = votes.expected_change(sorted({*near, *ends}))
        size = " x ".join(map(str, mean.shape[:2]))
        log.info("%s windows within %s pixels, expected change %.5f", len(votes.starts), size, change)
        if change <= DOUBT:
            break
    return result


def survey_femur(
    engine: Engine, padded: np.ndarray, weights: np.ndarray, starts: list[int], region: tuple[slice, slice]
) -> tuple["Votes", np.ndarray]:
    """The votes of the windows at ``starts``, and the voxels of ``padded`` that they take for femur.

    Looked at is ``region`` of the plane; again with those sides moved to the plane's edge that what is seen
    comes closer to than 16 pixels, and the whole plane where next to nothing is seen.
    """
    while True:
        votes = Votes(engine, padded, weights, region)
        votes.cast(starts)
        found = votes.mean() >= SEEN
        pieces, _ = label(found)
        voxels = np.bincount(pieces.ravel())
        voxels[0] = 0
        seen = np.zeros(padded.shape, bool)
        seen[region] = found & (voxels >= LEAST_PIECE * voxels.max())[pieces]
        wanted = _around(seen) if seen.sum() >= LEAST_SEEN * found.size else _whole(padded)
        wider = tuple(
            slice(near.start if near.start <= far.start else 0, near.stop if near.stop >= far.stop else size)
            for near, far, size in zip(region, wanted, padded.shape[:2], strict=True)
        )
        if wider == region:
            return votes, seen
        region = wider


def first_step(windows: int) -> int:
    """The narrowest odd step that goes from the first of so many windows to the last in three; 7 at most."""
    step = min(LARGEST_STEP, max(1, -(-(windows - 1) // FEW_STEPS)))
    return step if step % 2 else step + 1


def _whole(stack: np.ndarray) -> tuple[slice, slice]:
    return slice(0, stack.shape[0]), slice(0, stack.shape[1])


def _around(seen: np.ndarray) -> tuple[slice, slice]:
    """The part of the plane that holds what is seen, with its margin."""
    ranges = []
    for axis, size in enumerate(seen.shape[:2]):
        places = np.flatnonzero(seen.any(axis=(1 - axis, 2)))
        ranges.append(_on_stride(places[0] - MARGIN_PIXELS, places[-1] + 1 + MARGIN_PIXELS, size))
    return tuple(ranges)


def _on_stride(low: float, high: float, size: int) -> slice:
    """The range between two places along an axis, widened to the network's stride."""
    return slice(max(0, int(low // STRIDE) * STRIDE), min(size, _multiple_of_stride(high)))


@dataclass
class Votes:
    """What windows say of each voxel of a stack: weighted sums of probabilities and of their squares.

    Windows are cast, and told of, in ``region`` of the plane; it may be narrowed between casts.
    """

    engine: Engine
    stack: np.ndarray
    weights: np.ndarray
    region: tuple[slice, slice] = (slice(None), slice(None))

    def __post_init__(self):
        self.total = np.zeros(self.stack.shape, np.float32)
        self.squares = np.zeros(self.stack.shape, np.float32)
        self.weight, self.count = np.zeros((2, self.stack.shape[2]), np.float32)
        self.starts = set()

    def cast(self, starts: list[int], seen: np.ndarray | None = None) -> None:
        """Compute the windows that start at these slices and were not cast yet.

        Where voxels ``seen`` are given, a window computed alone looks only round those within it, and its
        probability elsewhere is 0. Windows computed together are of one size, the region's.
        """
        slices, batch = len(self.weights), self.engine.batch
        starts = sorted({*starts} - self.starts)
        for first in range(0, len(starts), batch):
            chunk, region = starts[first : first + batch], self.region
            if seen is not None and batch == 1:
                within = seen[:, :, chunk[0] : chunk[0] + slices]
                region = _around(within) if within.any() else region
            windows = np.stack([self.stack[region][:, :, z : z + slices] for z in chunk])
            for z, probability in zip(chunk, self.engine.predict_windows(windows), strict=True):
                held = slice(z, z + slices)
                self.total[region][:, :, held] += self.weights * probability
                self.squares[region][:, :, held] += self.weights * probability**2
                self.weight[held] += self.weights
                self.count[held] += 1
        self.starts.update(starts)

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


def combine_models(maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Mean probability of several models, and how much they disagree.

    Returns:
        The mean, float32; the standard deviation between the models in every voxel (ddof 0; None for one
        model); and ``models_dice_min``: the lowest Dice of one model's mask (probability 0.5) with the
        mean's, empty for one model or where no model sees a femur.
    """
    mean = np.mean(maps, axis=0, dtype=np.float32)
    if len(maps) == 1:
        return mean, None, {}
    spread, wanted, masks = np.std(maps, axis=0), mean >= 0.5, [one >= 0.5 for one in maps]
    if not all(wanted.any() or mask.any() for mask in masks):
        return mean, spread, {}
    return mean, spread, {"models_dice_min": min(dice(wanted, mask) for mask in masks)}


def _multiple_of_stride(voxels: float) -> int:
    return int(-(-voxels // STRIDE)) * STRIDE
