"""From a CT crop to the probability of femur: the mean over windows of slices, and over models."""

from typing import NamedTuple

import numpy as np

from hipqct.engine import Engine
from hipqct.metrics import dice
from hipqct.solid import air_outside
from hipqct.windows import (
    Votes,
    adapt_windows,
    multiple_of_stride,
    whole_plane,
    window_starts,
    window_weights,
)

WHOLE, ADAPTIVE = "whole", "adaptive"
ENDS = ("as-is", "reflect")


class WindowScheme(NamedTuple):
    """How windows are placed along z and averaged; the paper's is a step of 1, the rest as here.

    Args:
        step: slices between windows; ``whole``: one pass over the whole stack; ``adaptive``: see
            `hipqct.windows.adapt_windows`.
        blend: see `hipqct.windows.window_weights`; the paper's mean is ``uniform``.
        ends: ``as-is``, where the outermost slices lie in one window only; ``reflect``: the stack is first
            continued by its mirror image, so that they lie in as many windows as those in the middle; a stack
            that one window holds has all its slices in that window and stays as it is.
    """

    step: int | str
    blend: str = "uniform"
    ends: str = "as-is"

    @classmethod
    def parse(cls, text: str) -> "WindowScheme":
        """From words parted by commas, as ``1,uniform,as-is``."""
        step, *others = text.split(",")
        return cls(int(step) if step.isdigit() else step, *others)


def normalise(ct: np.ndarray, normalisation: dict) -> np.ndarray:
    """HU to the network's input: clipped to ``clip_hu`` (low, high), then scaled to 0..1, float32."""
    low, high = normalisation["clip_hu"]
    return (np.clip(ct.astype(np.float32), low, high) - low) / np.float32(high - low)


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
        step, blend, ends: see `WindowScheme`.

    Returns:
        float32, the shape of ``ct``.
    """
    if ends not in ENDS:
        raise ValueError(f"ends must be one of {ENDS}, got {ends!r}")
    slices = plan["window"][2]
    if step == WHOLE:
        slices, step = multiple_of_stride(max(ct.shape[2], slices)), 1
    wanted = [*map(multiple_of_stride, ct.shape[:2]), max(ct.shape[2], slices)]
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
        votes = Votes(engine, padded, weights, whole_plane(padded))
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
