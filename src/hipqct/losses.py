"""The paper's training loss: soft Dice plus L2 (arXiv 2006.05513, Eq. 2-3)."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

SMOOTHING = 1.0  # voxels; the paper states none. A batch without femur then has a finite Dice, 1 when empty


def soft_dice(truth: Any, probability: Any) -> Any:
    """Dice of probabilities: (2 sum(t p) + s) / (sum(t) + sum(p) + s), s = `SMOOTHING`, over the whole batch.

    Sums over the batch, not per patch, so that patches without femur do not jump between 0 and 1. Takes and
    returns tensors of Keras' backend.
    """
    truth = ops.cast(truth, probability.dtype)
    overlap = ops.sum(truth * probability)
    return (2 * overlap + SMOOTHING) / (ops.sum(truth) + ops.sum(probability) + SMOOTHING)


def dice_l2_loss(model: keras.Model, alpha: float) -> Callable:
    """The function (truth, probability) -> ``(1 - Dice) + alpha * sum of squared kernel weights``."""
    kernels = [weight for weight in model.trainable_weights if weight.path.endswith("/kernel")]

    def loss(truth, probability):
        squares = sum(ops.sum(ops.square(kernel)) for kernel in kernels)
        return 1 - soft_dice(truth, probability) + alpha * squares

    return loss
