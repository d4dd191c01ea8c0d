"""What each augmentation is worth on unseen data: the same short training with and without it.

    python benchmarks/compare_augmentations.py [--real STUDY/results/training/dataset.h5]

Every variant goes on from the same model, over the same steps and synthetic training phantoms; then the left
hips of validation phantoms and, with ``--real``, the labelled hips of a study's training set are segmented.
Differences below those between seeds (some variants are run with three) tell nothing. Needs torch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from committed import describe_machine

from hipqct.io.files import write_json

PROJECT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "augmentation.json"
# Probabilities of the shipped model's last stages; ranges are `hipqct.augment.Ranges`'.
ALL = {
    "rotation": 0.25,
    "scale": 0.25,
    "bone": 0.4,
    "bone_field": 0.4,
    "contrast": 0.2,
    "brightness": 0.3,
    "gamma": 0.2,
    "blur": 0.2,
    "noise": 0.4,
    "noise_grain": 0.6,
    "truncation": 0.1,
}
WITHOUT = {
    "shape": ("rotation", "scale"),
    "density": ("bone", "bone_field"),
    "grey_scale": ("contrast", "brightness", "gamma"),
    "blur": ("blur",),
    "noise": ("noise", "noise_grain"),
}
WITH = {"elastic": {"elastic": 0.3}, "low_dose": {"low_dose": 0.3}}
SEEDS = (1, 2, 3)
REPEATED = {"all": ALL, **{f"with {name}": ALL | more for name, more in WITH.items()}}
ONCE = {
    "none": {},
    **{f"without {name}": {k: p for k, p in ALL.items() if k not in left} for name, left in WITHOUT.items()},
}
VARIANTS = {f"{name}, seed {seed}": (chosen, seed) for seed in SEEDS for name, chosen in REPEATED.items()}
VARIANTS |= {f"{name}, seed {SEEDS[0]}": (chosen, SEEDS[0]) for name, chosen in ONCE.items()}
FIRST_SEED, STEP = 700, 5  # of the training phantoms; slices between windows


def load_crops(folder: Path, seeds, sides=("left", "right")):
    from hipqct.train import Crop

    paths = [folder / f"{seed}_{side}.npz" for seed in seeds for side in sides]
    return [Crop(path.stem, **np.load(path)) for path in paths if path.is_file()]


def train_variant(name: str, folder: Path, options) -> tuple[dict, dict]:
    """The plan and weights after the steps of one variant."""
    from hipqct.augment import Ranges
    from hipqct.io.models import read_model
    from hipqct.phantom.seeds import TRAIN_SEEDS
    from hipqct.recipe import Recipe
    from hipqct.train import start_model, train_vnet
    from hipqct.vnet import get_weights

    plan, weights = read_model(options.model)
    probabilities, seed = VARIANTS[name]
    default = vars(Ranges())
    ranges = Ranges(**{k: (probabilities.get(k, 0.0), drawn[1]) for k, drawn in default.items()})
    recipe = replace(
        Recipe(ranges=ranges, network=plan["network"], patch=(112, 112, 32), seed=seed),
        learning_rate=options.learning_rate,
        final_learning_rate=options.learning_rate / 20,
        steps=options.steps,
        steps_per_epoch=options.steps,
    )
    crops = load_crops(folder, TRAIN_SEEDS[FIRST_SEED : FIRST_SEED + options.phantoms])
    model = start_model(recipe, weights)
    train_vnet(model, crops, {}, recipe, lambda step, row: None)
    return plan, get_weights(model)


def score_model(plan: dict, weights: dict, folder: Path, options) -> dict:
    """Dice of held-out phantoms (mean) and of every real hip, masks as the workflow makes them."""
    from hipqct.engine import openvino_engine
    from hipqct.errors import AnatomyError
    from hipqct.io.dataset import Dataset
    from hipqct.metrics import dice
    from hipqct.phantom.seeds import VALIDATION_SEEDS
    from hipqct.predict import WindowScheme
    from hipqct.segment import segment_crop

    networks = [(openvino_engine(plan["network"], weights, options.threads), plan)]

    def judge(ct, truth) -> float:
        try:
            mask = segment_crop(networks, ct, (0.8, 0.8, 3.0), WindowScheme(STEP)).mask.array
        except AnatomyError:
            return 0.0
        return dice(truth > 0, mask)

    held_out = load_crops(folder, VALIDATION_SEEDS[: options.held_out], ("left",))
    scores = {"synthetic": float(np.mean([judge(crop.ct, crop.mask) for crop in held_out]))}
    if options.real:
        with Dataset(options.real) as data:
            scores |= {f"{hip.subject} {hip.side}": judge(hip.ct[()], hip.mask[()]) for hip in data.hips()}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--phantoms", type=int, default=40, help="to train on, two hips each")
    parser.add_argument("--held-out", type=int, default=8, help="validation phantoms to score")
    parser.add_argument("--crops", type=Path, help="keep the crops here, for the next run")
    parser.add_argument("--real", type=Path, help="dataset.h5 of labelled scans (rule build_dataset)")
    parser.add_argument("--model", type=Path, default=PROJECT / "resources/models/compact")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, help="one variant, in this process")
    options = parser.parse_args()
    if find_spec("torch") is None:
        print(f"torch is not installed (pip install torch): {RESULTS} stays as it is")
        return
    if options.variant:
        trained = train_variant(options.variant, options.crops, options)
        print(json.dumps(score_model(*trained, options.crops, options)))
        return
    from hipqct.phantom.seeds import TRAIN_SEEDS, VALIDATION_SEEDS
    from hipqct.steps.phantom_training import CROPS_FOLDER, build_crops, no_changes

    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": str(options.threads)}
    measured = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.crops or Path(temporary)) / CROPS_FOLDER
        seeds = TRAIN_SEEDS[FIRST_SEED : FIRST_SEED + options.phantoms]
        build_crops(seeds, folder, 1, lambda done, total: None)
        build_crops(VALIDATION_SEEDS[: options.held_out], folder, 1, lambda done, total: None, no_changes)
        for name in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", name, "--crops", str(folder)]
            run = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            measured[name] = json.loads(run.stdout.splitlines()[-1])
            print(name, measured[name], flush=True)
            _write(measured, options)
    print(f"written to {RESULTS}")


def _write(measured: dict, options) -> None:
    result = {
        "dice": measured,
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "training_phantoms": options.phantoms,
        "held_out_phantoms": options.held_out,
        "machine": describe_machine(options.threads),
    }
    write_json(result, RESULTS)


if __name__ == "__main__":
    main()
