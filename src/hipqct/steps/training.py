"""Training as files: a model per fold, resumable after every epoch."""

import hashlib
import importlib.util
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hipqct import revisions
from hipqct.errors import ModelError
from hipqct.folds import TEST
from hipqct.io.dataset import Dataset, hash_crop
from hipqct.io.models import read_checkpoint, write_checkpoint, write_model
from hipqct.recipe import Recipe, recipe_fields
from hipqct.steps.history import EventWriter, write_history

log = logging.getLogger(__name__)

SELECTIONS = {"validation": "validation_dice", "paper": "test_dice", "last": None}
CHECKPOINT = "checkpoint.h5"
WINDOW_SLICES = 32  # the paper's
# A trial tells how long a step takes: so long at most, this share of the time, and so many steps.
TRIAL_MINUTES, TRIAL_SHARE, TRIAL_STEPS = 0.5, 0.05, 1000
TIME_USED = 0.9  # share of the time that steps are planned for: the rest is for checkpoints and slower steps


@dataclass(frozen=True)
class TrainingOptions:
    """How one call of `train_model` runs and what it leaves; what the model learns is the recipe's.

    Args:
        chosen_by: the history's column whose highest value chooses the weights; None keeps the last ones.
        first_weights: start from these.
        minutes: bound on this call; the same call later goes on.
        threads: of the CPU, see `hipqct.train.feeding_threads`.
        verbose: show a progress bar with loss and Dice.
        piece_mb: write the weights in pieces of at most so many MB.
        kernel_dtype: ``float16`` halves the weights file.
    """

    chosen_by: str | None = None
    first_weights: dict | None = None
    minutes: float = math.inf
    threads: int = 1
    verbose: bool = False
    piece_mb: float | None = None
    kernel_dtype: str = "float32"


def train_fold(dataset_path, model_dir, cohort: str, fold: int, settings: dict, threads: int = 1) -> None:
    """Train the model of one fold of a cohort: weights.h5, plan.json, history.tsv, curves.png.

    A checkpoint.h5 in the same folder is written after every epoch; a job that was killed goes on from it. It
    counts only for the same data and settings. TensorBoard's events lie in ``events/``.

    Args:
        cohort: ``all``, ``male`` or ``female``.
        settings: the config's ``train``; threads: of the CPU, to use on a GPU for drawing patches.

    Raises:
        ModelError: the fold leaves nothing to train on or to validate with.
    """
    from hipqct.cohort import COHORTS

    set_backend(settings["backend"])
    from hipqct.train import Crop

    with Dataset(dataset_path) as data:
        hips = data.hips(COHORTS[cohort])
        parts = {
            "training": [hip for hip in hips if hip.fold not in (fold, TEST)],
            "validation": [hip for hip in hips if hip.fold == fold],
        }
        if settings["selection"] == "paper":
            parts["test"] = [hip for hip in hips if hip.fold == TEST]
        for name, part in parts.items():
            if not part:
                raise ModelError(
                    f"fold {fold} of '{cohort}' has no hip for {name}: set fewer train/folds or train/cohorts"
                )
        crops = {
            name: [Crop(h.name, h.ct, h.mask, h.distance_um) for h in part] for name, part in parts.items()
        }
        recipe = make_recipe(settings, data, crops["training"])
        facts = {
            "name": f"{cohort}-fold-{fold}",
            "training": {
                "data": data.data,
                "cohort": cohort,
                "fold": fold,
                "selection": settings["selection"],
                "hips": {name: [hip.name for hip in part] for name, part in parts.items()},
                "crops_sha256": sorted(hash_crop(hip.ct[()]) for part in parts.values() for hip in part),
                "dataset_sha256": data.sha256,
            },
        }
        options = TrainingOptions(SELECTIONS[settings["selection"]], verbose=True, threads=threads)
        train_model(crops, Path(model_dir), recipe, facts, options)


