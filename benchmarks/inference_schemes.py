"""What cheaper schemes of windows change, on phantoms and on real hips."""

import hashlib
import time
from pathlib import Path

import numpy as np
from inference_ways import EXACT

ABOUT_60_SLICES = (55, 65)
SCHEMES = (
    *(f"{step},uniform,as-is" for step in ("adaptive", 2, 3, 4, 5, 7, 8, 9, 16, 32, "whole")),
    *(f"{step},gaussian,as-is" for step in (4, 8)),
    *(f"{step},uniform,reflect" for step in (4, 8)),
)


def phantom_cases(count: int, folder: Path, threads: int) -> list[tuple]:
    """Kind, crop file and true mask of each phantom's left hip, as a cohort has them: 2-mm slices."""
    from hipqct.phantom.seeds import TEST_SEEDS
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
    from hipqct.network import turn_to
    from hipqct.resample import resample_mask_slices

    sheet = pd.read_csv(study / "config/samples.tsv", sep="\t", dtype=str).set_index("subject")
    cases = []
    for path in sorted((study / "results/subjects").glob("*/*/roi.h5")):
        roi, facts = read_roi(path)
        subject, side = path.parts[-3], facts["side"]
        reference = read_image(sheet.loc[subject, f"reference_{side}"])
        mirror = turn_to("left", side)
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
    from hipqct.errors import AnatomyError
    from hipqct.segment import mask_crop

    try:
        return mask_crop(probability, ct, (0.8, 0.8, 3.0)).mask.array
    except AnatomyError:
        return np.zeros(probability.shape, bool)


def compare_schemes(model: Path, threads: int, schemes: list[str], cases: list[tuple]):
    """Each scheme on each case: seconds, its mask's agreement with step 1's, Dice with the truth; a table.

    A network that finds nothing at step 1 on any case ends the benchmark: agreement on nothing is no figure.
    """
    from dataclasses import replace

    import pandas as pd

    from hipqct.engine import openvino_engine
    from hipqct.io.models import read_model
    from hipqct.metrics import dice
    from hipqct.predict import WindowScheme, predict_probability

    plan, weights = read_model(model)
    engine = openvino_engine(plan["network"], weights, threads)
    rows = []
    for kind, crop, truth in cases:
        ct, exact = np.load(crop)["ct"], None
        remembering = Remembering(engine)
        for scheme in [EXACT, *schemes]:
            remembering.spent_s = remembering.counted_s = 0.0
            begin = time.perf_counter()
            counting = replace(engine, predict_windows=remembering.predict_windows)
            probability = predict_probability(counting, ct, plan, *WindowScheme.parse(scheme))
            seconds = time.perf_counter() - begin - remembering.spent_s + remembering.counted_s
            mask = mask_of(probability, ct)
            exact = mask if exact is None else exact
            if not exact.any():
                raise SystemExit(
                    f"{crop.stem}: the network finds no femur at step 1, there is nothing to compare"
                )
            rows.append(
                {
                    "case": crop.stem,
                    "kind": kind,
                    "slices": ct.shape[2],
                    "scheme": scheme,
                    "seconds": seconds,
                    "dice_vs_step1": dice(exact, mask),
                    "volume_difference_percent": 100 * (mask.sum() / exact.sum() - 1),
                    "dice_vs_truth": dice(truth, mask),
                    "dice_vs_truth_lost": dice(truth, exact) - dice(truth, mask),
                }
            )
        row = next(row for row in rows[::-1] if row["scheme"] == schemes[0])
        print(crop.stem, *(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float)), flush=True)
    return pd.DataFrame(rows)


def of_about_60_slices(compared):
    """The rows of phantoms as long as the paper's subjects."""
    return compared[(compared["kind"] == "synthetic") & compared["slices"].between(*ABOUT_60_SLICES)]


def summarise_schemes(compared) -> list[dict]:
    """Of each scheme for phantoms (``synthetic``) and ``real`` hips apart; see `combine_kinds`.

    Seconds also of those phantoms alone that have about 60 slices.
    """
    rows = []
    for scheme, every in compared.groupby("scheme", sort=False):
        row = {}
        for kind, cases in every.groupby("kind"):
            if kind == "synthetic":
                row["seconds_about_60_slices"] = of_about_60_slices(cases)["seconds"].sum()
            row |= {
                f"seconds_{kind}": cases["seconds"].sum(),
                f"dice_vs_step1_min_{kind}": cases["dice_vs_step1"].min(),
                f"dice_vs_step1_mean_{kind}": cases["dice_vs_step1"].mean(),
                f"volume_difference_max_percent_{kind}": cases["volume_difference_percent"].abs().max(),
                f"dice_vs_truth_mean_{kind}": cases["dice_vs_truth"].mean(),
                f"dice_vs_truth_lost_max_{kind}": cases["dice_vs_truth_lost"].max(),
            }
        rows.append({"scheme": scheme} | {key: float(value) for key, value in row.items()})
    return rows


def combine_kinds(row: dict, cases: dict[str, int], one_machine: bool = True) -> dict:
    """A scheme's row with the figures over all cases before those of each kind.

    Args:
        cases: how many of each kind.
        one_machine: whether the seconds of all kinds are one machine's and may be added.
    """
    kinds = [kind for kind in cases if f"seconds_{kind}" in row]

    def of(name):
        return [row[f"{name}_{kind}"] for kind in kinds]

    weights = [cases[kind] for kind in kinds]
    every = {"scheme": row["scheme"]} | ({"seconds": sum(of("seconds"))} if one_machine else {})
    every |= {
        "dice_vs_step1_min": min(of("dice_vs_step1_min")),
        "dice_vs_step1_mean": float(np.average(of("dice_vs_step1_mean"), weights=weights)),
        "volume_difference_max_percent": max(of("volume_difference_max_percent")),
        "dice_vs_truth_mean": float(np.average(of("dice_vs_truth_mean"), weights=weights)),
        "dice_vs_truth_lost_max": max(of("dice_vs_truth_lost_max")),
    }
    return every | row


def keep_real(schemes: list[dict], before: list[dict]) -> list[dict] | None:
    """New rows of phantoms with the real hips' figures of the results before; None if a scheme lacks them."""
    kept = {
        row["scheme"]: {key: value for key, value in row.items() if key.endswith("_real")} for row in before
    }
    if not all(kept.get(row["scheme"]) for row in schemes):
        return None
    return [row | kept[row["scheme"]] for row in schemes]
