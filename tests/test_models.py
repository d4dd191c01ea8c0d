"""Model folders: weights survive, and whatever does not fit is refused with its name."""

import json
import time

import h5py
import numpy as np
import pytest

from hipqct.errors import ModelError
from hipqct.image import Image
from hipqct.io.files import hash_file, write_json
from hipqct.io.models import (
    check_crop,
    check_crop_settings,
    read_model,
    read_plan,
    read_weights,
    weights_files,
    write_model,
    write_weights,
)
from hipqct.network import PAPER, weight_shapes

TINY = PAPER | {"filters": [2, 3, 4, 5], "batch_norm": True}
PLAN = {
    "name": "tiny",
    "network": TINY,
    "side": "left",
    "pixel_mm": 0.8,
    "slice_mm": 3.0,
    "window": [32, 32, 8],
    "normalisation": {"clip_hu": [-200, 1500]},
    "training": {},
}


def random_weights(config=TINY):
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in weight_shapes(config).items()
    }


@pytest.fixture
def model_dir(tmp_path):
    write_model(tmp_path / "tiny", PLAN, random_weights(), "float16")
    return tmp_path / "tiny"


def test_float32_weights_come_back_exactly(tmp_path):
    weights = random_weights()
    write_weights(weights, tmp_path / "w.h5")
    back = read_weights(tmp_path / "w.h5")
    assert set(back) == set(weights)
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


def test_float16_rounds_kernels_by_half_a_unit_and_vectors_not_at_all(model_dir):
    weights, back = random_weights(), read_model(model_dir)[1]
    for name, weight in weights.items():
        assert back[name].dtype == np.float32
        tolerance = 2.0**-11 if name.endswith("/kernel") else 0
        np.testing.assert_allclose(back[name], weight, rtol=tolerance)


