"""What a training step costs, against the same network written in plain torch with MONAI's loss.

    python benchmarks/bench_training.py [--steps 12] [--patch 112 112 32]

Compact network, two patches per step, Adam, soft Dice plus L2, on synthetic phantoms. Each way runs alone in
a process of its own: ours as ``hipqct train`` runs it, reading, drawing and augmenting patches meanwhile;
the other on patches that were drawn before, the best case for it. Ours is run in mixed_bfloat16 too. The ways
take turns, three times, and each way's median counts. The first steps, which warm up, do not count. The last
losses must agree: a step that does not train is no step. A trained network's gradients are full of subnormal
numbers, so the paper's network, widened from the shipped one, is timed too, with them and without (as it is
trained). Needs torch and monai.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from committed import describe_machine, missing_peers, write_results

RESULTS = Path(__file__).parent / "results" / "training.json"
WARM_UP, BATCH, ALPHA, LEARNING_RATE = 2, 2, 1e-6, 1e-4
PHANTOMS, DATASET = 2, "phantoms.h5"
REPEATS = 3
# Last losses, on the same patches but from other random weights: 0.05 to 0.07 apart after six steps.
LOSS_TOLERANCE = 0.15
TRAINED = Path(__file__).parents[1] / "resources/models/medium"


def load_crops(folder: Path):
    """As trainings have them: windows of an HDF5 file, which stays open."""
    from hipqct.io.dataset import Dataset
    from hipqct.train import Crop

    return [Crop(hip.name, hip.ct, hip.mask, hip.distance_um) for hip in Dataset(folder / DATASET).hips()]


def make_recipe(patch: list[int], steps: int, **chosen):
    from hipqct.recipe import Recipe

    chosen |= {"alpha": ALPHA, "learning_rate": LEARNING_RATE}
    return Recipe(patch=tuple(patch), batch=BATCH, steps=steps, **chosen)


def run_ours(folder: Path, patch: list[int], steps: int, weights: dict | None = None, **chosen) -> dict:
    """Seconds per step, the share of them spent waiting for patches, and the last loss."""
    from hipqct.train import BatchFeed, start_model

    recipe = make_recipe(patch, steps, **chosen)
    model = start_model(recipe, weights)
    with BatchFeed(load_crops(folder), recipe, 0) as feed:
        for step in range(steps):
            if step == WARM_UP:
                started, feed.waited_s = time.perf_counter(), 0.0
            loss = float(model.train_on_batch(*feed.next())[0])
        took_s = time.perf_counter() - started
    return {"step_s": took_s / (steps - WARM_UP), "waiting_share": feed.waited_s / took_s, "loss": loss}


def run_torch(folder: Path, patch: list[int], steps: int) -> dict:
    """The same with torch's own layers and MONAI's Dice loss."""
    import torch
    from monai.losses import DiceLoss
    from torch_vnet import TorchVNet

    from hipqct.train import draw_batch

    recipe, crops = make_recipe(patch, steps), load_crops(folder)
    batches = [draw_batch(crops, recipe, step) for step in range(steps)]
    torch.manual_seed(recipe.seed)
    network = TorchVNet(recipe.network)
    dice = DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for step, (inputs, truths) in enumerate(batches):
        if step == WARM_UP:
            started = time.perf_counter()
        x, y = (torch.from_numpy(a).permute(0, 4, 1, 2, 3).contiguous() for a in (inputs, truths))
        optimizer.zero_grad()
        kernels = [p for p in network.parameters() if p.ndim == 5]
        loss = dice(network(x), y) + ALPHA * sum((k**2).sum() for k in kernels)
        loss.backward()
        optimizer.step()
        value = float(loss)
    return {"step_s": (time.perf_counter() - started) / (steps - WARM_UP), "loss": value}


def run_trained(folder: Path, patch: list[int], steps: int, subnormals: bool) -> dict:
    """Ours from trained weights: the paper's network, widened from the shipped one."""
    from hipqct.io.models import read_model
    from hipqct.network import PAPER, widen_filters

    if subnormals:
        import torch

        torch.set_flush_denormal = lambda mode: False
    plan, weights = read_model(TRAINED)
    network, weights = widen_filters(plan["network"], weights, PAPER["filters"], 0)
    return run_ours(folder, patch, steps, weights, network=network)


WAYS = {
    "ours": run_ours,
    "bfloat16": partial(run_ours, precision="mixed_bfloat16"),
    "torch": run_torch,
    "trained": partial(run_trained, subnormals=False),
    "trained, subnormals": partial(run_trained, subnormals=True),
}
NEW = ("ours", "bfloat16", "torch")  # ways that begin with random weights


def run_in_turn(folder: Path, options) -> dict[str, dict]:
    """The median of each figure of each way, over runs that take turns."""
    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": str(options.threads)}
    runs = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, found in runs.items():
            arguments = [way, str(folder), str(options.steps), *map(str, options.patch)]
            command = [sys.executable, __file__, "--worker", *arguments]
            run = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(run.stdout.splitlines()[-1]))
            print(way, found[-1], flush=True)
    return {
        way: {name: median(run[name] for run in found) for name in found[0]} for way, found in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--patch", type=int, nargs=3, default=[112, 112, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    options = parser.parse_args()
    if missing_peers():
        sys.exit(f"{missing_peers()}; {RESULTS} stays as it is")
    from hipqct.io.dataset import Hip, write_dataset
    from hipqct.phantom.seeds import TRAIN_SEEDS
    from hipqct.steps.phantom_training import build_crops

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_crops(TRAIN_SEEDS[:PHANTOMS], folder, 1, lambda done, total: None)
        hips = (Hip(path.stem, "left", **np.load(path)) for path in sorted(folder.glob("*.npz")))
        plan = {"side": "left", "spacing_mm": (0.8, 0.8, 3.0), "data": "synthetic"}
        write_dataset(hips, folder / DATASET, plan)
        measured = run_in_turn(folder, options)
    losses = {way: measured[way]["loss"] for way in NEW}
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
        sys.exit(f"the ways do not train alike, their last losses are {losses}: nothing is written")
    result = {
        "step_s": measured["ours"]["step_s"],
        "waiting_share": measured["ours"]["waiting_share"],
        "step_s_torch_monai": measured["torch"]["step_s"],
        "step_ratio_to_torch_monai": measured["ours"]["step_s"] / measured["torch"]["step_s"],
        "step_s_bfloat16": measured["bfloat16"]["step_s"],
        "step_ratio_of_bfloat16_to_float32": measured["bfloat16"]["step_s"] / measured["ours"]["step_s"],
        "step_s_trained_paper": measured["trained"]["step_s"],
        "step_ratio_of_subnormals_to_none": measured["trained, subnormals"]["step_s"]
        / measured["trained"]["step_s"],
        "loss": losses["ours"],
        "loss_torch_monai": losses["torch"],
        "loss_bfloat16": losses["bfloat16"],
        "runs": REPEATS,
        "steps": options.steps,
        "batch": BATCH,
        "patch": options.patch,
        "data": "synthetic",
        "machine": describe_machine(options.threads),
    }
    write_results(result, options.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        way, folder, steps, *patch = sys.argv[2:]
        print(json.dumps(WAYS[way](Path(folder), [int(n) for n in patch], int(steps))))
    else:
        main()
