"""Means of an image over tetrahedra, by integration."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from hipqct.image import Image
from hipqct.mesh import Mesh
from hipqct.solid import bounding_box

POINTS_AT_ONCE = 2_000_000
# Elements lie within half a slice and a smoothing length of the mask.
REACH_MM = 12.0


def integration_points(parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a tetrahedron in barycentric coordinates, shape ``(n, 4)``, and their weights, sum 1.

    Every edge is cut into ``parts``: the lattice then divides the tetrahedron into small ones, upright and
    turned over, and octahedra of four times their volume; the points are their centroids. Linear fields are
    integrated exactly, the error of smooth ones falls with the square of ``parts``.
    """
    m = parts
    if m < 1:
        raise ValueError(f"parts must be at least 1, got {m}")
    points, weights = [], []
    for layers, offset, weight in ((m, 0.25, 1), (m - 1, 0.5, 4), (m - 2, 0.75, 1)):
        for i in range(layers):
            for j in range(layers - i):
                for k in range(layers - i - j):
                    points.append(np.array([i, j, k, layers - 1 - i - j - k]) + offset)
                    weights.append(weight)
    return np.array(points) / m, np.array(weights) / m**3


def extend_beyond(image: Image, mask: Image) -> Image:
    """The image with every voxel near the mask but outside it given the value of the nearest one inside.

    ``REACH_MM`` beyond the mask's bounding box the image stays as it is.
    """
    inside = np.asarray(mask.array, bool)
    margin = [int(np.ceil(REACH_MM / spacing)) for spacing in mask.spacing_mm]
    box = tuple(
        slice(max(side.start - m, 0), side.stop + m)
        for side, m in zip(bounding_box(inside), margin, strict=True)
    )
    nearest = ndimage.distance_transform_edt(
        ~inside[box], sampling=mask.spacing_mm, return_distances=False, return_indices=True
    )
    array = image.array.copy()
    array[box] = image.array[box][tuple(nearest)]
    return image.with_array(array)


def mean_over_tetrahedra(
    mesh: Mesh, image: Image, parts: int, of_voxels: dict[str, Callable]
) -> dict[str, np.ndarray]:
    """Means over each element of functions of the image's values.

    A function is taken of the voxels, and its values are trilinear between them, as in Bonemat's version 3:
    for a non-linear law this differs from the law of the interpolated value.

    Args:
        parts: see `integration_points`.
        of_voxels: by name, functions of an array of values, such as the identity or a material law.

    Returns:
        By name, the mean of each element, float64. Outside the image its edge repeats.
    """
    points, weights = integration_points(parts)
    corners = image.to_index(mesh.points_mm)[mesh.cells[:, :4]]
    low = np.clip(np.floor(corners.min(axis=(0, 1))).astype(int), 0, np.array(image.shape) - 1)
    high = np.maximum(np.ceil(corners.max(axis=(0, 1))).astype(int) + 1, low + 1)
    near = image.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    fields = {name: np.asarray(function(near), np.float32) for name, function in of_voxels.items()}
    means = {name: np.empty(len(corners)) for name in of_voxels}
    size = max(1, POINTS_AT_ONCE // len(points))
    for first in range(0, len(corners), size):
        part = slice(first, first + size)
        index = np.moveaxis(corners[part] - low, 2, 0) @ points.T  # (axis, element, point)
        for name, field in fields.items():
            values = ndimage.map_coordinates(field, index, order=1, mode="nearest", prefilter=False)
            means[name][part] = values.astype(float) @ weights
    return means
