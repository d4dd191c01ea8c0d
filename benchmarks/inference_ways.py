"""The ways of predicting that bench_inference.py times, each in a process of its own.

python benchmarks/inference_ways.py WAY SCHEME MODEL THREADS OUT CROP...
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

EXACT = "1,uniform,as-is"  # the paper's scheme: step, blend, ends


# ---- each way returns a function from a crop (HU) to its probability ---------------------------------


def load_ours(plan, weights, threads):
    from hipqct.engine import openvino_engine
    from hipqct.predict import WindowScheme, predict_probability

    engine = openvino_engine(plan["network"], weights, threads)

    def predict(ct, scheme):
        return predict_probability(engine, ct, plan, *WindowScheme.parse(scheme))

    return predict


def load_predict_loop(plan, weights, threads):
    """Keras as its guide shows it: one ``model.predict`` for each window, probabilities averaged."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    from hipqct.predict import normalise
    from hipqct.vnet import build_vnet, set_weights
    from hipqct.windows import window_starts

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
    from torch_vnet import load_torch_vnet

    from hipqct.predict import normalise

    torch.set_num_threads(threads)
    network = load_torch_vnet(plan["network"], weights)
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
    command = [sys.executable, __file__, *map(str, arguments)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    whole_s = time.perf_counter() - begin
    measured = json.loads(out.read_text()) | {"scheme": scheme}
    measured["cold_s"] += max(0.0, whole_s - measured["cold_s"] - sum(measured["seconds"]))
    measured["probability"] = [np.load(f"{out}.{i}.npy") for i in range(len(crops))]
    return measured


if __name__ == "__main__":
    way, scheme, model, threads, out, *crops = sys.argv[1:]
    worker(way, scheme, model, int(threads), crops, out)
