"""What a model does on held-out phantoms, and, if given, on the real cases.

    python benchmarks/bench_models.py [--phantoms 37] [--study WORK]

Phantoms are of the test seeds, that nothing was trained or chosen on, as a cohort has them: 2-mm slices,
left hips, resampled, cropped and segmented as in the workflow. ``--study`` is the work folder of
``real_scans.py``, run with the same model: its evaluations are added.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from bench_inference import describe_machine

from hipqct.cohort import COHORTS, TEXT_COLUMNS, accuracy_table
from hipqct.folds import TEST
from hipqct.io.dataset import Hip, write_dataset
from hipqct.io.files import read_json, write_json
from hipqct.io.models import read_model
from hipqct.io.tables import read_table
from hipqct.phantom.parameters import TEST_SEEDS, sample_parameters
from hipqct.steps.accuracy import judge_models
from hipqct.steps.phantom_training import CROPS_FOLDER, build_crops, no_changes

PROJECT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "models.json"
REAL_CASES = ("real-anatomy", "real-shape", "real-hip-ct")
SCORES = ("dice", "hausdorff95_mm", "relative_error_percent")


def read_hips(folder: Path, seeds):
    """The left hips of phantoms, as the test set of a training."""
    for seed in seeds:
        path = folder / f"{seed}_left.npz"
        if path.is_file():
            drawn = sample_parameters(seed)
            with np.load(path) as arrays:
                yield Hip(str(seed), "left", arrays["ct"], arrays["mask"], drawn.sex, drawn.age, TEST)


def summarise(accuracy: pd.DataFrame) -> dict:
    """The figures of each cohort under the names of the report."""
    same = ("n", "failed", "dice_mean", "dice_sd", "dice_low", "dice_high", "sensitivity_mean")
    same += ("specificity_mean", "hausdorff95_mm_mean", "mae_mm3", "re_min_percent", "re_max_percent")
    named = {name: name for name in same} | {"volume_r2": "r2"}
    rows = accuracy.set_index("cohort")
    return {
        cohort: {
            name: (int if name in ("n", "failed") else float)(rows.loc[cohort, key])
            for name, key in named.items()
        }
        for cohort in rows.index
    }


def read_real(study: Path) -> dict:
    """Scores of the real cases, by case and side."""
    found = {}
    for case in REAL_CASES:
        paths = (study / "results/subjects" / case).glob("*/evaluation.json")
        scores = {path.parent.name: read_json(path) for path in sorted(paths)}
        found[case.replace("-", "_")] = {
            side: {key: score[key] for key in SCORES} for side, score in scores.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=37)
    parser.add_argument("--crops", type=Path, help="keep the crops here, for the next run")
    parser.add_argument("--study", type=Path, help="work folder of real_scans.py")
    parser.add_argument("--model", type=Path, default=PROJECT / "resources/models/medium")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    plan, weights = read_model(options.model)
    chosen = yaml.safe_load((PROJECT / "config/config.yaml").read_text())["segment"]
    windows = [chosen[key] for key in ("step", "blend", "ends")]
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
    print(tested[["subject", "sex", "age", "dice", "hausdorff95_mm", "relative_error_percent"]].to_string())
    groups = {c: tested if sex is None else tested[tested["sex"] == sex] for c, sex in COHORTS.items()}
    scores = summarise(accuracy_table(groups))
    result = {
        "model": plan["name"],
        "weights_sha256": plan["weights_sha256"],
        "parameters": int(sum(np.size(weight) for weight in weights.values())),
        "windows": windows,
        "synthetic": True,
        "test": scores.pop("all"),
        "test_by_sex": scores,
        "machine": describe_machine(options.threads),
        **(read_real(options.study) if options.study else {}),
    }
    training = plan["training"]
    result |= {key: training[key] for key in ("hardware", "hours") if key in training}
    write_json(result, RESULTS)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
