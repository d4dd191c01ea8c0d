"""Image files (NIfTI, NRRD, MetaImage) to and from ``Image``, through SimpleITK."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.files import replace_when_done
from hipqct.io.image_headers import read_image_header
from hipqct.io.nifti_header import check_complete, is_nifti
from hipqct.io.text_header import check_compressed


def read_image(path: str | Path) -> Image:
    """Read one 3-D image file, voxels as stored (rescaled by the header where the format has a rescale).

    The array is ``[x, y, z]`` in C order; geometry is LPS mm. Raises ScanError as ``read_image_header`` does,
    and when the file is cut short or damaged.
    """
    path = Path(path)
    grid = read_image_header(path).grid
    if is_nifti(path):
        check_complete(path)
    try:
        picture = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ScanError(
            f"{path.name} is truncated or damaged, its voxels cannot be read; copy it again"
        ) from error
    voxels = sitk.GetArrayViewFromImage(picture).reshape(grid.shape[::-1])
    check_compressed(path, voxels.nbytes)
    return grid.with_array(np.ascontiguousarray(voxels.T))


def write_image(image: Image, path: str | Path) -> None:
    """Write ``image`` to ``path`` (format by suffix, compressed); a bool array becomes uint8.

    The file appears only when complete. Nothing but voxels and geometry is written.
    """
    array = image.array.astype(np.uint8) if image.array.dtype == bool else image.array
    picture = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    picture.SetSpacing(image.spacing_mm)
    picture.SetOrigin(image.origin_mm)
    picture.SetDirection(image.direction.ravel().tolist())
    with replace_when_done(path) as temporary:
        sitk.WriteImage(picture, str(temporary), useCompression=True)
