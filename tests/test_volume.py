"""Volume and area of a mask."""

import numpy as np
import pytest

from hipqct.errors import MeshError
from hipqct.image import Image
from hipqct.volume import measure_mask, voxel_volume_mm3


def ellipsoid() -> Image:
    x, y, z = np.indices((70, 60, 26)) * np.reshape((0.8, 0.8, 3.0), (3, 1, 1, 1))
    inside = ((x - 28) / 22) ** 2 + ((y - 24) / 18) ** 2 + ((z - 39) / 30) ** 2 <= 1
    return Image(inside, (0.8, 0.8, 3.0))


def test_an_ellipsoid_has_its_volume_and_area():
    size = measure_mask(ellipsoid())
    volume_mm3 = 4 / 3 * np.pi * 22 * 18 * 30
    # Thomsen's formula for the area, itself good to 1%.
    p = 1.6075
    area_mm2 = 4 * np.pi * (((22 * 18) ** p + (22 * 30) ** p + (18 * 30) ** p) / 3) ** (1 / p)
    assert size["volume_voxel_mm3"] == pytest.approx(volume_mm3, rel=0.01)
    assert size["volume_mm3"] == pytest.approx(size["volume_voxel_mm3"], rel=1e-3)
    assert size["surface_area_mm2"] == pytest.approx(area_mm2, rel=0.02)


def test_any_nonzero_voxel_counts():
    voxels = np.zeros((4, 4, 4), np.uint8)
    voxels[1, 2, 3], voxels[2, 2, 3] = 1, 255
    assert voxel_volume_mm3(Image(voxels, (0.5, 2.0, 3.0))) == 6.0


def test_an_empty_mask_is_refused():
    with pytest.raises(MeshError, match="empty"):
        measure_mask(Image(np.zeros((4, 4, 4), bool), (1, 1, 1)))
