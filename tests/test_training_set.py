"""The training set is built from references that are checked as evaluation checks them."""

import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from hipqct.errors import ModelError, ScanError, SheetError
from hipqct.image import Image
from hipqct.io.dataset import Dataset, Hip, hash_crop, write_dataset
from hipqct.io.dicom_series import uid_key
from hipqct.io.files import write_json
from hipqct.io.hdf5 import read_roi, write_roi
from hipqct.io.images import read_image, write_image
from hipqct.io.tables import read_table
from hipqct.steps.training_set import build_dataset, divide_cohort


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


def scan(study, i) -> str:
    """A scan of its own."""
    (study / f"scan-{i}.nii.gz").touch()
    return f"scan-{i}.nii.gz"


def mask(study, i) -> str:
    """A reference of its own."""
    (study / f"mask-{i}.nii.gz").touch()
    return f"mask-{i}.nii.gz"


KEY = uid_key("1.2.3")
SETTINGS = {"folds": 2, "test_share": 0.2, "seed": 1, "group_by": "subject", "cohorts": ["all"]}


def build(study, side="left"):
    build_dataset(study / "folds.tsv", study / "results", study / "samples.tsv", study / "d.h5", side)


def test_rows_without_an_age_are_divided_too(study):
    rows = [f"S{i}\t{scan(study, i)}\tright\t{mask(study, i)}\t{'' if i % 2 else 30 + i}" for i in range(12)]
    header = "subject\tscan\tside\treference_right\tage"
    (study / "samples.tsv").write_text("\n".join([header, *rows]) + "\n")
    divide_cohort(study / "samples.tsv", study / "results", study / "folds.tsv", SETTINGS)
    assert sorted(set(read_table(study / "folds.tsv")["fold"])) == [-1, 0, 1]


def test_cohorts_that_cannot_be_trained_or_tested_are_told_at_once(study):
    rows = [f"S{i}\t{scan(study, i)}\tright\t{mask(study, i)}\t{'F' if i else 'M'}" for i in range(12)]
    header = "subject\tscan\tside\treference_right\tsex"
    (study / "samples.tsv").write_text("\n".join([header, *rows]) + "\n")
    divide = partial(divide_cohort, study / "samples.tsv", study / "results", study / "folds.tsv")
    divide(SETTINGS | {"cohorts": ["all", "female"]})
    with pytest.raises(
        SheetError, match=r"'male' has 1 labelled hips \(sex M in the sheet\) and none of them"
    ):
        divide(SETTINGS | {"cohorts": ["all", "male"]})
    with pytest.raises(SheetError, match=r"'all' has 12 labelled hips .* none of them in the test set"):
        divide(SETTINGS | {"test_share": 0.03})


def divide_patients(
    study, scans, groups, series=None, masks=None, turned=False, name="S{}", **settings
) -> list[str]:
    """Whose each row's hip is, by a division of a sheet with these scans, groups, series and references."""
    masks = masks or [mask(study, i) for i in range(len(scans))]
    cells = zip(scans, masks, groups, series or [""] * len(scans), strict=True)
    rows = [f"{name.format(i)}\t{s}\tright\t{m}\t{g}\t{uid}" for i, (s, m, g, uid) in enumerate(cells)]
    header = "subject\tscan\tside\treference_right\tgroup\tseries_uid"
    (study / "samples.tsv").write_text("\n".join([header, *rows[:: -1 if turned else 1]]) + "\n")
    divide_cohort(study / "samples.tsv", study / "results", study / "folds.tsv", SETTINGS | settings)
    return read_table(study / "folds.tsv", ("patient",)).sort_values("subject")["patient"].tolist()