def make_recipe(settings: dict, data: Dataset, crops: list) -> Recipe:
    """The recipe of the config's ``train``: an epoch has a patch for every hip.

    Raises:
        ModelError: mirroring is asked for a model of left hips.
    """
    steps_per_epoch = -(-len(crops) // settings["batch"])
    return Recipe(
        **recipe_fields(settings),
        spacing_mm=data.spacing_mm,
        window=(*crops[0].ct.shape[:2], WINDOW_SLICES),
        steps_per_epoch=steps_per_epoch,
        steps=settings["epochs"] * steps_per_epoch,
        side=data.side,
    )


def train_model(
    crops: dict, model_dir: Path, recipe: Recipe, facts: dict, options: TrainingOptions | None = None
) -> None:
    """Train, or go on with, a model and write its folder; see `train_fold`.

    Args:
        crops: ``training``, and those to watch by name: lists of `hipqct.train.Crop`.
        recipe: with ``steps`` None, the first call chooses as many as fit into its minutes.
        facts: ``name`` and ``training`` of plan.json; the recipe is added to the latter.
        options: if not the usual ones.
    """
    from hipqct.train import start_model, train_vnet

    options = options or TrainingOptions()
    watched = {name: part for name, part in crops.items() if name != "training"}
    plan = _make_plan(recipe, facts, len(crops["training"]))
    identity = _identity(plan, crops, options.first_weights)
    model = start_model(recipe, options.first_weights)
    record = _find_record(model, model_dir, identity, recipe.steps)
    minutes, chosen_by = options.minutes, options.chosen_by
    if record.steps is None:
        begun_s = time.monotonic()
        record.steps = count_steps(crops["training"], watched, recipe, minutes, options.threads)
        minutes -= (time.monotonic() - begun_s) / 60
        model = start_model(recipe, options.first_weights)
    plan["training"]["steps"] = record.steps
    with EventWriter(model_dir / "events", record.history, record.saved_s) as write_events:

        def on_epoch(step: int, row: dict) -> None:
            record.add(model, row, chosen_by)
            write_events(row)

        train_vnet(
            model,
            crops["training"],
            watched,
            replace(recipe, steps=record.steps),
            on_epoch,
            first_step=record.steps_done,
            minutes=minutes,
            verbose=options.verbose,
            threads=options.threads,
        )
    write_history(record.history, model_dir, with_curves=True)
    write_model(model_dir, plan, record.best, options.kernel_dtype, options.piece_mb)


def _make_plan(recipe: Recipe, facts: dict, crops: int) -> dict:
    """plan.json, but for the weights' hash."""
    from hipqct.train import running_backend

    training = asdict(recipe) | facts["training"] | {"crops": crops}
    training |= {"backend": running_backend(), "device": training_device()}
    return {"name": facts["name"], "network": recipe.network, **recipe.plan(), "training": training}


@dataclass
class _Record:
    """How far a training is, as its folder has it: the steps planned, an epoch a row, the best weights."""

    model_dir: Path
    identity: str
    steps: int | None
    history: list[dict] = field(default_factory=list)
    best: dict | None = None
    saved_s: float = 0.0  # when the checkpoint was written

    @property
    def steps_done(self) -> int:
        return self.history[-1]["step"] if self.history else 0

    def add(self, model, row: dict, chosen_by: str | None) -> None:
        """Write the checkpoint and the history after an epoch."""
        from hipqct.train import get_state
        from hipqct.vnet import get_weights

        if not (self.history and chosen_by) or row[chosen_by] > max(r[chosen_by] for r in self.history):
            self.best = get_weights(model)
        self.history.append(row)
        record = {"identity": self.identity, "steps": self.steps, "history": self.history}
        write_checkpoint(self.model_dir / CHECKPOINT, get_state(model), self.best, record)
        write_history(self.history, self.model_dir)


def _find_record(model, model_dir: Path, identity: str, steps: int | None) -> _Record:
    """The record of the folder's checkpoint, whose state the model gets; a new one where it does not fit."""
    from hipqct.train import set_state

    checkpoint = model_dir / CHECKPOINT
    if not checkpoint.is_file():
        return _Record(model_dir, identity, steps)
    state, best, kept = read_checkpoint(checkpoint)
    if kept["identity"] != identity:
        log.warning("%s is of other data or settings: training starts anew", checkpoint)
        return _Record(model_dir, identity, steps)
    set_state(model, state)
    steps, saved_s = kept.get("steps", steps), checkpoint.stat().st_mtime
    record = _Record(model_dir, identity, steps, kept["history"], best, saved_s)
    if record.steps_done < steps:
        log.info("Going on after step %d of %d", record.steps_done, steps)
    else:
        log.info("All %d steps are done: nothing is left to train", steps)
    return record


def count_steps(training: list, watched: dict, recipe, minutes: float, threads: int = 1) -> int:
    """How many steps of a training fit into the minutes on this machine, by a trial whose model is dropped.

    They are whole epochs, or less than one. The first half of the trial is not counted: it compiles, and
    uses up the batches that were drawn ahead.
    """
    from hipqct.train import BatchFeed, feeding_threads, start_model, validation_dice

    if math.isinf(minutes):
        raise ModelError("steps are chosen to fit into a time: give the minutes, or the steps")
    model, marks_s = start_model(recipe), [time.monotonic()]
    end_s = marks_s[0] + 60 * minutes
    trial_end_s = marks_s[0] + 60 * min(TRIAL_MINUTES, TRIAL_SHARE * minutes)
    with BatchFeed(training, replace(recipe, steps=TRIAL_STEPS), 0, feeding_threads(threads)) as feed:
        while len(marks_s) <= 2 or (marks_s[-1] < trial_end_s and len(marks_s) <= TRIAL_STEPS):
            model.train_on_batch(*feed.next())
            marks_s.append(time.monotonic())
    counted_s = marks_s[len(marks_s) // 2 :]
    step_s = (counted_s[-1] - counted_s[0]) / (len(counted_s) - 1)
    begun_s = time.monotonic()
    for crops in watched.values():
        validation_dice(model, crops, recipe)
    validation_s = time.monotonic() - begun_s
    time_s = TIME_USED * (end_s - time.monotonic())
    epoch = recipe.steps_per_epoch
    steps = max(1, int((time_s - validation_s) / (step_s + validation_s / epoch)))
    steps -= steps % epoch if steps > epoch else 0
    log.info("A step takes %.3f s, a validation %.1f s: %d steps are planned", step_s, validation_s, steps)
    return steps


def _identity(plan: dict, crops: dict, first_weights: dict | None) -> str:
    """A hash of all that decides a training's outcome but its code."""
    digest = hashlib.sha256(repr((plan, {k: [c.name for c in part] for k, part in crops.items()})).encode())
    digest.update(str(revisions.TRAIN_FOLD).encode())
    for name in sorted(first_weights or ()):
        digest.update(first_weights[name].tobytes())
    return digest.hexdigest()


def check_backend(backend: str) -> None:
    """Refuse a backend of Keras that is not installed (ModelError); nothing is loaded."""
    if importlib.util.find_spec(backend) is None:
        raise ModelError(f"the backend {backend} is not installed: pip install {backend}, or choose another")


def set_backend(backend: str) -> None:
    """Let Keras compute with ``backend``; ModelError when it is not installed or Keras runs already."""
    check_backend(backend)
    os.environ["KERAS_BACKEND"] = backend
    from hipqct.train import running_backend

    if running_backend() != backend:
        raise ModelError(f"Keras runs on {running_backend()} already: start a new process for {backend}")


def training_device() -> str:
    """What Keras trains on here, ``gpu`` or ``cpu``; ModelError when it cannot use a GPU that is there."""
    from hipqct.engine import gpu_is_visible, list_cards

    if list_cards():
        return "gpu"
    if gpu_is_visible():
        raise ModelError(
            "the GPU of this machine cannot be used by Keras' backend: install hipqct[gpu] and a fitting "
            "driver, or set CUDA_VISIBLE_DEVICES to nothing to train on the CPU"
        )
    return "cpu"
