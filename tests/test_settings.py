"""The shipped configuration fits its schema; every fault of another is told by key."""

from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from shipped import CONFIG as SHIPPED
from shipped import SCHEMA, mesh_options

from hipqct.augment import Ranges
from hipqct.errors import SheetError
from hipqct.hexahedra import SHAPES
from hipqct.io.fe_formats import WRITERS
from hipqct.loads import LoadCase
from hipqct.recipe import MOST_SEED
from hipqct.settings import AUGMENTATION_LIMITS, check_bases, check_settings
from hipqct.sheet import Subject

ALONG_THE_SHAFT = {"angle_to_shaft_deg": 0, "distal": "hinged"}
STANCE = SHIPPED["mesh"]["load_cases"]["stance"]


def test_the_shipped_configuration_is_right():
    check_settings(SHIPPED, SCHEMA)


def test_the_schema_lets_choose_what_the_package_knows():
    mesh = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))["properties"]["mesh"]
    options = mesh["properties"]
    assert set(mesh["required"]) == set(options) - {"laws_folder"}
    assert options["formats"]["items"]["enum"] == list(WRITERS)
    assert options["hex_shape"]["enum"] == list(SHAPES)
    (case,) = options["load_cases"]["patternProperties"].values()
    fields_of_case = [field.name for field in fields(LoadCase) if field.name != "name"]
    assert case["required"] == list(case["properties"]) == fields_of_case


@pytest.mark.parametrize("key", SHIPPED["mesh"])
def test_no_mesh_option_may_be_left_out(key):
    mesh = {name: value for name, value in SHIPPED["mesh"].items() if name != key}
    with pytest.raises(SheetError, match=rf"1 fault\(s\):\n  mesh: '{key}' is a required property"):
        check_settings(SHIPPED | {"mesh": mesh}, SCHEMA)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cube": 3}, "mesh: Additional properties are not allowed ('cube' was unexpected)"),
        ({"cube_mm": -1}, "mesh/cube_mm: -1 is less than the minimum of 0.5"),
        ({"cube_mm": True}, "mesh/cube_mm: True is not of type 'number'"),
        ({"average": "median"}, "mesh/average: 'median' is not one of ['density', 'modulus']"),
        ({"bin_width": None}, "mesh/bin_width: None is not of type 'number'"),
        ({"distal_cut_mm": 20}, "mesh/distal_cut_mm: 20 is less than the minimum of 50"),
        ({"formats": ["stl"]}, "mesh/formats/0: 'stl' is not one of ['feb', 'bdf', 'cdb']"),
        ({"minimum_modulus_mpa": 20000}, "mesh/minimum_modulus_mpa: 20000 is greater than the maximum of"),
        ({"uncalibrated_modulus_mpa": 1e-4}, "mesh/uncalibrated_modulus_mpa: 0.0001 is less than the min"),
        ({"load_cases": {"lift": STANCE | {"distal": "free"}}}, "mesh/load_cases/lift/distal: 'free' is not"),
        ({"load_cases": {"lift": STANCE | {"angel": 1}}}, "mesh/load_cases/lift: Additional properties"),
        ({"load_cases": {"lift": {}}}, "mesh/load_cases/lift: 'posterior_deg' is a required property"),
        ({"gate_errors": ["head_leak"]}, "mesh/gate_errors/0: 'head_leak' is not one of ['touches_scan_top'"),
        ({"gates": {}}, "mesh/gates: 'head_radius_mm' is a required property"),
    ],
)
def test_a_mesh_option_out_of_its_range_is_told_before_any_job(changes, words):
    with pytest.raises(SheetError) as error:
        check_settings(SHIPPED | {"mesh": SHIPPED["mesh"] | changes}, SCHEMA)
    assert words in str(error.value)


def test_a_gate_that_is_not_there_is_told_before_any_job():
    with pytest.raises(SheetError, match="mesh/gates: 'head_radius' is not one of"):
        check_settings(SHIPPED | {"mesh": mesh_options({"head_radius": [17, 32]})}, SCHEMA)


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("crop", "pixels", 100, "crop/pixels: 100 is not a multiple of 8"),
        ("resample", "method", "spline", "resample/method: 'spline' is not one of"),
        ("resample", "slice_mm", "3", "resample/slice_mm: '3' is not of type 'number'"),
        ("crop", "pixel_mm", float("nan"), "crop/pixel_mm: nan must be a finite number"),
        ("solve", "minutes", float("inf"), "solve/minutes: inf must be a finite number"),
        ("crop", "pixels", 192.0, "crop/pixels: 192.0 is not of type 'integer': write 192"),
        ("segment", "step", 8.0, "segment/step: 8.0 is not valid under any"),
        ("train", "batch", 2.0, "train/batch: 2.0 is not of type 'integer': write 2"),
        ("train", "batch", 2.5, "train/batch: 2.5 is not of type 'integer'"),
        ("train", "batch", True, "train/batch: True is not of type 'integer'"),
        ("train", "patch", [64, 64.0, 32], "train/patch/1: 64.0 is not of type 'integer': write 64"),
        ("train", "seed", 1.0, "train/seed: 1.0 is not of type 'integer': write 1"),
        ("train", "seed", 2**31, "train/seed: 2147483648 is greater than the maximum of 2147483647"),
        ("train", "folds", 2.0, "train/folds: 2.0 is not of type 'integer': write 2"),
        ("train", "epochs", "1e3", "train/epochs: '1e3' is not of type 'integer': write 1000"),
        ("train", "learning_rate", "1e-4", "learning_rate: '1e-4' is not of type 'number': write 1.0e-4"),
        ("train", "alpha", "2.5E3", "train/alpha: '2.5E3' is not of type 'number': write 2.5e+3"),
        ("train", "test_share", 0, "train/test_share: 0 is less than or equal to the minimum of 0"),
        (
            "solve",
            "criterion",
            SHIPPED["solve"]["criterion"] | {"tension": 0.73},  # percent
            "solve/criterion/tension: 0.73 is greater than the maximum of 0.1",
        ),
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
        ("mesh", mesh_options({"head_radius_mm": [32, 17]}), "the lower limit 32 is above the upper one, 17"),
        (
            "mesh",
            {"load_cases": SHIPPED["mesh"]["load_cases"] | {"drop": STANCE | ALONG_THE_SHAFT}},
            "mesh/load_cases/drop: a push along the shaft leaves a hinge no axis",
        ),
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


@pytest.mark.parametrize("text", ["1e-4", "-3E-12", "2.5e3", "'7'", "'0.25'"])
def test_the_advice_for_a_number_that_is_text_is_a_number_in_yaml(text):
    value = yaml.safe_load(text)
    with pytest.raises(SheetError, match="is not of type 'number': write ") as error:
        check_settings(SHIPPED | {"train": SHIPPED["train"] | {"learning_rate": value}}, SCHEMA)
    advised = str(error.value).rpartition("write ")[2].removesuffix(", unquoted")
    assert yaml.safe_load(advised) == float(value)


@pytest.mark.parametrize("value", ["fast", "nan", "inf", None, [1]])
def test_no_advice_is_given_where_no_number_is_meant(value):
    with pytest.raises(SheetError, match=r"is not of type 'number'$"):
        check_settings(SHIPPED | {"train": SHIPPED["train"] | {"learning_rate": value}}, SCHEMA)


def test_the_most_a_seed_may_be_is_one_number():
    train = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))["properties"]["train"]["properties"]
    assert train["seed"]["maximum"] == MOST_SEED
    check_settings(SHIPPED | {"train": SHIPPED["train"] | {"seed": MOST_SEED}}, SCHEMA)


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
