"""What a model does on held-out phantoms, and, if given, on the real cases.

    python benchmarks/bench_models.py [--phantoms 37] [--study WORK] [--model MODEL --out RESULTS]

Phantoms are of the test seeds, that nothing was trained or chosen on, as a cohort has them: 2-mm slices,
left hips, resampled, cropped and segmented as in the workflow. How far from the continuous surface wrong
voxels lie is measured too. ``--study`` is the work folder of ``real_scans.py``, run with the same weights:
its evaluations are added. A hip that fails has no scores; then means are named as those of the hips done, and
the benchmark ends with status 1.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from committed import (
    add_model_options,
    chosen_results,
    default_scheme,
    describe_machine,
    keep_block,
    read_results,
    write_results,
)

from hipqct.cohort import COHORTS, TEXT_COLUMNS, accuracy_table
from hipqct.engine import openvino_engine
from hipqct.errors import AnatomyError
from hipqct.folds import TEST
from hipqct.io.dataset import Dataset, Hip, write_dataset
from hipqct.io.files import read_json
from hipqct.io.models import read_model
from hipqct.io.tables import read_table
from hipqct.phantom.parameters import sample_parameters
from hipqct.phantom.seeds import TEST_SEEDS
from hipqct.predict import WindowScheme
from hipqct.segment import segment_crop
from hipqct.steps.accuracy import judge_models
from hipqct.steps.phantom_training import CROPS_FOLDER, build_crops, no_changes

RESULTS = Path(__file__).parent / "results" / "models.json"
REAL_CASES = ("real-anatomy", "real-shape", "real-hip-ct", "real-ct")
SIDES = ("left", "right")
SCORES = ("dice", "hausdorff95_mm", "relative_error_percent")
NEAR_MM = (0.1, 0.2, 0.4, 0.8)


def read_hips(folder: Path, seeds):
    """The left hips of phantoms, as the test set of a training."""
    for seed in seeds:
        path = folder / f"{seed}_left.npz"
        if path.is_file():
            drawn = sample_parameters(seed)
            with np.load(path) as arrays:
                known = {"distance_um": arrays["distance_um"], "fold": TEST}
                yield Hip(str(seed), "left", arrays["ct"], arrays["mask"], drawn.sex, drawn.age, **known)


def summarise(accuracy: pd.DataFrame, not_made: int) -> dict:
    """The figures of each cohort under the names of the report.

    Args:
        not_made: hips of ``all`` that gave no crop, which fail too.

    Returns:
        By cohort; where a hip failed, the names of figures end in ``_of_done``.
    """
    same = ("dice_mean", "dice_sd", "dice_low", "dice_high", "sensitivity_mean")
    same += ("specificity_mean", "hausdorff95_mm_mean", "mae_mm3", "re_min_percent", "re_max_percent")
    named = {name: name for name in same} | {"volume_r2": "r2"}
    found = {}
    for cohort, row in accuracy.set_index("cohort").iterrows():
        failed = int(row["failed"]) + (not_made if cohort == "all" else 0)
        ending = "_of_done" if failed else ""
        found[cohort] = {"n": int(row["n"]), "failed": failed}
        found[cohort] |= {f"{name}{ending}": float(row[key]) for name, key in named.items()}
    return found


def read_real(study: Path, weights_sha256: str) -> dict:
    """Scores of the real cases, by case and side; SystemExit where one is missing or of other weights."""
    found = {}
    for case in REAL_CASES:
        scores = found[case.replace("-", "_")] = {}
        for side in SIDES:
            folder = study / "results/subjects" / case / side
            paths = [folder / name for name in ("bone.json", "evaluation.json")]
            for path in paths:
                if not path.is_file():
                    raise SystemExit(f"{path} is missing: run real_scans.py on every case first")
            bone, score = map(read_json, paths)
            if bone["network"]["weights_sha256"] != weights_sha256:
                raise SystemExit(f"{folder} is of the model {bone['network']['model']}: run it with this one")
            scores[side] = {key: score[key] for key in SCORES}
    return found


def judge_phantoms(
    options, plan: dict, weights: dict, windows: WindowScheme
) -> tuple[pd.DataFrame, int, dict]:
    """One row of scores per phantom's left hip, how many of them gave no crop, and where they are wrong."""
    seeds = TEST_SEEDS[: options.phantoms]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.crops or Path(temporary)) / CROPS_FOLDER
        dataset_path = Path(temporary) / "dataset.h5"
        build_crops(seeds, folder, options.threads, lambda done, total: print(f"{done}/{total}"), no_changes)
        spacing_mm = (plan["pixel_mm"], plan["pixel_mm"], plan["slice_mm"])
        write_dataset(
            read_hips(folder, seeds),
            dataset_path,
            {"side": "left", "spacing_mm": spacing_mm, "data": "synthetic"},
        )
        path = Path(temporary) / "all.tsv"
        arguments = (dataset_path, [options.model / "plan.json"], path)
        judge_models(*arguments, "all", windows, "cpu", options.threads)
        tested = read_table(path, TEXT_COLUMNS)
        networks = [(openvino_engine(plan["network"], weights, options.threads), plan)]
        with Dataset(dataset_path) as data:
            wrong = locate_wrong(data.hips(), networks, windows)
    return tested, len(seeds) - len(tested), wrong


