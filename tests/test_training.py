"""The training step: files in, a usable model out, and it goes on where it was stopped."""

import numpy as np
import pytest

from hipqct.errors import ModelError
from hipqct.io.models import read_model
from hipqct.network import PAPER
from hipqct.phantom.parameters import CONTACT_MM, TRAIN_SEEDS, sample_parameters
from hipqct.steps.training import draw_changes, read_crops, train_model

NETWORK = PAPER | {"filters": (2, 2), "encoder_convolutions": (1, 1), "decoder_convolutions": (1,)}


@pytest.fixture
def crops_dir(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "crops").mkdir()
    for name in ("a_left", "b_left"):
        mask = rng.random((16, 16, 8)) > 0.8
        np.savez(tmp_path / "crops" / f"{name}.npz", ct=np.where(mask, 800, 0).astype(np.int16), mask=mask)
    return tmp_path / "crops"


def test_a_training_that_was_stopped_goes_on_and_leaves_a_model(tmp_path, crops_dir):
    from hipqct.train import Recipe

    recipe = Recipe(network=NETWORK, window=(16, 16, 8), patch=(16, 16, 8), steps=3, steps_per_epoch=3)
    train_model(crops_dir, crops_dir, tmp_path / "tiny", recipe, minutes=0)
    train_model(crops_dir, crops_dir, tmp_path / "tiny", recipe)
    history = (tmp_path / "tiny" / "history.tsv").read_text().splitlines()
    assert history[0].split("\t")[0] == "step"
    assert [line.split("\t")[0] for line in history[1:]] == ["1", "3"]
    plan, weights = read_model(tmp_path / "tiny")
    assert plan["name"] == "tiny"
    assert plan["training"]["crops"] == 2
    assert weights["probability/kernel"].shape == (1, 1, 1, 2, 1)


def test_crops_keep_their_type(crops_dir):
    crops = read_crops(crops_dir)
    assert [crop.name for crop in crops] == ["a_left", "b_left"]
    assert (crops[0].ct.dtype, crops[0].mask.dtype) == (np.int16, bool)


def test_a_folder_without_crops_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no crops .*build the training set first"):
        read_crops(tmp_path)


def test_training_phantoms_are_harder_than_a_cohorts_and_always_valid():
    drawn = [draw_changes(np.random.default_rng(seed)) for seed in range(200)]
    for seed, changes in enumerate(drawn[:40]):
        sample_parameters(TRAIN_SEEDS[seed], **changes)
    for name, low, high in (
        ("joint_space_mm", 0.2, 0.4),
        ("texture_mg_cm3", 0.1, 0.3),
        ("slice_mm", 0.4, 0.6),
    ):
        assert low < np.mean([name in changes for changes in drawn]) < high
    assert all(c["joint_space_mm"] > CONTACT_MM for c in drawn if "joint_space_mm" in c)
