"""Options of `hipqct phantom` and `hipqct train`, the ranges of their values, and how help shows defaults."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from hipqct.phantom.seeds import SEEDS
from hipqct.recipe import MOST_SEED, PHANTOM_RATES, Recipe

# Defaults of `hipqct train`.
RECIPE = {field.name: field.default for field in fields(Recipe)} | PHANTOM_RATES
SLICE_MM, AGE_YEARS, HU = (0.6, 5.0), (18, 110), (-32768, 32767)
LEAST_PIECE_MB, LEAST_RATE = 0.05, 1e-12
SEEDS_HELP = ", ".join(f"{seeds[0]} to {seeds[-1]} for {use}" for use, seeds in SEEDS.items())
SEEDS_HELP = f"one number, one phantom; set apart are {SEEDS_HELP}"


class ShowDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds an option's default to its help, unless it is none, no bound, or a switch that is off."""

    def _get_help_string(self, action):
        silent = any(action.default is value for value in (None, False, math.inf))
        return action.help if silent else super()._get_help_string(action)


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
        "folder", type=Path, metavar="DIR", help="folder without a phantom; its name is the subject's"
    )
    one.add_argument("--seed", type=whole(0), required=True, help=SEEDS_HELP)
    one.add_argument("--sex", choices=("F", "M"), help="woman or man; drawn if not given")
    text = "{} to {} years; drawn if not given".format(*AGE_YEARS)
    one.add_argument("--age", type=whole(*AGE_YEARS), help=text)
    text = "distance of the slices, {:g} to {:g} mm".format(*SLICE_MM)
    one.add_argument("--slice-mm", type=number(*SLICE_MM), default=2.0, help=text)
    one.add_argument("--dicom", action="store_true", help="also write the scan as a DICOM series")


def add_cohort_options(cohort) -> None:
    """`hipqct phantom cohort`."""
    text = "the cohort's folder; the same command goes on where it stopped"
    cohort.add_argument("folder", type=Path, metavar="DIR", help=text)
    cohort.add_argument("--women", type=whole(0), default=216, help="how many women")
    cohort.add_argument("--men", type=whole(0), default=181, help="how many men")
    text = "decides who is drawn: one number, one cohort"
    cohort.add_argument("--seed", type=whole(0), default=1, help=text)
    text = "each scan as a DICOM series or as one NIfTI file"
    cohort.add_argument("--format", choices=("dicom", "nifti"), default="dicom", help=text)
    _add_processes(cohort)
    cohort.add_argument(
        "--table-only",
        action="store_true",
        help="draw the cohort and compare it with the paper; make no scans",
    )


def add_training_options(train) -> None:
    """`hipqct train`."""
    text = "the model's folder; the same command goes on where it stopped"
    train.add_argument("folder", type=Path, metavar="DIR", help=text)
    for name, part, default, text in (
        ("--phantoms", "training", 60, "phantoms to train on, two hips each"),
        ("--validation", "validation", 3, "phantoms that are watched, not trained on"),
    ):
        train.add_argument(name, type=whole(1, len(SEEDS[part])), default=default, help=text)
    text = "the network: a quarter, half or all of the paper's filters"
    train.add_argument("--preset", choices=("compact", "medium", "paper"), default="compact", help=text)
    text = "what Keras computes with; it must be installed"
    train.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="tensorflow", help=text)
    train.add_argument(
        "--minutes",
        type=at_least(0, math.inf),
        default=math.inf,
        help="bound on this call (minutes); phantoms come first, some 15 s each (default: none)",
    )
    train.add_argument(
        "--first-model", type=Path, help="start from this model's weights, also of a smaller preset"
    )
    train.add_argument(
        "--dropout", type=number(0, 0.99), help="share of features dropped, 0 to 0.99 (default: the preset's)"
    )
    train.add_argument(
        "--piece-mb",
        type=at_least(LEAST_PIECE_MB),
        help="write the weights in pieces of at most so many MB (default: one file)",
    )
    train.add_argument("--float16", action="store_true", help="write kernels as float16: half the file")
    _add_processes(train)
    text = "threads of the CPU: one leads, on a GPU the others draw patches"
    train.add_argument("--threads", type=whole(1), default=2, help=text)
    train.add_argument(
        "--steps",
        type=whole(1),
        help="in all (default: as many as fit into --minutes, 1000 without --minutes)",
    )
    for name, kind, text in (
        ("--steps-per-epoch", whole(1), "steps after which all is saved and the validation hips are scored"),
        ("--batch", whole(1), "patches per step"),
        ("--learning-rate", at_least(LEAST_RATE), "Adam's, at the first step"),
        ("--final-learning-rate", at_least(0), "Adam's, at the last step; half a cosine leads there"),
        ("--alpha", at_least(0), "weight of the kernels' sum of squares in the loss"),
        (
            "--seed",
            whole(0, MOST_SEED),
            "of first weights, patches and augmentation; the phantoms stay the same",
        ),
    ):
        train.add_argument(name, type=kind, default=RECIPE[name[2:].replace("-", "_")], help=text)
    text = "voxels of a patch along x, y and z, multiples of 8"
    train.add_argument("--patch", type=whole(1), nargs=3, default=RECIPE["patch"], metavar="N", help=text)
    text = "HU that become 0 and 1; what lies beyond is clipped"
    train.add_argument(
        "--clip-hu", type=number(*HU), nargs=2, default=RECIPE["clip_hu"], metavar="HU", help=text
    )
    train.add_argument(
        "--augmentation", type=at_least(0), default=1.0, help="factor on the recipe's probabilities; 0: never"
    )
    text = "of the layers' arithmetic; mixed_bfloat16 (torch only) computes them in 16 bits"
    train.add_argument(
        "--precision", choices=("float32", "mixed_bfloat16"), default=RECIPE["precision"], help=text
    )
    train.add_argument(
        "--fold-norm",
        action="store_true",
        help="put the first model's batch normalisation into its kernels and train without: for a last stage",
    )
