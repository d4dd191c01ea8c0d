"""What inference costs on the CPU, and what cheaper schemes change: ratios of one run on one machine.

    python benchmarks/bench_inference.py [--phantoms 37] [--crops FOLDER] [--study WORK]
    python benchmarks/bench_inference.py --times    times and memory only, into the results that are there

Phantoms are synthetic, of the test seeds; ``--study`` is the work folder of ``real_scans.py``, whose hips and
references are added. Each way of predicting is timed in a process of its own, alone, with the same network,
weights and threads. The naive way is a loop of Keras' ``model.predict`` on TensorFlow over the windows of
step 1. MONAI's sliding window runs a plain torch network with the same weights; without monai and torch the
benchmark says so and ends with status 1. Schemes are compared on all cases in one process: a window that
several share is computed once, and its seconds count for each.

What the default costs hangs on the hip. ``speedup_default_vs_predict`` is over the test phantoms of about 60
slices, ``_synthetic`` over all of them, ``timed_hips`` both ways timed on five of them, ``_easy_hip`` one hip
that the network is sure of.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from committed import (
    add_model_options,
    chosen_results,
    default_scheme,
    describe_machine,
    keep_block,
    keep_gpu,
    missing_peers,
    read_results,
    write_results,
)
from inference_schemes import (
    SCHEMES,
    combine_kinds,
    compare_schemes,
    keep_real,
    of_about_60_slices,
    phantom_cases,
    real_cases,
    summarise_schemes,
)
from inference_ways import EXACT, run_way

RESULTS = Path(__file__).parent / "results" / "inference.json"
REPEATS = 3  # the quickest counts: other work on the machine only ever slows
TIMED_SLICES, LONG_SLICES = 60, 95  # a usual subject, and the longest of the paper's cohort
TIMED_HIPS = 5  # as they are, once each
MONAI = ("monai_s", "monai_exact_s", "monai_machine", "speedup_vs_monai", "max_abs_difference_to_monai")
HEADLINE = "speedup_default_vs_predict"
DERIVED = (HEADLINE, *(f"{HEADLINE}_{which}" for which in ("about_60_slices", "synthetic", "real")))


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
        f"{HEADLINE}_easy_hip": min(naive["seconds"]) / min(cheap["seconds"]),
        "max_abs_difference": float(np.abs(naive["probability"][0] - exact["probability"][0]).max()),
        "default_scheme": default,
        "exact_s": min(exact["seconds"]),
        "default_s_easy_hip": min(cheap["seconds"]),
        "predict_s": min(naive["seconds"]),
        "cold_start_s": exact["cold_s"],
        "peak_rss_gb": max(
            run_way("ours", s, options, long, folder)["peak_rss_gb"] for s in (EXACT, default)
        ),
    }
    if missing_peers():
        return result
    monai = run_way("monai", EXACT, options, timed, folder)
    return result | {
        "monai_s": min(monai["seconds"]),
        "monai_exact_s": result["exact_s"],
        "speedup_vs_monai": min(monai["seconds"]) / min(exact["seconds"]),
        "max_abs_difference_to_monai": float(np.abs(monai["probability"][0] - exact["probability"][0]).max()),
        "monai_weights_sha256": options.weights_sha256,
        "monai_machine": describe_machine(options.threads),
    }


def time_hips(options, default: str, crops: list[Path], folder: Path) -> dict:
    """Both ways on some hips as they are, seconds of all together."""
    ways = {"exact_s": ("ours", EXACT), "default_s": ("ours", default), "predict_s": ("predict", EXACT)}
    found = {name: sum(run_way(*way, options, crops, folder)["seconds"]) for name, way in ways.items()}
    return {
        "hips": [crop.stem for crop in crops],
        **found,
        "speedup_exact_vs_predict": found["predict_s"] / found["exact_s"],
        HEADLINE: found["predict_s"] / found["default_s"],
    }


def speedups_of_default(schemes: list[dict], default: str, exact_vs_predict: float) -> dict:
    """How many times faster than the ``predict`` loop the default is over all cases of a kind together.

    The timed hip's step 1 tells how far apart loop and step 1 are; the default's own cost hangs on the hip.
    The headline is that of the phantoms with about 60 slices: fewer have fewer windows to leave out.
    """
    rows = {row["scheme"]: row for row in schemes}
    found = {
        f"{HEADLINE}{key.removeprefix('seconds')}": exact_vs_predict * rows[EXACT][key] / rows[default][key]
        for key in rows[EXACT]
        if key.startswith("seconds_")
    }
    return {HEADLINE: found[f"{HEADLINE}_about_60_slices"]} | found


def renew_times(before: dict, measured: dict) -> dict:
    """The results before with new times; what hangs on them is computed anew or dropped, and named."""
    if before.get("weights_sha256") != measured["weights_sha256"]:
        raise SystemExit("the results are of other weights: run the whole benchmark, without --times")
    stale = {*MONAI, "monai_weights_sha256", *DERIVED} - measured.keys()
    result = {key: value for key, value in before.items() if key not in stale} | measured
    same = before.get("schemes_machine") == measured["machine"]
    real_elsewhere = before.get("real_machine", measured["machine"]) != measured["machine"]
    if same and before.get("default_scheme") == measured["default_scheme"]:
        speedups = (before["schemes"], measured["default_scheme"], measured["speedup_exact_vs_predict"])
        result |= speedups_of_default(*speedups)
        if real_elsewhere:
            del result[f"{HEADLINE}_real"]
    for key in sorted(stale & before.keys() - result.keys()):
        print(f"dropped, not being measured again or of another machine: {key}")
    return result


def add_schemes(result: dict, before: dict, rows, default: str) -> None:
    """Put the comparison of schemes into ``result``; real hips that were not run stay if of these weights."""
    schemes, machine = summarise_schemes(rows), result["machine"]
    own = rows[rows["scheme"] == default]
    cases = {kind: len(list(names)) for kind, names in own.groupby("kind")["case"]}
    if "real" in cases:
        result |= {"real_weights_sha256": result["weights_sha256"], "real_machine": machine}
    elif "real" in before.get("cases", {}):
        kept = keep_real(schemes, before["schemes"]) if before["default_scheme"] == default else None
        if kept is None:
            print("dropped, the schemes being others: real hips")
        elif keep_block(result, before, "real", ("real_machine", f"{HEADLINE}_real")):
            schemes, cases = kept, cases | {"real": before["cases"]["real"]}
    one_machine = result.get("real_machine", machine) == machine
    speedups = speedups_of_default(schemes, default, result["speedup_exact_vs_predict"])
    if not one_machine:
        speedups.pop(f"{HEADLINE}_real", None)  # what was kept is of one machine
    schemes = [combine_kinds(row, cases, one_machine) for row in schemes]
    chosen = next(row for row in schemes if row["scheme"] == default)
    result |= {
        "dice_default_vs_step1_min": chosen["dice_vs_step1_min"],
        "dice_default_vs_truth_lost_max": chosen["dice_vs_truth_lost_max"],
        "schemes_weights_sha256": result["weights_sha256"],
        "schemes_machine": machine,
        **speedups,
        "hips_about_60_slices": of_about_60_slices(own)["case"].tolist(),
        "schemes": schemes,
        "cases": cases,
    }


def read_options() -> tuple[argparse.Namespace, Path]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=37, help="phantoms to compare schemes on")
    parser.add_argument("--crops", type=Path, help="keep their crops here, for the next run")
    parser.add_argument("--study", type=Path, help="work folder of real_scans.py")
    add_model_options(parser, RESULTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="time a few hips, into the results there are")
    options = parser.parse_args()
    return options, chosen_results(parser, options, RESULTS)


def main() -> None:
    from hipqct.io.models import read_model

    options, out = read_options()
    default = default_scheme()
    compared = [scheme for scheme in dict.fromkeys([default, *SCHEMES]) if scheme != EXACT]
    plan = read_model(options.model)[0]
    options.weights_sha256 = plan["weights_sha256"]
    before, machine = read_results(out), describe_machine(options.threads)
    result = {"model": plan["name"], "weights_sha256": plan["weights_sha256"], "machine": machine}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = TIMED_HIPS if options.times else options.phantoms
        cases = phantom_cases(count, options.crops or folder, options.threads)
        result |= time_ways(options, default, cases[0][1], folder)
        crops = [crop for _, crop, _ in cases[:TIMED_HIPS]]
        result["timed_hips"] = time_hips(options, default, crops, folder)
        print(json.dumps(result, indent=2), flush=True)
        if options.times:
            result = renew_times(before, result)
        else:
            cases += real_cases(options.study, folder) if options.study else []
            rows = compare_schemes(options.model, options.threads, compared, cases)
            add_schemes(result, before, rows, default)
            if missing_peers():
                keep_block(result, before, "monai", MONAI)
            keep_gpu(result, before)
    print(json.dumps(result, indent=2))
    write_results(result, out)
    if missing_peers():
        sys.exit(missing_peers())


if __name__ == "__main__":
    main()
