"""What inference costs on a GPU: a subject, the plain loop, a cohort; how far its answer is from the CPU's.

    KERAS_BACKEND=torch python benchmarks/gpu_inference.py --crops FOLDER --out FOLDER [--model MODEL]
    python benchmarks/gpu_inference.py --merge FOLDER

Crops are ``*_left.npz`` of synthetic phantoms, from ``hipqct.steps.phantom_training.build_crops``. Each
backend is measured by a call of its own, which needs neither TensorFlow nor OpenVINO; it leaves its
figures and one probability map in ``--out``. ``--merge`` then compares those maps with OpenVINO's on this
machine's CPU and puts everything into results/inference.json under ``gpu``.
"""

# ruff: noqa: E402  (the clock starts before anything is imported, which is most of what a start costs)
import time

STARTED_S = time.perf_counter()

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench_inference import RESULTS, TIMED_SLICES, stack_to
from committed import DEFAULT_MODEL, default_scheme, keep_gpu
from inference_ways import EXACT

from hipqct.io.files import read_json, write_json

REPEATS = 5  # the median counts: nothing else runs on the card
# Peaks of the vendor's data sheets for float32 outside the tensor cores, TFLOP/s, by the card's whole name:
# boards of one chip differ. A card that is not listed gets no share of its peak.
PEAKS = {
    "NVIDIA H100 80GB HBM3": 67,
    "NVIDIA H100 PCIe": 51,
    "NVIDIA H100 NVL": 60,
    "NVIDIA H200": 67,
    "NVIDIA H200 NVL": 60,
    "NVIDIA A100-SXM4-40GB": 19.5,
    "NVIDIA A100-SXM4-80GB": 19.5,
    "NVIDIA A100-PCIE-40GB": 19.5,
    "NVIDIA A100 80GB PCIe": 19.5,
    "NVIDIA L40S": 91.6,
}


def count_operations(network: dict, window) -> float:
    """Floating-point operations of the network's convolutions over one window (a multiply-add is two)."""
    from hipqct.network import weight_shapes

    operations = 0.0
    for name, shape in weight_shapes(network).items():
        if not name.endswith("/kernel"):
            continue
        digits = [c for c in name.split("_")[0] if c.isdigit()]
        level = int(digits[0]) if digits else 0
        # A transposed kernel meets every voxel of its coarser input once.
        level += name.split("/")[0].endswith("transpose")
        operations += 2 * np.prod(shape) * np.prod(window) / 8**level
    return float(operations)


def predict_by(engine, plan, ct, scheme: str) -> np.ndarray:
    from hipqct.predict import WindowScheme, predict_probability

    return predict_probability(engine, ct, plan, *WindowScheme.parse(scheme))


def time_of(function) -> float:
    """Median seconds of some calls, after one that does not count."""
    function()
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def plain_loop(plan, weights, ct):
    """Keras as its guide shows it: ``model.predict`` for every window of step 1, in full float32 as ours."""
    from hipqct.engine import prepare_backend
    from hipqct.predict import normalise
    from hipqct.vnet import build_vnet, set_weights
    from hipqct.windows import window_starts

    prepare_backend()
    model = build_vnet(plan["network"])
    set_weights(model, weights, plan["network"])
    depth, x = plan["window"][2], normalise(ct, plan["normalisation"])

    def run():
        total, votes = np.zeros(x.shape, np.float32), np.zeros(x.shape[2], np.float32)
        for z in window_starts(x.shape[2], depth, 1):
            window = x[None, :, :, z : z + depth, None]
            total[:, :, z : z + depth] += model.predict(window, verbose=0)[0, ..., 0]
            votes[z : z + depth] += 1
        return total / votes

    return run


def time_cohort(crops: list[np.ndarray], model: Path, scheme: str) -> float:
    """Seconds per hip of a cohort, from crop file to probability file, start of the process not counted.

    The first hip loads the network and is left out; all others are computed ahead by the same process, as the
    workflow does on a GPU.
    """
    from hipqct.image import Image
    from hipqct.io.hdf5 import write_roi
    from hipqct.predict import WindowScheme
    from hipqct.steps.segmentation import segment_femur

    windows = WindowScheme.parse(scheme)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"hip{i:03d}" / "left" / "roi.h5" for i in range(len(crops))]
        for path, ct in zip(paths, crops, strict=True):
            path.parent.mkdir(parents=True)
            write_roi(Image(ct, (0.8, 0.8, 3.0)), path, {"side": "left"})
        first = paths[0].with_name("probability.h5")
        segment_femur(paths[0], first, [model], windows, "gpu", 4, hips_ahead=10**6)
        finished = sorted(p.stat().st_mtime for p in Path(folder).rglob("*probability.h5"))
        assert len(finished) == len(crops), finished
        return (finished[-1] - finished[0]) / (len(finished) - 1)


