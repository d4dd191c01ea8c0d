"""The training step: a model per fold, and it goes on where it was stopped with the same result."""

import time
from dataclasses import replace

import numpy as np
import pytest
from event_files import read_events

from hipqct.cohort import accuracy_table
from hipqct.errors import ModelError
from hipqct.folds import TEST
from hipqct.io.dataset import Dataset, Hip, hash_crop, write_dataset
from hipqct.io.models import read_checkpoint, read_model
from hipqct.io.tables import read_table
from hipqct.network import PAPER, PRESETS
from hipqct.steps import training
from hipqct.steps.accuracy import judge_models, tabulate_training
from hipqct.steps.training import TrainingOptions, count_steps, make_recipe, train_fold, train_model

SHAPE, SPACING_MM = (48, 48, 16), (2.0, 2.0, 5.0)
SETTINGS = {
    "network": "compact",
    "backend": "tensorflow",
    "precision": "float32",
    "epochs": 2,
    "batch": 2,
    "patch": [32, 32, 8],
    "learning_rate": 0.01,
    "final_learning_rate": 0.01,
    "alpha": 1e-6,
    "dropout": 0.2,
    "clip_hu": [-200, 1500],
    "seed": 1,
    "selection": "validation",
    "augmentation": {"rotation": [0.5, -15, 15], "noise": [0.5, 5, 20]},
}
TIMED = ["seconds", "waiting_share"]
TINY = PAPER | {"filters": (4, 6), "encoder_convolutions": (1, 1), "decoder_convolutions": (1,)}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(PRESETS, "compact", TINY | {"batch_norm": True})


