"""DICOM series, classic or enhanced multi-frame, to one CT image in HU."""

import re
import warnings as python_warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ImplicitVRLittleEndian

from hipqct.errors import ScanError
from hipqct.hounsfield import AIR_HU, TISSUE_HU, to_int16
from hipqct.image import Image
from hipqct.io.dicom_geometry import Stack, slice_normal, stack_slices
from hipqct.io.dicom_headers import Header, Slice, frame_count, read_headers, without_identity
from hipqct.io.dicom_series import Series, choose_series, uid_key

HU_TYPES = ("", "HU", "HU_MOD", "US")  # US: unspecified, which modality CT makes HU
THICKNESS_TOLERANCE_MM = 0.1  # as written by scanners
TILT_TOLERANCE_DEG = 0.5  # below it the tag is noise of the gantry's sensor

ONE_FOR_ALL = {
    "PatientID": "patient",
    "StudyInstanceUID": "study",
    "FrameOfReferenceUID": "frame of reference",
}
# "none", "no contrast", "w/o", "N/A", "-" and the like; "non-ionic" and "no oral, IV ..." name agents.
ROUTE = r"(i\.?v\.?|intravenous|oral|rectal)"
NO_CONTRAST = re.compile(
    r"[\W_0]*|\W*(none?|nil|null|n|n/?a|n\.a|not applicable|without|w/o|un-?enhanced|plain|nati[vf]\w*)\W*|"
    rf"\W*(none?|no|not|without|w/o)[\s_-]*({ROUTE}(\s*(/|or|nor)\s*{ROUTE})?)?"
    r"([\s_-]*(contrast|agents?|medi(a|um)|enhance(d|ment)?|given|used|administered|applied))*\W*",
    re.I,
)
MAX_AGE_YEARS = 120  # as in the sample sheet; beyond it a date is wrong, or stands for none


def read_dicom(path: str | Path, series_uid: str | None = None) -> tuple[Image, dict]:
    """The axial CT series of a folder (searched recursively), or of one multi-frame file, in HU.

    Returns the image on the series' own grid (int16; slices ordered along their normal; padding set to
    -1024 HU) and facts that identify nobody. Raises ScanError, in one sentence with the file and the numbers,
    for whatever is not one complete, evenly spaced, upright stack of CT slices with a rescale to HU.
    """
    series, stack, facts = inspect_dicom(path, series_uid)
    slices = [series.slices[i] for i in stack.order]
    shape = (len(slices), slices[0].header.dataset.Rows, slices[0].header.dataset.Columns)
    ct = np.empty(shape, np.int16)
    facts["voxels_set_to_air"] = 0
    place = {(id(part.header), part.frame): z for z, part in enumerate(slices)}
    for header in series.headers:
        frames = [part for part in slices if part.header is header]
        stored = _stored_pixels(header, len(frames))
        for part in frames:
            hu, padded = _hounsfield(stored[part.frame], part)
            ct[place[id(header), part.frame]] = hu
            facts["voxels_set_to_air"] += padded
    return Image(ct.transpose(2, 1, 0), stack.spacing_mm, stack.origin_mm, stack.direction), facts


def inspect_dicom(path: str | Path, series_uid: str | None = None) -> tuple[Series, Stack, dict]:
    """Everything ``read_dicom`` finds out and refuses before it decodes a pixel; from headers only."""
    path = Path(path)
    headers = read_headers(path)
    if not headers:
        raise ScanError(
            f"{path.name} holds no DICOM file; give a folder of DICOM or a NIfTI, NRRD or MetaImage file"
        )
    series, choice, warnings = choose_series(headers, series_uid)
    _check_files(series)
    slices = series.slices
    labels = [_label(part) for part in slices]
    _check_same(slices, labels)
    stack = stack_slices(
        [part.position_mm for part in slices],
        [part.orientation for part in slices],
        [part.pixel_mm for part in slices],
        labels,
    )
    warnings += _tilt_warnings(slices) + _padding_warnings(slices) + _thickness_warnings(slices, stack)
    warnings += _contrast_warnings(series.headers[0]) + _lossy_warnings(series.headers[0])
    _check_acquisitions([slices[i] for i in stack.order])
    facts = _facts(series, slices) | choice | {"warnings": warnings}
    return series, stack, facts