def measure(options) -> None:
    from hipqct.engine import keras_engine, list_cards
    from hipqct.io.models import read_model

    cards = list_cards()
    if not cards:
        sys.exit("Keras' backend sees no GPU here")
    default = default_scheme()
    plan, weights = read_model(options.model)
    paths = sorted(options.crops.glob("*_left.npz"))
    ct = stack_to(np.load(paths[0])["ct"], TIMED_SLICES)
    windows = TIMED_SLICES - plan["window"][2] + 1

    engine = keras_engine(plan["network"], weights, 4)
    probability = predict_by(engine, plan, ct, EXACT)
    start_s = time.perf_counter() - STARTED_S
    crops = [np.load(path)["ct"] for path in paths]
    exact_s = time_of(lambda: predict_by(engine, plan, ct, EXACT))
    stack = np.random.default_rng(0).random((engine.batch, *plan["window"]), dtype=np.float32)
    window_s = time_of(lambda: engine.predict_windows(stack)) / engine.batch
    operations = count_operations(plan["network"], plan["window"])
    result = {
        "card": cards[0],
        "backend": engine.name,
        "versions": {name: importlib.metadata.version(name) for name in ("keras", engine.name, "numpy")},
        "python": platform.python_version(),
        "model": plan["name"],
        "weights_sha256": plan["weights_sha256"],
        "parameters": int(sum(w.size for w in weights.values())),
        "step1_60_slices_s": exact_s,
        "start_to_first_probability_s": start_s,
        "window_s": window_s,
        "tera_operations_per_window": operations / 1e12,
        "tera_operations_per_s_window": operations / window_s / 1e12,
        "tera_operations_per_s_subject": windows * operations / exact_s / 1e12,
        "first_subject": paths[0].name,
    }
    if cards[0] in PEAKS:
        result["share_of_float32_peak"] = result["tera_operations_per_s_window"] / PEAKS[cards[0]]
        result["float32_peak_tera_operations_per_s"] = PEAKS[cards[0]]
    loop = plain_loop(plan, weights, ct)
    result["predict_loop_s"] = time_of(loop)
    result["speedup_exact_vs_predict"] = result["predict_loop_s"] / exact_s
    result["max_abs_difference_to_predict"] = float(np.abs(loop() - probability).max())
    if engine.name != "jax":  # which compiles anew for every size of region
        result["default_60_slices_s"] = time_of(lambda: predict_by(engine, plan, ct, default))
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out / f"{engine.name}.npz", ct=ct, probability=probability)
    name = options.out / f"{engine.name}.json"
    write_json(result, name)
    result["cohort"] = {"hips": len(crops), "slices_mean": float(np.mean([c.shape[2] for c in crops]))}
    for key, scheme in (("step1", EXACT), ("default", default)):
        if key == "step1" or engine.name != "jax":
            hip_s = time_cohort(crops, options.model, scheme)
            result["cohort"] |= {f"{key}_s_per_hip": hip_s, f"{key}_hips_per_hour": 3600 / hip_s}
    write_json(result, name)
    print(json.dumps(result, indent=2))


def check_weights(figures: dict, plan: dict, path: Path) -> None:
    if figures.get("weights_sha256") != plan["weights_sha256"]:
        raise SystemExit(f"{path} is not of the weights of {plan['name']}: nothing is merged")


def merge(folder: Path, model: Path) -> None:
    """Compare with OpenVINO on this CPU and put the figures into results/inference.json.

    SystemExit where they, or the results there are, are of other weights.
    """
    from hipqct.bone import segment_probability
    from hipqct.engine import openvino_engine
    from hipqct.image import Image
    from hipqct.io.models import read_model
    from hipqct.metrics import dice

    plan, weights = read_model(model)
    engine = openvino_engine(plan["network"], weights, 2)
    before, found = read_json(RESULTS), {}
    check_weights(before, plan, RESULTS)
    for path in sorted(folder.glob("*.json")):
        figures = read_json(path)
        check_weights(figures, plan, path)
        with np.load(path.with_suffix(".npz")) as arrays:
            ours, ct = arrays["probability"], arrays["ct"]
        reference = predict_by(engine, plan, ct, EXACT)
        masks = [segment_probability(Image(p, (0.8, 0.8, 3.0))).mask.array for p in (ours, reference)]
        figures["max_abs_difference_to_openvino"] = float(np.abs(ours - reference).max())
        figures["mask_dice_to_openvino"] = float(dice(*masks))
        found[figures.pop("backend")] = figures
    kept = {key: value for key, value in before.items() if key != "gpu"}
    keep_gpu(kept, before)  # other backends of the same weights
    kept["gpu"] = kept.get("gpu", {}) | found
    write_json(kept, RESULTS)
    print(json.dumps(found, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merge", type=Path, metavar="FOLDER")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    options = parser.parse_args()
    if options.merge:
        merge(options.merge, options.model)
    elif options.crops and options.out:
        measure(options)
    else:
        parser.error("give --crops and --out, or --merge")


if __name__ == "__main__":
    main()
