"""Training as files: a model per fold, resumable after every epoch."""

import hashlib
import importlib.util
import logging
import math
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

from hipqct import revisions
from hipqct.errors import ModelError
from hipqct.folds import TEST
from hipqct.io.dataset import Dataset, hash_crop
from hipqct.io.files import replace_when_done
from hipqct.io.models import read_checkpoint, write_checkpoint, write_model

log = logging.getLogger(__name__)

SELECTIONS = {"validation": "validation_dice", "paper": "test_dice", "last": None}
RECIPE_KEYS = (
    "batch",
    "patch",
    "learning_rate",
    "final_learning_rate",
    "alpha",
    "clip_hu",
    "seed",
    "precision",
)
WINDOW_SLICES = 32  # the paper's
# A trial tells how long a step takes: so long at most, this share of the time, and so many steps.
TRIAL_MINUTES, TRIAL_SHARE, TRIAL_STEPS = 0.5, 0.05, 1000
TIME_USED = 0.9  # share of the time that steps are planned for: the rest is for checkpoints and slower steps


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
        crops = {name: [Crop(h.name, h.ct, h.mask) for h in part] for name, part in parts.items()}
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
        chosen_by = SELECTIONS[settings["selection"]]
        train_model(crops, Path(model_dir), recipe, facts, chosen_by, verbose=True, threads=threads)


def make_recipe(settings: dict, data: Dataset, crops: list):
    """`hipqct.train.Recipe` from the config's ``train``: an epoch has a patch for every hip.

    Raises:
        ModelError: mirroring is asked for a model of left hips.
    """
    from hipqct.augment import Ranges
    from hipqct.network import PRESETS
    from hipqct.train import Recipe

    network = PRESETS[settings["network"]] | {"dropout": settings["dropout"]}
    steps_per_epoch = -(-len(crops) // settings["batch"])
    never = Ranges(**{name: (0.0, drawn[1]) for name, drawn in vars(Ranges()).items()})
    drawn = {name: (float(p), (low, high)) for name, (p, low, high) in settings["augmentation"].items()}
    if data.side == "left" and drawn.get("mirror", (0.0,))[0] > 0:
        raise ModelError(
            "train/augmentation/mirror makes right femurs, but train/side is left: set the one to [0, 1, 1], "
            "or the other to both"
        )
    chosen = {key: settings[key] for key in RECIPE_KEYS}
    return replace(
        Recipe(),
        network=network,
        spacing_mm=data.spacing_mm,
        window=(*crops[0].ct.shape[:2], WINDOW_SLICES),
        steps_per_epoch=steps_per_epoch,
        steps=settings["epochs"] * steps_per_epoch,
        side=data.side,
        ranges=replace(never, **drawn),
        **{key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()},
    )


def train_model(
    crops: dict,
    model_dir: Path,
    recipe,
    facts: dict,
    chosen_by: str | None = None,
    minutes: float = math.inf,
    first_weights: dict | None = None,
    verbose: bool = False,
    piece_mb: float | None = None,
    kernel_dtype: str = "float32",
    threads: int = 1,
) -> None:
    """Train, or go on with, a model and write its folder; see `train_fold`.

    Args:
        crops: ``training``, and those to watch by name: lists of `hipqct.train.Crop`.
        facts: ``name`` and ``training`` of plan.json; the recipe is added to the latter.
        chosen_by: the history's column whose highest value chooses the weights; None keeps the last ones.
        recipe: with ``steps`` None, the first call chooses as many as fit into its minutes.
        minutes: bound on this call; the same call later goes on.
        first_weights: start from these.
        piece_mb: write the weights in pieces of at most so many MB.
        kernel_dtype: ``float16`` halves the weights file.
        threads: of the CPU, see `hipqct.train.feeding_threads`.
    """
    from hipqct.train import get_state, running_backend, set_state, start_model, train_vnet
    from hipqct.vnet import get_weights

    watched = {name: part for name, part in crops.items() if name != "training"}
    training = asdict(recipe) | facts["training"] | {"crops": len(crops["training"])}
    training |= {"backend": running_backend(), "device": training_device()}
    plan = {"name": facts["name"], "network": recipe.network, **recipe.plan(), "training": training}
    identity = _identity(plan, crops, first_weights)
    model = start_model(recipe, first_weights)
    history, best, first_step = [], None, 0
    checkpoint = model_dir / "checkpoint.h5"
    if checkpoint.is_file():
        state, kept, record = read_checkpoint(checkpoint)
        if record["identity"] == identity:
            set_state(model, state)
            history, best, first_step = record["history"], kept, record["history"][-1]["step"]
            recipe = replace(recipe, steps=record.get("steps", recipe.steps))
            log.info("Going on after step %d of %d", first_step, recipe.steps)
        else:
            log.warning("%s is of other data or settings: training starts anew", checkpoint)
            shutil.rmtree(model_dir / "events", ignore_errors=True)
    if recipe.steps is None:
        begun_s = time.monotonic()
        recipe = replace(recipe, steps=count_steps(crops["training"], watched, recipe, minutes, threads))
        minutes -= (time.monotonic() - begun_s) / 60
        model = start_model(recipe, first_weights)
    training["steps"] = recipe.steps

    with _event_writer(model_dir / "events") as write_events:

        def on_epoch(step, row):
            nonlocal best
            better = not history or not chosen_by or row[chosen_by] > max(r[chosen_by] for r in history)
            best = get_weights(model) if better else best
            history.append(row)
            record = {"identity": identity, "steps": recipe.steps, "history": history}
            write_checkpoint(checkpoint, get_state(model), best, record)
            write_history(history, model_dir)
            write_events(row)

        arguments = (watched, recipe, on_epoch, first_step, minutes, verbose, threads)
        train_vnet(model, crops["training"], *arguments)
    write_history(history, model_dir, with_curves=True)
    write_model(model_dir, plan, best, kernel_dtype, piece_mb)


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


def set_backend(backend: str) -> None:
    """Let Keras compute with ``backend``; ModelError when it is not installed or Keras runs already."""
    if importlib.util.find_spec(backend) is None:
        raise ModelError(f"the backend {backend} is not installed: pip install {backend}, or choose another")
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


def write_history(history: list[dict], model_dir: Path, with_curves: bool = False) -> None:
    """Write history.tsv, and curves.png where pandas and matplotlib are installed."""
    lines = ["\t".join(history[0])]
    lines += ["\t".join(f"{value:.8g}" for value in row.values()) for row in history]
    with replace_when_done(model_dir / "history.tsv") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not with_curves:
        return
    try:
        import pandas as pd

        from hipqct.figures import draw_curves
    except ImportError as error:
        log.warning("No curves are drawn: %s", error)
        return
    with replace_when_done(model_dir / "curves.png") as temporary:
        draw_curves(pd.DataFrame(history)).savefig(temporary, dpi=120)


class _event_writer:
    """Gives a function that writes a history row as TensorBoard's events, if tensorboardX is there."""

    def __init__(self, folder: Path):
        self.folder, self.writer = folder, None

    def __enter__(self):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            log.warning("tensorboardX is not installed: no TensorBoard events are written")
            return lambda row: None
        self.writer = SummaryWriter(str(self.folder))
        return self._write

    def _write(self, row: dict) -> None:
        for name, value in row.items():
            if name not in ("step", "seconds"):
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def __exit__(self, *_):
        if self.writer:
            self.writer.close()
