"""Writing an image as a series of CT Image Storage objects that other DICOM readers open."""

import hashlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from hipqct.image import Image

# Stored values are unsigned: HU = stored + intercept.
RESCALE_INTERCEPT = -1024
OLDEST = 999  # years: what a DICOM age string holds
HIGHEST_HU = 65535 + RESCALE_INTERCEPT

# UID of this implementation under the UUID-derived root 2.25, fixed once.
IMPLEMENTATION_UID = "2.25.190366281714306458190402331860425513772"

# A fixed date: phantoms have none, and the same input must give the same bytes.
DATE = "20000101"
TIME = "120000"


def _uid(digest: str, role: str) -> str:
    """A UID under 2.25 made from a hash, so that the same content has the same UID."""
    number = int.from_bytes(hashlib.sha256(f"{digest}/{role}".encode()).digest()[:16], "big")
    return f"2.25.{number}"


def _decimals(values) -> list:
    return [DSfloat(float(v), auto_format=True) for v in values]


def _digest(image: Image, facts: str) -> str:
    """Hash of voxels, place and facts."""
    content = hashlib.sha256(np.ascontiguousarray(image.array).tobytes())
    content.update(repr((image.shape, image.spacing_mm, image.origin_mm, image.direction.tolist())).encode())
    content.update(facts.encode())
    return content.hexdigest()


def _series(image: Image, digest: str, subject: str, sex: str, age: int) -> Dataset:
    """What all slices of the series share."""
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    data.SOPClassUID = CTImageStorage
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = DATE
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = TIME
    data.AccessionNumber = ""
    data.Modality = "CT"
    data.Manufacturer = "hipqct"
    data.ManufacturerModelName = "digital hip phantom"
    data.ReferringPhysicianName = ""
    data.StudyDescription = "Synthetic QCT hip scan, no patient"
    data.SeriesDescription = "Synthetic hip phantom"
    data.PatientName = data.PatientID = subject
    data.PatientBirthDate = ""
    data.PatientSex = sex
    data.PatientAge = f"{int(age):03d}Y"
    data.BodyPartExamined = "PELVIS"
    data.SliceThickness = DSfloat(image.spacing_mm[2], auto_format=True)
    data.KVP = "120"
    data.ConvolutionKernel = "B30s"
    data.PatientPosition = "HFS"
    data.StudyInstanceUID = _uid(digest, "study")
    data.SeriesInstanceUID = _uid(digest, "series")
    data.StudyID = "1"
    data.SeriesNumber = "1"
    data.AcquisitionNumber = "1"
    data.FrameOfReferenceUID = _uid(digest, "frame of reference")
    data.PositionReferenceIndicator = ""
    data.ImageOrientationPatient = _decimals([*image.direction[:, 0], *image.direction[:, 1]])
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Columns, data.Rows = image.shape[:2]
    data.PixelSpacing = _decimals([image.spacing_mm[1], image.spacing_mm[0]])
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.PixelRepresentation = 0
    data.WindowCenter, data.WindowWidth = "300", "1500"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = str(RESCALE_INTERCEPT), "1", "HU"
    return data


def _file_meta(instance_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "HIPQCT"
    return meta


def write_dicom_series(
    image: Image, folder, sex: str, age: int, subject: str, extra: dict | None = None
) -> list[Path]:
    """Write one uncompressed CT object per slice into ``folder`` (made if absent), named by slice number.

    Args:
        image: whole Hounsfield numbers from -1024 to 64511, shape ``(columns, rows, slices)``.
        folder: where the files go.
        sex: ``"F"`` or ``"M"``.
        age: years, 0 to 999: DICOM has three digits for them.
        subject: written as the patient's name and id, since a phantom is nobody.
        extra: DICOM keywords and values that replace or add to those of every slice.

    Returns:
        The files in ascending order along the third axis. All UIDs derive from the content, so the same input
        gives the same bytes.

    Raises:
        ValueError: the image does not hold whole Hounsfield numbers within the range, or the age no years.
    """
    if not 0 <= age <= OLDEST:
        raise ValueError(f"age must be 0 to {OLDEST} years, got {age}")
    array = image.array
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"image must hold whole Hounsfield numbers, got {array.dtype}")
    if array.size and (array.min() < RESCALE_INTERCEPT or array.max() > HIGHEST_HU):
        raise ValueError(
            f"HU must lie in {RESCALE_INTERCEPT}..{HIGHEST_HU}, got {array.min()}..{array.max()}"
        )
    extra = extra or {}
    digest = _digest(image, repr((sex, age, subject, sorted(extra.items()))))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = (array.astype(np.int32) - RESCALE_INTERCEPT).astype("<u2")
    paths = []
    for k in range(image.shape[2]):
        data = _series(image, digest, subject, sex, age)
        position_mm = image.to_world((0, 0, k))
        data.SOPInstanceUID = _uid(digest, f"slice {k}")
        data.InstanceNumber = str(k + 1)
        data.ImagePositionPatient = _decimals(position_mm)
        data.SliceLocation = DSfloat(float(position_mm @ image.direction[:, 2]), auto_format=True)
        for keyword, value in extra.items():
            setattr(data, keyword, value)
        data.PixelData = stored[:, :, k].T.tobytes()
        data.file_meta = _file_meta(data.SOPInstanceUID)
        paths.append(folder / f"slice-{k + 1:04d}.dcm")
        pydicom.dcmwrite(paths[-1], data, enforce_file_format=True)
    return paths