def locate_wrong(hips: list[Hip], networks: list, scheme: WindowScheme) -> dict[str, float]:
    """How many voxels are wrong, per cent of the femurs', and how many of these lie near their surface.

    Of all hips together; one without a mask is left out.
    """
    femur, away_mm = 0, []
    for hip in hips:
        try:
            mask = segment_crop(networks, hip.ct[()], hip.spacing_mm, scheme).mask.array
        except AnatomyError:
            continue
        truth = hip.mask[()] > 0
        femur += np.count_nonzero(truth)
        away_mm.append(np.abs(hip.distance_um[()][mask != truth]) / 1000)
    away_mm = np.concatenate(away_mm)
    near = {f"percent_within_{mm}_mm": 100 * float(np.mean(away_mm < mm)) for mm in NEAR_MM}
    return {"percent_of_femur": 100 * len(away_mm) / femur} | near


def read_options() -> tuple[argparse.Namespace, Path]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=37)
    parser.add_argument("--crops", type=Path, help="keep the crops here, for the next run")
    parser.add_argument("--study", type=Path, help="work folder of real_scans.py")
    add_model_options(parser, RESULTS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    return options, chosen_results(parser, options, RESULTS)


def main() -> None:
    options, out = read_options()
    plan, weights = read_model(options.model)
    real = read_real(options.study, plan["weights_sha256"]) if options.study else {}
    windows = WindowScheme.parse(default_scheme())
    tested, not_made, wrong = judge_phantoms(options, plan, weights, windows)
    print(tested[["subject", "sex", "age", "dice", "hausdorff95_mm", "relative_error_percent"]].to_string())
    groups = {c: tested if sex is None else tested[tested["sex"] == sex] for c, sex in COHORTS.items()}
    scores = summarise(accuracy_table(groups), not_made)
    result = {
        "model": plan["name"],
        "weights_sha256": plan["weights_sha256"],
        "parameters": int(sum(np.size(weight) for weight in weights.values())),
        "windows": windows,
        "synthetic": True,
        "test": scores.pop("all"),
        "test_by_sex": scores,
        "test_wrong_voxels": wrong,
        "machine": describe_machine(options.threads),
    }
    if real:
        result |= real | {"real_weights_sha256": plan["weights_sha256"]}
    else:
        keep_block(result, read_results(out), "real", [case.replace("-", "_") for case in REAL_CASES])
    training = plan["training"]
    result |= {key: training[key] for key in ("hardware", "hours") if key in training}
    write_results(result, out)
    print(json.dumps(result, indent=2))
    if result["test"]["failed"]:
        sys.exit(f"{result['test']['failed']} hips failed: their scores are of the hips done, no headline")


if __name__ == "__main__":
    main()