def files_of(folder) -> dict[str, tuple[int, bytes]]:
    """When each file was written (ns), and its bytes."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_same_weights_give_the_same_bytes_in_another_second(tmp_path):
    for kernel_dtype in ("float16", "float32"):
        write_model(tmp_path / f"a-{kernel_dtype}", PLAN, random_weights(), kernel_dtype)
    time.sleep(1.1)  # HDF5 counts whole seconds
    for kernel_dtype in ("float16", "float32"):
        write_model(tmp_path / f"b-{kernel_dtype}", PLAN, random_weights(), kernel_dtype)
        first, later = (files_of(tmp_path / f"{name}-{kernel_dtype}") for name in "ab")
        assert {name: content for name, (_, content) in first.items()} == {
            name: content for name, (_, content) in later.items()
        }


def test_a_model_that_is_there_is_not_written_again(tmp_path):
    for piece_mb in (None, 0.005):
        args = (tmp_path, PLAN, random_weights(), "float16", piece_mb)
        write_model(*args)
        before = files_of(tmp_path)
        assert (len(before) > 3) == (piece_mb is not None)
        write_model(*args)
        assert files_of(tmp_path) == before


def test_a_model_written_with_times_is_not_written_again(model_dir):
    """As models were before: the same weights in other bytes."""
    with h5py.File(model_dir / "weights.h5", "w", libver=("v110", "v110")) as file:
        for name, weight in random_weights().items():
            file[name] = weight.astype("float16" if name.endswith("/kernel") else "float32")
    sha256 = hash_file(model_dir / "weights.h5")
    write_json(read_plan(model_dir) | {"weights_sha256": sha256}, model_dir / "plan.json")
    before = files_of(model_dir)
    write_model(model_dir, PLAN, random_weights(), "float16")
    assert files_of(model_dir) == before


@pytest.mark.parametrize(
    "change",
    [
        {"plan": PLAN | {"name": "other"}},
        {"weights": {name: weight + 1 for name, weight in random_weights().items()}},
        {"kernel_dtype": "float32"},
        {"piece_mb": 0.005},
        {"piece_mb": 1},
    ],
)
def test_a_model_that_is_another_is_written(model_dir, change):
    before = files_of(model_dir)
    write_model(model_dir, **{"plan": PLAN, "weights": random_weights(), "kernel_dtype": "float16"} | change)
    assert files_of(model_dir) != before
    wanted = change.get("weights", random_weights())
    for name, stored in read_model(model_dir)[1].items():
        np.testing.assert_allclose(stored, wanted[name], rtol=2.0**-11)


def test_a_damaged_model_is_written_anew(model_dir):
    (model_dir / "weights.h5").write_bytes(b"")
    write_model(model_dir, PLAN, random_weights(), "float16")
    read_model(model_dir)


def test_altered_weights_are_refused(model_dir):
    write_weights(random_weights(), model_dir / "weights.h5")
    with pytest.raises(ModelError, match=r"weights.h5 is not the file that plan.json names"):
        read_model(model_dir)


def test_missing_weights_are_refused(model_dir):
    (model_dir / "weights.h5").unlink()
    with pytest.raises(ModelError, match=r"weights.h5 is missing"):
        read_model(model_dir)


def test_a_file_that_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "w.h5").write_text("nothing")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.h5")


def test_a_folder_without_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"plan.json cannot be read .*segment/model"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": "right"}, "side must be left or both"),
        ({"normalisation": {"clip_hu": [100, -100]}}, "clip_hu rising"),
        ({"network": TINY | {"filters": [2, 4]}}, "impossible network"),
        ({"window": None}, "lacks window"),
    ],
)
def test_an_impossible_plan_is_refused(model_dir, change, message):
    plan = {key: value for key, value in (read_plan(model_dir) | change).items() if value is not None}
    (model_dir / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ModelError, match=message):
        read_plan(model_dir)


def test_only_what_is_read_counts_as_weights(tmp_path):
    whole, pieces = tmp_path / "weights.h5", [tmp_path / f"weights.h5.{i:03d}" for i in range(3)]
    assert weights_files(tmp_path) == [whole]
    (tmp_path / "weights.h5.bak").touch()
    assert weights_files(tmp_path) == [whole]
    for piece in pieces[::-1]:
        piece.touch()
    assert weights_files(tmp_path) == pieces
    whole.touch()
    assert weights_files(tmp_path) == [whole]


def test_pieces_too_small_to_be_numbered_are_refused(model_dir):
    before = read_plan(model_dir)
    for piece_mb in (-1, 0, 1e-6):
        with pytest.raises(ValueError, match="MB or more"):
            write_model(model_dir, PLAN, random_weights(), "float16", piece_mb)
    assert (model_dir / "weights.h5").is_file() and read_plan(model_dir) == before


def test_weights_of_another_network_are_not_written(tmp_path):
    with pytest.raises(ModelError, match="lack 'down0_norm0/gamma'"):
        write_model(tmp_path, PLAN, random_weights(TINY | {"batch_norm": False}))


@pytest.mark.parametrize("spacing_mm", [(0.8, 0.8, 3.0), (0.801, 0.799, 3.02)])
def test_the_plans_spacing_is_accepted(spacing_mm):
    check_crop(Image(np.zeros((*PLAN["window"][:2], 8)), spacing_mm), PLAN, "roi.h5")


@pytest.mark.parametrize("spacing_mm", [(0.9, 0.8, 3.0), (0.8, 0.8, 2.0)])
def test_another_spacing_is_refused_with_both_numbers(spacing_mm):
    text = " x ".join(f"{mm:g}" for mm in spacing_mm)
    with pytest.raises(ModelError, match=rf"roi.h5 has voxels of {text} mm but .* needs 0.8 x 0.8 x 3 mm"):
        check_crop(Image(np.zeros((*PLAN["window"][:2], 8)), spacing_mm), PLAN, "roi.h5")


def test_a_crop_of_another_size_is_refused():
    x, y, _ = PLAN["window"]
    with pytest.raises(
        ModelError, match=rf"roi.h5 is {x} x {y - 8} pixels .* needs {x} x {y}: set crop/pixels"
    ):
        check_crop(Image(np.zeros((x, y - 8, 8)), (0.8, 0.8, 3.0)), PLAN, "roi.h5")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ((32, 0.8, 3.0), None),
        ((32, None, 3.0), None),  # raw pixels: each crop tells its own
        ((32, 0.9, 3.0), "crop/pixel_mm is 0.9, not 0.8 as the model"),
        ((64, 0.8, 2.0), "crop/pixels is 64, not 32, resample/slice_mm is 2, not 3 as the model"),
    ],
)
def test_settings_of_crops_are_compared_with_the_model(tmp_path, settings, fault):
    write_model(tmp_path, PLAN, random_weights(PLAN["network"]))
    if fault is None:
        check_crop_settings(tmp_path, *settings)
        return
    with pytest.raises(ModelError, match=fault):
        check_crop_settings(tmp_path, *settings)
