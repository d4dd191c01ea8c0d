"""The shipped configuration fits its schema; every fault of another is told by key."""

from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hipqct.augment import Ranges
from hipqct.errors import SheetError
from hipqct.gates import LIMITS
from hipqct.mesh_options import DEFAULT_OPTIONS
from hipqct.settings import AUGMENTATION_LIMITS, check_bases, check_settings
from hipqct.sheet import Subject

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
SHIPPED = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def test_the_shipped_configuration_is_right():
    check_settings(SHIPPED, SCHEMA)


def test_the_shipped_mesh_options_are_the_packages_own():
    options = dict(SHIPPED["mesh"])
    gates = {name: tuple(limits) for name, limits in options.pop("gates").items()}
    assert gates == LIMITS
    ours = {key: value for key, value in DEFAULT_OPTIONS.items() if key not in ("gates", "laws_folder")}
    assert options == ours


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("crop", "pixels", 100, "crop/pixels: 100 is not a multiple of 8"),
        ("resample", "method", "spline", "resample/method: 'spline' is not one of"),
        ("resample", "slice_mm", "3", "resample/slice_mm: '3' is not of type 'number'"),
        (
            "segment",
            "devise",
            "cpu",
            "segment: Additional properties are not allowed ('devise' was unexpected)",
        ),
    ],
)
def test_a_fault_is_told_by_its_key(section, key, value, words):
    config = deepcopy(SHIPPED)
    config[section][key] = value
    with pytest.raises(SheetError) as error:
        check_settings(config, SCHEMA)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        (
            "solve",
            {"cases": ["stance", "fal"]},
            "solve/cases: 'fal' is none of mesh/load_cases (stance, fall)",
        ),
        (
            "mesh",
            {"minimum_modulus_mpa": 20000},
            "minimum_modulus_mpa in the configuration must be 0.001 to 10000",
        ),
        ("mesh", {"uncalibrated_modulus_mpa": 1e-4}, "uncalibrated_modulus_mpa in the configuration must be"),
        ("mesh", {"gates": {"head_radius": [17, 32]}}, "mesh/gates: there is no gate 'head_radius'"),
        ("mesh", {"gate_errors": ["head_leak"]}, "mesh/gate_errors: there is no gate 'head_leak'"),
        ("mesh", {"modulus_law": "keller"}, "mesh/density_laws/K2HPO4: material law keller is unknown"),
        (
            "mesh",
            {"density_laws": {"K2HPO4": ["schileo2008_ash"]}},
            "material law schileo2008_ash takes HA density, got K2HPO4",
        ),
        (
            "mesh",
            {"density_laws": {"HA": ["schileo2008_ash"]}},
            "mesh/density_laws/K2HPO4: no density laws for a calibration in K2HPO4",
        ),
        ("train", {"precision": "mixed_bfloat16"}, "train/precision: Precision mixed_bfloat16 is not for"),
        ("train", {"clip_hu": [1500, -200]}, "train/clip_hu must rise, got 1500 and -200"),
        ("train", {"clip_hu": [100, 100]}, "train/clip_hu"),
        (
            "train",
            {"learning_rate": 1e-5},
            "train/final_learning_rate must not exceed learning_rate, 1e-05, got 0.0001",
        ),
        (
            "train",
            {"augmentation": {"scale": [0.5, 0, 1]}},
            "train/augmentation/scale: 0 to 1 must rise and lie",
        ),
        ("train", {"augmentation": {"noise": [0.5, 60, 5]}}, "train/augmentation/noise"),
        ("train", {"augmentation": {"truncation": [0.5, 0.5, 5]}}, "within 0.01 to 1"),
        (
            "train",
            {"augmentation": {"mirror": [0.5, 1, 1]}},
            "train/augmentation/mirror makes right femurs of left ones",
        ),
        ("mesh", {"gates": {"head_radius_mm": [32, 17]}}, "the lower limit 32 is above the upper one, 17"),
    ],
)
def test_names_that_nothing_knows_are_told_before_any_job(section, changes, words):
    with pytest.raises(SheetError) as error:
        check_settings(SHIPPED | {section: SHIPPED[section] | changes}, SCHEMA)
    assert words in str(error.value)


def test_a_subjects_basis_without_laws_is_told_before_any_job():
    subjects = [Subject("A", Path("a")), Subject("B", Path("b"), basis="HA")]
    check_bases(subjects, SHIPPED["mesh"])
    only = SHIPPED["mesh"] | {"density_laws": {"K2HPO4": ["keyak1994_ash"]}}
    with pytest.raises(SheetError, match="B: basis HA: mesh/density_laws/HA: no density laws"):
        check_bases(subjects, only)


def test_every_change_has_its_limits():
    assert set(AUGMENTATION_LIMITS) == {field.name for field in fields(Ranges)}
    drawn = {name: [p, low, high] for name, (p, (low, high)) in vars(Ranges()).items()}
    check_settings(SHIPPED | {"train": SHIPPED["train"] | {"augmentation": drawn}}, SCHEMA)


def test_all_faults_come_at_once():
    config = deepcopy(SHIPPED)
    del config["crop"]
    config["segment"]["step"] = 0
    with pytest.raises(SheetError) as error:
        check_settings(config, SCHEMA)
    assert "2 fault(s)" in str(error.value)
    assert "top level: 'crop' is a required property" in str(error.value)
