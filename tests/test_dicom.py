"""DICOM import: the numbers and their place in the world are right, or there is one clear sentence."""

import random
from functools import partial

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import SHAPE, all_axis_directions, body, compress, grid, write_enhanced, write_series
from pydicom import Dataset, Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.dicom_series import uid_key
from hipqct.io.images import read_image
from hipqct.io.scans import check_scan, read_scan

TILT = Rotation.from_euler("xyz", [7, -5, 4], degrees=True).as_matrix()
LOCALIZER = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


def assert_body(ct: Image):
    """Every voxel has the HU that the body has at its world position."""
    index = np.stack(np.meshgrid(*map(np.arange, ct.shape), indexing="ij"), axis=-1)
    off_hu = np.abs(ct.array - body(ct.to_world(index)))
    moved = float(np.mean(off_hu > 1.5))  # a voxel's step is 3 HU and more; rounding may give 1
    assert moved <= 0.002  # the body's edge may fall on either side of a voxel's centre


def refusal(path, series_uid=None) -> str:
    with pytest.raises(ScanError) as error:
        read_scan(path, series_uid)
    text = str(error.value)
    assert "\n" not in text
    return text


def header_refusal(path) -> str:
    """The refusal, which reading the headers alone must have told too."""
    text = refusal(path)
    assert ("error", text) in check_scan(path)
    return text


def cube_direction(direction):
    """A grid round the body's middle, long enough along each axis."""
    shape, spacing_mm = (20, 21, 22), (3.5, 3.4, 3.3)
    middle = grid(direction, shape, spacing_mm, (0, 0, 0)).reshape(-1, 3).mean(axis=0)
    return grid(direction, shape, spacing_mm, np.array([0, -2, 734]) - middle)


# 24 of the 48 axis orders are right-handed; DICOM slices stored the other way round make the other 24
@pytest.mark.parametrize(
    "direction", list(all_axis_directions()), ids=lambda d: "".join(f"{v:+.0f}" for v in d.ravel())
)
def test_any_storage_comes_in_axial_with_its_world_kept(tmp_path, direction):
    write_series(tmp_path / "scan", cube_direction(direction))
    ct, facts = read_scan(tmp_path / "scan")
    np.testing.assert_allclose(ct.direction, np.eye(3), atol=1e-9)
    assert_body(ct)
    assert facts["warnings"] == []


@pytest.mark.parametrize("direction", [np.eye(3), np.eye(3)[:, [1, 2, 0]]], ids=["axial", "sagittal"])
def test_obliquity_is_kept_and_not_interpolated(tmp_path, direction):
    write_series(tmp_path / "scan", cube_direction(TILT @ direction))
    ct, facts = read_scan(tmp_path / "scan")
    np.testing.assert_allclose(ct.direction, TILT, atol=1e-8)
    assert_body(ct)
    assert 4 < facts["obliquity_deg"] < 12


def test_slices_are_ordered_by_place_not_by_name_or_number(tmp_path):
    shuffled = random.Random(1).sample(range(SHAPE[2]), SHAPE[2])

    def renumber(k, dataset):
        dataset.InstanceNumber = shuffled[k]

    write_series(tmp_path / "scan", names=[f"{n}.dcm" for n in shuffled], change=renumber)
    ct, _ = read_scan(tmp_path / "scan")
    assert_body(ct)
    np.testing.assert_allclose(ct.to_world([0, 0, 0]), [-28, -27.5, 700], atol=1e-6)


