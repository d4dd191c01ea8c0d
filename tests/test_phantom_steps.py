"""Phantom steps: from a sheet's row to files."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import ROOT

from hipqct import cli
from hipqct.errors import SheetError
from hipqct.io.files import read_json
from hipqct.io.images import read_image
from hipqct.phantom.seeds import DEMO_SEEDS
from hipqct.steps import phantom
from hipqct.steps.phantom import make_one, make_phantom, read_parameters, write_phantom_dicom

ROW = {
    "subject": "P1", "seed": "1000", "sex": "F", "age": "70", "slice_mm": "5", "matrix": "96",
    "pixel_mm": "4", "top_mm": "30", "bottom_mm": "60", "noise_sd_hu": "",
}  # fmt: skip


COARSE = {key: float(ROW[key]) for key in ("slice_mm", "pixel_mm", "top_mm", "bottom_mm")} | {"matrix": 96}


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


def test_a_folder_holds_one_phantom_and_gives_it_its_name(tmp_path, monkeypatch):
    (tmp_path / "P7").mkdir()
    monkeypatch.chdir(tmp_path / "P7")
    make_one(COARSE | {"seed": 1000}, Path(), True)
    names = ["ct.nii.gz", "dicom", "left_femur.nii.gz", "right_femur.nii.gz", "truth.json"]
    assert sorted(path.name for path in (tmp_path / "P7").iterdir()) == names
    assert read_json("truth.json")["subject"] == "P7"
    assert pydicom.dcmread(next(Path("dicom").iterdir())).PatientID == "P7"
    with pytest.raises(SheetError, match=r"holds a phantom's ct\.nii\.gz already"):
        make_one(COARSE | {"seed": 1001}, Path(), False)
    Path("ct.nii.gz").unlink()
    with pytest.raises(SheetError, match="already"):  # the others' parts are another patient's
        make_one(COARSE | {"seed": 1001}, Path(), False)
    assert not Path("ct.nii.gz").exists()


def test_a_phantom_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, "write_phantom_dicom", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_one(COARSE | {"seed": 1000}, tmp_path, True)
    assert list(tmp_path.iterdir()) == []


def test_seeds_that_shipped_models_saw_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(phantom, "make_one", lambda *_: None)
    for seed, told in ((1000, ""), (100_000, "(training)"), (299_999, "(validation)"), (300_000, "")):
        assert cli.main(["phantom", "one", str(tmp_path), "--seed", str(seed)]) == 0
        err = capsys.readouterr().err
        assert told in err and bool(err) == bool(told)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"subject": "P1"}, "seed"),
        ({**ROW, "slice_mm": "nan"}, "slice_mm must be a positive number"),
        ({**ROW, "nose_mm": "3"}, "nose_mm"),
        ({**ROW, "sex": "X"}, "X"),
    ],
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
        assert bool(samples[subject]["reference_right"]) == (samples[subject]["side"] == "both")
