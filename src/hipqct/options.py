"""Options of `hipqct phantom` and `hipqct train`, and the ranges that their values must lie in."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from hipqct.recipe import PHANTOM_RATES, Recipe

# Defaults of `hipqct train`.
RECIPE = {field.name: field.default for field in fields(Recipe)} | PHANTOM_RATES
SLICE_MM, AGE_YEARS, HU = (0.6, 5.0), (18, 110), (-32768, 32767)
LEAST_PIECE_MB, LEAST_RATE = 0.05, 1e-12
# As `hipqct.phantom.parameters` has them, told without loading it; a test keeps them the same.
SEED_RANGES = {
    "the demo": (1, 999),
    "single phantoms": (1_000, 99_999),
    "training": (100_000, 199_999),
    "validation": (200_000, 299_999),
    "tests": (300_000, 399_999),
    "cohorts": (1_000_000, 999_999_999),
}
SEEDS_HELP = ", ".join(f"{low} to {high} {what}" for what, (low, high) in SEED_RANGES.items())
SEEDS_HELP = f"one number, one phantom; set apart are for {SEEDS_HELP}"


def _within(text: str, kind: type, wanted: str, low: float, high: float):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:  # nor is NaN
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text}")
    return value


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes a whole number from ``low`` up to ``high``."""
    wanted = f"a whole number from {low}" + ("" if high is None else f" to {high}")
    return lambda text: _within(text, int, wanted, low, math.inf if high is None else high)


def number(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that takes a number from ``low`` to ``high``."""
    return lambda text: _within(text, float, f"a number from {low:g} to {high:g}", low, high)


def at_least(low: float, high: float = sys.float_info.max) -> Callable[[str], float]:
    """The type of an option that takes a number from ``low`` on; ``high`` may be infinity."""
    return lambda text: _within(text, float, f"a number from {low:g} on", low, high)


def _add_processes(command) -> None:
    text = "phantoms at a time, up to 1.2 GB each"
    command.add_argument("--processes", type=whole(1), default=1, help=text)


def add_phantom_options(one) -> None:
    """`hipqct phantom one`."""
    one.add_argument(
        "folder", type=Path, metavar="DIR", help="its name is the subject's; holds no phantom yet"
    )
    one.add_argument("--seed", type=whole(0), required=True, help=SEEDS_HELP)
    one.add_argument("--sex", choices=("F", "M"))
    one.add_argument("--age", type=whole(*AGE_YEARS), help="{} to {} years".format(*AGE_YEARS))
    text = "{:g} to {:g} mm".format(*SLICE_MM)
    one.add_argument("--slice-mm", type=number(*SLICE_MM), default=2.0, help=text)
    one.add_argument("--dicom", action="store_true", help="also write the scan as a DICOM series")


def add_cohort_options(cohort) -> None:
    """`hipqct phantom cohort`."""
    cohort.add_argument("folder", type=Path, metavar="DIR", help="the same command goes on where it stopped")
    cohort.add_argument("--women", type=whole(0), default=216)
    cohort.add_argument("--men", type=whole(0), default=181)
    cohort.add_argument("--seed", type=whole(0), default=1)
    cohort.add_argument("--format", choices=("dicom", "nifti"), default="dicom")
    _add_processes(cohort)
    cohort.add_argument("--table-only", action="store_true", help="draw it and compare it, make no scans")


def add_training_options(train) -> None:
    """`hipqct train`."""
    train.add_argument("folder", type=Path, metavar="DIR", help="the same command goes on where it stopped")
    for name, part, default, text in (
        ("--phantoms", "training", 60, "two hips each"),
        ("--validation", "validation", 3, "phantoms that are only watched"),
    ):
        low, high = SEED_RANGES[part]
        train.add_argument(name, type=whole(1, high - low + 1), default=default, help=text)
    train.add_argument(
        "--preset", choices=("compact", "medium", "paper"), default="compact", help="the network"
    )
    train.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="tensorflow")
    train.add_argument(
        "--minutes",
        type=at_least(0, math.inf),
        default=math.inf,
        help="bound on this call; phantoms come first, some 15 s each",
    )
    train.add_argument(
        "--first-model", type=Path, help="start from this model's weights, also of a smaller preset"
    )
    train.add_argument(
        "--dropout", type=number(0, 0.99), help="share of features dropped, if not the preset's"
    )
    train.add_argument(
        "--piece-mb", type=at_least(LEAST_PIECE_MB), help="write the weights in pieces of at most so many MB"
    )
    train.add_argument("--float16", action="store_true", help="write kernels as float16: half the file")
    _add_processes(train)
    text = "of the CPU: one leads, on a GPU the others draw patches"
    train.add_argument("--threads", type=whole(1), default=2, help=text)
    train.add_argument(
        "--steps", type=whole(1), help="default: as many as fit into --minutes, 1000 without --minutes"
    )
    for name, kind in (
        ("--steps-per-epoch", whole(1)),
        ("--batch", whole(1)),
        ("--learning-rate", at_least(LEAST_RATE)),
        ("--final-learning-rate", at_least(0)),
        ("--alpha", at_least(0)),
        ("--seed", whole(0)),
    ):
        train.add_argument(name, type=kind, default=RECIPE[name[2:].replace("-", "_")])
    train.add_argument("--patch", type=whole(1), nargs=3, default=RECIPE["patch"], metavar="N")
    train.add_argument("--clip-hu", type=number(*HU), nargs=2, default=RECIPE["clip_hu"], metavar="HU")
    train.add_argument(
        "--augmentation", type=at_least(0), default=1.0, help="share of the recipe's probabilities; 0: never"
    )
    train.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default=RECIPE["precision"])
    train.add_argument(
        "--fold-norm",
        action="store_true",
        help="put the first model's batch normalisation into its kernels and train without: for a last stage",
    )
