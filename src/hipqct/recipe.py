"""The recipe of a training: fields, defaults and rules; no deep-learning library is needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hipqct.errors import ModelError
from hipqct.network import COMPACT, PRESETS, SIDES

if TYPE_CHECKING:
    from hipqct.augment import Ranges

# Where `hipqct train` begins with other values than `Recipe`, whose rate is the paper's, constant over 1000
# epochs: trainings on phantoms are shorter, and go from a higher rate to a lower one.
PHANTOM_RATES = {"learning_rate": 1e-3, "final_learning_rate": 1e-5}
MOST_SEED = 2**31 - 1  # that every backend takes: Keras keeps the dropout's as int32 on torch
CONFIG_KEYS = (
    "batch",
    "patch",
    "learning_rate",
    "final_learning_rate",
    "alpha",
    "clip_hu",
    "seed",
    "precision",
)


def _usual_ranges() -> "Ranges":
    from hipqct.augment import Ranges  # here: it loads SciPy, which the command's --help has no need of

    return Ranges()


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training, but for its data and first weights.

    The learning rate falls from ``learning_rate`` to ``final_learning_rate`` along half a cosine over
    ``steps``; equal rates keep it constant, as in the paper. ``steps`` may be None until it is known how many
    fit into the time (`hipqct.steps.training.count_steps`). ``precision`` is Keras' policy: with
    ``mixed_bfloat16`` layers compute in 16 bits from float32 weights, the last layer and the loss in float32.
    ``side`` is what the crops are turned to: ``left``, or ``both`` for crops as they are. Mirroring makes
    right femurs of left ones, so only a model for both sides may have it.

    Raises:
        ModelError: a field breaks a rule of `recipe_faults`.
    """

    network: dict = field(default_factory=lambda: dict(COMPACT))
    spacing_mm: tuple[float, float, float] = (0.8, 0.8, 3.0)
    window: tuple[int, int, int] = (192, 192, 32)
    clip_hu: tuple[float, float] = (-200.0, 1500.0)
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-4
    alpha: float = 1e-6
    patch: tuple[int, int, int] = (96, 96, 32)
    batch: int = 2
    steps: int | None = 1000
    steps_per_epoch: int = 50
    seed: int = 0
    precision: str = "float32"
    side: str = "left"
    ranges: "Ranges" = field(default_factory=_usual_ranges)

    def __post_init__(self):
        if faults := recipe_faults(vars(self)):
            raise ModelError("; ".join(f"{name} {fault}" for name, fault in faults.items()))

    def plan(self) -> dict:
        """The part of plan.json that inference needs."""
        return {
            "side": self.side,
            "pixel_mm": self.spacing_mm[0],
            "slice_mm": self.spacing_mm[2],
            "window": list(self.window),
            "normalisation": {"clip_hu": list(self.clip_hu)},
        }


def recipe_faults(fields: Mapping) -> dict[str, str]:
    """Broken rules by the field to change; each text completes a sentence that begins with the field's name.

    ``dropout`` stands for the network's, ``mirror`` for the range of this name.
    """
    faults, side, network = {}, fields["side"], fields["network"]
    if side not in SIDES:
        faults["side"] = f"must be one of {SIDES}, got {side!r}"
    if side == "left" and fields["ranges"].mirror[0] > 0:
        faults["mirror"] = (
            "makes right femurs of left ones, which a model for left hips must not see: set its probability "
            "to 0, or side to both"
        )
    low_hu, high_hu = fields["clip_hu"]
    if not low_hu < high_hu:
        faults["clip_hu"] = (
            f"must rise, got {low_hu:g} and {high_hu:g}: the HU that become 0, then those for 1"
        )
    first, last = fields["learning_rate"], fields["final_learning_rate"]
    if last > first:
        faults["final_learning_rate"] = f"must not exceed learning_rate, {first:g}, got {last:g}"
    halved = 2 ** (len(network["filters"]) - 1)
    if any(n % halved for n in fields["patch"]):
        size = " x ".join(map(str, fields["patch"]))
        faults["patch"] = (
            f"must have sides that are multiples of {halved}, which the network halves, got {size}"
        )
    if not 0 <= network["dropout"] < 1:
        faults["dropout"] = f"must be a share of the features from 0 to below 1, got {network['dropout']:g}"
    return faults


def recipe_fields(train: Mapping) -> dict:
    """Fields of a `Recipe` from the config's ``train``: all that do not hang on the data."""
    usual = _usual_ranges()
    never = {name: (0.0, drawn[1]) for name, drawn in vars(usual).items()}
    drawn = {name: (float(p), (low, high)) for name, (p, low, high) in train["augmentation"].items()}
    chosen = {key: train[key] for key in CONFIG_KEYS}
    return {
        **{key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()},
        "network": PRESETS[train["network"]] | {"dropout": train["dropout"]},
        "ranges": replace(usual, **never | drawn),
    }
