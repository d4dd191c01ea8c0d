"""The training set's file: what goes in comes out, window by window."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from hipqct.errors import ModelError
from hipqct.io.dataset import CHUNK, Dataset, Hip, write_dataset
from hipqct.solid import surface_distance_um
from hipqct.train import Crop, Recipe, draw_batch

PLAN = {"side": "left", "spacing_mm": (0.8, 0.8, 3.0), "data": "synthetic"}
OTHER_PLAN = {"side": "both", "spacing_mm": (0.8, 0.8, 2.0), "data": ""}


def make_hip(subject="S1", side="left", sex="F", age=60.0, fold=2, shape=(100, 96, 40)):
    rng = np.random.default_rng(sum(map(ord, subject)))
    mask = np.zeros(shape, bool)
    mask[30:60, 30:60, 5:30] = True
    return Hip(subject, side, rng.integers(-1000, 2000, shape, dtype=np.int16), mask, sex, age, fold)


def test_hips_come_back_as_they_were(tmp_path):
    hips = [make_hip(), make_hip("S2", "right", "", None, -1)]
    write_dataset(iter(hips), tmp_path / "d.h5", PLAN)
    with Dataset(tmp_path / "d.h5") as data:
        assert (data.side, data.spacing_mm, data.data) == ("left", (0.8, 0.8, 3.0), "synthetic")
        for hip, found in zip(hips, data.hips(), strict=True):
            assert (found.subject, found.side, found.sex, found.age, found.fold) == (
                hip.subject, hip.side, hip.sex, hip.age, hip.fold,
            )  # fmt: skip
            np.testing.assert_array_equal(found.ct[()], hip.ct)
            np.testing.assert_array_equal(found.mask[()], hip.mask)
            np.testing.assert_array_equal(found.distance_um[()] < 0, hip.mask)
            assert found.ct.chunks == CHUNK
            assert found.ct.dtype == np.int16
        assert [hip.subject for hip in data.hips("F")] == ["S1"]


def test_the_hash_is_of_the_contents(tmp_path):
    """A training that goes on knows its data again, though the file's bytes differ at each writing."""

    def sha256(*hips, **plan):
        write_dataset(hips, tmp_path / "d.h5", PLAN | plan)
        with Dataset(tmp_path / "d.h5") as data:
            return data.sha256

    hip = make_hip()
    other_voxel = replace(hip, mask=hip.mask.copy())
    other_voxel.mask[0, 0, 0] = True
    given = sha256(hip, make_hip("S2"))
    assert sha256(make_hip("S2"), hip) == given
    assert sha256(replace(hip, age=60, patient="S1"), make_hip("S2")) == given
    assert sha256(replace(hip, age=81, patient="P"), make_hip("S2")) == given  # these only decide the folds
    surface_um = surface_distance_um(hip.mask, PLAN["spacing_mm"], np.where(hip.mask, -0.1, 0.2))
    changed = [
        other_voxel,
        replace(hip, distance_um=surface_um),
        replace(hip, fold=3),
        replace(hip, sex="M"),
        replace(hip, subject="S3"),
    ]
    found = {sha256(each, make_hip("S2")) for each in changed} | {sha256(hip)}
    found |= {sha256(hip, make_hip("S2"), **{key: value}) for key, value in OTHER_PLAN.items()}
    assert len(found | {given}) == len(changed) + 1 + len(OTHER_PLAN) + 1


def test_batches_from_the_file_are_those_from_memory(tmp_path):
    hips = [make_hip(), make_hip("S2")]
    write_dataset(hips, tmp_path / "d.h5", PLAN)
    recipe = Recipe(patch=(32, 32, 8), seed=3)
    memory = [
        Crop(hip.name, hip.ct, hip.mask, surface_distance_um(hip.mask, PLAN["spacing_mm"])) for hip in hips
    ]
    with Dataset(tmp_path / "d.h5") as data:
        stored = [Crop(hip.name, hip.ct, hip.mask, hip.distance_um) for hip in data.hips()]
        for step in range(5):
            expected, found = draw_batch(memory, recipe, step), draw_batch(stored, recipe, step)
            np.testing.assert_array_equal(expected, found)


def test_what_is_no_training_set_is_refused(tmp_path):
    (tmp_path / "d.h5").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="build it again"):
        Dataset(tmp_path / "d.h5")


def test_a_file_of_another_format_is_refused(tmp_path):
    write_dataset([make_hip()], tmp_path / "d.h5", PLAN)
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file.attrs["format"] = 4
    with pytest.raises(ModelError, match=r"format 4, not 5.*build it again"):
        Dataset(tmp_path / "d.h5")
