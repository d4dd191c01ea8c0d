"""DICOM headers: what each file says about itself, and whether its pixels are all there."""

import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from hipqct.errors import ScanError
from hipqct.io.walk import is_broken_link, walk_files

FUNCTIONAL_GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
IDENTITY = [
    "PatientName", "PatientID", "PatientBirthDate", "OtherPatientNames", "AccessionNumber", "InstitutionName"
]  # fmt: skip
# What is read of a header.
WANTED = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID",
    "AcquisitionNumber", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber",
    "Modality", "ImageType", "ConversionType", "Manufacturer", "ManufacturerModelName", "BurnedInAnnotation",
    "PatientSex", "PatientAge", "StudyDate", "KVP", "ContrastBolusAgent", "ContrastBolusAgentSequence",
    "ConvolutionKernel", "SliceThickness", "GantryDetectorTilt",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "RescaleType",
    "LossyImageCompression", "PixelPaddingValue", "PixelPaddingRangeLimit",
    *FUNCTIONAL_GROUPS, *IDENTITY,
]  # fmt: skip
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SHORTEST_IDENTITY = 3  # characters; shorter pieces of a name occur in file names by chance


@dataclass(frozen=True)
class Header:
    """The header of one DICOM file. ``fault`` says what is wrong with the file as such, or is empty."""

    path: Path
    label: str
    dataset: pydicom.Dataset
    fault: str = ""

    def number(self, keyword: str) -> float | None:
        """An optional value as a number, None when absent or none."""
        return optional_number(lambda: self.dataset.get(keyword))

    def text(self, keyword: str) -> str:
        """A value as one line of text, empty when absent; several values are joined by a backslash."""
        value = self.dataset.get(keyword)
        if value is None:
            return ""
        return value.strip() if isinstance(value, str) else "\\".join(map(str, np.atleast_1d(value)))


@dataclass(frozen=True)
class Slice:
    """One CT slice, a file or a frame of it: its place in LPS mm and how stored values become HU."""

    header: Header
    frame: int
    position_mm: np.ndarray
    orientation: np.ndarray
    pixel_mm: np.ndarray
    slope: float
    intercept: float
    rescale_type: str
    kernel: str
    kvp: float | None
    thickness_mm: float | None
    tilt_deg: float


def read_headers(scan: Path) -> list[Header]:
    """The headers of one DICOM file, or of all those below a folder and its links, in order of path.

    Files of other kinds are passed by. One named ``.dcm`` that is not DICOM, one without a suffix that is
    empty or begins with zeros alone, or a broken link raises ScanError, since it may be a lost slice.
    """
    files = [scan]
    if scan.is_dir():
        files = sorted(Path(folder, name) for folder, names in walk_files(scan) for name in names)
    headers, faults = [], []
    for path in files:
        try:
            passed_by = path.name.startswith(".") or not (path.is_file() or is_broken_link(path))
            header = None if passed_by else read_header(path, scan)
        except ScanError as error:
            faults.append(str(error))
        else:
            headers += [header] if header else []
    if faults:
        text = faults[0]
        for header in headers:  # a file that tells no name may still be called by it
            text = without_identity(text, header.dataset)
        raise ScanError(text)
    return headers


def read_header(path: Path, scan: Path) -> Header | None:
    """The header of one file of ``scan``, or None when it is no DICOM; ScanError as ``read_headers``."""
    name = path.name if path == scan else path.relative_to(scan).as_posix()
    if is_broken_link(path):
        raise ScanError(f"{name} is a broken symbolic link; repair or remove it")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values, names among them
            start = file.read(132)
            file.seek(0)
            has_magic = start[128:] == b"DICM"
            if not has_magic and start[:2] not in (b"\x08\x00", b"\x02\x00"):
                if _may_be_slice(path, start):
                    what = ("not DICOM" if start.strip(b"\0") else "nothing but zeros") if start else "empty"
                    raise ScanError(f"{name} is {what}; copy it again or take it away")
                return None
            dataset = pydicom.dcmread(
                file, stop_before_pixels=True, force=not has_magic, specific_tags=WANTED
            )
            frame_count(dataset)
            fault = _pixel_fault(file, dataset)
    except (
        OSError,
        InvalidDicomError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        struct.error,
    ) as error:
        what = (
            "cannot be opened" if isinstance(error, OSError) else "has a header that is damaged or cut short"
        )
        raise ScanError(f"{name} {what}; copy it again") from error
    if "MediaStorageDirectoryStorage" in UID(dataset.file_meta.get("MediaStorageSOPClassUID", "")).keyword:
        return None
    return Header(path, without_identity(name, dataset), dataset, fault)


def _may_be_slice(path: Path, start: bytes) -> bool:
    """Whether a file that is no DICOM may have been: by its suffix, or, without one, by an empty preamble.

    Names end in a part of a UID at times, which is no suffix.
    """
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return True
    return not suffix.strip(".0123456789") and b"DICM".startswith(start.lstrip(b"\0"))