def test_simpleitk_reads_the_same(tmp_path):
    paths = write_series(tmp_path / "scan", grid(TILT))
    oracle = sitk.ReadImage([str(p) for p in paths])
    ct, _ = read_scan(tmp_path / "scan")
    np.testing.assert_array_equal(ct.array, np.maximum(sitk.GetArrayFromImage(oracle).T, -1024))
    np.testing.assert_allclose(ct.origin_mm, oracle.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(ct.spacing_mm, oracle.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(ct.direction.ravel(), oracle.GetDirection(), atol=1e-6)


def test_each_slice_has_its_own_rescale(tmp_path):
    def other_rescale(k, dataset):
        stored = np.frombuffer(dataset.PixelData, "<u2").astype(int) - 1024
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5, -1024 - k
        dataset.PixelData = (2 * (stored + 1024 + k)).astype("<u2").tobytes()

    write_series(tmp_path / "scan", change=other_rescale)
    assert_body(read_scan(tmp_path / "scan")[0])


@pytest.mark.parametrize(
    ("method", "syntax"), [("rle", RLELossless), ("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless)]
)
def test_compressed_series_are_read(tmp_path, method, syntax):
    paths = write_series(tmp_path / "scan", change=lambda k, dataset: compress(dataset, method))
    assert pydicom.dcmread(paths[4]).file_meta.TransferSyntaxUID == syntax
    assert_body(read_scan(tmp_path / "scan")[0])
    content = paths[4].read_bytes()
    paths[4].write_bytes(content[:-200])
    assert "IM0004.dcm is truncated" in header_refusal(tmp_path / "scan")


@pytest.mark.parametrize("keyword", ["KVP", "SeriesNumber", "SliceThickness", "GantryDetectorTilt"])
def test_nonsense_in_an_optional_tag_stops_nothing(tmp_path, keyword):
    def spoil(k, dataset):
        dataset[keyword] = pydicom.DataElement(keyword, "LO", "abc")

    write_series(tmp_path / "scan", change=spoil)
    assert_body(read_scan(tmp_path / "scan")[0])
    check_scan(tmp_path / "scan")


def test_an_unreadable_syntax_is_refused(tmp_path):
    def pretend(k, dataset):
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"

    write_series(tmp_path / "scan", change=pretend)
    assert "IM0000.dcm has pixel data (JPEG Baseline" in refusal(tmp_path / "scan")


def test_enhanced_multiframe_has_geometry_and_rescale_per_frame(tmp_path):
    order = random.Random(2).sample(range(SHAPE[2]), SHAPE[2])
    path = write_enhanced(tmp_path / "scan.dcm", grid(TILT), [-1024 - 3 * k for k in range(SHAPE[2])], order)
    ct, facts = read_scan(path)
    assert_body(ct)
    assert facts["format"] == "DICOM enhanced CT"
    assert facts["kernel"] == "FC13"
    assert_body(read_scan(tmp_path)[0])
    assert check_scan(path) == []


def test_a_cut_multiframe_is_refused(tmp_path):
    path = write_enhanced(tmp_path / "scan.dcm")
    path.write_bytes(path.read_bytes()[:-500])
    assert "scan.dcm is truncated" in header_refusal(path)


def test_multiframe_without_geometry_is_refused(tmp_path):
    def drop(dataset):
        dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:3]

    path = write_enhanced(tmp_path / "scan.dcm", change=drop)
    assert "holds 18 frames and geometry for 3" in header_refusal(path)


# Which series


def test_the_axial_series_is_taken_never_a_localizer(tmp_path):
    wanted, write = generate_uid(), partial(write_series, StudyInstanceUID=generate_uid())
    coronal = grid(np.eye(3)[:, [0, 2, 1]] * [1, -1, 1], (24, 20, 40), (2.5, 3, 2))
    write(tmp_path / "a" / "loc", grid(shape=(24, 20, 60)), **LOCALIZER)
    write(tmp_path / "a" / "loc-in-series", grid(shape=(24, 20, 2)), SeriesInstanceUID=wanted, **LOCALIZER)
    write(tmp_path / "b" / "coronal", coronal)
    write(tmp_path / "b" / "reformat", grid(shape=(24, 20, 40)), ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    write(tmp_path / "c" / "thick", grid(shape=(24, 20, 14), spacing_mm=(2.5, 3, 5)))
    write(tmp_path / "c" / "thin", SeriesInstanceUID=wanted)
    write(tmp_path / "capture", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    write(tmp_path / "mr", Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    (tmp_path / "notes.txt").write_text("not DICOM")
    ct, facts = read_scan(tmp_path)
    assert_body(ct)
    assert facts["series"] == uid_key(wanted)
    assert facts["rule"] == "most slices"
    assert sorted(other["kind"] for other in facts["others"]) == [
        *["CT", "CT", "CT", "MR", "localizer", "localizer", "secondary capture"]
    ]
    assert facts["warnings"] == []


def test_scans_of_several_studies_in_one_folder_are_told(tmp_path):
    write_series(tmp_path / "before", grid(shape=(24, 20, 24)), SeriesNumber=1)
    write_series(tmp_path / "after", SeriesNumber=2)
    (warning,) = read_scan(tmp_path)[1]["warnings"]
    assert "CT series of 2 studies lie here" in warning and "set series_uid" in warning
    write_series(tmp_path / "nameless", PatientID="", StudyInstanceUID="", SeriesNumber=3)
    assert "CT series of 2 studies lie here" in read_scan(tmp_path)[1]["warnings"][0]
    write_series(tmp_path / "other", PatientID="another")
    assert "3 studies and 2 patients" in read_scan(tmp_path)[1]["warnings"][0]


@pytest.mark.parametrize(
    ("keyword", "value", "name"),
    [
        ("PatientID", "KX-44", "patient"),
        ("FrameOfReferenceUID", "1.2.3", "frame of reference"),
    ],
)
def test_a_series_that_changes_halfway_is_refused(tmp_path, keyword, value, name):
    write_series(tmp_path, change=lambda k, d: setattr(d, keyword, value) if k > 8 else None)
    text = refusal(tmp_path)
    assert f"has another {name} than" in text and value not in text
    write_series(tmp_path / "voltage", change=lambda k, d: setattr(d, "KVP", "80") if k > 8 else None)
    assert "has tube voltage 80.0 and" in refusal(tmp_path / "voltage")


def test_acquisitions_that_alternate_along_z_are_refused(tmp_path):
    write_series(tmp_path / "two", change=lambda k, d: setattr(d, "AcquisitionNumber", k % 2))
    assert "slices of 2 acquisitions alternate along z" in refusal(tmp_path / "two")
    gaps = {3: None, 9: 2, 10: 1, 11: 2}  # one slice without a number; a seam of two that overlap a little
    write_series(
        tmp_path / "seam", change=lambda k, d: setattr(d, "AcquisitionNumber", gaps.get(k, 1 + (k > 10)))
    )
    assert read_scan(tmp_path / "seam")[1]["warnings"] == []
    write_series(tmp_path / "each", change=lambda k, d: setattr(d, "AcquisitionNumber", k))
    assert read_scan(tmp_path / "each")[1]["warnings"] == []


def test_losses_and_projections_are_no_plain_slices(tmp_path):
    write_series(tmp_path / "lossy", LossyImageCompression="01")
    assert "compressed with losses" in read_scan(tmp_path / "lossy")[1]["warnings"][0]
    write_series(tmp_path / "mip", ImageType=["DERIVED", "PRIMARY", "VOLUME", "MAX_IP"])
    assert "projection" in refusal(tmp_path / "mip")


def test_voltage_and_contrast_of_an_enhanced_ct_lie_in_its_sequences(tmp_path):
    def change(dataset):
        del dataset.KVP
        details, agent = Dataset(), Dataset()
        details.KVP, agent.ContrastBolusVolume = 100, 80
        dataset.SharedFunctionalGroupsSequence[0].CTXRayDetailsSequence = Sequence([details])
        dataset.ContrastBolusAgentSequence = Sequence([agent])

    facts = read_scan(write_enhanced(tmp_path / "scan.dcm", change=change))[1]
    assert facts["kvp"] == 100
    assert "contrast agent" in facts["warnings"][0]


def test_series_uid_or_its_hash_chooses(tmp_path):
    first, second = generate_uid(), generate_uid()
    write_series(tmp_path / "a", SeriesInstanceUID=first, SeriesNumber=1)
    write_series(tmp_path / "b", SeriesInstanceUID=second, SeriesNumber=2, ConvolutionKernel="B70f")
    _, facts = read_scan(tmp_path)
    assert facts["series_number"] == 1
    assert "2 series fit equally well" in facts["warnings"][0]
    assert "kernel B70f" in facts["warnings"][0]
    for choice in (second, uid_key(second)):
        _, facts = read_scan(tmp_path, choice)
        assert (facts["series_number"], facts["rule"], facts["warnings"]) == (2, "series_uid", [])
    assert "no CT slices of the series_uid asked for" in refusal(tmp_path, "1.2.3")


# Refusals


def change_one(index, **tags):
    """A change to one slice; ``None`` deletes the tag."""

    def change(k, dataset):
        for keyword, value in tags.items():
            if k == index and value is None:
                delattr(dataset, keyword)
            elif k == index:
                setattr(dataset, keyword, value)

    return change


REFUSED_TAGS = {
    "no rescale": (change_one(5, RescaleSlope=None), "IM0005.dcm has no usable RescaleSlope"),
    "no intercept": (change_one(5, RescaleIntercept=None), "IM0005.dcm has no usable RescaleIntercept"),
    "zero slope": (change_one(5, RescaleSlope=0), "IM0005.dcm has a rescale slope of 0"),
    "not HU": (change_one(5, RescaleType="Z_EFF"), "IM0005.dcm is in Z_EFF, not HU"),
    "no position": (
        change_one(5, ImagePositionPatient=None),
        "IM0005.dcm has no usable ImagePositionPatient",
    ),
    "other kernel": (
        change_one(5, ConvolutionKernel="B70f"),
        "IM0005.dcm has kernel B70f and IM0000.dcm B30s",
    ),
    "other pixels": (
        change_one(5, PixelSpacing=[2, 2]),
        r"IM0005.dcm has pixels of 2\2 mm and IM0000.dcm of 3\2.5",
    ),
    "other plane": (change_one(5, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), r"oriented 0\1\0\0\0\-1"),
    "sideways": (
        change_one(5, ImagePositionPatient=[-20, -27.5, 720]),
        "IM0005.dcm is shifted 8.0 mm sideways",
    ),
    "duplicated": (change_one(5, ImagePositionPatient=[-28, -27.5, 724]), "lie at the same 724.00 mm"),
    "uneven": (change_one(5, ImagePositionPatient=[-28, -27.5, 721]), "is 5.00 mm where 4.00 mm is usual"),
    "8 bits": (
        change_one(5, BitsAllocated=8, BitsStored=8, HighBit=7),
        "IM0005.dcm has 1 value(s) of 8 bits",
    ),
    "tilt by tag": (
        change_one(5, GantryDetectorTilt=12.5),
        "IM0005.dcm states a gantry tilt of 12.5 degrees",
    ),
}


@pytest.mark.parametrize("case", REFUSED_TAGS)
def test_a_bad_slice_is_refused_with_file_and_numbers(tmp_path, case):
    change, sentence = REFUSED_TAGS[case]
    write_series(tmp_path / "scan", change=change)
    assert sentence in header_refusal(tmp_path / "scan")


def test_gantry_tilt_is_refused(tmp_path):
    points_mm = grid() + np.arange(SHAPE[2])[:, None] * [0, 4 * np.tan(np.radians(15)), 0]
    write_series(tmp_path / "scan", points_mm)
    for path in (tmp_path / "scan").iterdir():  # the slices themselves stay axial
        dataset = pydicom.dcmread(path)
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.save_as(path)
    text = header_refusal(tmp_path / "scan")
    assert "gantry tilt: the stack leans 15.0 degrees" in text
    assert "18.2 mm over 68 mm" in text


def test_positions_written_to_a_tenth_of_a_millimetre_are_even_enough(tmp_path):
    points_mm = grid(shape=(24, 20, 110), spacing_mm=(2.5, 3, 0.625))
    points_mm[..., 2] = np.round(points_mm[..., 2], 1)
    write_series(tmp_path / "scan", points_mm)
    ct, _ = read_scan(tmp_path / "scan")
    assert ct.spacing_mm[2] == pytest.approx(0.625, abs=1e-3)


def test_small_gaps_that_add_up_are_refused(tmp_path):
    points_mm = grid()
    points_mm[..., 2] = 700 + np.cumsum([0] + [4.0] * 9 + [4.09] * 8)
    write_series(tmp_path / "scan", points_mm)
    assert "mm off an even grid" in header_refusal(tmp_path / "scan")


def test_a_missing_slice_is_refused(tmp_path):
    write_series(tmp_path / "scan")[7].unlink()
    assert (
        "missing slices (1 here): the gap between IM0006.dcm and IM0008.dcm is 8.00 mm where 4.00 mm is usual"
        in header_refusal(tmp_path / "scan")
    )


def test_a_copied_slice_is_refused(tmp_path):
    paths = write_series(tmp_path / "scan")
    (tmp_path / "scan" / "copy.dcm").write_bytes(paths[3].read_bytes())
    assert "IM0003.dcm and copy.dcm are one image" in header_refusal(tmp_path / "scan")


@pytest.mark.parametrize("kept", [0, 60, 300, -100], ids=["empty", "preamble", "header", "pixels"])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = write_series(tmp_path / "scan")[0]
    path.write_bytes(path.read_bytes()[:kept])
    assert "IM0000.dcm" in header_refusal(tmp_path / "scan")


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 13).round(2))
def test_no_cut_goes_unnoticed(tmp_path, share):
    """An end slice that drops out in silence would shorten the femur."""
    path = write_series(tmp_path / "scan")[-1]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "IM0017.dcm" in header_refusal(tmp_path / "scan")


@pytest.mark.parametrize("name", ["IM0017", "1.2.840.113.17"])
@pytest.mark.parametrize("left", [b"", bytes(60), bytes(128) + b"DIC", bytes(5000)])
def test_a_slice_without_a_suffix_that_a_broken_copy_left_empty_is_missed(tmp_path, name, left):
    write_series(tmp_path / "scan")[-1].rename(tmp_path / "scan" / name)
    assert_body(read_scan(tmp_path / "scan")[0])
    (tmp_path / "scan" / name).write_bytes(left)
    assert f"{name} is " in header_refusal(tmp_path / "scan")


def test_files_without_preamble_are_read(tmp_path):
    for path in write_series(tmp_path / "scan"):
        bare = pydicom.Dataset(pydicom.dcmread(path))
        bare.save_as(path, implicit_vr=True, little_endian=True)
    assert_body(read_scan(tmp_path / "scan")[0])


def test_what_lies_beside_the_slices_does_no_harm(tmp_path):
    write_series(tmp_path / "scan")
    write_series(tmp_path / "scan" / "loc", grid(shape=(24, 20, 2)), **LOCALIZER)
    cut = tmp_path / "scan" / "loc" / "IM0001.dcm"
    cut.write_bytes(cut.read_bytes()[:-9])
    (tmp_path / "scan" / "._IM0001.dcm").write_bytes(b"Mac OS X")
    (tmp_path / "scan" / "Thumbs.db").write_bytes(b"thumbs")
    (tmp_path / "scan" / "README.txt").touch()
    folder_of_media = pydicom.Dataset()
    folder_of_media.file_meta = pydicom.dataset.FileMetaDataset()
    folder_of_media.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    folder_of_media.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    folder_of_media.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    folder_of_media.save_as(tmp_path / "scan" / "DICOMDIR", enforce_file_format=True)
    assert_body(read_scan(tmp_path / "scan")[0])


@pytest.mark.parametrize(("slices", "step_mm"), [(5, 4.0), (11, 8.0), (100, 0.5)])
def test_too_few_slices_are_refused(tmp_path, slices, step_mm):
    write_series(tmp_path / "scan", grid(shape=(24, 20, slices), spacing_mm=(2.5, 3, step_mm)))
    assert f"{slices} covering {slices * step_mm:.1f} mm" in header_refusal(tmp_path / "scan")


def test_other_modalities_and_empty_folders_are_refused(tmp_path):
    write_series(tmp_path / "mr", Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert "not CT: no CT slices among series" in header_refusal(tmp_path / "mr")
    (tmp_path / "empty").mkdir()
    assert "empty holds no DICOM file" in header_refusal(tmp_path / "empty")
    assert "is not there" in header_refusal(tmp_path / "absent")


# Values


def test_padding_becomes_air(tmp_path):
    hu = body(grid())
    hu[:3] = -2024
    write_series(tmp_path / "low", hu=hu, change=lambda k, d: pad(d, None))
    ct, facts = read_scan(tmp_path / "low")
    assert ct.array[:3].max() == -1024
    assert facts["voxels_set_to_air"] == 3 * SHAPE[1] * SHAPE[2]
    hu[:3] = 3071
    write_series(tmp_path / "high", hu=hu, change=lambda k, d: pad(d, 3071))
    ct, facts = read_scan(tmp_path / "high")
    assert ct.array[:3].max() == -1024
    assert facts["warnings"] == []
    write_series(tmp_path / "tissue", change=lambda k, d: pad(d, 0))
    ct, facts = read_scan(tmp_path / "tissue")
    assert_body(ct)
    assert "padding value means 0 HU" in facts["warnings"][0]


def pad(dataset, padding_hu):
    """Store signed HU with intercept 0, and a padding value."""
    stored = np.frombuffer(dataset.PixelData, "<u2").astype(int) - 1024
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
    if padding_hu is None:
        stored[stored == -1024] = -2024
    else:
        dataset.add_new("PixelPaddingValue", "SS", padding_hu)
    dataset.PixelData = stored.astype("<i2").tobytes()


def test_unused_high_bits_are_no_part_of_the_value(tmp_path):
    def overlay(k, dataset):
        dataset.BitsStored, dataset.HighBit = 12, 11
        stored = np.frombuffer(dataset.PixelData, "<u2").copy()
        stored[::3] |= 0x8000
        dataset.PixelData = stored.tobytes()

    write_series(tmp_path / "scan", change=overlay)
    assert_body(read_scan(tmp_path / "scan")[0])


def test_values_that_cannot_be_hu_are_refused(tmp_path):
    write_series(tmp_path / "flat", hu=np.zeros(SHAPE))
    assert "(0 to 0) has one value everywhere" in refusal(tmp_path / "flat")
    write_series(
        tmp_path / "offset", RescaleIntercept=0, change=lambda k, d: setattr(d, "RescaleIntercept", 0)
    )
    assert "an offset of 1024 may be missing" in refusal(tmp_path / "offset")
    write_series(tmp_path / "steep", change=lambda k, d: setattr(d, "RescaleSlope", 100))
    assert "more than int16 holds" in refusal(tmp_path / "steep")
    hu = body(grid())
    hu[0] = -1024
    write_series(tmp_path / "shifted", hu=np.where(hu > -1024, hu + 1024, hu))
    assert "its offset or slope is wrong" in refusal(tmp_path / "shifted")


def test_metal_and_thin_slices_are_warned_of(tmp_path):
    hu = body(grid())
    hu[10:12, 8:10, 5:9] = 8000
    write_series(tmp_path / "scan", hu=hu, change=lambda k, d: setattr(d, "SliceThickness", 1))
    _, facts = read_scan(tmp_path / "scan")
    assert facts["warnings"][0].startswith("slices are 1 mm thick and 4 mm apart")
    assert facts["warnings"][1].startswith("480 mm3 above 3000 HU: metal")


# The real scan


def test_contrast_agent_is_warned_of(tmp_path):
    write_series(tmp_path / "with", ContrastBolusAgent="ULTRAVIST 370")
    for k, text in enumerate(
        (
            "None",
            "N/A",
            "-",
            "NO IV CONTRAST",
            "without contrast",
            "Non-contrast",
            "w/o",
            "native",
            "N.A.",
            "0",
        )
    ):
        write_series(tmp_path / str(k), ContrastBolusAgent=text)
        assert read_scan(tmp_path / str(k))[1]["warnings"] == [], text
    write_series(tmp_path / "without", ContrastBolusAgent="None")
    assert "contrast agent" in read_scan(tmp_path / "with")[1]["warnings"][0]
    assert check_scan(tmp_path / "with")[0].severity == "warning"
    assert read_scan(tmp_path / "without")[1]["warnings"] == []


@pytest.mark.parametrize(
    "agent",
    [
        "Non-ionic",
        "NON IONIC CONTRAST",
        "350",
        "N.I. Omnipaque",
        "Native + venous",
        "no oral, IV Omnipaque 350",
        "no oral, IV contrast",
        "No reaction; Ultravist",
    ],
)
def test_an_agent_whose_name_begins_like_none_is_warned_of(tmp_path, agent):
    write_series(tmp_path / "scan", ContrastBolusAgent=agent)
    (finding,) = check_scan(tmp_path / "scan")
    assert "contrast agent" in finding.text


@pytest.mark.parametrize(
    ("tags", "years"),
    [
        ({"PatientAge": "071Y"}, 71),
        ({"PatientAge": "123Y"}, None),
        ({"PatientBirthDate": "19000101", "StudyDate": "20230601"}, None),
        ({"PatientBirthDate": "20230601", "StudyDate": "20200101"}, None),
    ],
)
def test_an_age_that_no_person_has_is_none(tmp_path, tags, years):
    write_series(tmp_path, **tags)
    assert read_scan(tmp_path)[1]["age_years"] == years


def test_a_number_of_frames_below_one_is_refused(tmp_path):
    write_series(tmp_path, NumberOfFrames=-1)
    with pytest.raises(ScanError, match=r"IM0000\.dcm has a header that is damaged"):
        read_scan(tmp_path)
    assert check_scan(tmp_path)[0].severity == "error"


def test_linked_folders_and_files_belong_to_the_scan(tmp_path):
    scan, elsewhere = tmp_path / "scan", tmp_path / "elsewhere"
    paths = write_series(scan)
    elsewhere.mkdir()
    for path in paths[9:]:
        path.rename(elsewhere / path.name)
    (scan / "more").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(scan)
    assert_body(read_scan(scan)[0])
    assert check_scan(scan) == []
    (scan / "IM0099.dcm").symlink_to(tmp_path / "gone")
    with pytest.raises(ScanError, match=r"IM0099\.dcm is a broken symbolic link; repair"):
        read_scan(scan)


def test_real_hip_ct(shared_data):
    folder = shared_data / "real-hip-ct"
    ct, facts = read_scan(folder / "dicom")
    assert ct.shape == (512, 512, 163)
    assert ct.spacing_mm == pytest.approx((1.0, 1.0, 3.0))
    assert facts["sex"] == "M"
    assert facts["warnings"] == check_scan(folder / "dicom") == []
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom")))
    oracle = reader.Execute()
    np.testing.assert_array_equal(ct.array, sitk.GetArrayFromImage(oracle).T)
    np.testing.assert_allclose(ct.origin_mm, oracle.GetOrigin(), atol=1e-4)
    for side in ("left", "right"):
        mask = read_image(folder / f"{side}_femur.nii.gz")
        assert mask.same_grid(ct)
        centre_mm = mask.to_world(np.argwhere(mask.array)).mean(axis=0)
        assert (centre_mm[0] > 0) == (side == "left")
        assert ct.array[mask.array > 0].mean() > 200


def test_nibabel_agrees_on_the_written_real_ct(shared_data):
    path = shared_data / "real-ct" / "ct.nii.gz"
    ct, facts = read_scan(path)
    oracle = nibabel.as_closest_canonical(nibabel.load(path))  # RAS: x and y run the other way
    values = np.maximum(np.rint(np.asarray(oracle.dataobj)), -1024)
    np.testing.assert_array_equal(ct.array, values[::-1, ::-1])
    corner = oracle.affine @ [ct.shape[0] - 1, ct.shape[1] - 1, 0, 1]
    np.testing.assert_allclose(ct.origin_mm, corner[:3] * [-1, -1, 1], atol=1e-3)
    assert "metal" in facts["warnings"][0]
