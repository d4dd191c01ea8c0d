"""Small DICOM series for tests: classic (a file per slice) and enhanced (a file per scan)."""

from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CLASS = "1.2.840.10008.5.1.4.1.1.2.1"
INTERCEPT = -1024
NAME, PATIENT, BORN, PLACE = "Miranda^Zwetschge", "KRKH-77123", "19500417", "Hinterwald"
ACCESSION = "ACC-9981"

SPACING_MM = (2.5, 3.0, 4.0)
SHAPE = (24, 20, 18)
ORIGIN_MM = (-28.0, -27.5, 700.0)


def body(point_mm):
    """HU at world positions (..., 3): an off-centre body of uneven density in air; whole, no symmetry."""
    x, y, z = np.moveaxis(np.asarray(point_mm, dtype=float), -1, 0)
    inside = (x / 24) ** 2 + ((y + 2) / 20) ** 2 < 1
    return np.where(inside, np.floor(3 * x + 2 * y + (z - 700) + 0.25), -1000.0)


def grid(direction=None, shape=SHAPE, spacing_mm=SPACING_MM, origin_mm=ORIGIN_MM):
    """World positions of a grid, shape (nx, ny, nz, 3)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index * spacing_mm @ (np.eye(3) if direction is None else direction).T + origin_mm


def all_axis_directions():
    """Direction cosines of the 48 ways in which an image's axes can lie along the world's."""
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        yield np.eye(3)[:, axes] * signs


def write_series(folder: Path, points_mm=None, hu=None, names=None, change=None, **tags) -> list[Path]:
    """Write a classic series: slice k has the pixels ``points_mm[:, :, k]`` (default ``grid()``) of ``body``.

    ``change(k, dataset)`` may alter a slice before it is written; ``tags`` go to all.
    """
    points_mm = grid() if points_mm is None else points_mm
    hu = body(points_mm) if hu is None else hu
    count = points_mm.shape[2]
    common = {
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesNumber": 3,
    } | tags
    unknown = [keyword for keyword in common if tag_for_keyword(keyword) is None]
    if unknown:
        raise TypeError(f"no DICOM keywords: {unknown}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(count):
        path = folder / (names[k] if names else f"IM{k:04d}.dcm")
        dataset = _dataset(CT_CLASS, hu[:, :, k][..., None], common)
        geometry = _geometry(points_mm)
        dataset.ImagePositionPatient = _text(points_mm[0, 0, k])
        dataset.ImageOrientationPatient = geometry["orientation"]
        dataset.PixelSpacing, dataset.SliceThickness = geometry["pixel"], geometry["gap"]
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, INTERCEPT, "HU"
        dataset.InstanceNumber = k + 1
        dataset.ConvolutionKernel = tags.get("ConvolutionKernel", "B30s")
        if change:
            change(k, dataset)
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def compress(dataset: FileDataset, method: str) -> None:
    """Compress a slice: ``rle`` by pydicom, ``JPEG`` (lossless) and ``JPEG2000`` by GDCM via SimpleITK."""
    if method == "rle":
        dataset.compress(RLELossless, generate_instance_uid=False)
        return
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(1, dataset.Rows, dataset.Columns)
    with TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/slice.dcm")
        writer.SetUseCompression(True)
        writer.SetCompressor(method)
        writer.Execute(sitk.GetImageFromArray(stored))
        written = pydicom.dcmread(f"{folder}/slice.dcm")
    dataset.PixelData = written.PixelData
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID


def write_enhanced(path: Path, points_mm=None, intercepts=None, order=None, change=None, **tags) -> Path:
    """Write an enhanced multi-frame CT; frame f is slice ``order[f]``, with its own rescale intercept."""
    points_mm = grid() if points_mm is None else points_mm
    count = points_mm.shape[2]
    order = list(range(count)) if order is None else order
    intercepts = [INTERCEPT] * count if intercepts is None else intercepts
    hu = body(points_mm)[:, :, order]
    stored = hu - np.array(intercepts) + INTERCEPT
    dataset = _dataset(ENHANCED_CLASS, stored, {"SeriesInstanceUID": generate_uid()} | tags)
    geometry = _geometry(points_mm)
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=geometry["orientation"])
    shared.PixelMeasuresSequence = _item(PixelSpacing=geometry["pixel"], SliceThickness=geometry["gap"])
    shared.CTReconstructionSequence = _item(ConvolutionKernel="FC13")
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k, intercept in zip(order, intercepts, strict=True):
        frame = Dataset()
        frame.PlanePositionSequence = _item(ImagePositionPatient=_text(points_mm[0, 0, k]))
        frame.PixelValueTransformationSequence = _item(
            RescaleSlope=1, RescaleIntercept=intercept, RescaleType="HU"
        )
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    if change:
        change(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _dataset(sop_class: str, hu: np.ndarray, tags: dict) -> FileDataset:
    """Header and pixels, stored = HU - INTERCEPT; ``hu`` is (columns, rows, frames)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, PATIENT, BORN
    dataset.InstitutionName, dataset.StudyDate, dataset.PatientSex = PLACE, "20200101", "F"
    dataset.SeriesDescription, dataset.AccessionNumber = f"Hip {NAME}", ACCESSION
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.KVP = "ACME", "Ring 5", 120
    dataset.Columns, dataset.Rows, frames = hu.shape
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = np.clip(hu - INTERCEPT, 0, 65535).astype("<u2").transpose(2, 1, 0).tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def _geometry(points_mm: np.ndarray) -> dict:
    """Tags of the grid: a row runs along array axis 0, a column along axis 1."""
    row, column, through = (points_mm[tuple(np.eye(3, dtype=int)[a])] - points_mm[0, 0, 0] for a in range(3))
    lengths = [float(np.linalg.norm(v)) for v in (row, column, through)]
    return {
        "orientation": _text([*(row / lengths[0]), *(column / lengths[1])]),
        "pixel": _text([lengths[1], lengths[0]]),
        "gap": f"{lengths[2]:.6g}",
    }


def _text(numbers) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{float(n) + 0.0:.10f}"[:16] for n in numbers]


def _item(**tags) -> Sequence:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return Sequence([item])
