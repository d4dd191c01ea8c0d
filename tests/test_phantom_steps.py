"""Phantom steps: from a sheet's row to files."""

import csv

import numpy as np
import pytest
from conftest import ROOT

from hipqct.errors import SheetError
from hipqct.io.files import read_json
from hipqct.io.images import read_image
from hipqct.phantom.parameters import DEMO_SEEDS
from hipqct.steps.phantom import make_phantom, read_parameters, write_phantom_dicom

ROW = {
    "subject": "P1", "seed": "1000", "sex": "F", "age": "70", "slice_mm": "5", "matrix": "96",
    "pixel_mm": "4", "top_mm": "30", "bottom_mm": "60", "noise_sd_hu": "",
}  # fmt: skip


def sheet(path):
    with (ROOT / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_a_row_becomes_files_and_a_dicom_folder(tmp_path):
    names = ["ct.nii.gz", "left.nii.gz", "right.nii.gz", "truth.json"]
    ct, left, right, truth = (tmp_path / name for name in names)
    make_phantom(ROW, ct, left, right, truth)
    scan = read_image(ct)
    assert scan.shape == (96, 96, 18)
    assert read_image(left).same_grid(scan)
    facts = read_json(truth)
    assert (facts["subject"], facts["parameters"]["sex"], facts["parameters"]["age"]) == ("P1", "F", 70)
    folder = tmp_path / "dicom"
    folder.mkdir()
    write_phantom_dicom(ct, truth, folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "dicom"])
    assert len(list(folder.iterdir())) == scan.shape[2]
    assert np.unique(read_image(left).array).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("row", "match"),
    [({"subject": "P1"}, "seed"), ({**ROW, "nose_mm": "3"}, "nose_mm"), ({**ROW, "sex": "X"}, "X")],
)
def test_a_bad_row_is_one_sentence(row, match):
    with pytest.raises(SheetError, match=match):
        read_parameters(row)


def test_the_demo_cohort_fits_its_sample_sheet():
    phantoms = {row["subject"]: row for row in sheet("resources/demo/phantoms.tsv")}
    samples = {row["subject"]: row for row in sheet("config/samples.tsv")}
    assert list(phantoms) == list(samples)
    for subject, row in phantoms.items():
        drawn = read_parameters(row)
        assert drawn.seed in DEMO_SEEDS
        assert samples[subject]["sex"] == drawn.sex
        assert int(samples[subject]["age"]) == drawn.age
        assert float(samples[subject]["slope"]) == drawn.scanner.slope
        assert float(samples[subject]["intercept"]) == drawn.scanner.intercept
