import h5py
import numpy as np
import pytest

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.hdf5 import read_probability, read_roi, write_probability, write_roi


@pytest.fixture
def crop():
    rng = np.random.default_rng(1)
    turned = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    return Image(rng.integers(-1024, 2000, (5, 6, 19)).astype(np.int16), (0.8, 0.9, 3.0), (1, 2, 3), turned)


def test_roi_comes_back_with_its_place_and_attributes(crop, tmp_path):
    write_roi(crop, tmp_path / "roi.h5", {"side": "right", "center_mm": (1.0, 2.0, 3.0)})
    back, attributes = read_roi(tmp_path / "roi.h5")
    np.testing.assert_array_equal(back.array, crop.array)
    assert back.same_grid(crop)
    assert attributes["side"] == "right"
    assert attributes["units"] == "HU"
    np.testing.assert_array_equal(attributes["center_mm"], (1, 2, 3))
    assert [p.name for p in tmp_path.iterdir()] == ["roi.h5"]


def test_probability_is_kept_to_half_a_step_in_one_byte(crop, tmp_path):
    probability = np.random.default_rng(2).random(crop.shape, dtype=np.float32)
    write_probability(crop.with_array(probability), tmp_path / "p.h5", {})
    back, _ = read_probability(tmp_path / "p.h5")
    assert np.abs(back.array - probability).max() <= 0.5 / 255 + 1e-6
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["probability"].dtype == np.uint8


def test_values_that_are_no_probability_are_refused(crop, tmp_path):
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="probability must lie in"):
            write_probability(crop.with_array(np.full(crop.shape, wrong)), tmp_path / "p.h5", {})
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_other_file_is_told(crop, tmp_path):
    write_roi(crop, tmp_path / "roi.h5", {})
    with pytest.raises(ScanError, match="is not a complete file with 'probability'"):
        read_probability(tmp_path / "roi.h5")
    whole = (tmp_path / "roi.h5").read_bytes()
    (tmp_path / "roi.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="delete it and run again"):
        read_roi(tmp_path / "roi.h5")
