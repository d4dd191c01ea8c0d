"""Training of the V-Net on crops held in memory: random augmented patches, Adam, Dice + L2.

Keras decides what computes: on two CPU cores its torch backend (KERAS_BACKEND=torch) makes a training step
about five times faster than tensorflow; the weights are the same for all backends.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np

from hipqct.augment import Ranges, change_intensity, cut_patch, draw_augmentation
from hipqct.losses import dice_l2_loss
from hipqct.metrics import dice
from hipqct.network import COMPACT
from hipqct.predict import Engine, normalise, predict_probability
from hipqct.vnet import build_vnet, set_weights

log = logging.getLogger(__name__)

FEMUR_PATCHES = 0.67  # share of patches centred on a femur voxel; the others lie anywhere
VALIDATION_STEP = 16  # slices between validation windows: Dice differs from step 1 by less than 0.005


@dataclass(frozen=True)
class Crop:
    """One hip, turned to the left side: HU int16 and its femur mask, both ``(x, y, z)``."""

    name: str
    ct: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training, but for its data and first weights.

    The learning rate falls from ``learning_rate`` to ``final_learning_rate`` along half a cosine over
    ``steps``. ``frozen_norm`` keeps the statistics of batch normalisation as they are, for the last stage of
    a training: what is trained is then exactly what inference computes.
    """

    network: dict = field(default_factory=lambda: dict(COMPACT))
    spacing_mm: tuple[float, float, float] = (0.8, 0.8, 3.0)
    window: tuple[int, int, int] = (192, 192, 32)
    clip_hu: tuple[float, float] = (-200.0, 1500.0)
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-4
    alpha: float = 1e-6
    patch: tuple[int, int, int] = (96, 96, 32)
    batch: int = 2
    steps: int = 1000
    steps_per_epoch: int = 50
    seed: int = 0
    frozen_norm: bool = False
    ranges: Ranges = field(default_factory=Ranges)

    def plan(self) -> dict:
        """The part of plan.json that inference needs."""
        return {"window": list(self.window), "normalisation": {"clip_hu": list(self.clip_hu)}}


def draw_batch(crops: list[Crop], recipe: Recipe, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and truth ``(batch, x, y, z, 1)`` of one step; depends on the seed and the step only."""
    rng = np.random.default_rng([recipe.seed, step])
    chosen = rng.choice(len(crops), recipe.batch, replace=len(crops) < recipe.batch)
    patches = [draw_patch(crops[i], recipe, rng) for i in chosen]
    inputs, truths = zip(*patches, strict=True)
    return np.stack(inputs)[..., None], np.stack(truths)[..., None]


def draw_patch(crop: Crop, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One augmented patch: normalised input and truth (0 or 1), float32."""
    augmentation = draw_augmentation(rng, recipe.ranges)
    centre = draw_centre(crop.mask, recipe.patch, rng)
    ct = cut_patch(crop.ct, recipe.spacing_mm, centre, recipe.patch, augmentation)
    truth = cut_patch(crop.mask.view(np.uint8), recipe.spacing_mm, centre, recipe.patch, augmentation) >= 0.5
    ct = change_intensity(ct, recipe.spacing_mm, augmentation)
    return normalise(ct, recipe.plan()["normalisation"]), truth.astype(np.float32)


def draw_centre(mask: np.ndarray, patch, rng: np.random.Generator) -> np.ndarray:
    """A patch centre on the femur or anywhere, moved so that the patch stays inside where it fits."""
    half = np.asarray(patch) / 2
    shape = np.asarray(mask.shape)
    if rng.random() < FEMUR_PATCHES and mask.any():
        slices = np.flatnonzero(mask.any((0, 1)))
        z = rng.choice(slices)
        x, y = np.argwhere(mask[:, :, z])[rng.integers(np.count_nonzero(mask[:, :, z]))]
        centre = np.array([x, y, z]) + rng.uniform(-0.25, 0.25, 3) * patch
    else:
        centre = rng.uniform(0, shape)
    inside = np.clip(centre, half, np.maximum(shape - half, half))
    return np.where(shape > patch, inside, shape / 2) - 0.5


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """Half a cosine from ``learning_rate`` to ``final_learning_rate``."""
    fall = (1 + math.cos(math.pi * min(step / recipe.steps, 1))) / 2
    return recipe.final_learning_rate + (recipe.learning_rate - recipe.final_learning_rate) * fall


def start_model(recipe: Recipe, weights: dict | None = None) -> keras.Model:
    """A compiled network, new (from the seed) or from given weights."""
    keras.utils.set_random_seed(recipe.seed)
    model = build_vnet(recipe.network)
    if weights is not None:
        set_weights(model, weights, recipe.network)
    if recipe.frozen_norm:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    optimizer = keras.optimizers.Adam(recipe.learning_rate)
    model.compile(optimizer, dice_l2_loss(model, recipe.alpha), jit_compile=False)
    optimizer.build(model.trainable_variables)
    return model


def get_state(model: keras.Model) -> dict[str, np.ndarray]:
    """Every variable of model, dropout and optimiser: all that is needed to go on as if never stopped."""
    return {f"{i:04d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(_variables(model))}


def set_state(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Put back what `get_state` gave for a model of the same recipe (ValueError when it is another)."""
    variables = _variables(model)
    if len(variables) != len(state):
        raise ValueError(f"state must hold {len(variables)} arrays, got {len(state)}")
    for i, variable in enumerate(variables):
        variable.assign(state[f"{i:04d}"])


def _variables(model):
    return [*model.variables, *model.optimizer.variables]


def train_vnet(
    model: keras.Model,
    crops: list[Crop],
    validation: list[Crop],
    recipe: Recipe,
    on_epoch: Callable[[int, dict], None],
    first_step: int = 0,
    minutes: float = math.inf,
) -> int:
    """Train until ``recipe.steps`` or until the time is over; returns the steps done in all.

    Args:
        model: from `start_model`, with `set_state` when going on.
        on_epoch: called with (steps done, history row) every ``steps_per_epoch``; save the state there.
    """
    end = time.monotonic() + 60 * minutes
    losses, started = [], time.monotonic()
    for step in range(first_step, recipe.steps):
        model.optimizer.learning_rate.assign(learning_rate_at(recipe, step))
        inputs, truth = draw_batch(crops, recipe, step)
        losses.append(float(model.train_on_batch(inputs, truth)))
        done, over = step + 1, time.monotonic() > end
        if done % recipe.steps_per_epoch == 0 or done == recipe.steps or over:
            row = {
                "step": done,
                "seconds": round(time.monotonic() - started, 1),
                "learning_rate": learning_rate_at(recipe, step),
                "loss": float(np.mean(losses)),
                "validation_dice": validation_dice(model, validation, recipe),
            }
            log.info("%s", row)
            on_epoch(done, row)
            losses, started = [], time.monotonic()
        if over:
            return done
    return recipe.steps


def validation_dice(model: keras.Model, crops: list[Crop], recipe: Recipe) -> float:
    """Mean Dice at probability 0.5 over whole crops by sliding windows; NaN without crops."""
    engine = Engine(
        "keras", "training", 1, lambda windows: model.predict_on_batch(windows[..., None])[..., 0]
    )
    scores = []
    for crop in crops:
        probability = predict_probability(engine, crop.ct, recipe.plan(), VALIDATION_STEP)
        scores.append(dice(probability >= 0.5, crop.mask))
    return float(np.mean(scores)) if scores else math.nan
