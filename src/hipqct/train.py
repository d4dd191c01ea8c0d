"""Training of the V-Net: random augmented patches of the crops, Adam, Dice + L2.

Keras decides what computes: on two CPU cores its torch backend (KERAS_BACKEND=torch) makes a training step
about five times faster than tensorflow; the weights are the same for all backends.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from hipqct.augment import change_intensity, cut_patch, draw_augmentation
from hipqct.engine import Engine, list_cards, prepare_backend
from hipqct.errors import ModelError
from hipqct.losses import dice_l2_loss, soft_dice
from hipqct.metrics import dice
from hipqct.network import check_precision
from hipqct.predict import normalise, predict_probability
from hipqct.recipe import Recipe
from hipqct.vnet import build_vnet, set_weights

log = logging.getLogger(__name__)

FEMUR_PATCHES = 0.67  # share of patches centred on a femur voxel; the others lie anywhere
VALIDATION_STEP = 16  # slices between validation windows: Dice differs from step 1 by less than 0.005
# Drawn ahead for each thread that draws them, and in all: 32 of two whole windows take 0.6 GB.
BATCHES_AHEAD, MOST_AHEAD = 2, 32
MOST_THREADS = 16  # that a training can use


def running_backend() -> str:
    """What Keras computes with in this process: tensorflow, torch or jax."""
    return keras.backend.backend()


@dataclass(frozen=True)
class Crop:
    """One hip: HU (int16), femur mask and signed distance to its surface (int16), each ``(x, y, z)``.

    Arrays, or HDF5 datasets read in windows; the distance is from `hipqct.solid.surface_distance_um`.
    """

    name: str
    ct: np.ndarray
    mask: np.ndarray
    distance_um: np.ndarray

    @cached_property
    def femur_slices(self) -> np.ndarray:
        """Indices of the slices that hold femur."""
        return np.flatnonzero(np.asarray(self.mask[()]).any((0, 1)))


def draw_batch(crops: list[Crop], recipe: Recipe, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and truth ``(batch, x, y, z, 1)`` of one step; depends on the seed and the step only."""
    rng = np.random.default_rng([recipe.seed, step])
    chosen = rng.choice(len(crops), recipe.batch, replace=len(crops) < recipe.batch)
    patches = [draw_patch(crops[i], recipe, rng) for i in chosen]
    inputs, truths = zip(*patches, strict=True)
    return np.stack(inputs)[..., None], np.stack(truths)[..., None]


