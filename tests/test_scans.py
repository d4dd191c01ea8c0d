"""Any scan comes in as HU in LPS, nothing that identifies a person comes with it."""

import gzip
import json
import re

import nibabel
import numpy as np
import pytest
from dicom_factory import ACCESSION, BORN, NAME, PATIENT, PLACE, body, grid, write_enhanced, write_series
from pydicom.uid import generate_uid

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.images import read_image, write_image
from hipqct.io.scans import check_scan, find_scans, read_scan
from hipqct.steps.image import import_scan

SHAPE, STEPS_MM = (20, 18, 16), (3.0, 3.0, 4.0)


def scan_points_mm(direction=None):
    """A grid round the test body's middle."""
    middle = grid(direction, SHAPE, STEPS_MM, (0, 0, 0)).reshape(-1, 3).mean(axis=0)
    return grid(direction, SHAPE, STEPS_MM, np.array([0, -2, 734]) - middle)


def scan_image(values=None, direction=None) -> Image:
    """The test body as an image, or other voxels in its place."""
    points_mm = scan_points_mm(direction)
    voxels = body(points_mm).astype(np.int16) if values is None else values
    return Image(voxels, STEPS_MM, points_mm[0, 0, 0], np.eye(3) if direction is None else direction)


def refusal(path) -> str:
    with pytest.raises(ScanError) as error:
        read_scan(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_image_files_come_in_lps(tmp_path, suffix):
    stored = scan_image(direction=np.eye(3)[:, [2, 0, 1]] * [1, -1, 1])
    write_image(stored, tmp_path / f"scan.{suffix}")
    ct, facts = read_scan(tmp_path / f"scan.{suffix}")
    np.testing.assert_allclose(ct.direction, np.eye(3), atol=1e-6)
    index = np.argwhere(ct.array > -1000)
    found = stored.array[tuple(np.rint(stored.to_index(ct.to_world(index))).astype(int).T)]
    np.testing.assert_array_equal(ct.array[tuple(index.T)], found)
    assert facts["stored_axes"] == "SRP"
    assert facts["size"] == list(ct.shape)


def test_nifti_scaled_by_its_header_is_in_hu(tmp_path):
    hu = scan_image().array.astype(float)
    image = nibabel.Nifti1Image(((hu + 1024) * 2).astype(np.uint16), np.diag([-3.0, -3, 4, 1]))
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.nii")[0].array, hu)


@pytest.mark.parametrize("scaling", [(0.0, 5.0), (1.0, np.nan), (np.nan, 5.0), (np.inf, 5.0)])
def test_nifti_whose_scaling_can_be_read_two_ways_is_refused(tmp_path, scaling):
    write_image(scan_image(), tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    content[112:120] = np.array(scaling, "<f4").tobytes()
    (tmp_path / "scan.nii").write_bytes(content)
    assert "scl_slope" in refusal(tmp_path / "scan.nii")


def test_floats_are_rounded_and_nan_is_refused(tmp_path):
    hu = scan_image().array + np.float32(0.3)
    write_image(scan_image(hu), tmp_path / "scan.nii.gz")
    ct, _ = read_scan(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(ct.array, scan_image().array)
    assert ct.array.dtype == np.int16
    hu[3, 4, 5] = np.nan
    hu[3, 4, 6] = np.inf
    for name in ("scan.nii.gz", "scan.nii", "scan.nrrd", "scan.mha"):
        write_image(scan_image(hu), tmp_path / name)
        assert refusal(tmp_path / name).startswith(f"{name} has 2 voxel(s) that are NaN or infinite")


def test_nan_at_the_very_end_of_a_file_of_odd_length_is_refused(tmp_path):
    hu = np.pad(scan_image().array, ((0, 1), (0, 1), (0, 1)), mode="edge").astype(np.float32)
    assert hu.size % 2 == 1
    hu[-1, -1, -1] = np.nan
    write_image(scan_image(hu), tmp_path / "scan.nii")
    assert "1 voxel(s) that are NaN" in refusal(tmp_path / "scan.nii")


@pytest.mark.parametrize("key", ["ElementSpacing", "Offset", "TransformMatrix"])
def test_a_metaimage_without_geometry_is_refused(tmp_path, key):
    write_image(scan_image(), tmp_path / "scan.mha")
    lines = (tmp_path / "scan.mha").read_bytes().split(b"\n")
    kept = [line for line in lines if not line.startswith(key.encode())]
    assert len(kept) == len(lines) - 1
    (tmp_path / "scan.mha").write_bytes(b"\n".join(kept))
    assert f"scan.mha has no {key}" in refusal(tmp_path / "scan.mha")


@pytest.mark.parametrize("spacing", ["0 3 4", "-3 3 4"])
def test_voxels_without_a_size_are_refused(tmp_path, spacing):
    write_image(scan_image(), tmp_path / "scan.mha")
    text = (tmp_path / "scan.mha").read_bytes()
    changed = text.replace(b"ElementSpacing = 3 3 4", f"ElementSpacing = {spacing}".encode())
    (tmp_path / "scan.mha").write_bytes(changed)
    assert changed != text
    assert f"scan.mha has voxels of {spacing.replace(' ', ' x ')} mm" in refusal(tmp_path / "scan.mha")
    assert [finding.severity for finding in check_scan(tmp_path / "scan.mha")] == ["error"]


def test_metal_and_other_warnings_become_flags(tmp_path):
    hu = scan_image().array.copy()
    hu[5:9, 5:9, 5:9] = 3071
    write_image(scan_image(hu), tmp_path / "scan.nii.gz")
    assert read_scan(tmp_path / "scan.nii.gz")[1]["flags"] == ["metal"]

    def thin(k, dataset):
        dataset.SliceThickness = 1.0

    write_series(tmp_path / "gaps", change=thin)
    assert read_scan(tmp_path / "gaps")[1]["flags"] == ["scan_warnings"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda hu: hu + 1024, r"scan.nii.gz \(24 to \d+\) has no value below 0, .* 1024 may be missing"),
        (lambda hu: (hu > 0).astype(np.uint8), "grey levels or labels, not HU"),
        (lambda hu: (hu + 1000) / 2000.0, "not HU"),
        (lambda hu: np.full_like(hu, -1000), "one value everywhere"),
        (lambda hu: np.where(hu > 80, -1000, np.minimum(hu, -900)), "nothing but air"),
        (lambda hu: hu * 1000.0, "more than int16 holds"),
    ],
    ids=["offset", "mask", "normalised", "constant", "air", "overflow"],
)
def test_values_that_are_not_hu_are_refused(tmp_path, change, sentence):
    write_image(scan_image(change(scan_image().array)), tmp_path / "scan.nii.gz")
    assert re.search(sentence, refusal(tmp_path / "scan.nii.gz"))


def test_images_that_are_too_short_or_flat_are_refused(tmp_path):
    whole = scan_image()
    write_image(Image(whole.array[..., :11], STEPS_MM), tmp_path / "short.nii.gz")
    assert "11 covering 44.0 mm" in refusal(tmp_path / "short.nii.gz")
    write_image(Image(whole.array[..., :1], STEPS_MM), tmp_path / "flat.nii.gz")
    assert "flat.nii.gz holds 20x18x1 voxels" in refusal(tmp_path / "flat.nii.gz")
    assert check_scan(tmp_path / "flat.nii.gz")[0].severity == "error"


def test_check_reads_headers_only(tmp_path):
    write_image(scan_image(), tmp_path / "scan.nii.gz")
    assert check_scan(tmp_path / "scan.nii.gz") == []
    noise = np.random.default_rng(0).integers(-1000, 500, SHAPE).astype(np.int16)
    write_image(scan_image(noise), tmp_path / "cut.nii.gz")
    content = (tmp_path / "cut.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[:-900])
    assert "truncated" in check_scan(tmp_path / "cut.nii.gz")[0].text
    raw = gzip.decompress(content)
    (tmp_path / "parts.nii.gz").write_bytes(gzip.compress(raw[:2000]) + gzip.compress(raw[2000:]))
    assert check_scan(tmp_path / "parts.nii.gz") == []
    write_image(scan_image((noise > 0).astype(np.uint8)), tmp_path / "mask.nii.gz")
    assert check_scan(tmp_path / "mask.nii.gz")[0].severity == "warning"


def test_slices_that_resampling_does_not_take_are_refused_at_once(tmp_path):
    image = scan_image()
    write_image(Image(image.array, (3.0, 3.0, 7.0)), tmp_path / "thick.nii.gz")
    with pytest.raises(ScanError, match=r"slices every 7 mm; the method takes 0\.5 to 5 mm") as error:
        read_scan(tmp_path / "thick.nii.gz")
    assert check_scan(tmp_path / "thick.nii.gz") == [("error", str(error.value))]


# Nobody can be told from an output


def secrets(*uids):
    return [*NAME.split("^"), PATIENT, BORN, PLACE, ACCESSION, *uids]


def assert_silent(text: str, *uids):
    for secret in secrets(*uids):
        assert secret.lower() not in text.lower()


def test_phantoms_are_known_by_their_header_or_the_truth_beside_them(tmp_path):
    write_series(tmp_path / "header" / "dicom", Manufacturer="hipqct")
    write_series(tmp_path / "truth" / "dicom")
    (tmp_path / "truth" / "truth.json").touch()
    for kind in ("header", "truth"):
        import_scan(tmp_path / kind / "dicom", tmp_path / "ct.nii.gz", tmp_path / "scan.json")
        assert json.loads((tmp_path / "scan.json").read_text())["flags"] == ["synthetic"]


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_nothing_that_identifies_is_written(tmp_path, kind):
    uid, study = generate_uid(), generate_uid()
    scan = tmp_path / NAME / "scan"
    if kind == "classic":
        names = [f"{NAME}-{k}.dcm" for k in range(18)]
        write_series(scan, names=names, SeriesInstanceUID=uid, StudyInstanceUID=study)
        write_series(scan / "other", Manufacturer=f"ACME for {PATIENT}", SeriesInstanceUID=uid[:-2])
    else:
        write_enhanced(scan / f"{PATIENT}.dcm", SeriesInstanceUID=uid, StudyInstanceUID=study)
    out = tmp_path / "out"
    import_scan(scan, out / "ct.nii.gz", out / "scan.json")
    assert sorted(path.name for path in out.iterdir()) == ["ct.nii.gz", "scan.json"]
    written = gzip.decompress((out / "ct.nii.gz").read_bytes())[:352].decode("latin-1")
    assert_silent(written + (out / "scan.json").read_text(), uid, study)
    facts = json.loads((out / "scan.json").read_text())
    assert (facts["sex"], facts["age_years"], facts["kvp"]) == ("F", 69, 120.0)
    assert facts["flags"] == (["scan_warnings"] if kind == "classic" else [])  # two series to choose from
    assert read_image(out / "ct.nii.gz").array.dtype == np.int16


def test_refusals_name_files_but_not_patients(tmp_path, caplog, capfd):
    names = [f"{NAME.split('^')[0]}_{PATIENT}_{k}.dcm" for k in range(18)]
    scan = tmp_path / f"{NAME} {BORN}"
    paths = write_series(scan, names=names)
    paths[4].write_bytes(paths[4].read_bytes()[:-9])
    text = refusal(scan)
    assert text.startswith("***_***_4.dcm is truncated: its pixel data need 960 bytes and 951 are there")
    assert_silent(text)
    paths[4].unlink()
    assert_silent(refusal(scan))
    for path in paths:
        path.unlink(missing_ok=True)
    write_series(scan, Modality="MR")
    assert_silent(refusal(scan) + caplog.text + "".join(capfd.readouterr()))


def test_a_refused_scan_leaves_no_file(tmp_path):
    write_series(tmp_path / "scan")[7].unlink()
    with pytest.raises(ScanError):
        import_scan(tmp_path / "scan", tmp_path / "out" / "ct.nii.gz", tmp_path / "out" / "scan.json")
    assert not (tmp_path / "out").exists()


def test_what_was_filled_in_is_air_with_a_warning_and_a_flag(tmp_path):
    scan = scan_image()
    hu = scan.array.copy()
    hu[:, :, 13:], hu[15:] = 0, 0
    write_image(scan.with_array(hu), tmp_path / "scan.nii.gz")
    import_scan(tmp_path / "scan.nii.gz", tmp_path / "ct.nii.gz", tmp_path / "scan.json")
    facts, ct = json.loads((tmp_path / "scan.json").read_text()), read_image(tmp_path / "ct.nii.gz").array
    assert (ct[:, :, 13:] == -1024).all() and (ct[15:] == -1024).all()
    np.testing.assert_array_equal(ct[:15, :, :13], hu[:15, :, :13])
    assert "scan_warnings" in facts["flags"]
    assert "exactly 0 HU up to its border: filled, not measured; taken as air" in facts["warnings"][0]
    assert facts["voxels_set_to_air"] == (hu.size - hu[:15, :, :13].size)


# Sample sheets


def test_find_scans_lists_what_a_sheet_needs(tmp_path):
    soft, bone, study = generate_uid(), generate_uid(), generate_uid()
    write_series(tmp_path / "P 01" / "dicom", PatientAge="071Y", PatientSex="M")
    write_series(tmp_path / "P-02" / "SE1", SeriesInstanceUID=soft, StudyInstanceUID=study, SeriesNumber=1)
    write_series(
        tmp_path / "P-02" / "SE1",
        SeriesInstanceUID=bone,
        StudyInstanceUID=study,
        names=[f"b{k}" for k in range(18)],
    )
    write_series(tmp_path / NAME.split("^")[0] / "ct")
    write_enhanced(tmp_path / "P-04" / "scan.dcm")
    write_series(tmp_path / "P-05" / "localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_image(scan_image(), tmp_path / "P-06" / "ct.nii.gz")
    write_image(
        scan_image((scan_image().array > 0).astype(np.int16)), tmp_path / "P-06" / "left_femur.nii.gz"
    )
    write_image(scan_image(), tmp_path / "P-07.nrrd")
    (tmp_path / "P-08.nii.gz").write_bytes(b"broken")
    (tmp_path / "P-09").mkdir()
    (tmp_path / "P-09" / "empty.dcm").touch()
    rows = {row["subject"]: row for row in find_scans(tmp_path)}
    (hidden,) = set(rows) - {"P-01", "P-02", "P-04", "P-06", "P-07", "P-08"}
    assert re.fullmatch("S[0-9a-f]{8}", hidden)
    assert rows["P-02"]["note"].startswith("1 other CT series in this study; 2 series fit equally well: took")
    assert "; the same patient as S" in rows["P-02"]["note"]
    assert all(re.fullmatch("[A-Za-z0-9_-]+", subject) for subject in rows)
    assert (rows["P-01"]["sex"], rows["P-01"]["age"], rows["P-01"]["series_uid"]) == ("M", 71, None)
    assert rows["P-02"]["series_uid"] == soft
    assert rows["P-04"]["scan"].endswith("scan.dcm")
    for subject in sorted(set(rows) - {"P-08"}):
        assert check_scan(rows[subject]["scan"], rows[subject]["series_uid"]) == []
    assert check_scan(rows["P-08"]["scan"])[0].severity == "error"


def test_subjects_of_one_name_are_told_apart(tmp_path):
    for site in ("a", "b"):
        write_image(scan_image(), tmp_path / site / "hip.nii.gz")
    assert [row["subject"] for row in find_scans(tmp_path)] == ["hip", "hip-2"]
    with pytest.raises(ScanError, match="is not a folder"):
        find_scans(tmp_path / "absent")


def test_names_that_stand_for_a_patients_stay_when_scans_are_added(tmp_path):
    for patient in ("HIP-0002", "HIP-0003"):
        write_series(tmp_path / patient, PatientID=patient, PatientName="")
    before = {row["scan"]: row["subject"] for row in find_scans(tmp_path)}
    write_series(tmp_path / "HIP-0001", PatientID="HIP-0001", PatientName="")
    after = {row["scan"]: row["subject"] for row in find_scans(tmp_path)}
    assert len(after) == 3 and before.items() <= after.items()


def test_anonymised_folders_without_any_uid_of_the_study_are_subjects_each(tmp_path):
    for folder in ("a", "b", "c"):
        write_series(tmp_path / folder, PatientID="", PatientName="", StudyInstanceUID="")
    assert [row["subject"] for row in find_scans(tmp_path)] == ["a", "b", "c"]


def test_scans_of_two_patients_in_one_folder_are_two_rows(tmp_path):
    for patient in ("A1", "B2"):
        names = [f"{patient}-{k}" for k in range(18)]
        write_series(tmp_path / "all", names=names, PatientID=patient, PatientName="")
    rows = find_scans(tmp_path)
    assert [row["subject"] for row in rows] == ["all", "all-2"]
    assert len({row["series_uid"] for row in rows} - {None}) == 2
