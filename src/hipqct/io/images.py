"""Image files (NIfTI, NRRD, MetaImage, ...) to and from ``Image``, through SimpleITK."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.files import replace_when_done

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def read_image(path: str | Path) -> Image:
    """Read one 3-D image file, voxels as stored (rescaled by the header where the format has a rescale).

    The array is ``[x, y, z]`` in C order; geometry is LPS mm. Raises ScanError when the file cannot be
    read, is cut short, or is not one 3-D image of single values.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanError(f"{path} is not there; check the path")
    try:
        picture = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ScanError(f"{path} cannot be read as an image: {_reason(error)}; export it again") from error
    if picture.GetDimension() == 4 and picture.GetSize()[3] == 1:
        picture = picture[..., 0]
    size, values = picture.GetSize(), picture.GetNumberOfComponentsPerPixel()
    if len(size) != 3 or min(size) < 2 or values != 1:
        shape = "x".join(map(str, size))
        raise ScanError(
            f"{path} holds {shape} voxels of {values} value(s); one 3-D image of single values is needed"
        )
    return from_sitk(picture)


def write_image(image: Image, path: str | Path) -> None:
    """Write ``image`` to ``path`` (format by suffix, compressed); a bool array becomes uint8.

    The file appears only when complete. Nothing but voxels and geometry is written.
    """
    with replace_when_done(path) as temporary:
        sitk.WriteImage(to_sitk(image), str(temporary), useCompression=True)


def from_sitk(picture: sitk.Image) -> Image:
    """A 3-D SimpleITK image as ``Image`` with an ``[x, y, z]`` array."""
    array = np.ascontiguousarray(sitk.GetArrayViewFromImage(picture).T)
    direction = np.array(picture.GetDirection()).reshape(3, 3)
    return Image(array, picture.GetSpacing(), picture.GetOrigin(), direction)


def to_sitk(image: Image) -> sitk.Image:
    """``image`` as a SimpleITK image; a bool array becomes uint8."""
    array = image.array.astype(np.uint8) if image.array.dtype == bool else image.array
    picture = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    picture.SetSpacing(image.spacing_mm)
    picture.SetOrigin(image.origin_mm)
    picture.SetDirection(image.direction.ravel().tolist())
    return picture


def _reason(error: RuntimeError) -> str:
    """The last line of an ITK exception, which holds the reason, without addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("): ", 1)[-1].rstrip(".") if lines else "unknown reason"
