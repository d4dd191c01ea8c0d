"""Train on digital hip phantoms made on the spot: no scans, no network needed."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hipqct import revisions
from hipqct.crop import crop_roi, locate_hip
from hipqct.errors import AnatomyError, ModelError
from hipqct.io.dataset import Dataset, Hip, write_dataset
from hipqct.io.files import replace_when_done
from hipqct.io.models import read_model
from hipqct.network import PRESETS, check_precision, check_weights, fold_norms, turn_to, widen_filters
from hipqct.phantom import SYNTHETIC
from hipqct.phantom.generate import femur_mask, generate_phantom
from hipqct.phantom.parameters import TRAIN_SEEDS, VALIDATION_SEEDS, sample_parameters
from hipqct.resample import resample_slices
from hipqct.steps.training import set_backend, train_model
from hipqct.steps.workers import run_in_processes

log = logging.getLogger(__name__)

SIDES = ("left", "right")
TRAINING, VALIDATION = 1, 0  # folds
# Crops are kept for the next call, until a step that they hang on changes.
REVISIONS = (revisions.MAKE_PHANTOM, revisions.RESAMPLE_CT, revisions.CROP_HIP, revisions.TRAINING_CROPS)
CROPS_FOLDER = "phantoms-" + "-".join(map(str, REVISIONS))
OTHER_SLICES_MM = (1.0, 1.5, 2.5, 3.0, 3.0, 5.0)
LONG_SHAFT_MM = (140.0, 240.0)  # how far below the femoral head a long scan ends

# What makes a hip hard: shares of the phantoms, and ranges wider than a cohort's.
LONG_SHARE, NARROW_SHARE, PLAIN_SHARE = 1 / 3, 0.3, 0.2
NARROW_JOINT_MM = (0.3, 2.2)
# Wide joints, shallow sockets and bright shells of heads: a bright rim need not be the socket's.
OPEN_SHARE, OPEN_JOINT_MM, OPEN_FOSSA_MM, OPEN_RIM_MM = 0.2, (3.0, 7.0), (4.0, 12.0), (-9.0, -3.0)
OPEN_HEAD_SHELL = (1.2, 2.2)
PLAIN_CORTEX_MM = (0.3, 0.9)  # bones with thin shells, equally bright inside and out, as soft kernels show


def train_on_phantoms(
    model_dir,
    phantoms: int,
    validation: int,
    preset: str = "compact",
    backend: str = "tensorflow",
    choices: dict | None = None,
    minutes: float = math.inf,
    first_model_dir=None,
    processes: int = 1,
    threads: int = 1,
    piece_mb: float | None = None,
    kernel_dtype: str = "float32",
    fold_norm: bool = False,
    dropout: float | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Make phantoms of the training and validation seeds, then train, or go on with, a model on them.

    The same call goes on where it was stopped. The last weights are kept: on phantoms without end,
    training and validation come from the same source.

    Args:
        model_dir: gets ``phantoms-*/`` (crops), phantoms.h5, checkpoint.h5, and the model.
        phantoms, validation: how many of each.
        preset: ``compact``, ``medium`` or ``paper``, the network; backend: what Keras computes with.
        choices: values for fields of `hipqct.train.Recipe`.
        minutes: bound on this call, phantoms included; one epoch is always done once they are made.
        first_model_dir: start from this model's weights instead of from random ones, and with batch
            normalisation only if it has it. Of fewer filters, it is widened (`hipqct.network.widen_filters`).
        processes: for the phantoms; threads: of the CPU, see `hipqct.train.feeding_threads`.
        piece_mb: write the weights in pieces of at most so many MB.
        kernel_dtype: ``float16`` halves the weights file.
        fold_norm: train the first model without its batch normalisation, see `hipqct.network.fold_norms`:
            what is trained is then exactly what inference computes, whatever a batch's own statistics.
        dropout: share of features dropped before the last layer, if not the preset's.
        tell: called with (phantoms done, phantoms in all).

    Raises:
        ModelError: the minutes are over before the phantoms are made, none of them gave a crop, a first model
            is missing or has more filters, the backend does not take the precision, dropout
            is no share, clip_hu does not rise, the learning rate would, or the patch cannot be halved.
    """
    choices = choices or {}
    low_hu, high_hu = choices.get("clip_hu", (0, 1))
    if not low_hu < high_hu:
        raise ModelError(f"clip_hu must rise, got {low_hu:g} and {high_hu:g}")
    first_rate, last_rate = (choices.get(key) for key in ("learning_rate", "final_learning_rate"))
    if None not in (first_rate, last_rate) and last_rate > first_rate:
        raise ModelError(f"final_learning_rate, {last_rate:g}, must not exceed learning_rate, {first_rate:g}")
    check_precision(choices.get("precision", "float32"), backend)
    network, first_plan, first_weights = dict(PRESETS[preset]), None, None
    halved = 2 ** (len(network["filters"]) - 1)
    patch = choices.get("patch", ())
    if any(n % halved for n in patch):
        size = " x ".join(map(str, patch))
        raise ModelError(
            f"a patch's sides must be multiples of {halved}, which the network halves, got {size}"
        )
    if dropout is not None:
        if not 0 <= dropout < 1:
            raise ModelError(f"a share of {dropout} of the features cannot be dropped: choose 0 to below 1")
        network["dropout"] = dropout
    if first_model_dir:
        first_plan, first_weights = read_model(first_model_dir)
        if fold_norm:
            first_plan["network"], first_weights = fold_norms(first_plan["network"], first_weights)
        network["batch_norm"] = first_plan["network"]["batch_norm"]
        _, first_weights = widen_filters(
            first_plan["network"], first_weights, network["filters"], choices.get("seed", 0)
        )
        check_weights(first_weights, network)
    elif fold_norm:
        raise ModelError("batch normalisation is folded from a trained model only: add --first-model")
    end_s = time.monotonic() + 60 * minutes
    model_dir = Path(model_dir)
    folder = model_dir / CROPS_FOLDER
    seeds = {TRAINING: TRAIN_SEEDS[:phantoms], VALIDATION: VALIDATION_SEEDS[:validation]}
    build_crops([*seeds[TRAINING], *seeds[VALIDATION]], folder, processes, tell, end_s=end_s)
    set_backend(backend)  # after the processes that make phantoms have ended
    from hipqct.train import Crop, Recipe

    recipe = replace(Recipe(), network=network, **choices)
    dataset_path = model_dir / "phantoms.h5"
    hips = [(part, folder / f"{seed}_{side}.npz") for part in seeds for seed in seeds[part] for side in SIDES]
    hips = [(part, path) for part, path in hips if path.is_file()]
    plan = {"side": "left", "spacing_mm": recipe.spacing_mm, "data": SYNTHETIC}
    write_dataset((_read_hip(path, part) for part, path in hips), dataset_path, plan)
    with Dataset(dataset_path) as data:
        parts = {"training": TRAINING, "validation": VALIDATION}
        hips = {name: [hip for hip in data.hips() if hip.fold == fold] for name, fold in parts.items()}
        if not hips["training"]:
            raise ModelError("no phantom gave a crop to train on: ask for more (--phantoms)")
        crops = {name: [Crop(hip.name, hip.ct, hip.mask) for hip in part] for name, part in hips.items()}
        seeds = {f"{name}_seeds": sorted({int(hip.subject) for hip in part}) for name, part in hips.items()}
        facts = {
            "name": model_dir.name,
            "training": {"data": SYNTHETIC, **seeds, "dataset_sha256": data.sha256},
        }
        if first_plan:
            facts["training"] |= _inherit(first_plan, seeds)
            _tell_differences(first_plan, recipe)
        left_minutes = (end_s - time.monotonic()) / 60
        arguments = (None, left_minutes, first_weights, True, piece_mb, kernel_dtype, threads)
        train_model(crops, model_dir, recipe, facts, *arguments)