def draw_patch(crop: Crop, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One augmented patch: normalised input and truth (0 or 1), float32.

    The truth of a turned or scaled patch comes from the distance to the femur's surface: between the voxels
    of a mask the surface is lost, and 2.5 % of a phantom's femur would be labelled wrongly.
    """
    augmentation = draw_augmentation(rng, recipe.ranges)
    centre = draw_centre(crop, recipe.patch, rng)
    if augmentation.keeps_grid:  # voxels as inference sees them: interpolation between them would blur
        centre = np.rint(centre + 0.5) - 0.5
    ct = cut_patch(crop.ct, recipe.spacing_mm, centre, recipe.patch, augmentation)
    truth = cut_patch(crop.distance_um, recipe.spacing_mm, centre, recipe.patch, augmentation) < 0
    ct = change_intensity(ct, recipe.spacing_mm, augmentation)
    return normalise(ct, recipe.plan()["normalisation"]), truth.astype(np.float32)


def draw_centre(crop: Crop, patch, rng: np.random.Generator) -> np.ndarray:
    """A patch centre on the femur or anywhere, moved so that the patch stays inside where it fits."""
    half = np.asarray(patch) / 2
    shape = np.asarray(crop.mask.shape)
    if rng.random() < FEMUR_PATCHES and len(crop.femur_slices):
        z = rng.choice(crop.femur_slices)
        femur = np.argwhere(crop.mask[:, :, z])
        x, y = femur[rng.integers(len(femur))]
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
    """A compiled network, new (from the seed) or from given weights.

    Raises:
        ModelError: the weights are another network's, or the backend does not take the recipe's precision.
    """
    check_precision(recipe.precision, running_backend())
    prepare_backend()
    keras.utils.set_random_seed(recipe.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        model = build_vnet(recipe.network, recipe.seed)
    finally:
        keras.config.set_dtype_policy(policy)
    if weights is not None:
        set_weights(model, weights, recipe.network)
    optimizer = keras.optimizers.Adam(recipe.learning_rate)
    # XLA is what JAX is made for; on a CPU it slows TensorFlow's 3-D convolutions many times.
    compiled = keras.backend.backend() == "jax"
    model.compile(optimizer, dice_l2_loss(model, recipe.alpha), metrics=[soft_dice], jit_compile=compiled)
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


def feeding_threads(threads: int) -> int:
    """How many of a training's ``threads`` draw batches: on a GPU all but the one that leads it, else one."""
    return max(1, min(threads, MOST_THREADS) - 1) if list_cards() else 1


class BatchFeed:
    """Batches of consecutive steps, drawn ahead by threads while the network computes; use it in ``with``.

    ``waited_s`` is the time that was spent on waiting for a batch.
    """

    def __init__(self, crops: list[Crop], recipe: Recipe, first_step: int, threads: int = 1):
        self.crops, self.recipe, self.step = crops, recipe, first_step
        self.pool, self.queue, self.waited_s = ThreadPoolExecutor(threads), deque(), 0.0
        self.ahead = min(BATCHES_AHEAD * threads, MOST_AHEAD)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown(cancel_futures=True)

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Input and truth of the next step."""
        while len(self.queue) < self.ahead and self.step < self.recipe.steps:
            self.queue.append(self.pool.submit(draw_batch, self.crops, self.recipe, self.step))
            self.step += 1
        started = time.monotonic()
        batch = self.queue.popleft().result()
        self.waited_s += time.monotonic() - started
        return batch


def train_vnet(
    model: keras.Model,
    crops: list[Crop],
    watched: dict[str, list[Crop]],
    recipe: Recipe,
    on_epoch: Callable[[int, dict], None],
    first_step: int = 0,
    minutes: float = math.inf,
    verbose: bool = False,
    threads: int = 1,
) -> int:
    """Train until ``recipe.steps``, or until the next epoch would not end in time; returns the steps done.

    Args:
        model: from `start_model`, with `set_state` when going on.
        crops: what to train on.
        watched: crops to judge the model on after each epoch, by the name of the set (``validation``).
        on_epoch: called with (steps done, history row) after every ``steps_per_epoch``; save the state there.
        minutes: bound on this call; one epoch is always done.
        verbose: show a progress bar with loss and Dice.
        threads: of the CPU, see `feeding_threads`.
    """
    end, done = time.monotonic() + 60 * minutes, first_step
    with BatchFeed(crops, recipe, first_step, feeding_threads(threads)) as feed:
        while done < recipe.steps:
            started, feed.waited_s = time.monotonic(), 0.0
            steps = range(done, min(done + recipe.steps_per_epoch, recipe.steps))
            row = _train_epoch(model, feed, recipe, steps, verbose)
            row["waiting_share"] = round(feed.waited_s / (time.monotonic() - started), 4)
            for name, judged in watched.items():
                row[f"{name}_dice"] = validation_dice(model, judged, recipe)
            took_s = time.monotonic() - started
            row["seconds"] = round(took_s, 1)
            log.info("%s", row)
            done = steps.stop
            on_epoch(done, row)
            if time.monotonic() + took_s > end:
                break
    return done


def _train_epoch(model, feed: BatchFeed, recipe: Recipe, steps: range, verbose: bool) -> dict:
    """Train for an epoch's steps; the row of the history with the means of loss and soft Dice."""
    bar = keras.utils.Progbar(len(steps), stateful_metrics=["loss", "dice"], unit_name="step")
    sums = np.zeros(2)
    for count, step in enumerate(steps, start=1):
        model.optimizer.learning_rate.assign(learning_rate_at(recipe, step))
        model.reset_metrics()
        sums += [float(value) for value in model.train_on_batch(*feed.next())]
        if not np.isfinite(sums).all():
            raise ModelError(
                f"the loss is no number any more at step {step}: lower train/learning_rate, and "
                "train/final_learning_rate to it or below"
            )
        if verbose:
            bar.update(count, [("loss", sums[0] / count), ("dice", sums[1] / count)])
    loss, dice_mean = (float(value) for value in sums / len(steps))
    return {
        "step": steps.stop,
        "epoch": -(-steps.stop // recipe.steps_per_epoch),
        "learning_rate": learning_rate_at(recipe, steps.stop - 1),
        "loss": loss,
        "training_dice": dice_mean,
    }


def validation_dice(model: keras.Model, crops: list[Crop], recipe: Recipe) -> float:
    """Mean Dice at probability 0.5 over whole crops by sliding windows; NaN without crops."""
    engine = Engine(
        "keras", "training", 1, lambda windows: model.predict_on_batch(windows[..., None])[..., 0]
    )
    scores = []
    for crop in crops:
        probability = predict_probability(engine, crop.ct[()], recipe.plan(), VALIDATION_STEP)
        scores.append(dice(probability >= 0.5, crop.mask[()]))
    return float(np.mean(scores)) if scores else math.nan
