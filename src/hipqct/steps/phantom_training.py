"""Train on digital hip phantoms made on the spot: no scans, no network needed."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from hipqct.phantom.generate import femur_distance_mm, femur_mask, generate_phantom
from hipqct.phantom.parameters import sample_parameters
from hipqct.phantom.seeds import TRAIN_SEEDS, VALIDATION_SEEDS
from hipqct.recipe import Recipe
from hipqct.resample import resample_slices
from hipqct.solid import surface_distance_um
from hipqct.steps.training import TrainingOptions, check_backend, set_backend, train_model
from hipqct.steps.workers import run_in_processes

log = logging.getLogger(__name__)

SIDES = ("left", "right")
TRAINING, VALIDATION = 1, 0  # folds
PARTS = {"training": TRAINING, "validation": VALIDATION}
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


@dataclass(frozen=True)
class PhantomTraining:
    """What is to be trained on phantoms, and how.

    Args:
        phantoms, validation: how many of each.
        preset: ``compact``, ``medium`` or ``paper``, the network; backend: what Keras computes with.
        choices: values for fields of `hipqct.recipe.Recipe`.
        dropout: share of features dropped before the last layer, if not the preset's.
        first_model_dir: start from this model's weights instead of from random ones, and with batch
            normalisation only if it has it. Of fewer filters, it is widened (`hipqct.network.widen_filters`).
        fold_norm: train the first model without its batch normalisation, see `hipqct.network.fold_norms`:
            what is trained is then exactly what inference computes, whatever a batch's own statistics.
        minutes: bound on one call, phantoms included; one epoch is always done once they are made.
        processes: for the phantoms; threads: of the CPU, see `hipqct.train.feeding_threads`.
        piece_mb: write the weights in pieces of at most so many MB.
        kernel_dtype: ``float16`` halves the weights file.
    """

    phantoms: int
    validation: int
    preset: str = "compact"
    backend: str = "tensorflow"
    choices: dict = field(default_factory=dict)
    dropout: float | None = None
    first_model_dir: Path | None = None
    fold_norm: bool = False
    minutes: float = math.inf
    processes: int = 1
    threads: int = 1
    piece_mb: float | None = None
    kernel_dtype: str = "float32"


def train_on_phantoms(
    model_dir, wanted: PhantomTraining, tell: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Make phantoms of the training and validation seeds, then train, or go on with, a model on them.

    The same call goes on where it was stopped. The last weights are kept: on phantoms without end,
    training and validation come from the same source.

    Args:
        model_dir: gets ``phantoms-*/`` (crops), phantoms.h5, checkpoint.h5, and the model.
        tell: called with (phantoms done, phantoms in all).

    Raises:
        ModelError: the minutes are over before the phantoms are made, none of them gave a crop, a first model
            is missing or has more filters, the backend is not installed or does not take the precision, or
            the recipe breaks a rule of `hipqct.recipe.recipe_faults`.
    """
    network, first_plan, first_weights = _choose_start(wanted)
    recipe = Recipe(network=network, **wanted.choices)
    check_precision(recipe.precision, wanted.backend)
    check_backend(wanted.backend)
    end_s = time.monotonic() + 60 * wanted.minutes
    model_dir = Path(model_dir)
    folder, dataset_path = model_dir / CROPS_FOLDER, model_dir / "phantoms.h5"
    seeds = {TRAINING: TRAIN_SEEDS[: wanted.phantoms], VALIDATION: VALIDATION_SEEDS[: wanted.validation]}
    build_crops([*seeds[TRAINING], *seeds[VALIDATION]], folder, wanted.processes, tell, end_s=end_s)
    set_backend(wanted.backend)  # after the processes that make phantoms have ended
    _write_crops(seeds, folder, dataset_path, recipe)
    with Dataset(dataset_path) as data:
        crops, training = _read_crops(data)
        if first_plan:
            training |= _inherit(first_plan, training)
            _tell_differences(first_plan, recipe)
        options = TrainingOptions(
            first_weights=first_weights,
            minutes=(end_s - time.monotonic()) / 60,
            threads=wanted.threads,
            verbose=True,
            piece_mb=wanted.piece_mb,
            kernel_dtype=wanted.kernel_dtype,
        )
        train_model(crops, model_dir, recipe, {"name": model_dir.name, "training": training}, options)