def _label(part: Slice) -> str:
    frames = frame_count(part.header.dataset)
    return f"{part.header.label} frame {part.frame + 1}" if frames > 1 else part.header.label


def _check_files(series: Series) -> None:
    """Refuse files that are cut short, coded otherwise than CT in HU is, or stored twice."""
    seen = {}
    for header in series.headers:
        dataset = header.dataset
        if header.fault:
            raise ScanError(f"{header.label} is truncated: {header.fault}; copy it again")
        samples, bits = dataset.get("SamplesPerPixel", 1), dataset.get("BitsAllocated", 16)
        if samples != 1 or bits != 16:
            raise ScanError(
                f"{header.label} has {samples} value(s) of {bits} bits per pixel; CT in HU has one of 16 bits"
            )
        twin = seen.setdefault(header.text("SOPInstanceUID"), header)
        if twin is not header and header.text("SOPInstanceUID"):
            raise ScanError(
                f"duplicated slices: {twin.label} and {header.label} are one image; keep one copy"
            )


def _check_same(slices: list[Slice], labels: list[str]) -> None:
    """Refuse a series with another matrix, kernel or unit somewhere; the rescale may differ by slice."""
    for part, label in zip(slices, labels, strict=True):
        if part.rescale_type not in HU_TYPES:
            raise ScanError(f"{label} is in {part.rescale_type}, not HU; choose a series in HU")
        if part.slope == 0:
            raise ScanError(f"{label} has a rescale slope of 0; export the series again")
        for name, mine, first in (
            ("matrix", _matrix(part), _matrix(slices[0])),
            ("kernel", part.kernel, slices[0].kernel),
            ("tube voltage", part.kvp, slices[0].kvp),
        ):
            if mine != first:
                raise ScanError(
                    f"mixed series: {label} has {name} {mine} and {labels[0]} {first}; "
                    "give each its own folder"
                )

        for keyword, name in ONE_FOR_ALL.items():  # without values, which may lead to a person
            if part.header.text(keyword) != slices[0].header.text(keyword):
                raise ScanError(
                    f"mixed series: {label} has another {name} than {labels[0]}; give each its own folder"
                )


def _check_acquisitions(ordered: list[Slice]) -> None:
    """Refuse slices of several acquisitions that alternate along z: two scans, between which a body moves."""
    numbers = [number for part in ordered if (number := part.header.text("AcquisitionNumber"))]
    changes = sum(a != b for a, b in pairwise(numbers))
    if changes > len(numbers) / 2 and len(set(numbers)) <= len(numbers) / 3:
        raise ScanError(
            f"mixed series: slices of {len(set(numbers))} acquisitions alternate along z; export each alone"
        )


def _matrix(part: Slice) -> str:
    return f"{part.header.dataset.get('Columns')}x{part.header.dataset.get('Rows')}"


def _tilt_warnings(slices: list[Slice]) -> list[str]:
    """A tilt told by the header of an upright stack contradicts it, unless the images are derived."""
    tilted = [part for part in slices if abs(part.tilt_deg) > TILT_TOLERANCE_DEG]
    leaning_deg = np.degrees(np.arccos(min(abs(slice_normal(slices[0].orientation)[2]), 1.0)))
    if not tilted or leaning_deg > TILT_TOLERANCE_DEG:
        return []
    header, tilt_deg = tilted[0].header, tilted[0].tilt_deg
    text = f"{header.label} states a gantry tilt of {tilt_deg:g} degrees, but its slice positions show none"
    if "DERIVED" not in header.text("ImageType").upper():
        raise ScanError(f"gantry tilt: {text}; scan or reconstruct it upright")
    return [f"{text}: taken as corrected, since the images are derived"]


def _thickness_warnings(slices: list[Slice], stack: Stack) -> list[str]:
    thickness_mm, gap_mm = slices[0].thickness_mm, stack.spacing_mm[2]
    if thickness_mm and thickness_mm < gap_mm - THICKNESS_TOLERANCE_MM:
        return [
            f"slices are {thickness_mm:g} mm thick and {gap_mm:g} mm apart: the bone between them is not seen"
        ]
    return []