def _inherit(first_plan: dict, seeds: dict[str, list[int]]) -> dict:
    """What a model that goes on from another's weights must say of what they have seen."""
    before = first_plan["training"]
    seen = {name: sorted({*own, *before.get(name, ())}) for name, own in seeds.items()}
    known = {"crops_sha256": before["crops_sha256"]} if "crops_sha256" in before else {}
    data = SYNTHETIC if before.get("data") == SYNTHETIC else ""
    return seen | known | {"data": data, "first_model_sha256": first_plan["weights_sha256"]}


def _tell_differences(first_plan: dict, recipe) -> None:
    """Warn where the first model was made for other input than it is trained on now."""
    now = recipe.plan()
    for key in ("side", "pixel_mm", "slice_mm", "normalisation"):
        if first_plan[key] != now[key]:
            log.warning("The first model's %s was %s, now it is %s", key, first_plan[key], now[key])


def _read_hip(path: Path, part: int) -> Hip:
    seed, side = path.stem.split("_")
    with np.load(path) as arrays:
        return Hip(seed, side, arrays["ct"], arrays["mask"], fold=part)


def draw_changes(rng: np.random.Generator) -> dict:
    """What a training phantom has unlike one of a cohort, as overrides for `sample_parameters`."""
    changes = {"slice_mm": float(rng.choice(OTHER_SLICES_MM))} if rng.random() < 0.5 else {}
    if rng.random() < LONG_SHARE:
        changes["bottom_mm"] = float(rng.uniform(*LONG_SHAFT_MM))
    if rng.random() < NARROW_SHARE:
        changes |= {
            "joint_space_mm": float(rng.uniform(*NARROW_JOINT_MM)),
            "socket_shift_mm": (0.0, 0.0, 0.0),
        }
    if rng.random() < PLAIN_SHARE:
        inside_mg_cm3 = float(rng.uniform(120, 320))
        changes |= {
            "shell_mm": float(rng.uniform(*PLAIN_CORTEX_MM)),
            "cortex_mm": float(rng.uniform(*PLAIN_CORTEX_MM)),
            "roof_mm": float(rng.uniform(*PLAIN_CORTEX_MM)),
            "head_mg_cm3": inside_mg_cm3,
            "neck_mg_cm3": inside_mg_cm3 * float(rng.uniform(0.5, 1)),
            "trochanter_mg_cm3": inside_mg_cm3 * float(rng.uniform(0.5, 1)),
            "trabecular_mg_cm3": inside_mg_cm3,
            "compressive_mg_cm3": float(rng.uniform(0, 60)),
            "texture_mg_cm3": float(rng.uniform(0, 20)),
        }
    if rng.random() < OPEN_SHARE and "joint_space_mm" not in changes:
        changes |= {
            "joint_space_mm": float(rng.uniform(*OPEN_JOINT_MM)),
            "fossa_mm": float(rng.uniform(*OPEN_FOSSA_MM)),
            "rim_mm": float(rng.uniform(*OPEN_RIM_MM)),
            "head_shell": float(rng.uniform(*OPEN_HEAD_SHELL)),
        }
    return changes


