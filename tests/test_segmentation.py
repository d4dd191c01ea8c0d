"""segment_femur: files in, files out, right hips mirrored, misfits refused."""

import h5py
import numpy as np
import pytest

from hipqct.errors import ModelError
from hipqct.image import Image
from hipqct.io.hdf5 import read_probability, write_roi
from hipqct.io.models import write_model
from hipqct.network import PAPER, weight_shapes
from hipqct.steps.segmentation import segment_femur

NETWORK = PAPER | {"filters": [2, 2, 2, 2]}
PLAN = {
    "name": "tiny",
    "network": NETWORK,
    "side": "left",
    "pixel_mm": 0.8,
    "slice_mm": 3.0,
    "window": [32, 32, 8],
    "normalisation": {"clip_hu": [-200, 1500]},
    "training": {},
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
        for name, shape in weight_shapes(NETWORK).items()
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder, PLAN, weights)
    return folder


def make_roi(side="left", spacing_mm=(0.8, 0.8, 3.0)) -> Image:
    ct = np.random.default_rng(1).integers(-1024, 2000, (32, 32, 11), dtype=np.int16)
    return Image(ct[::-1] if side == "right" else ct, spacing_mm, (10.0, -20.0, 30.0))


def segment(folder, model_dir, side="left", **geometry):
    write_roi(make_roi(side, **geometry), folder / "roi.h5", {"side": side})
    segment_femur(folder / "roi.h5", folder / "probability.h5", model_dir, 2, "uniform", "as-is", "cpu", 1)
    return read_probability(folder / "probability.h5")


def test_probability_lies_on_the_crops_grid_and_says_how_it_was_made(tmp_path, model_dir):
    probability, facts = segment(tmp_path, model_dir)
    assert probability.same_grid(make_roi())
    assert 0 <= probability.array.min() < probability.array.max() <= 1
    assert facts["side"] == "left"
    assert (facts["device"], facts["engine"], facts["model"]) == ("cpu", "openvino", "tiny")
    assert facts["step"] == 2
    assert len(facts["weights_sha256"]) == 64


def test_a_mirrored_right_hip_gives_the_mirrored_result(tmp_path, model_dir):
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
    left, _ = segment(tmp_path / "left", model_dir)
    right, facts = segment(tmp_path / "right", model_dir, side="right")
    assert facts["side"] == "right"
    np.testing.assert_array_equal(right.array, left.array[::-1])
    assert left.array.std() > 0


def test_a_crop_of_another_spacing_is_refused_and_leaves_no_file(tmp_path, model_dir):
    with pytest.raises(ModelError, match=r"roi.h5 has voxels of 0.7 x 0.7 x 3 mm"):
        segment(tmp_path, model_dir, spacing_mm=(0.7, 0.7, 3.0))
    assert not (tmp_path / "probability.h5").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path, model_dir, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    write_roi(make_roi(), tmp_path / "roi.h5", {"side": "left"})
    with pytest.raises(ModelError, match="no GPU can be seen"):
        out = tmp_path / "probability.h5"
        segment_femur(tmp_path / "roi.h5", out, model_dir, 1, "uniform", "as-is", "gpu", 1)


def test_the_file_holds_bytes(tmp_path, model_dir):
    segment(tmp_path, model_dir)
    with h5py.File(tmp_path / "probability.h5") as file:
        assert [dataset.dtype for dataset in file.values()] == [np.uint8]
