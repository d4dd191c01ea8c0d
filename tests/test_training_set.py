"""The training set is built from references that are checked as evaluation checks them."""

import numpy as np
import pytest

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.dataset import Dataset
from hipqct.io.files import write_json
from hipqct.io.hdf5 import write_roi
from hipqct.io.images import write_image
from hipqct.steps.training_set import build_dataset


@pytest.fixture
def study(tmp_path):
    """One right hip: its crop, a reference of one label, a sheet and a division."""
    image = Image(np.zeros((24, 24, 8), np.int16), (0.8, 0.8, 3.0))
    image.array[4:10, 8:16, 2:6] = 1
    write_image(image.with_array(image.array.astype(np.uint8)), tmp_path / "reference.nii.gz")
    hip = tmp_path / "results/subjects/S1/right"
    hip.mkdir(parents=True)
    write_roi(image.with_array(image.array * 500), hip / "roi.h5", {"side": "right"})
    write_json({"flags": ["synthetic"]}, hip.parent / "scan.json")
    (tmp_path / "scan.nii.gz").touch()
    header = "subject\tscan\tside\treference_right"
    (tmp_path / "samples.tsv").write_text(f"{header}\nS1\tscan.nii.gz\tright\treference.nii.gz\n")
    (tmp_path / "folds.tsv").write_text("subject\tside\tpatient\tsex\tage\tfold\nS1\tright\tS1\t\t\t3\n")
    return tmp_path


def build(study, side="left"):
    build_dataset(study / "folds.tsv", study / "results", study / "samples.tsv", study / "d.h5", side)


@pytest.mark.parametrize(("side", "first"), [("left", 14), ("both", 4)])
def test_right_hips_are_turned_for_a_model_of_left_ones(study, side, first):
    build(study, side)
    with Dataset(study / "d.h5") as data:
        (hip,) = data.hips()
        assert (data.side, data.data, hip.side, hip.sex, hip.age, hip.fold) == (
            side, "synthetic", "right", "", None, 3,
        )  # fmt: skip
        assert np.flatnonzero(hip.mask[()].any((1, 2)))[0] == first
        np.testing.assert_array_equal(hip.ct[()] == 500, hip.mask[()] == 1)


def test_a_label_map_is_refused_not_trained_on(study):
    labels = np.zeros((24, 24, 8), np.uint8)
    labels[4:10, 8:16, 2:6], labels[16:20, 8:16, 2:6] = 1, 2
    write_image(Image(labels, (0.8, 0.8, 3.0)), study / "reference.nii.gz")
    with pytest.raises(ScanError, match="mask of this femur alone"):
        build(study)
    assert not (study / "d.h5").exists()