def no_changes(rng: np.random.Generator) -> dict:
    """For phantoms as a cohort has them; see `draw_changes`."""
    return {}


def build_crops(
    seeds,
    folder,
    processes: int,
    tell: Callable[[int, int], None],
    changes: Callable[[np.random.Generator], dict] = draw_changes,
    end_s: float = math.inf,
) -> None:
    """Make left and mirrored right crops with their masks from phantoms; crops that are there stay.

    Slices are 2 mm apart as in the paper, or (half of the phantoms) another spacing in use; some scans reach
    far down the shaft, as hospital scans of the pelvis do, some joints are narrow and some bones plain.

    Args:
        seeds: numbers from the ranges in `hipqct.phantom.parameters`.
        folder: gets ``{seed}_{side}.npz`` with ct (HU, int16) and mask, and ``{seed}.done``.
        changes: draws what is unlike a cohort's phantom, `draw_changes` or `no_changes`.
        end_s: when to stop, on the monotonic clock; phantoms begun by then are finished.

    Raises:
        ModelError: time is up; the same call goes on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [seed for seed in seeds if not (folder / f"{seed}.done").is_file()]
    tell(len(seeds) - len(todo), len(seeds))
    if not todo:
        return
    there = len(seeds) - len(todo)

    def on_done(more: int) -> None:
        tell(there + more, len(seeds))
        if time.monotonic() > end_s and more < len(todo):
            raise ModelError(
                f"time is up with {there + more} of {len(seeds)} phantoms made and nothing trained: the same "
                "command goes on"
            )

    run_in_processes(processes, _build_crops_of, [(seed, folder, changes) for seed in todo], on_done)


def _build_crops_of(seed: int, folder: Path, draw: Callable) -> None:
    changes = draw(np.random.default_rng(seed))
    parameters = sample_parameters(seed, **changes)
    resampled, _ = resample_slices(generate_phantom(parameters).ct)
    for side in SIDES:
        try:
            roi = crop_roi(resampled, locate_hip(resampled, side))
        except AnatomyError as error:  # a hip that the field of view cuts off
            log.warning("Phantom %d: %s", seed, error)
            continue
        mask = femur_mask(parameters, side, roi).array
        turn = turn_to("left", side)
        with replace_when_done(folder / f"{seed}_{side}.npz") as temporary:
            np.savez_compressed(temporary, ct=roi.array[turn].astype(np.int16), mask=mask[turn])
    (folder / f"{seed}.done").touch()
    log.info("Phantom %d: crops of %d slices, changes %s", seed, resampled.shape[2], changes)
