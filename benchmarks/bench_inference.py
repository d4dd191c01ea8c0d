"""What inference costs on the CPU, and what cheaper schemes change: ratios of one run on one machine.

    python benchmarks/bench_inference.py [--phantoms 37] [--crops FOLDER] [--study WORK]
    python benchmarks/bench_inference.py --times    times and memory only, into the results that are there

Phantoms are synthetic, of the test seeds; ``--study`` is the work folder of ``real_scans.py``, whose hips and
references are added. Each way of predicting is timed in a process of its own, alone, with the same network,
weights and threads. The naive way is a loop of Keras' ``model.predict`` on TensorFlow over the windows of
step 1. MONAI's sliding window runs a plain torch network with the same weights; without monai and torch it is
left out. Schemes are compared on all cases in one process: a window that several share is computed once, and
its seconds count for each.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hipqct.io.files import read_json, write_json

PROJECT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "inference.json"
EXACT = "1,uniform,as-is"  # the paper's scheme: step, blend, ends
SCHEMES = (
    *(f"{step},uniform,as-is" for step in ("adaptive", 2, 3, 4, 5, 7, 8, 9, 16, 32, "whole")),
    *(f"{step},gaussian,as-is" for step in (4, 8)),
    *(f"{step},uniform,reflect" for step in (4, 8)),
)
REPEATS = 3  # the quickest counts: other work on the machine only ever slows
TIMED_SLICES, LONG_SLICES = 60, 95  # a usual subject, and the longest of the paper's cohort
CONFIG = PROJECT / "config/config.yaml"


# ---- the ways of predicting: each returns a function from a crop (HU) to its probability --------------


def load_ours(plan, weights, threads):
    from hipqct.engine import openvino_engine
    from hipqct.predict import predict_probability

    engine = openvino_engine(plan["network"], weights, threads)

    def predict(ct, scheme):
        step, *blend_and_ends = scheme.split(",")
        return predict_probability(engine, ct, plan, int(step) if step.isdigit() else step, *blend_and_ends)

    return predict


def load_predict_loop(plan, weights, threads):
    """Keras as its guide shows it: one ``model.predict`` for each window, probabilities averaged."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    from hipqct.predict import normalise, window_starts
    from hipqct.vnet import build_vnet, set_weights

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    model = build_vnet(plan["network"])
    set_weights(model, weights, plan["network"])
    depth = plan["window"][2]

    def predict(ct, scheme):
        step = int(scheme.split(",")[0])
        x = normalise(ct, plan["normalisation"])
        total, votes = np.zeros(x.shape, np.float32), np.zeros(x.shape[2], np.float32)
        for z in window_starts(x.shape[2], depth, step):
            window = x[None, :, :, z : z + depth, None]
            total[:, :, z : z + depth] += model.predict(window, verbose=0)[0, ..., 0]
            votes[z : z + depth] += 1
        return total / votes

    return predict


def load_monai(plan, weights, threads):
    """MONAI's sliding window over the network in torch, uniform weights, one window at a time."""
    import torch
    from monai.inferers import sliding_window_inference

    from hipqct.predict import normalise

    torch.set_num_threads(threads)
    network = _torch_vnet(plan["network"], weights)
    depth = plan["window"][2]

    def predict(ct, scheme):
        step = int(scheme.split(",")[0])
        x = torch.from_numpy(normalise(ct, plan["normalisation"]))[None, None]
        with torch.inference_mode():
            y = sliding_window_inference(
                x, tuple(plan["window"]), 1, network, overlap=(0, 0, 1 - step / depth), mode="constant"
            )
        return y[0, 0].numpy()

    return predict


def _torch_vnet(network, weights):
    import torch
    from torch.nn import functional

    from hipqct.network import fold_norms

    network, weights = fold_norms(network, weights)
    tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    kernels = {n: t.permute(4, 3, 0, 1, 2).contiguous() for n, t in tensors.items() if n.endswith("/kernel")}

    def parameters(conv):
        return kernels[f"{conv}/kernel"], tensors[f"{conv}/bias"]

    def convolve(x, repeats, prefix):
        for i in range(repeats):
            x = torch.relu(functional.conv3d(x, *parameters(f"{prefix}_conv{i}"), padding=1))
        return x

    def forward(x):
        skips = []
        for level, repeats in enumerate(network["encoder_convolutions"]):
            x = convolve(functional.max_pool3d(x, 2) if level else x, repeats, f"down{level}")
            skips.append(x)
        levels = reversed(range(len(network["filters"]) - 1))
        for level, repeats in zip(levels, network["decoder_convolutions"], strict=True):
            size = skips[level].shape[2:]
            x = functional.conv_transpose3d(x, *parameters(f"up{level}_transpose"), stride=2)
            x = torch.relu(x[:, :, : size[0], : size[1], : size[2]])
            x = convolve(torch.cat([skips[level], x], 1), repeats, f"up{level}")
        return torch.sigmoid(functional.conv3d(x, *parameters("probability")))

    return forward


