"""Headers of image files (NIfTI, NRRD, MetaImage), with the doubts that ITK passes over in silence."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.dicom_geometry import COSINE_TOLERANCE
from hipqct.io.dicom_headers import optional_number
from hipqct.io.nifti_header import NIFTI_SUFFIXES, check_forms, check_scaling, is_nifti
from hipqct.io.text_header import META_SUFFIXES, NRRD_SUFFIXES, read_text_header

IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Keys of MetaImage for spacing, place and axes, with the older names that ITK takes for them.
META_GEOMETRY = (
    ("ElementSpacing",),
    ("Offset", "Origin", "Position"),
    ("TransformMatrix", "Rotation", "Orientation"),
)
NRRD_GEOMETRY = ("space directions", "space origin")
# MetaImage's own scaling of the voxels, which ITK passes over, with the values that change nothing.
META_SCALING = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}
# Spaces that ITK turns into LPS; of those with time it turns none, so only LPS comes in as it is.
ANATOMICAL_SPACES = (
    "left-posterior-superior",
    "right-anterior-superior",
    "left-anterior-superior",
    "left-posterior-superior-time",
)


class ImageHeader(NamedTuple):
    """What is known of a 3-D image file without its voxels; axes in the order x, y, z of the file."""

    grid: Image
    pixel_type: str


def read_image_header(path: Path) -> ImageHeader:
    """The header of a NIfTI, NRRD or MetaImage file.

    Errors name the file without its folders, since those may carry a patient's name. Raises ScanError when
    the file cannot be read, is not one 3-D image of single values, has axes that are not perpendicular, or
    leaves its place or values in doubt (NIfTI with no qform and sform, with two more than half a voxel apart,
    or with an odd scaling, NRRD without space, directions or origin, MetaImage without spacing, offset or
    matrix or with a scaling, lengths that are not in mm).
    """
    if not path.is_file():
        raise ScanError(f"{path.name} is not there; check its path")
    if not path.name.lower().endswith(IMAGE_SUFFIXES):
        raise ScanError(f"{path.name} is not an image file; give one of {', '.join(IMAGE_SUFFIXES)}")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        sheared = "orthonormal" in str(error)
        what = "has axes that are not perpendicular" if sheared else "cannot be read as an image"
        raise ScanError(f"{path.name} {what}; export it again") from error
    size, values = _size(reader), reader.GetNumberOfComponents()
    if len(size) != 3 or min(size) < 2 or values != 1:
        raise ScanError(
            f"{path.name} holds {'x'.join(map(str, size))} voxels of {values} value(s); "
            "one 3-D image of single values is needed"
        )
    direction = _direction(path, reader)
    spacing_mm = reader.GetSpacing()[:3]
    if not min(spacing_mm) > 0:
        size_mm = " x ".join(f"{mm:g}" for mm in spacing_mm)
        raise ScanError(f"{path.name} has voxels of {size_mm} mm; export it again")
    grid = Image.empty(size, spacing_mm, reader.GetOrigin()[:3], direction)
    if is_nifti(path):
        check_forms(path, LPS_TO_RAS @ grid.affine, size)
        check_scaling(path)
    if path.name.lower().endswith(NRRD_SUFFIXES):
        _check_nrrd(path, reader)
    if path.name.lower().endswith(META_SUFFIXES):
        _check_metaimage(path)
    return ImageHeader(grid, sitk.GetPixelIDValueAsString(reader.GetPixelID()))


def _check_nrrd(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse an NRRD without anatomical axes, which ITK would take for LPS, or without voxels in mm."""
    space = reader.GetMetaData("NRRD_space") if reader.HasMetaDataKey("NRRD_space") else "no"
    if space not in ANATOMICAL_SPACES:
        if space.endswith("-time"):
            raise ScanError(
                f"{path.name} has space {space}, which programs mistake for LPS; export it in 3-D"
            )
        raise ScanError(
            f"{path.name} has {space} space, so left and right cannot be told; export it with space "
            "left-posterior-superior or right-anterior-superior"
        )
    fields = read_text_header(path).fields
    _refuse_missing(path, [name for name in NRRD_GEOMETRY if name not in fields])
    _refuse_units(path, fields.get("space units", "").replace('"', " ").split())


def _check_metaimage(path: Path) -> None:
    """Refuse a MetaImage that leaves its geometry to defaults (1 mm, at 0, axial LPS), or is scaled."""
    fields = read_text_header(path).fields
    _refuse_missing(path, [names[0] for names in META_GEOMETRY if not fields.keys() & set(names)])
    _refuse_units(path, fields.get("DistanceUnits", "").split())
    for name, plain in META_SCALING.items():
        found = fields.get(name, str(plain))
        if optional_number(found.strip) != plain:
            raise ScanError(
                f"{path.name} has {name} {found}, which programs pass over; export it again without"
            )


def _refuse_missing(path: Path, missing: list[str]) -> None:
    if missing:
        lacking = " and no ".join(missing)
        raise ScanError(f"{path.name} has no {lacking}, so its geometry is unknown; export it again")


def _refuse_units(path: Path, units: list[str]) -> None:
    other = [unit for unit in units if unit.lower() not in ("mm", "millimeter", "millimeters", "?", "???")]
    if other:
        raise ScanError(f"{path.name} counts lengths in {other[0]}; export it in millimetres")


def _direction(path: Path, reader: sitk.ImageFileReader) -> np.ndarray:
    direction = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:3, :3]
    skew = np.abs(direction.T @ direction - np.eye(3)).max()
    if skew > COSINE_TOLERANCE:
        raise ScanError(
            f"{path.name} has axes that are not perpendicular (cosine {skew:.3f}); export it again"
        )
    return direction


def _size(reader: sitk.ImageFileReader) -> tuple[int, ...]:
    """Size without trailing axes of one, but for the third."""
    size = list(reader.GetSize())
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    return tuple(size)
