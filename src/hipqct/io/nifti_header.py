"""What ITK passes over in silence in a NIfTI file: missing or damaged bytes, forms that contradict."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from hipqct.errors import ScanError
from hipqct.hounsfield import not_finite

NIFTI_SUFFIXES = (".nii", ".nii.gz")
FLOATS = {16: "f4", 64: "f8"}  # NIfTI's codes
NOT_MM = {1: "metres", 3: "micrometres"}  # of xyzt_units; ITK scales the voxels by it, the forms not
CHUNK_BYTES = 1 << 22
GZIP_MODULUS = 1 << 32  # gzip notes the length modulo this
# name: (byte offset, type, count), https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h
LAYOUTS = {
    348: {
        "datatype": (70, "i2", 1),
        "dim": (40, "i2", 8),
        "bitpix": (72, "i2", 1),
        "pixdim": (76, "f4", 8),
        "vox_offset": (108, "f4", 1),
        "scaling": (112, "f4", 2),
        "units": (123, "u1", 1),
        "codes": (252, "i2", 2),
        "quatern": (256, "f4", 3),
        "qoffset": (268, "f4", 3),
        "srow": (280, "f4", 12),
    },
    540: {
        "datatype": (12, "i2", 1),
        "bitpix": (14, "i2", 1),
        "dim": (16, "i8", 8),
        "pixdim": (104, "f8", 8),
        "vox_offset": (168, "i8", 1),
        "scaling": (176, "f8", 2),
        "units": (500, "i4", 1),
        "codes": (344, "i4", 2),
        "quatern": (352, "f8", 3),
        "qoffset": (376, "f8", 3),
        "srow": (400, "f8", 12),
    },
}


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI in one file."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def check_forms(path: Path, affine: np.ndarray, size: tuple[int, int, int]) -> None:
    """Refuse other units than mm, forms that are elsewhere than ``affine`` (4x4, RAS mm), and no form at all.

    Tolerance: half of the smallest voxel edge, at the corners. ITK takes one form and does not mention the
    other, and takes the voxel size from pixdim whatever the sform says.
    """
    header = _read_header(path)
    if unit := NOT_MM.get(int(header["units"][0]) & 7):
        raise ScanError(f"{path.name} counts lengths in {unit}; export it in millimetres")
    forms = {}
    if header["codes"][0] > 0:
        forms["qform"] = _qform(header)
    if header["codes"][1] > 0:
        forms["sform"] = header["srow"].reshape(3, 4)
    if not forms:
        raise ScanError(f"{path.name} has neither qform nor sform, so left and right cannot be told; set one")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in size], [1])).reshape(4, -1)
    for name, form in forms.items():
        apart_mm = np.abs((form - affine[:3]) @ corners).max()
        if apart_mm > 0.5 * np.linalg.norm(affine[:3, :3], axis=0).min():
            raise ScanError(
                f"{path.name} has a {name} that contradicts its other form or pixdim by {apart_mm:.1f} mm; "
                "keep only what is right"
            )


def check_scaling(path: Path) -> None:
    """Refuse a slope of 0 or none (no scaling) with an intercept, which ITK adds, and half-set pairs."""
    slope, intercept = _read_header(path)["scaling"]
    scaled = np.isfinite(slope) and slope != 0
    shifted = np.isfinite(intercept) and intercept != 0
    if (shifted and not scaled) or (np.isfinite(slope) and not np.isfinite(intercept)):
        raise ScanError(
            f"{path.name} has scl_slope {slope:g} and scl_inter {intercept:g}, which programs read "
            "differently; export it again"
        )


def check_complete(path: Path) -> None:
    """Refuse a file that is cut short, damaged, or has NaN, which ITK's reader makes 0. Reads all of it."""
    header, bad = _read_header(path), 0
    number = FLOATS.get(int(header["datatype"][0]))
    try:
        with _open(path) as file:
            there = len(file.read(int(header["vox_offset"][0])))
            while chunk := file.read(CHUNK_BYTES):
                there += len(chunk)
                if number:
                    whole = len(chunk) // np.dtype(number).itemsize
                    values = np.frombuffer(chunk, header["order"] + number, count=whole)
                    bad += int((~np.isfinite(values)).sum())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ScanError(f"{path.name} is truncated or damaged ({error}); copy it again") from error
    needed = _bytes_needed(header)
    if there < needed:
        raise ScanError(f"{path.name} is truncated: {there} of {needed} bytes are there; copy it again")
    if bad:
        raise ScanError(not_finite(path.name, bad))


def check_length(path: Path) -> None:
    """Refuse a file that is cut short, by its length or by the length that gzip notes at its end."""
    with path.open("rb") as file:
        there = file.seek(0, 2)
        if path.name.lower().endswith(".gz"):
            file.seek(max(there - 4, 0))
            there = int.from_bytes(file.read(4), "little")
    if there != _bytes_needed(_read_header(path)) % GZIP_MODULUS:
        check_complete(path)  # a sure answer: gzip of several parts notes the last one's length only


def _bytes_needed(header: dict) -> int:
    voxels = int(np.prod(header["dim"][1 : int(header["dim"][0]) + 1]))
    return int(header["vox_offset"][0]) + voxels * int(header["bitpix"][0]) // 8


def _open(path: Path):
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _read_header(path: Path) -> dict:
    """The fields of ``LAYOUTS`` as float64 arrays, and ``order``, the byte order ``<`` or ``>``."""
    try:
        with _open(path) as file:
            head = file.read(max(LAYOUTS))
    except (EOFError, OSError, zlib.error) as error:
        raise ScanError(f"{path.name} is truncated or damaged ({error}); copy it again") from error
    for size, layout in LAYOUTS.items():
        for order in "<>":
            if len(head) >= size and np.frombuffer(head, order + "i4", 1)[0] == size:
                fields = {
                    name: np.frombuffer(head, order + kind, count, at).astype(float)
                    for name, (at, kind, count) in layout.items()
                }
                return fields | {"order": order}
    raise ScanError(f"{path.name} has no NIfTI header; export it again")


def _qform(header: dict) -> np.ndarray:
    """3x4 matrix of the quaternion, RAS mm."""
    vector = header["quatern"]
    scalar = np.sqrt(max(0.0, 1 - vector @ vector))
    steps_mm = header["pixdim"][1:4] * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
    rotation = Rotation.from_quat([*vector, scalar]).as_matrix()
    return np.column_stack([rotation * steps_mm, header["qoffset"]])
