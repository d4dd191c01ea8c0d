"""The recipe of a training: its rules, whoever asks, and the configuration's way into it."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hipqct.augment import Ranges
from hipqct.errors import ModelError
from hipqct.network import PAPER
from hipqct.options import RECIPE
from hipqct.recipe import PHANTOM_RATES, Recipe, recipe_faults, recipe_fields

CONFIG = Path(__file__).resolve().parents[1] / "config/config.yaml"
MIRRORED = Ranges(mirror=(0.5, (1.0, 1.0)))


def test_mirroring_is_for_models_of_both_sides_only():
    assert Recipe(side="both", ranges=MIRRORED).plan()["side"] == "both"
    with pytest.raises(ModelError, match="mirror makes right femurs"):
        Recipe(side="left", ranges=MIRRORED)
    with pytest.raises(ModelError, match="side must be one of"):
        Recipe(side="right")


def test_every_fault_is_named_at_once():
    broken = {
        "ranges": MIRRORED,
        "clip_hu": (100, 100),
        "final_learning_rate": 2e-4,
        "patch": (96, 96, 12),
        "network": PAPER | {"dropout": 1.0},
    }
    faults = recipe_faults(vars(Recipe()) | broken)
    assert list(faults) == ["mirror", "clip_hu", "final_learning_rate", "patch", "dropout"]
    with pytest.raises(ModelError) as error:
        Recipe(**broken)
    assert all(f"{name} {fault}" in str(error.value) for name, fault in faults.items())


def test_the_shipped_configuration_gives_the_papers_recipe():
    train = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["train"]
    recipe = Recipe(**recipe_fields(train))
    assert recipe.network == PAPER
    assert recipe.clip_hu == Recipe().clip_hu and recipe.patch == recipe.window
    assert recipe.learning_rate == recipe.final_learning_rate == Recipe().learning_rate
    drawn = vars(recipe.ranges)
    for name, (probability, low, high) in train["augmentation"].items():
        assert drawn[name] == (probability, (low, high))
    assert all(p == 0 for name, (p, _) in drawn.items() if name not in train["augmentation"])


def test_the_command_begins_with_the_recipe_but_for_its_rates():
    own = {field.name: field.default for field in fields(Recipe)}
    assert {name for name in own if RECIPE[name] != own[name]} == set(PHANTOM_RATES)