def _choose_start(wanted: PhantomTraining) -> tuple[dict, dict | None, dict | None]:
    """The network to train, and the plan and weights of a first model, folded and widened as wanted."""
    network = dict(PRESETS[wanted.preset])
    if wanted.dropout is not None:
        network["dropout"] = wanted.dropout
    if not wanted.first_model_dir:
        if wanted.fold_norm:
            raise ModelError("batch normalisation is folded from a trained model only: add --first-model")
        return network, None, None
    plan, weights = read_model(wanted.first_model_dir)
    if wanted.fold_norm:
        plan["network"], weights = fold_norms(plan["network"], weights)
    network["batch_norm"] = plan["network"]["batch_norm"]
    seed = wanted.choices.get("seed", 0)
    _, weights = widen_filters(plan["network"], weights, network["filters"], seed)
    check_weights(weights, network)
    return network, plan, weights


def _write_crops(seeds: dict[int, Sequence[int]], folder: Path, dataset_path: Path, recipe: Recipe) -> None:
    """Gather the crops of these seeds, by fold, in one file; a hip that gave none is left out."""
    hips = [(fold, folder / f"{seed}_{side}.npz") for fold in seeds for seed in seeds[fold] for side in SIDES]
    plan = {"side": "left", "spacing_mm": recipe.spacing_mm, "data": SYNTHETIC}
    write_dataset((_read_hip(path, fold) for fold, path in hips if path.is_file()), dataset_path, plan)


def _read_crops(data: Dataset) -> tuple[dict[str, list], dict]:
    """Crops to train on and to validate with, by these names, and what plan.json says of them."""
    from hipqct.train import Crop

    hips = {name: [hip for hip in data.hips() if hip.fold == fold] for name, fold in PARTS.items()}
    if not hips["training"]:
        raise ModelError("no phantom gave a crop to train on: ask for more (--phantoms)")
    crops = {
        name: [Crop(hip.name, hip.ct, hip.mask, hip.distance_um) for hip in part]
        for name, part in hips.items()
    }
    seeds = {f"{name}_seeds": sorted({int(hip.subject) for hip in part}) for name, part in hips.items()}
    return crops, {"data": SYNTHETIC, **seeds, "dataset_sha256": data.sha256}


def _inherit(first_plan: dict, training: dict) -> dict:
    """What a model that goes on from another's weights must say of what they have seen."""
    before = first_plan["training"]
    seen = {
        name: sorted({*training[name], *before.get(name, ())}) for name in (f"{part}_seeds" for part in PARTS)
    }
    known = {"crops_sha256": before["crops_sha256"]} if "crops_sha256" in before else {}
    data = SYNTHETIC if before.get("data") == SYNTHETIC else ""
    return seen | known | {"data": data, "first_model_sha256": first_plan["weights_sha256"]}


def _tell_differences(first_plan: dict, recipe: Recipe) -> None:
    """Warn where the first model was made for other input than it is trained on now."""
    now = recipe.plan()
    for key in ("side", "pixel_mm", "slice_mm", "normalisation"):
        if first_plan[key] != now[key]:
            log.warning("The first model's %s was %s, now it is %s", key, first_plan[key], now[key])


def _read_hip(path: Path, fold: int) -> Hip:
    seed, side = path.stem.split("_")
    with np.load(path) as arrays:
        return Hip(seed, side, arrays["ct"], arrays["mask"], fold=fold, distance_um=arrays["distance_um"])


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
        folder: gets ``{seed}_{side}.npz`` with ct (HU, int16), mask and distance_um (see
            `hipqct.solid.surface_distance_um`), and ``{seed}.done``.
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
        arrays = {
            "ct": roi.array.astype(np.int16),
            "mask": mask,
            "distance_um": surface_distance_um(
                mask, roi.spacing_mm, femur_distance_mm(parameters, side, roi)
            ),
        }
        turn = turn_to("left", side)
        with replace_when_done(folder / f"{seed}_{side}.npz") as temporary:
            np.savez_compressed(temporary, **{name: array[turn] for name, array in arrays.items()})
    (folder / f"{seed}.done").touch()
    log.info("Phantom %d: crops of %d slices, changes %s", seed, resampled.shape[2], changes)