def ball(i: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball of some 24,000 mm3 that leaves the crop below, as a femur does."""
    centre_mm = np.array([40, 45, 25]) + np.random.default_rng(i).uniform(-6, 6, 3)
    axes = [np.arange(n) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = (x - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (0.6 * (z - centre_mm[2])) ** 2 < 17**2
    return np.where(mask, 900, -100).astype(np.int16), mask


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "dataset.h5"
    folds = [0, 0, 1, 1, 2, 2, TEST, TEST, TEST, TEST]
    hips = [Hip(f"S{i}", "left", *ball(i), "FM"[i % 2], 60.0, fold) for i, fold in enumerate(folds)]
    below = ((0, 0), (0, 0), (4, 0))  # 20 mm of padding, as some scanners write
    padded = {"ct": np.pad(hips[-1].ct, below, constant_values=-1024), "mask": np.pad(hips[-1].mask, below)}
    hips[-1] = replace(hips[-1], **padded, spacing_mm=(2.0, 2.0, 4.97))
    write_dataset(hips, path, {"side": "left", "spacing_mm": SPACING_MM, "data": "synthetic"})
    return path


def history(folder):
    return read_table(folder / "history.tsv").drop(columns=TIMED)


def test_a_fold_leaves_a_model_its_history_and_its_curves(tmp_path, dataset):
    train_fold(dataset, tmp_path / "fold-0", "all", 0, SETTINGS)
    plan, weights = read_model(tmp_path / "fold-0")
    assert plan["name"] == "all-fold-0"
    assert plan["window"] == [48, 48, 32]
    assert plan["training"]["data"] == "synthetic"
    assert plan["training"]["hips"] == {
        "training": ["S2_left", "S3_left", "S4_left", "S5_left"], "validation": ["S0_left", "S1_left"]
    }  # fmt: skip
    assert plan["training"]["crops_sha256"] == sorted(hash_crop(ball(i)[0]) for i in range(6))
    rows = read_table(tmp_path / "fold-0/history.tsv")
    assert rows["epoch"].tolist() == [1, 2]
    assert rows["step"].tolist() == [2, 4]
    assert (tmp_path / "fold-0/curves.png").stat().st_size > 5000
    assert list((tmp_path / "fold-0/events").iterdir())
    _, best, record = read_checkpoint(tmp_path / "fold-0/checkpoint.h5")
    chosen = int(np.argmax([row["validation_dice"] for row in record["history"]]))
    assert record["history"][chosen]["validation_dice"] == pytest.approx(rows["validation_dice"].max())
    for name, values in weights.items():
        np.testing.assert_array_equal(values, best[name])


def test_a_fold_that_was_stopped_goes_on_and_ends_with_the_same_history(tmp_path, dataset, caplog):
    longer = SETTINGS | {"epochs": 3}
    train_fold(dataset, tmp_path / "whole", "all", 1, longer)
    with Dataset(dataset) as data:
        crops = read_crops(data)
        recipe = make_recipe(longer, data, crops["training"])
        facts = {"name": "stopped", "training": {"data": "synthetic"}}
        args = (crops, tmp_path / "stopped", recipe, facts)
        options = TrainingOptions("validation_dice")
        stopped = replace(options, minutes=0)
        train_model(*args, stopped)
        assert len(history(tmp_path / "stopped")) == 1
        train_model(*args, stopped)
        assert len(history(tmp_path / "stopped")) == 2
        train_model(*args, options)
        model = [tmp_path / "stopped" / name for name in ("weights.h5", "plan.json")]
        before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in model]
        caplog.set_level("INFO", "hipqct")
        train_model(*args, options)
        assert caplog.messages[-1] == "All 6 steps are done: nothing is left to train"
        assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in model] == before
        time.sleep(1.1)  # HDF5 counts whole seconds
        for path in model:  # as Snakemake removes outputs before a job
            path.unlink()
        train_model(*args, options)
        assert [path.read_bytes() for path in model] == [content for _, content in before]
    expected, found = history(tmp_path / "whole"), history(tmp_path / "stopped")
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    (events,) = (tmp_path / "stopped/events").iterdir()
    assert [step for step, _, tag, _ in read_events(events) if tag == "loss"] == found["step"].tolist()


def read_crops(data) -> dict:
    from hipqct.train import Crop

    parts = {"training": (0, 2), "validation": (1,)}
    return {
        name: [Crop(h.name, h.ct, h.mask, h.distance_um) for h in data.hips() if h.fold in folds]
        for name, folds in parts.items()
    }


@pytest.mark.parametrize(("minutes", "wanted"), [(10, 200), (1, 7), (0, 1)])
def test_as_many_steps_are_planned_as_fit_into_the_minutes(dataset, monkeypatch, minutes, wanted):
    class Clock:
        now_s = 0.0

        def monotonic(self):
            return self.now_s

    class Model:
        steps = 0

        def train_on_batch(self, inputs, truth):
            Model.steps += 1
            clock.now_s += 20 if Model.steps == 1 else 2  # the first compiles

    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr("hipqct.train.start_model", lambda recipe: Model())

    def validate(model, crops, recipe):
        clock.now_s += 8

    monkeypatch.setattr("hipqct.train.validation_dice", validate)
    with Dataset(dataset) as data:
        crops = read_crops(data)
        recipe = replace(make_recipe(SETTINGS, data, crops["training"]), steps=None, steps_per_epoch=20)
        found = count_steps(crops["training"], {"validation": crops["validation"]}, recipe, minutes)
    # Of 600 s a trial takes 20 + 5 x 2 and a validation 8; of nine tenths of the rest, 505.8 s, a last
    # validation takes 8 and each step 2 with its share of the others, 8 / 20: 207, so 10 epochs of 20.
    assert found == wanted


def test_steps_that_were_planned_stand_when_the_training_goes_on(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(training, "count_steps", lambda *_: 5)
    with Dataset(dataset) as data:
        crops = read_crops(data)
        recipe = replace(make_recipe(SETTINGS, data, crops["training"]), steps=None)
        recipe = replace(recipe, final_learning_rate=0.001)
        args = (crops, tmp_path, recipe, {"name": "m", "training": {"data": "synthetic"}})
        train_model(*args, TrainingOptions(minutes=0))
        assert history(tmp_path)["step"].tolist() == [2]
        monkeypatch.setattr(training, "count_steps", None)  # not asked again
        train_model(*args, TrainingOptions(minutes=5))
        train_model(*args, TrainingOptions(minutes=5))  # nothing is left to do
    assert history(tmp_path)["step"].tolist() == [2, 4, 5]
    assert history(tmp_path)["learning_rate"].iloc[-1] < 0.003
    assert read_model(tmp_path)[0]["training"]["steps"] == 5


def test_steps_that_fit_need_a_time(dataset):
    with Dataset(dataset) as data:
        crops = read_crops(data)
        recipe = replace(make_recipe(SETTINGS, data, crops["training"]), steps=None)
        with pytest.raises(ModelError, match="give the minutes, or the steps"):
            count_steps(crops["training"], {}, recipe, float("inf"))


def test_other_settings_start_anew(tmp_path, dataset):
    once = SETTINGS | {"epochs": 1}
    train_fold(dataset, tmp_path, "all", 0, once)
    first = history(tmp_path)
    train_fold(dataset, tmp_path, "all", 0, once | {"seed": 2})
    assert len(history(tmp_path)) == 1
    assert history(tmp_path)["loss"][0] != first["loss"][0]


def test_the_papers_selection_watches_the_test_set(tmp_path, dataset):
    train_fold(dataset, tmp_path, "female", 0, SETTINGS | {"epochs": 1, "selection": "paper"})
    assert {"validation_dice", "test_dice"} <= set(history(tmp_path).columns)
    assert read_model(tmp_path)[0]["training"]["hips"]["test"] == ["S6_left", "S8_left"]
    windows = (8, "uniform", "as-is")
    judge_models(dataset, [tmp_path / "plan.json"], tmp_path / "test.tsv", "female", windows, "cpu", 2)
    tested = read_table(tmp_path / "test.tsv")
    assert tested["flags"].str.contains("chosen_on_test").all()
    assert accuracy_table({"female": tested})["chosen_on_test"].all()


def test_impossible_trainings_are_refused(tmp_path, dataset):
    with pytest.raises(ModelError, match="fold 7 of 'all' has no hip for validation"):
        train_fold(dataset, tmp_path, "all", 7, SETTINGS)
    mirrored = SETTINGS | {"augmentation": {"mirror": [0.5, 1, 1]}}
    with pytest.raises(ModelError, match="mirror makes right femurs"):
        train_fold(dataset, tmp_path, "all", 0, mirrored)


def test_the_test_set_is_judged_and_tabulated(tmp_path, dataset):
    settings = SETTINGS | {"epochs": 12, "batch": 1, "augmentation": {}}
    train_fold(dataset, tmp_path / "fold-0", "all", 0, settings)
    judge_models(
        dataset,
        [tmp_path / "fold-0/plan.json"] * 2,
        tmp_path / "test.tsv",
        "all",
        (8, "uniform", "as-is"),
        "cpu",
        2,
    )
    tested = read_table(tmp_path / "test.tsv")
    assert tested["subject"].tolist() == ["S6", "S7", "S8", "S9"]
    assert set(tested["status"]) == {"done"}
    assert tested["dice"].min() > 0.7
    reference_mm3 = np.prod((2.0, 2.0, 4.97)) * ball(9)[1].sum()
    assert tested["volume_reference_mm3"].iloc[3] == pytest.approx(reference_mm3)
    assert set(tested["flags"].str.split(",").str[0]) == {"synthetic"}
    tabulate_training({"all": tmp_path / "test.tsv"}, tmp_path / "accuracy.tsv", tmp_path / "figures")
    row = read_table(tmp_path / "accuracy.tsv").iloc[0]
    assert (row["cohort"], row["n"], row["failed"]) == ("all", 4, 0)
    assert row["dice_low"] <= row["dice_mean"] <= row["dice_high"]
    assert row["dice_mean"] == pytest.approx(tested["dice"].mean())
    assert not row["chosen_on_test"]
    assert (tmp_path / "figures/all/volume_agreement.svg").is_file()