def test_rows_of_one_scan_are_one_patient(study):
    scans = [scan(study, i // 2) for i in range(12)]
    found = divide_patients(study, scans, [""] * 12)
    assert found == [min(f"S{i - i % 2}", f"S{i - i % 2 + 1}") for i in sorted(range(12), key=str)]
    folds = read_table(study / "folds.tsv").set_index("subject")["fold"]
    divide_patients(study, scans, [""] * 12, turned=True)
    assert folds.to_dict() == read_table(study / "folds.tsv").set_index("subject")["fold"].to_dict()
    groups = [f"P{i // 2}" for i in range(12)]
    found = divide_patients(study, scans, groups, group_by="group")
    assert found == [groups[i] for i in sorted(range(12), key=str)]
    with pytest.raises(
        SheetError, match=r"S1 and another row .* have the same scan or reference, and the groups P0"
    ):
        divide_patients(study, scans, [f"P{i}" for i in range(12)], group_by="group")


@pytest.mark.parametrize(
    ("pair", "one"), [(("", "1.2.3"), True), (("1.2.3", KEY), True), (("1.2.3", "1.2.4"), False)]
)
def test_a_series_is_known_by_each_of_its_names(study, pair, one):
    """Empty: the rules choose, and may choose the other row's."""
    names = [f"S{i:02d}" for i in range(12)]
    scans = [scan(study, i // 2) for i in range(12)]
    found = divide_patients(study, scans, [""] * 12, [pair[i % 2] for i in range(12)], name="S{:02d}")
    assert found == ([names[i - i % 2] for i in range(12)] if one else names)


def test_rows_with_one_reference_are_one_patient(study):
    """Two reconstructions of a scan, drawn once."""
    scans, masks = [scan(study, i) for i in range(12)], [mask(study, i // 2) for i in range(12)]
    found = divide_patients(study, scans, [""] * 12, masks=masks, name="S{:02d}")
    assert found == [f"S{i - i % 2:02d}" for i in range(12)]


def test_patients_with_series_of_one_study_are_told(study, caplog):
    for i, name in enumerate(("S2", "S3")):
        shutil.copytree(study / "results/subjects/S1", study / f"results/subjects/{name}")
        write_json(
            {"flags": [], "study": "abc", "series": name}, study / f"results/subjects/{name}/scan.json"
        )
        roi, facts = read_roi(study / f"results/subjects/{name}/right/roi.h5")
        write_roi(
            roi.with_array(roi.array + np.int16(i)), study / f"results/subjects/{name}/right/roi.h5", facts
        )
    rows = "".join(f"{name}\tright\t{name}\t\t\t3\n" for name in ("S2", "S3"))
    (study / "folds.tsv").write_text("subject\tside\tpatient\tsex\tage\tfold\n" + rows)
    row = f"\t{scan(study, 0)}\tright\treference.nii.gz\n"
    (study / "samples.tsv").write_text(f"subject\tscan\tside\treference_right\nS2{row}S3{row}")
    build(study)
    assert "1 DICOM studies stand for several patients each, the first for S2, right and S3" in caplog.text


@pytest.mark.parametrize("what", ["series", "crop, voxel for voxel"])
def test_one_hip_under_two_names_is_refused(study, what):
    for name in ("S2", "S3"):
        shutil.copytree(study / "results/subjects/S1", study / f"results/subjects/{name}")
        if what == "series":
            write_json({"flags": [], "series": "abc"}, study / f"results/subjects/{name}/scan.json")
    rows = "".join(f"{name}\tright\t{name}\t\t\t3\n" for name in ("S2", "S3"))
    (study / "folds.tsv").write_text("subject\tside\tpatient\tsex\tage\tfold\n" + rows)
    row = f"\t{scan(study, 0)}\tright\treference.nii.gz\n"
    (study / "samples.tsv").write_text(f"subject\tscan\tside\treference_right\nS2{row}S3{row}")
    with pytest.raises(SheetError, match=f"S2, right and S3, right have the same {what}, and stand for two"):
        build(study)


def test_a_group_of_several_subjects_is_told_where_it_would_be_split(study, caplog):
    scans = [scan(study, i) for i in range(12)]
    groups = ["P0", "P0"] + [f"P{i}" for i in range(2, 12)]
    assert len(set(divide_patients(study, scans, groups))) == 12
    assert "1 groups of the sheet have several subjects, the first S0 and S1: if a group" in caplog.text
    caplog.clear()
    assert len(set(divide_patients(study, scans, groups, group_by="group"))) == 11
    divide_patients(study, scans, [f"P{i}" for i in range(12)])
    assert "several subjects" not in caplog.text


@pytest.mark.parametrize(
    ("spacing_mm", "told"),
    [
        ((0.8, 0.8, 2.985), None),
        ((0.8, 0.8, 2.9), "resample/method to area"),
        ((0.7, 0.7, 3.0), "crop/pixel_mm"),
    ],
)
def test_crops_of_nearly_the_same_voxels_go_together(study, spacing_mm, told):
    """Slices of 1.99 mm become 2.985 mm; a model takes them with those of 3 mm."""
    rows = ["subject\tside\tpatient\tsex\tage\tfold"]
    sheet = ["subject\tscan\tside\treference_right"]
    for i in range(3):
        hip = study / f"results/subjects/T{i}/right"
        hip.mkdir(parents=True)
        image = Image(np.zeros((24, 24, 8), np.int16), spacing_mm if i == 2 else (0.8, 0.8, 3.0))
        image.array[4:10, 8:16, 2:6] = 500 + i
        write_roi(image, hip / "roi.h5", {"side": "right"})
        write_image(image.with_array((image.array > 0).astype(np.uint8)), study / f"reference-{i}.nii.gz")
        write_json({"flags": []}, hip.parent / "scan.json")
        rows.append(f"T{i}\tright\tT{i}\t\t\t{i}")
        sheet.append(f"T{i}\t{scan(study, i)}\tright\treference-{i}.nii.gz")
    (study / "folds.tsv").write_text("\n".join(rows) + "\n")
    (study / "samples.tsv").write_text("\n".join(sheet) + "\n")
    if told:
        with pytest.raises(
            ModelError, match=rf"crop of T2, right has voxels .* 0.8 x 0.8 x 3 mm are .*{told}"
        ):
            build(study)
        return
    build(study)
    with Dataset(study / "d.h5") as data:
        assert data.spacing_mm == (0.8, 0.8, 3.0)
        assert [hip.spacing_mm for hip in data.hips()] == [(0.8, 0.8, 3.0)] * 2 + [spacing_mm]


RESIDENT = """
import sys
from pathlib import Path
from hipqct.io.dataset import Dataset

def resident_kb():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1])

with Dataset(sys.argv[1]) as data:
    found = data.hips()
    found[0].ct[:], found[0].mask[:]
    before_kb = resident_kb()
    for hip in found:
        hip.ct[:], hip.mask[:]
    print(resident_kb() - before_kb)
"""


def test_reading_many_hips_keeps_none_in_memory(tmp_path):
    ct = np.random.default_rng(0).integers(-500, 1500, (96, 96, 32)).astype(np.int16)
    hips = (Hip(f"S{i:03d}", "left", ct, ct > 800) for i in range(40))
    write_dataset(hips, tmp_path / "d.h5", {"side": "left", "spacing_mm": (0.8, 0.8, 3.0), "data": ""})
    command = [sys.executable, "-c", RESIDENT, str(tmp_path / "d.h5")]
    grown_kb = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown_kb < 40 * 100  # the voxels of each are 900 kB; with HDF5's own cache they would stay


def test_a_reference_that_the_crop_cuts_is_refused_not_taught(study):
    reference = read_image(study / "reference.nii.gz")
    moved = replace(reference, origin_mm=(-8 * 0.8, 0.0, 0.0))
    write_image(moved, study / "reference.nii.gz")
    with pytest.raises(ScanError, match=r"67 % outside the crop of the right hip of S1: .* center_right"):
        build(study)
    write_image(replace(reference, origin_mm=(-99.0, 0.0, 0.0)), study / "reference.nii.gz")
    with pytest.raises(ScanError, match=r"100 % outside the crop"):
        build(study)


def test_the_distance_is_that_to_a_finer_references_own_surface(study):
    """A face 0.15 mm beyond the crop's last voxel of femur along x."""
    x_mm = np.arange(-8, 200) * 0.1
    inside = (x_mm > 3.0) & (x_mm < 7.4)
    reference = np.zeros((208, 24, 8), np.uint8)
    reference[:, 8:16, 2:6] = inside[:, None, None]
    write_image(Image(reference, (0.1, 0.8, 3.0), (-0.8, 0.0, 0.0)), study / "reference.nii.gz")
    build(study, "both")
    with Dataset(study / "d.h5") as data:
        (hip,) = data.hips()
        row = hip.distance_um[:, 12, 4]
    # From centre to centre of the reference's voxels: half of one more than to its surface.
    assert row[9:11] == pytest.approx([-150 - 50, 650 + 50], abs=1)  # x = 7.2 and 8.0 mm


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
        np.testing.assert_array_equal(hip.distance_um[()] < 0, hip.mask[()] == 1)
        roi, _ = read_roi(study / "results/subjects/S1/right/roi.h5")
        assert hash_crop(hip.ct[()]) == hash_crop(roi.array[:: -1 if side == "left" else 1])


def test_a_label_map_is_refused_not_trained_on(study):
    labels = np.zeros((24, 24, 8), np.uint8)
    labels[4:10, 8:16, 2:6], labels[16:20, 8:16, 2:6] = 1, 2
    write_image(Image(labels, (0.8, 0.8, 3.0)), study / "reference.nii.gz")
    with pytest.raises(ScanError, match="mask of this femur alone"):
        build(study)
    assert not (study / "d.h5").exists()
