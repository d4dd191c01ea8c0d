"""Bodies that tests mesh and solve: a ball, a bar, something like a femur."""

import numpy as np

from hipqct.hexahedra import build_hexahedra
from hipqct.image import Image
from hipqct.mesh import TET_EDGES, Mesh

QCT_SPACING_MM = (0.8, 0.8, 3.0)


def voxelise(inside, spacing_mm, size_mm, first_mm=(0.0, 0.0, 0.0), direction=None) -> Image:
    """Mask of the voxels whose centres, in the image's own axes, satisfy ``inside(x, y, z)``."""
    shape = [round(size / step) for size, step in zip(size_mm, spacing_mm, strict=True)]
    index = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    x, y, z = (first + i * s for first, i, s in zip(first_mm, index, spacing_mm, strict=True))
    direction = np.eye(3) if direction is None else direction
    return Image(inside(x, y, z), spacing_mm, tuple(direction @ np.array(first_mm)), direction)


def ball(radius_mm, spacing_mm, center_mm=(32.0, 32.4, 33.0)) -> Image:
    a, b, c = center_mm
    return voxelise(
        lambda x, y, z: (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 <= radius_mm**2, spacing_mm, (64, 64, 66)
    )


def femur_like(spacing_mm=QCT_SPACING_MM, size_mm=(80, 60, 90)) -> Image:
    """A shaft with a neck and a head, cut flat by the first slice."""
    shape = [round(size / step) for size, step in zip(size_mm, spacing_mm, strict=True)]
    x, y, z = np.indices(shape) * np.reshape(spacing_mm, (3, 1, 1, 1))
    shaft = (x - 25) ** 2 + (y - 29) ** 2 <= 13**2
    head = (x - 52) ** 2 + (y - 30) ** 2 + (z - 62) ** 2 <= 20**2
    neck = (np.abs((z - 45) - 0.7 * (x - 28)) < 13) & ((y - 29) ** 2 < 120) & (x > 20) & (x < 50)
    return Image(shaft & (z < 60) | head | neck, spacing_mm)


def bar() -> Mesh:
    """A bar of 3x3x10 cubes along z."""
    mask = Image(np.zeros((5, 5, 12), bool), (3.0, 3.0, 3.0))
    mask.array[1:4, 1:4, 1:11] = True
    return build_hexahedra(mask, {})


def tet_bar() -> Mesh:
    """The same bar of quadratic tetrahedra, six to a cube."""
    hexes = bar()
    corners = hexes.cells[
        :, [[0, 1, 2, 6], [0, 2, 3, 6], [0, 3, 7, 6], [0, 7, 4, 6], [0, 4, 5, 6], [0, 5, 1, 6]]
    ]
    tets = corners.reshape(-1, 4)
    edges = np.sort(tets[:, TET_EDGES], axis=2).reshape(-1, 2)
    unique, number = np.unique(edges, axis=0, return_inverse=True)
    points_mm = np.concatenate([hexes.points_mm, hexes.points_mm[unique].mean(axis=1)])
    cells = np.concatenate([tets, len(hexes.points_mm) + number.reshape(-1, 6)], axis=1)
    top = np.flatnonzero(np.isclose(points_mm[:, 2], points_mm[:, 2].max()))
    return Mesh(points_mm, cells, {}, {"PROXIMAL": top})
