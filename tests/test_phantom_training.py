"""Training phantoms: harder than a cohort's, from their own seeds, made once."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from network_factory import random_weights

from hipqct import cli
from hipqct.errors import ModelError
from hipqct.io.dataset import Dataset
from hipqct.io.models import read_model, write_model
from hipqct.io.tables import read_table
from hipqct.network import COMPACT, MEDIUM, fold_norms, widen_filters
from hipqct.phantom.parameters import CONTACT_MM, sample_parameters
from hipqct.phantom.seeds import TRAIN_SEEDS, VALIDATION_SEEDS
from hipqct.recipe import PHANTOM_RATES, Recipe
from hipqct.steps import phantom_training, workers
from hipqct.steps.phantom_training import PhantomTraining, draw_changes, train_on_phantoms


def test_training_phantoms_are_harder_than_a_cohorts_and_always_valid():
    drawn = [draw_changes(np.random.default_rng(seed)) for seed in range(200)]
    for seed, changes in enumerate(drawn[:40]):
        sample_parameters(TRAIN_SEEDS[seed], **changes)
    shares = {"joint_space_mm": (0.34, 0.54), "head_shell": (0.08, 0.2), "slice_mm": (0.4, 0.6)}
    shares |= {"texture_mg_cm3": (0.1, 0.3)}
    for name, (low, high) in shares.items():
        assert low < np.mean([name in changes for changes in drawn]) < high
    assert all(c["joint_space_mm"] > CONTACT_MM for c in drawn if "joint_space_mm" in c)


def test_crops_of_a_phantom_are_left_hips_and_made_once(tmp_path, monkeypatch):
    coarse = {"matrix": 160, "pixel_mm": 2.4, "slice_mm": 3.0, "top_mm": 40.0, "bottom_mm": 66.0}
    phantom_training._build_crops_of(TRAIN_SEEDS[0], tmp_path, lambda rng: coarse)
    for side in ("left", "right"):
        with np.load(tmp_path / f"{TRAIN_SEEDS[0]}_{side}.npz") as arrays:
            ct, mask = arrays["ct"], arrays["mask"]
            assert np.array_equal(arrays["distance_um"] < 0, mask)
        assert ct.shape == mask.shape
        assert ct.shape[:2] == (192, 192)
        # The trochanter lies at the patient's left of the head: lateral is towards larger x.
        slices = np.flatnonzero(mask.any((0, 1)))
        head_x, shaft_x = (np.argwhere(mask[:, :, z])[:, 0].mean() for z in (slices[-3], slices[0]))
        assert shaft_x > head_x + 10
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)  # nothing is left to make
    phantom_training.build_crops([TRAIN_SEEDS[0]], tmp_path, 1, lambda done, total: None)


KNOWN_UM = 123


def write_crops(model_dir, pixels: int, training: int = 1) -> None:
    """Crops as if of phantoms that were made before: of so many training seeds and one for validation."""
    folder = model_dir / phantom_training.CROPS_FOLDER
    folder.mkdir(parents=True)
    for seed in (*TRAIN_SEEDS[:training], VALIDATION_SEEDS[0]):
        ct = np.random.default_rng(seed).integers(-100, 900, (pixels, pixels, 8)).astype(np.int16)
        distance_um = np.where(ct > 500, -1, 1) * np.int16(KNOWN_UM)
        np.savez(folder / f"{seed}_left.npz", ct=ct, mask=ct > 500, distance_um=distance_um)
        (folder / f"{seed}.done").touch()


def write_first_model(folder, network: dict) -> dict[str, np.ndarray]:
    """A model of random weights, which are returned."""
    weights = random_weights(network)
    write_model(folder, {**Recipe().plan(), "name": "first", "network": network, "training": {}}, weights)
    return weights


def test_a_model_is_trained_on_phantoms_of_the_seeds_set_apart(tmp_path):
    write_crops(tmp_path / "m", 32, training=3)
    choices = {"patch": (16, 16, 8), "steps": 2, "steps_per_epoch": 1, "window": (32, 32, 8)}
    wanted = PhantomTraining(3, 1, choices=choices, piece_mb=1)
    train_on_phantoms(tmp_path / "m", replace(wanted, minutes=0))
    assert read_table(tmp_path / "m/history.tsv")["step"].tolist() == [1]
    train_on_phantoms(tmp_path / "m", wanted)
    with Dataset(tmp_path / "m/phantoms.h5") as data:
        folds = {hip.subject: hip.fold for hip in data.hips()}
        assert all((np.abs(hip.distance_um[()]) == KNOWN_UM).all() for hip in data.hips())
    assert folds == {str(seed): 1 for seed in TRAIN_SEEDS[:3]} | {str(VALIDATION_SEEDS[0]): 0}
    assert read_table(tmp_path / "m/history.tsv")["step"].tolist() == [1, 2]
    plan, _ = read_model(tmp_path / "m")
    assert plan["training"]["data"] == "synthetic"
    for part, seeds in (("training", TRAIN_SEEDS), ("validation", VALIDATION_SEEDS)):
        assert set(plan["training"][f"{part}_seeds"]) < set(seeds)
    assert not (tmp_path / "m/weights.h5").exists()
    pieces = sorted((tmp_path / "m").glob("weights.h5.*"))
    assert len(pieces) == 3
    assert max(piece.stat().st_size for piece in pieces) <= 1_000_000


def test_stages_go_on_without_batch_normalisation_and_with_more_filters(tmp_path):
    choices = {"patch": (16, 16, 8), "steps": 1, "batch": 1, "window": (16, 16, 8), "seed": 7}
    choices |= {"learning_rate": 0.0, "final_learning_rate": 0.0}
    folded_config, folded = fold_norms(COMPACT, write_first_model(tmp_path / "first", COMPACT))
    _, wide = widen_filters(folded_config, folded, MEDIUM["filters"], 7)
    for stage, first, preset, fold_norm, expected in (
        ("second", "first", "compact", True, folded),
        ("third", "second", "compact", False, folded),
        ("fourth", "first", "medium", True, wide),
    ):
        write_crops(tmp_path / stage, 16)
        started = {"first_model_dir": tmp_path / first, "fold_norm": fold_norm}
        wanted = PhantomTraining(1, 1, preset, choices=choices, dropout=0.1, **started)
        train_on_phantoms(tmp_path / stage, wanted)
        plan, found = read_model(tmp_path / stage)
        assert not plan["network"]["batch_norm"] and plan["network"]["dropout"] == 0.1
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            np.testing.assert_allclose(found[name], weight, rtol=1e-6)


@pytest.mark.parametrize(
    ("preset", "first", "message"),
    [("compact", None, "add --first-model"), ("compact", "first", "choose a network with the same levels")],
)
def test_what_a_first_model_cannot_give_is_told_before_phantoms_are_made(
    tmp_path, monkeypatch, preset, first, message
):
    monkeypatch.setattr(phantom_training, "build_crops", None)
    write_first_model(tmp_path / "first", MEDIUM)
    first_model_dir = first and tmp_path / first
    wanted = PhantomTraining(1, 1, preset, first_model_dir=first_model_dir, fold_norm=True)
    with pytest.raises(ModelError, match=message):
        train_on_phantoms(tmp_path / "m", wanted)


def test_every_option_of_the_command_reaches_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_first_model(tmp_path / "first", COMPACT | {"filters": (2, 3, 4, 5)})
    write_crops(tmp_path / "m", 32)
    words = (
        "--phantoms 1 --validation 1 --preset compact --backend tensorflow --minutes 5 --fold-norm "
        "--dropout 0.1 --piece-mb 0.2 --float16 --processes 1 --threads 1 --steps 2 --steps-per-epoch 1 "
        "--batch 1 --seed 7 --learning-rate 0.002 --final-learning-rate 0.001 --alpha 1e-5 "
        "--patch 16 24 8 --clip-hu -100 900 --precision float32 --augmentation 0.5"
    )
    command = ["train", str(tmp_path / "m"), "--first-model", str(tmp_path / "first"), *words.split()]
    assert cli.main(command) == 0
    plan, weights = read_model(tmp_path / "m")
    assert plan["network"] == COMPACT | {"filters": [8, 16, 32, 64], "batch_norm": False, "dropout": 0.1} | {
        key: list(COMPACT[key]) for key in ("encoder_convolutions", "decoder_convolutions")
    }
    assert plan["normalisation"]["clip_hu"] == [-100, 900]
    wanted = {"batch": 1, "steps": 2, "steps_per_epoch": 1, "seed": 7, "patch": [16, 24, 8], "alpha": 1e-5}
    wanted |= {"learning_rate": 0.002, "final_learning_rate": 0.001, "precision": "float32"}
    assert {key: plan["training"][key] for key in wanted} == wanted
    assert plan["training"]["ranges"]["blur"] == [0.15, [0.3, 1.1]]
    assert len(list((tmp_path / "m").glob("weights.h5.*"))) > 1
    kernel = weights["down3_conv1/kernel"]
    assert np.array_equal(kernel, kernel.astype(np.float16))
    assert read_table(tmp_path / "m/history.tsv")["step"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("words", "steps"), [("", "recipe's"), ("--minutes 5", None), ("--minutes 5 --steps 9", 9)]
)
def test_steps_are_the_recipes_or_fit_into_the_minutes(tmp_path, monkeypatch, words, steps):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = {}
    monkeypatch.setattr(
        phantom_training, "train_on_phantoms", lambda _, wanted, __: asked.update(vars(wanted))
    )
    assert cli.main(["train", str(tmp_path), *words.split()]) == 0
    assert asked["choices"].get("steps", "recipe's") == steps
    assert asked["threads"] == 2
    assert {name: asked["choices"][name] for name in PHANTOM_RATES} == PHANTOM_RATES
    chosen, own = vars(Recipe(**asked["choices"])), vars(Recipe())
    assert {name for name in own if chosen[name] != own[name]} - {"steps"} == set(PHANTOM_RATES)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"choices": {"clip_hu": (1500.0, -200.0)}}, "clip_hu must rise, got 1500 and -200"),
        (
            {"choices": {"learning_rate": 1e-6, "final_learning_rate": 1e-5}},
            "final_learning_rate must not exceed learning_rate, 1e-06, got 1e-05",
        ),
        ({"choices": {"patch": (20, 24, 8)}}, "patch must .* multiples of 8, .* got 20 x 24 x 8"),
        ({"dropout": 1.5}, "dropout must be a share of the features from 0 to below 1, got 1.5"),
        ({"choices": {"precision": "mixed_bfloat16"}}, "Precision mixed_bfloat16 is not for"),
    ],
)
def test_an_impossible_recipe_is_refused_before_phantoms_are_made(tmp_path, monkeypatch, wanted, told):
    monkeypatch.setattr(phantom_training, "build_crops", None)
    with pytest.raises(ModelError, match=told):
        train_on_phantoms(tmp_path / "m", PhantomTraining(1, 1, **wanted))
    assert not (tmp_path / "m").exists()


def test_a_backend_that_is_not_installed_is_told_before_phantoms_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(phantom_training, "build_crops", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    assert cli.main(["train", str(tmp_path / "m"), "--backend", "torch"]) == 1
    assert "the backend torch is not installed: pip install torch, or choose" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_model_that_goes_on_says_what_its_first_weights_have_seen(tmp_path, monkeypatch, caplog):
    """A patient's model refined on phantoms knows its patients all the same."""
    given = {}
    monkeypatch.setattr(phantom_training, "train_model", lambda *args: given.update(args[3]))
    before = {"data": "", "crops_sha256": ["a" * 64], "training_seeds": [5]}
    recipe = Recipe(clip_hu=(-1000.0, 3000.0))
    plan = {**recipe.plan(), "name": "first", "network": COMPACT, "training": before}
    write_model(tmp_path / "first", plan, random_weights(COMPACT))
    write_crops(tmp_path / "m", 16)
    train_on_phantoms(tmp_path / "m", PhantomTraining(1, 1, first_model_dir=tmp_path / "first"))
    told = given["training"]
    assert (told["data"], told["crops_sha256"]) == ("", ["a" * 64])
    assert told["training_seeds"] == [5, TRAIN_SEEDS[0]]
    assert told["first_model_sha256"] == read_model(tmp_path / "first")[0]["weights_sha256"]
    assert "first model's normalisation was {'clip_hu': [-1000.0, 3000.0]}, now it is" in caplog.text
    assert "pixel_mm" not in caplog.text


def test_the_minutes_bound_the_making_of_phantoms_too(tmp_path, monkeypatch):
    made, stopped = [], Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait)

    def build(seed, folder, draw):
        if made:  # the second is being made when time is up
            stopped.wait(60)
        made.append(seed)
        (folder / f"{seed}.done").touch()

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(phantom_training, "_build_crops_of", build)
    monkeypatch.setattr(phantom_training, "train_model", None)  # nothing is trained
    with pytest.raises(ModelError, match="of 41 phantoms made and nothing trained: the same command goes on"):
        train_on_phantoms(tmp_path / "m", PhantomTraining(40, 1, minutes=0))
    assert 0 < len(made) < 41