WAYS = {"ours": load_ours, "predict": load_predict_loop, "monai": load_monai}


# ---- one process: load, warm up, predict every crop --------------------------------------------------


def worker(way: str, scheme: str, model: str, threads: int, crops: list[str], out: str) -> None:
    started = time.perf_counter()
    from hipqct.io.models import read_model

    plan, weights = read_model(model)
    predict = WAYS[way](plan, weights, threads)
    first = np.load(crops[0])["ct"]
    predict(first[:, :, : plan["window"][2]], EXACT)
    cold_s = time.perf_counter() - started
    seconds = []
    for i, crop in enumerate(crops):
        ct = np.load(crop)["ct"]
        begin = time.perf_counter()
        probability = predict(ct, scheme)
        seconds.append(time.perf_counter() - begin)
        np.save(f"{out}.{i}.npy", probability)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    Path(out).write_text(json.dumps({"cold_s": cold_s, "seconds": seconds, "peak_rss_gb": peak_gb}))


def run_way(way: str, scheme: str, options, crops: list[Path], folder: Path) -> dict:
    """Run one way in its own process; the interpreter's start counts as cold start."""
    out = folder / f"{way}-{scheme}"
    arguments = [way, scheme, options.model, options.threads, out, *crops]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    command = [sys.executable, __file__, "--worker", *map(str, arguments)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    whole_s = time.perf_counter() - begin
    measured = json.loads(out.read_text()) | {"scheme": scheme}
    measured["cold_s"] += max(0.0, whole_s - measured["cold_s"] - sum(measured["seconds"]))
    measured["probability"] = [np.load(f"{out}.{i}.npy") for i in range(len(crops))]
    return measured


# ---- schemes, on phantoms and real hips --------------------------------------------------------------


def phantom_cases(count: int, folder: Path, threads: int) -> list[tuple]:
    """Kind, crop file and true mask of each phantom's left hip, as a cohort has them: 2-mm slices."""
    from hipqct.phantom.parameters import TEST_SEEDS
    from hipqct.steps.phantom_training import CROPS_FOLDER, build_crops, no_changes

    seeds, folder = TEST_SEEDS[:count], folder / CROPS_FOLDER
    build_crops(seeds, folder, threads, lambda done, total: None, no_changes)
    paths = [folder / f"{seed}_left.npz" for seed in seeds]
    return [("synthetic", path, np.load(path)["mask"]) for path in paths if path.is_file()]


def real_cases(study: Path, folder: Path) -> list[tuple]:
    """The same of a study's hips, right ones mirrored; the truth is the reference on the crop's grid."""
    import pandas as pd

    from hipqct.io.hdf5 import read_roi
    from hipqct.io.images import read_image
    from hipqct.resample import resample_mask_slices

    sheet = pd.read_csv(study / "config/samples.tsv", sep="\t", dtype=str).set_index("subject")
    cases = []
    for path in sorted((study / "results/subjects").glob("*/*/roi.h5")):
        roi, facts = read_roi(path)
        subject, side = path.parts[-3], facts["side"]
        reference = read_image(sheet.loc[subject, f"reference_{side}"])
        mirror = slice(None, None, 1 if side == "left" else -1)
        crop = folder / f"{subject}-{side}.npz"
        np.savez(crop, ct=np.ascontiguousarray(roi.array[mirror]))
        cases.append(("real", crop, resample_mask_slices(reference, roi).array[mirror] > 0))
    return cases


class Remembering:
    """An engine that computes a window once and counts its seconds whenever it is asked for again."""

    def __init__(self, engine):
        self.engine, self.known = engine, {}
        self.spent_s = self.counted_s = 0.0

    def predict_windows(self, windows):
        begin = time.perf_counter()
        key = hashlib.blake2b(np.ascontiguousarray(windows)).digest() + bytes(str(windows.shape), "ascii")
        if key not in self.known:
            started = time.perf_counter()
            found = self.engine.predict_windows(windows)
            self.known[key] = found, time.perf_counter() - started
        found, seconds = self.known[key]
        self.counted_s += seconds
        self.spent_s += time.perf_counter() - begin
        return found


def mask_of(probability: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """The workflow's own binarisation; an empty mask where it refuses the map."""
    from hipqct.bone import segment_probability
    from hipqct.errors import AnatomyError
    from hipqct.image import Image
    from hipqct.predict import clear_outside

    try:
        return segment_probability(Image(clear_outside(probability, ct), (0.8, 0.8, 3.0))).mask.array
    except AnatomyError:
        return np.zeros(probability.shape, bool)


def compare_schemes(model: str, threads: int, schemes: list[str], cases: list[tuple]):
    """Each scheme on each case: seconds, its mask's agreement with step 1's, Dice with the truth; a table."""
    from dataclasses import replace

    import pandas as pd

    from hipqct.engine import openvino_engine
    from hipqct.io.models import read_model
    from hipqct.metrics import dice
    from hipqct.predict import predict_probability

    plan, weights = read_model(model)
    engine = openvino_engine(plan["network"], weights, threads)
    rows = []
    for kind, crop, truth in cases:
        ct, exact = np.load(crop)["ct"], None
        remembering = Remembering(engine)
        for scheme in [EXACT, *schemes]:
            step, *blend_and_ends = scheme.split(",")
            remembering.spent_s = remembering.counted_s = 0.0
            begin = time.perf_counter()
            probability = predict_probability(
                replace(engine, predict_windows=remembering.predict_windows),
                ct, plan, int(step) if step.isdigit() else step, *blend_and_ends,
            )  # fmt: skip
            seconds = time.perf_counter() - begin - remembering.spent_s + remembering.counted_s
            mask = mask_of(probability, ct)
            exact = mask if exact is None else exact
            rows.append(
                {
                    "case": crop.stem,
                    "kind": kind,
                    "scheme": scheme,
                    "seconds": seconds,
                    "dice_vs_step1": dice(exact, mask) if exact.any() or mask.any() else 1.0,
                    "volume_difference_percent": 100 * (mask.sum() / max(exact.sum(), 1) - 1),
                    "dice_vs_truth": dice(truth, mask),
                    "dice_vs_truth_lost": dice(truth, exact) - dice(truth, mask),
                }
            )
        row = next(row for row in rows[::-1] if row["scheme"] == schemes[0])
        print(crop.stem, *(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float)), flush=True)
    return pd.DataFrame(rows)


def summarise_schemes(compared) -> list[dict]:
    """Over all cases, and for phantoms (``synthetic``) and real hips alone."""
    rows = []
    for scheme, every in compared.groupby("scheme", sort=False):
        row = {"scheme": scheme}
        for kind, cases in (("", every), *((f"_{kind}", cases) for kind, cases in every.groupby("kind"))):
            row |= {
                f"seconds{kind}": cases["seconds"].sum(),
                f"dice_vs_step1_min{kind}": cases["dice_vs_step1"].min(),
                f"dice_vs_step1_mean{kind}": cases["dice_vs_step1"].mean(),
                f"volume_difference_max_percent{kind}": cases["volume_difference_percent"].abs().max(),
                f"dice_vs_truth_mean{kind}": cases["dice_vs_truth"].mean(),
                f"dice_vs_truth_lost_max{kind}": cases["dice_vs_truth_lost"].max(),
            }
        rows.append({key: value if key == "scheme" else float(value) for key, value in row.items()})
    return rows


# ---- one subject, timed ------------------------------------------------------------------------------


def stack_to(ct: np.ndarray, slices: int) -> np.ndarray:
    """A crop of exactly so many slices, its own repeated forth and back."""
    return ct[:, :, np.pad(np.arange(ct.shape[2]), (0, slices), mode="symmetric")[:slices]]


def time_ways(options, default: str, first: Path, folder: Path) -> dict:
    """Every way of predicting on one hip of a usual length, each alone; memory on a long one."""
    sized = []
    for slices in (TIMED_SLICES, LONG_SLICES):
        sized.append(folder / f"{slices}-slices.npz")
        np.savez(sized[-1], ct=stack_to(np.load(first)["ct"], slices))
    timed, long = [sized[0]] * REPEATS, [sized[1]]
    exact, naive = (run_way(way, EXACT, options, timed, folder) for way in ("ours", "predict"))
    cheap = run_way("ours", default, options, timed, folder)
    result = {
        "speedup_exact_vs_predict": min(naive["seconds"]) / min(exact["seconds"]),
        "speedup_default_vs_predict": min(naive["seconds"]) / min(cheap["seconds"]),
        "max_abs_difference": float(np.abs(naive["probability"][0] - exact["probability"][0]).max()),
        "default_scheme": default,
        "exact_s": min(exact["seconds"]),
        "default_s": min(cheap["seconds"]),
        "predict_s": min(naive["seconds"]),
        "cold_start_s": exact["cold_s"],
        "peak_rss_gb": max(
            run_way("ours", s, options, long, folder)["peak_rss_gb"] for s in (EXACT, default)
        ),
    }
    if not (find_spec("torch") and find_spec("monai")):
        print("torch or monai is not installed (pip install torch monai): speedup_vs_monai is left out")
        return result
    monai = run_way("monai", EXACT, options, timed, folder)
    return result | {
        "monai_s": min(monai["seconds"]),
        "speedup_vs_monai": min(monai["seconds"]) / min(exact["seconds"]),
        "max_abs_difference_to_monai": float(np.abs(monai["probability"][0] - exact["probability"][0]).max()),
    }


def speedups_of_default(schemes: list[dict], default: str, exact_vs_predict: float) -> dict:
    """How many times faster than the ``predict`` loop the default is over all cases of a kind together.

    The timed hip's step 1 tells how far apart loop and step 1 are; the default's own cost hangs on the hip.
    """
    rows = {row["scheme"]: row for row in schemes}
    return {
        f"speedup_default_vs_predict{key.removeprefix('seconds')}": exact_vs_predict
        * rows[EXACT][key]
        / rows[default][key]
        for key in rows[EXACT]
        if key.startswith("seconds_")
    }


def describe_machine(threads: int) -> str:
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {threads} threads of {os.cpu_count()}"


def write_results(result: dict, path: Path) -> None:
    write_json(result, path)
    print(f"written to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=37, help="phantoms to compare schemes on")
    parser.add_argument("--crops", type=Path, help="keep their crops here, for the next run")
    parser.add_argument("--study", type=Path, help="work folder of real_scans.py")
    parser.add_argument("--model", default=str(PROJECT / "resources/models/medium"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="time one hip only, into the results there are")
    options = parser.parse_args()
    import yaml

    from hipqct.io.models import read_model

    chosen = yaml.safe_load(CONFIG.read_text())["segment"]
    default = ",".join(str(chosen[key]) for key in ("step", "blend", "ends"))
    compared = [scheme for scheme in dict.fromkeys([default, *SCHEMES]) if scheme != EXACT]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = 1 if options.times else options.phantoms
        cases = phantom_cases(count, options.crops or folder, options.threads)
        plan = read_model(options.model)[0]
        result = {
            "model": plan["name"],
            "weights_sha256": plan["weights_sha256"],
            "machine": describe_machine(options.threads),
        }
        result |= time_ways(options, default, cases[0][1], folder)
        print(json.dumps(result, indent=2), flush=True)
        if options.times:
            write_results(read_json(RESULTS) | result, RESULTS)
            return
        cases += real_cases(options.study, folder) if options.study else []
        rows = compare_schemes(options.model, options.threads, compared, cases)
    schemes = summarise_schemes(rows)
    own = rows[rows["scheme"] == default]
    result |= {
        "dice_default_vs_step1_min": float(own["dice_vs_step1"].min()),
        "dice_default_vs_truth_lost_max": float(own["dice_vs_truth_lost"].max()),
        "schemes_weights_sha256": plan["weights_sha256"],
        "schemes_machine": result["machine"],
        **speedups_of_default(schemes, default, result["speedup_exact_vs_predict"]),
        "schemes": schemes,
        "cases": {kind: len(list(names)) for kind, names in own.groupby("kind")["case"]},
    }
    before = read_json(RESULTS) if RESULTS.exists() else {}
    if "gpu" in before:
        result["gpu"] = before["gpu"]  # of gpu_inference.py, with its own card and weights
    print(json.dumps(result, indent=2))
    write_results(result, RESULTS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        way, scheme, model, threads, out, *crops = sys.argv[2:]
        worker(way, scheme, model, int(threads), crops, out)
    else:
        main()