def without_identity(text: str, dataset: pydicom.Dataset) -> str:
    """``text`` with every piece of the patient's name, id, birth date and the like replaced by ``***``."""
    values = " ".join(str(dataset.get(keyword) or "") for keyword in IDENTITY)
    for mark in "^=[]',;\\/":
        values = values.replace(mark, " ")
    whole = [str(dataset.get(keyword) or "") for keyword in ("PatientID", "PatientName")]
    for piece in sorted({*whole, *values.split()}, key=len, reverse=True):
        if len(piece) >= SHORTEST_IDENTITY:
            at = text.lower().find(piece.lower())
            while at >= 0:
                text = text[:at] + "***" + text[at + len(piece) :]
                at = text.lower().find(piece.lower(), at + 3)
    return text


def _pixel_fault(file, dataset: pydicom.Dataset) -> str:
    """What is wrong with the pixel data that start where ``file`` stands, without reading them, or ''."""
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if not dataset.get("SeriesInstanceUID") or not dataset.get("Modality"):
        return "its header is cut short or lacks SeriesInstanceUID and Modality"
    if syntax == DeflatedExplicitVRLittleEndian or not dataset.get("Rows"):
        return ""
    order = "<" if dataset.original_encoding[1] else ">"
    start, end = file.tell(), file.seek(0, 2)
    file.seek(start)
    head = file.read(12)
    if len(head) < 12 or struct.unpack(order + "HH", head[:4]) != (0x7FE0, 0x0010):
        return "its header ends without pixel data"
    if head[8:] == b"\xff\xff\xff\xff" and head[4:6].isalpha():
        return _fragment_fault(file, end, frame_count(dataset))
    start += 8 if dataset.original_encoding[0] else 12
    bits = (
        dataset.Rows * dataset.Columns * dataset.get("BitsAllocated", 16) * dataset.get("SamplesPerPixel", 1)
    )
    needed = bits * frame_count(dataset) // 8
    return "" if end - start >= needed else f"its pixel data need {needed} bytes and {end - start} are there"


def frame_count(dataset: pydicom.Dataset) -> int:
    """NumberOfFrames, one when it is missing or 0; ValueError when it is no number above 0."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames < 1:
        raise ValueError(f"NumberOfFrames is {frames}")
    return frames


def _fragment_fault(file, end: int, frames: int) -> str:
    """What is wrong with compressed pixel data: walks over the fragments without reading them."""
    fragments = -1  # the first item is the table of offsets
    while True:
        head = file.read(8)
        if len(head) == 8 and head[:4] == b"\xfe\xff\xdd\xe0":
            break
        length = struct.unpack("<I", head[4:])[0] if len(head) == 8 else 0
        if len(head) < 8 or head[:4] != b"\xfe\xff\x00\xe0" or file.tell() + length > end:
            if not head and fragments >= frames:
                break
            return f"its compressed pixel data end in fragment {fragments + 1} before the closing mark"
        file.seek(length, 1)
        fragments += 1
    return "" if fragments >= frames else f"{frames} frames need as many fragments, {fragments} are there"


def slices_of(header: Header) -> Iterator[Slice]:
    """The slices in one CT file: one for classic CT, one per frame for enhanced multi-frame CT.

    Values of the frame's own functional group come before the shared ones and those before the plain header.
    Raises ScanError when position, orientation, pixel spacing or rescale are missing or not numbers.
    """
    dataset = header.dataset
    frames = frame_count(dataset)
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(own) != frames and (frames > 1 or own):
        raise ScanError(
            f"{header.label} holds {frames} frames and geometry for {len(own)} of them; export it again as "
            "enhanced CT or as one file per slice"
        )
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    for frame in range(frames):
        yield _slice(header, frame, [own[frame] if own else pydicom.Dataset(), shared])


def _slice(header: Header, frame: int, groups: list[pydicom.Dataset]) -> Slice:
    def look(sequence: str, keyword: str):
        for group in groups:
            items = group.get(sequence)
            if items and items[0].get(keyword) not in (None, ""):
                return items[0].get(keyword)
        return header.dataset.get(keyword)

    def numbers(sequence: str, keyword: str, count: int) -> np.ndarray:
        values = look(sequence, keyword)
        try:
            array = np.array(values, dtype=float).reshape(count)
        except (TypeError, ValueError):
            array = np.full(count, np.nan)
        if not np.isfinite(array).all():
            where = f"{header.label}" + (f", frame {frame + 1}," if len(groups[0]) else "")
            raise ScanError(f"{where} has no usable {keyword} ({values!s}); export the series again")
        return array

    rescale = "PixelValueTransformationSequence"
    kernel = look("CTReconstructionSequence", "ConvolutionKernel")
    return Slice(
        header=header,
        frame=frame,
        position_mm=numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        pixel_mm=numbers("PixelMeasuresSequence", "PixelSpacing", 2),
        slope=float(numbers(rescale, "RescaleSlope", 1)[0]),
        intercept=float(numbers(rescale, "RescaleIntercept", 1)[0]),
        rescale_type=str(look(rescale, "RescaleType") or ""),
        kernel=kernel if isinstance(kernel, str) else "\\".join(kernel or []),
        kvp=optional_number(lambda: look("CTXRayDetailsSequence", "KVP")),
        thickness_mm=optional_number(lambda: look("PixelMeasuresSequence", "SliceThickness")) or None,
        tilt_deg=optional_number(lambda: look("CTAcquisitionDetailsSequence", "GantryDetectorTilt")) or 0.0,
    )


def optional_number(look) -> float | None:
    """What ``look()`` gives as a finite number; None when it gives nothing or the header holds no number."""
    try:
        value = float(look())
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None
