"""The one image type: an array with its place in the world.

Arrays are indexed ``[x, y, z]`` everywhere in hipqct (only ``hipqct.io`` knows other orders).
World coordinates are DICOM's LPS in millimetres: x grows to the patient's left, y to the back
(posterior), z to the head. ``origin_mm`` is the world position of the centre of voxel ``[0, 0, 0]``.
"""

from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

GEOMETRY_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Image:
    """A 3-D image in LPS world millimetres.

    Args:
        array: voxels, shape ``(nx, ny, nz)``.
        spacing_mm: distance between voxel centres along each array axis.
        origin_mm: world position of the centre of voxel ``[0, 0, 0]``.
        direction: 3x3 matrix; column ``i`` is the world unit vector of array axis ``i``.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray = field(default_factory=lambda: np.eye(3))

    def __post_init__(self):
        if self.array.ndim != 3:
            raise ValueError(f"array must be 3-D, got {self.array.ndim}-D")
        spacing_mm = tuple(float(s) for s in self.spacing_mm)
        if len(spacing_mm) != 3 or not all(s > 0 for s in spacing_mm):
            raise ValueError(f"spacing_mm must be three positive numbers, got {self.spacing_mm}")
        object.__setattr__(self, "spacing_mm", spacing_mm)
        object.__setattr__(self, "origin_mm", tuple(float(o) for o in self.origin_mm))
        object.__setattr__(self, "direction", np.asarray(self.direction, dtype=float).reshape(3, 3))

    @classmethod
    def empty(cls, shape, spacing_mm, origin_mm=(0.0, 0.0, 0.0), direction=None) -> "Image":
        """An image's place in the world without its voxels: read-only zeros that take no memory."""
        voxels = np.broadcast_to(np.int16(0), tuple(shape))
        return cls(voxels, spacing_mm, origin_mm, np.eye(3) if direction is None else direction)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        return self.array.shape

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(np.prod(self.spacing_mm))

    @property
    def ascending(self) -> bool:
        """Whether the slices are ordered towards the head."""
        return bool(self.direction[2, 2] >= 0)

    @property
    def up(self) -> np.ndarray:
        """World unit vector along the slices' axis, towards the head."""
        return self.direction[:, 2] * (1 if self.ascending else -1)

    @property
    def affine(self) -> np.ndarray:
        """4x4 matrix from array index to LPS world millimetres."""
        affine = np.eye(4)
        affine[:3, :3] = self.direction * self.spacing_mm
        affine[:3, 3] = self.origin_mm
        return affine

    def to_world(self, index) -> np.ndarray:
        """World positions (mm) of array indices, shape ``(..., 3)``; fractions allowed."""
        return np.asarray(index, dtype=float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, point_mm) -> np.ndarray:
        """Fractional array indices of world positions, shape ``(..., 3)``."""
        offset_mm = np.asarray(point_mm, dtype=float) - self.affine[:3, 3]
        return offset_mm @ np.linalg.inv(self.affine[:3, :3]).T

    @property
    def corners_mm(self) -> np.ndarray:
        """World positions (mm) of the centres of the eight outermost voxels, shape ``(8, 3)``."""
        return self.to_world(np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T)

    def with_array(self, array: np.ndarray) -> "Image":
        """The same place in the world with other voxels of the same shape."""
        if array.shape != self.shape:
            raise ValueError(f"array must have shape {self.shape}, got {array.shape}")
        return replace(self, array=array)

    def same_grid(self, other: "Image") -> bool:
        """Whether both images share shape and place, within ``GEOMETRY_TOLERANCE_MM`` at every corner."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners_mm - other.corners_mm).max() <= GEOMETRY_TOLERANCE_MM)


def lps_axes(direction: np.ndarray) -> tuple[tuple[int, int, int], list[bool]]:
    """Which array axis lies nearest to LPS x, y and z, and whether each of these runs backwards."""
    orders = list(permutations(range(3)))
    nearness = [sum(abs(direction[world, axis]) for world, axis in enumerate(order)) for order in orders]
    axes = orders[int(np.argmax(nearness))]
    return axes, [bool(direction[world, axis] < 0) for world, axis in enumerate(axes)]


def reorient_to_lps(image: Image) -> Image:
    """The same image with its axes permuted and flipped to the nearest LPS axial grid, z ascending; a copy.

    Array axis 0 then points most nearly to the patient's left, 1 to the back, 2 to the head. No voxel is
    interpolated and each keeps its world position: obliquity of less than 45 degrees stays in ``direction``.
    """
    view = view_in_lps(image)
    return view.with_array(np.ascontiguousarray(view.array))


def view_in_lps(image: Image) -> Image:
    """As `reorient_to_lps`, with the voxels where they are in memory."""
    axes, flipped = lps_axes(image.direction)
    corner = np.zeros(3)
    for axis, flip in zip(axes, flipped, strict=True):
        corner[axis] = image.shape[axis] - 1 if flip else 0
    array = image.array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]
    return Image(
        array,
        tuple(image.spacing_mm[axis] for axis in axes),
        tuple(image.to_world(corner)),
        image.direction[:, axes] * np.where(flipped, -1.0, 1.0),
    )


def share_outside(mask: Image, box: Image) -> float:
    """The share of the mask's voxels whose centres lie outside the box of another image's voxels."""
    index = box.to_index(mask.to_world(np.argwhere(mask.array > 0)))
    return float(1 - ((index >= -0.5) & (index <= np.array(box.shape) - 0.5)).all(axis=1).mean())


def index_along(image: Image, axis: int, grid: Image) -> np.ndarray:
    """Fractional index along one axis of an image of every voxel centre of a grid, in the grid's shape."""
    to_image = (np.linalg.inv(image.affine) @ grid.affine)[axis]
    i, j, k = np.ogrid[tuple(slice(n) for n in grid.shape)]  # linear in each: no array of all indices
    return to_image[0] * i + to_image[1] * j + to_image[2] * k + to_image[3]


def beyond_box_mm(grid: Image, box: Image) -> np.ndarray:
    """How far a grid's voxel centres lie beyond the box of another image's voxels, negative inside; float32.

    Along the axis of that image along which it is most.
    """
    farthest = np.full(grid.shape, -np.inf, np.float32)
    for axis, (n, mm) in enumerate(zip(box.shape, box.spacing_mm, strict=True)):
        beyond = np.abs(index_along(box, axis, grid) + 0.5 - n / 2) - n / 2
        np.maximum(farthest, beyond * mm, out=farthest, casting="same_kind")
    return farthest
