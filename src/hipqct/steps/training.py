"""Train a model from a folder of crops, as a step and as a command (``python -m hipqct.steps.training``)."""

import argparse
import logging
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from hipqct.crop import crop_roi, locate_hip
from hipqct.errors import AnatomyError, ModelError
from hipqct.io.files import replace_when_done
from hipqct.io.models import read_checkpoint, read_model, write_checkpoint, write_model
from hipqct.phantom.generate import generate_phantom
from hipqct.phantom.parameters import sample_parameters
from hipqct.resample import resample_mask_slices, resample_slices

log = logging.getLogger(__name__)

PRESETS = ("compact", "paper")
SIDES = ("left", "right")
OTHER_SLICES_MM = (1.0, 1.5, 2.5, 3.0, 3.0, 5.0)
LONG_SHAFT_MM = (140.0, 240.0)  # how far below the femoral head a long scan ends

# What makes a hip hard: shares of the phantoms, and ranges wider than a cohort's.
LONG_SHARE, NARROW_SHARE, PLAIN_SHARE = 1 / 3, 0.3, 0.2
NARROW_JOINT_MM = (0.3, 2.2)
PLAIN_CORTEX_MM = (0.3, 0.9)  # bones with thin shells, equally bright inside and out, as soft kernels show


def build_phantom_crops(seeds, folder) -> None:
    """Make left and mirrored right crops with their masks from phantoms; crops that are there stay.

    Slices are 2 mm apart as in the paper, or (half of the phantoms) another spacing in use; some scans reach
    far down the shaft, as hospital scans of the pelvis do, some joints are narrow and some bones plain.

    Args:
        seeds: numbers from one of the ranges in `hipqct.phantom.parameters`.
        folder: gets ``{seed}_{side}.npz`` for `read_crops`.
    """
    for seed in seeds:
        if not all((Path(folder) / f"{seed}_{side}.npz").is_file() for side in SIDES):
            _build_phantom_crops_of(int(seed), Path(folder))


def _build_phantom_crops_of(seed: int, folder: Path) -> None:
    changes = draw_changes(np.random.default_rng(seed))
    phantom = generate_phantom(sample_parameters(seed, **changes))
    resampled, _ = resample_slices(phantom.ct)
    for side, femur in zip(SIDES, (phantom.left_femur, phantom.right_femur), strict=True):
        try:
            roi = crop_roi(resampled, locate_hip(resampled, side))
        except AnatomyError as error:  # a hip that the field of view cuts off
            log.warning("Phantom %d: %s", seed, error)
            continue
        mask = resample_mask_slices(femur, roi).array
        mirror = slice(None, None, 1 if side == "left" else -1)
        with replace_when_done(folder / f"{seed}_{side}.npz") as temporary:
            np.savez_compressed(temporary, ct=roi.array[mirror].astype(np.int16), mask=mask[mirror])
    log.info("Phantom %d: crops of %d slices, changes %s", seed, resampled.shape[2], changes)


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
    return changes


def read_crops(folder) -> list:
    """Every ``*.npz`` of a folder as a `hipqct.train.Crop`: ``ct`` (HU, int16) and ``mask``, left hips.

    Raises:
        ModelError: the folder holds none.
    """
    from hipqct.train import Crop

    crops = []
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as arrays:
            crops.append(Crop(path.stem, arrays["ct"].astype(np.int16), arrays["mask"].astype(bool)))
    if not crops:
        raise ModelError(f"{folder} holds no crops (*.npz with ct and mask): build the training set first.")
    return crops


def train_model(
    crops_dir, validation_dir, model_dir, recipe, minutes: float = math.inf, first_model_dir=None
) -> None:
    """Train, or go on with, a model: writes checkpoint.h5, history.tsv, weights.h5 and plan.json.

    A restart with the same arguments goes on from checkpoint.h5 and changes no result. ``minutes`` bounds
    this call; the learning rate follows the recipe's steps, not the clock.

    Args:
        crops_dir, validation_dir: folders for `read_crops`.
        recipe: `hipqct.train.Recipe`.
        first_model_dir: start from this model's weights instead of from random ones.
    """
    from hipqct.train import get_state, set_state, start_model, train_vnet
    from hipqct.vnet import get_weights

    crops, validation = read_crops(crops_dir), read_crops(validation_dir)
    model_dir = Path(model_dir)
    checkpoint, history = model_dir / "checkpoint.h5", model_dir / "history.tsv"
    weights = read_model(first_model_dir)[1] if first_model_dir else None
    model, first_step = start_model(recipe, weights), 0
    if checkpoint.is_file():
        state, first_step = read_checkpoint(checkpoint)
        set_state(model, state)
        log.info("Going on after step %d of %d", first_step, recipe.steps)
    plan = {
        "name": model_dir.name,
        "network": recipe.network,
        "side": "left",
        "pixel_mm": recipe.spacing_mm[0],
        "slice_mm": recipe.spacing_mm[2],
        **recipe.plan(),
        "training": asdict(recipe) | {"crops": len(crops)},
    }

    def on_epoch(step, row):
        write_checkpoint(get_state(model), step, checkpoint)
        write_model(model_dir, plan, get_weights(model))
        _append_row(row, history)

    train_vnet(model, crops, validation, recipe, on_epoch, first_step, minutes)


def _append_row(row: dict, path: Path) -> None:
    """Add a line to a table; rows of a run that was cut off after them are replaced."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ["\t".join(row)]
    kept = [lines[0], *(line for line in lines[1:] if int(line.split("\t")[0]) < row["step"])]
    with replace_when_done(path) as temporary:
        temporary.write_text("\n".join([*kept, "\t".join(str(value) for value in row.values())]) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Train a V-Net on a folder of crops; the same command goes on where it was stopped."""
    parser = argparse.ArgumentParser(prog="hipqct.steps.training", description=main.__doc__)
    parser.add_argument("crops")
    parser.add_argument("validation")
    parser.add_argument("model")
    parser.add_argument("--first-model", help="start from this model's weights")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preset", choices=PRESETS, default="compact")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--steps-per-epoch", type=int, default=50)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 32))
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--final-learning-rate", type=float, default=1e-5)
    parser.add_argument("--clip-hu", type=float, nargs=2, default=(-200, 1500))
    parser.add_argument("--frozen-norm", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.environ.setdefault("OMP_NUM_THREADS", str(options.pop("threads")))
    from hipqct.network import COMPACT, PAPER
    from hipqct.train import Recipe

    places = [options.pop(name) for name in ("crops", "validation", "model")]
    minutes, first_model = options.pop("minutes"), options.pop("first_model")
    network = {"compact": COMPACT, "paper": PAPER}[options.pop("preset")]
    recipe = replace(Recipe(), network=dict(network), **options)
    train_model(*places, recipe, minutes, first_model)


if __name__ == "__main__":
    main()