def _padding(part: Slice) -> tuple[float, float] | None:
    """Lowest and highest stored value that stands for no measurement, when the header names one."""
    value = part.header.dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = part.header.dataset.get("PixelPaddingRangeLimit")
    limit = value if limit is None else limit
    return min(value, limit), max(value, limit)


def _padding_is_tissue(part: Slice) -> bool:
    padding = _padding(part)
    if padding is None:
        return False
    low, high = sorted(value * part.slope + part.intercept for value in padding)
    return high > TISSUE_HU[0] and low < TISSUE_HU[1]


def _contrast_warnings(header: Header) -> list[str]:
    agent = header.text("ContrastBolusAgent")
    if NO_CONTRAST.fullmatch(agent) and not header.dataset.get("ContrastBolusAgentSequence"):
        return []
    return ["the header names a contrast agent: it adds to densities, by an amount nobody knows"]


def _lossy_warnings(header: Header) -> list[str]:
    if header.text("LossyImageCompression") != "01":
        return []
    return ["the images were compressed with losses: CT numbers are no longer those measured"]


def _padding_warnings(slices: list[Slice]) -> list[str]:
    odd = [part for part in slices if _padding_is_tissue(part)]
    if not odd:
        return []
    hu = _padding(odd[0])[0] * odd[0].slope + odd[0].intercept
    return [
        f"the header's padding value means {hu:g} HU, which tissue has too: it was not treated as padding"
    ]


def _stored_pixels(header: Header, frames: int) -> np.ndarray:
    """Stored values, shape ``(frames, rows, columns)``; ScanError when they cannot be decoded."""
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")  # pydicom's warnings may quote values
            dataset = pydicom.dcmread(header.path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble has no meta header
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            stored = dataset.pixel_array
    except Exception as error:  # decoders raise whatever they like
        syntax = header.dataset.file_meta.get("TransferSyntaxUID")
        name = getattr(syntax, "name", syntax)
        raise ScanError(
            f"{header.label} has pixel data ({name}) that cannot be decoded; copy it again, "
            "or export it uncompressed"
        ) from error
    return stored.reshape(frames, *stored.shape[-2:])


def _hounsfield(stored: np.ndarray, part: Slice) -> tuple[np.ndarray, int]:
    """One slice in HU, int16, and the number of voxels set to air."""
    values = stored * part.slope + part.intercept
    padding = _padding(part)
    if padding is not None and not _padding_is_tissue(part):
        values[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU - 1
    return to_int16(values, _label(part))


def _facts(series: Series, slices: list[Slice]) -> dict:
    """What is worth knowing about the scan; nothing that leads back to a person."""
    header = series.headers[0]
    sex = header.text("PatientSex").upper()
    words = {
        "manufacturer": header.text("Manufacturer"),
        "model": header.text("ManufacturerModelName"),
        "kernel": slices[0].kernel,
        "image_type": header.text("ImageType"),
    }
    return {
        "format": f"DICOM {series.kind}",
        "files": len(series.headers),
        "study": uid_key(study) if (study := header.text("StudyInstanceUID")) else None,
        "series": series.key,
        "series_number": series.number,
        **{name: without_identity(text, header.dataset) or None for name, text in words.items()},
        "kvp": slices[0].kvp,
        "slice_thickness_mm": slices[0].thickness_mm,
        "sex": sex if sex in ("F", "M") else None,
        "age_years": age_years(header),
    }


def age_years(header: Header) -> int | None:
    """The patient's age in whole years, from PatientAge or else from the dates of birth and study.

    None when both are missing, or when the age is none that a person may have.
    """
    years = _stated_years(header)
    return years if years is not None and 0 <= years <= MAX_AGE_YEARS else None


def _stated_years(header: Header) -> int | None:
    age = header.text("PatientAge").upper()
    if age[:-1].isdigit() and age[-1] in "YMWD":
        return int(int(age[:-1]) / {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}[age[-1]])
    born, scanned = header.text("PatientBirthDate"), header.text("StudyDate")
    if len(born) == len(scanned) == 8 and born.isdigit() and scanned.isdigit():
        return int(scanned[:4]) - int(born[:4]) - (scanned[4:] < born[4:])
    return None
