"""Written series, read back by pydicom and by SimpleITK (GDCM)."""

import hashlib

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import CTImageStorage

from hipqct.image import Image
from hipqct.io.dicom_writer import write_dicom_series


@pytest.fixture
def image() -> Image:
    array = np.random.default_rng(0).integers(-1024, 3071, size=(9, 7, 5)).astype(np.int16)
    tilt = np.radians(8)
    direction = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    return Image(array, (0.8, 0.9, 2.5), (-100.25, -50.5, 12.75), direction)


def read_with_gdcm(folder):
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(folder))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
    return reader.Execute()


def digest(folder) -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(folder.iterdir()))).hexdigest()


def test_gdcm_reads_back_the_same_image(image, tmp_path):
    write_dicom_series(image, tmp_path, "F", 61, "S001")
    picture = read_with_gdcm(tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(picture).T, image.array)
    np.testing.assert_allclose(picture.GetSpacing(), image.spacing_mm, atol=1e-6)
    np.testing.assert_allclose(picture.GetOrigin(), image.origin_mm, atol=1e-6)
    np.testing.assert_allclose(np.reshape(picture.GetDirection(), (3, 3)), image.direction, atol=1e-6)


def test_headers_say_who_and_that_it_is_synthetic(image, tmp_path):
    paths = write_dicom_series(image, tmp_path, "M", 61, "S001", {"ConvolutionKernel": "B40s"})
    data = pydicom.dcmread(paths[2])
    assert data.SOPClassUID == CTImageStorage
    assert (data.PatientSex, data.PatientAge, data.KVP) == ("M", "061Y", 120)
    assert data.ConvolutionKernel == "B40s"
    assert "Synthetic" in data.StudyDescription
    assert all(len(uid) <= 64 for uid in (data.SOPInstanceUID, data.SeriesInstanceUID))


def test_same_input_same_bytes_and_other_input_other_uids(image, tmp_path):
    write_dicom_series(image, tmp_path / "a", "F", 61, "S001")
    write_dicom_series(image, tmp_path / "b", "F", 61, "S001")
    write_dicom_series(image.with_array(image.array + 0 * image.array), tmp_path / "c", "F", 62, "S001")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in tmp_path.rglob("*.dcm")}
    assert len(uids) == 2 * image.shape[2]


def test_what_cannot_be_stored_is_refused(image, tmp_path):
    with pytest.raises(ValueError, match="whole Hounsfield"):
        write_dicom_series(image.with_array(image.array.astype(float)), tmp_path, "F", 61, "S001")
    with pytest.raises(ValueError, match="-2000"):
        write_dicom_series(image.with_array(np.full_like(image.array, -2000)), tmp_path, "F", 61, "S001")
    for age in (-50, 1000):
        with pytest.raises(ValueError, match="age must be 0 to 999 years"):
            write_dicom_series(image, tmp_path, "F", age, "S001")
