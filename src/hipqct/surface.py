"""The smooth closed surface of a binary mask, at the level that holds the mask's volume."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from hipqct.errors import MeshError
from hipqct.image import Image
from hipqct.mesh import Surface, enclosed_volume_mm3, is_closed, surface_area_mm2
from hipqct.solid import bounding_box, signed_distance_mm, solid_mask

# Triangles of about a millimetre: 3-mm slices are cut in three, pixels of 0.7 to 1.4 mm stay.
FINE_MM = 1.0
# Rounds the steps between slices; measured best on synthetic femurs between 1.0 and 1.2 mm.
SMOOTHING_MM = 1.1
# More of it where pixels are coarse: areas of spheres and ellipsoids of 3-mm voxels are then 0.6% too large
# instead of 4 to 5%, and up to 1.4 mm nothing changes.
SMOOTHING_PIXELS = 0.8
# Air round the mask so that the smoothed level set (4 sigma and its level) closes inside the grid, in sigmas.
MARGIN = 5.5
# Volume is held ten times better than the 0.1% that is promised; Newton's steps get there in 2 or 3.
VOLUME_TOLERANCE = 1e-4
VOLUME_STEPS = 12
# Grid values closer to the level than this are moved off it: no triangles thinner than a micrometre.
LEVEL_GAP_MM = 1e-3
# Outside the scan; far below any level, so that the surface is capped at the scan's last face.
OUTSIDE_MM = -1e3
# More of the mask than this breaking off under smoothing is a mask to correct, not a surface to use.
LOST_VOLUME_FRACTION = 0.01


@dataclass(frozen=True)
class LevelSet:
    """The smoothed signed distance of a mask in mm, inside positive, on a fine grid along the mask's axes.

    Args:
        mask: one solid body, see `solid_mask`; ``volume_mm3`` is that of its voxels.
        values: distance at the fine nodes; node ``k`` lies at array index ``start + k * step`` of the mask.
    """

    mask: Image
    values: np.ndarray
    start: np.ndarray
    step: np.ndarray

    @property
    def volume_mm3(self) -> float:
        """Volume of the mask's voxels."""
        return float(self.mask.array.sum()) * self.mask.voxel_volume_mm3


def extract_surface(mask: Image, level_set: LevelSet | None = None) -> Surface:
    """Smooth closed surface of a mask whose enclosed volume is the mask's voxel volume (within 0.01%).

    The level set is cut by marching cubes (Lewiner et al. 2003) at the level that holds the volume. Where
    the mask meets a face of the image it is taken to go on beyond, and the surface is capped flat on that
    face. Several parts: the largest; cavities are filled (``solid_mask``).

    Args:
        mask: nonzero is bone; any spacing and direction.
        level_set: of this mask, where it has been computed already.

    Raises:
        MeshError: the mask is empty, or too thin to survive the smoothing in one piece.
    """
    level_set = level_set or smooth_level_set(mask)
    volume_mm3 = level_set.volume_mm3
    level_mm = _first_level(level_set)
    for _ in range(VOLUME_STEPS):
        surface = _cut(level_set, level_mm)
        excess_mm3 = enclosed_volume_mm3(surface) - volume_mm3
        if abs(excess_mm3) <= VOLUME_TOLERANCE * volume_mm3 and is_closed(surface):
            return surface
        level_mm += excess_mm3 / surface_area_mm2(surface)
    raise MeshError(
        f"no closed smooth surface holds the mask's {volume_mm3:.0f} mm3 (last error {excess_mm3:.1f} mm3): "
        "the mask is too thin or torn; repair it in an image editor"
    )


def smooth_level_set(mask: Image) -> LevelSet:
    """The mask's signed distance, its anisotropic voxels respected, as a smooth function.

    It is interpolated by cubic splines to about `FINE_MM`, on nodes that include the image's own faces, and
    smoothed by a Gaussian of `SMOOTHING_MM`, or of `SMOOTHING_PIXELS` pixels where that is more.

    Raises:
        MeshError: the mask is empty, or fills the whole image.
    """
    solid = solid_mask(mask.array)
    spacing_mm = np.array(mask.spacing_mm)
    sigma_mm = max(SMOOTHING_MM, SMOOTHING_PIXELS * np.median(spacing_mm))
    margin = np.ceil(MARGIN * sigma_mm / spacing_mm).astype(int) + 1
    box = bounding_box(solid)
    low = np.array([side.start for side in box]) - margin
    high = np.array([side.stop for side in box]) + margin
    inside = tuple(np.clip(np.arange(a, b), 0, n - 1) for a, b, n in zip(low, high, solid.shape, strict=True))
    padded = solid[np.ix_(*inside)]
    distance_mm = -signed_distance_mm(padded, spacing_mm)
    parts = np.maximum(1, np.rint(spacing_mm / FINE_MM)).astype(int)
    step = 1.0 / parts
    # The outer half voxel of the margin stays unused: nodes start on the first face inside it.
    shape = (np.array(padded.shape) - 1) * parts + 1
    fine = ndimage.affine_transform(
        distance_mm, step, offset=0.5, output_shape=tuple(shape - parts), order=3, mode="nearest"
    )
    fine = ndimage.gaussian_filter(fine, sigma_mm / (step * spacing_mm))
    start = low + 0.5
    for axis, n in enumerate(solid.shape):
        index = start[axis] + np.arange(fine.shape[axis]) * step[axis]
        outside = (index < -0.5 - step[axis] / 2) | (index > n - 0.5 + step[axis] / 2)
        fine[(slice(None),) * axis + (outside,)] = OUTSIDE_MM
    return LevelSet(mask.with_array(solid), fine, start, step)


def _first_level(level_set: LevelSet) -> float:
    """Level (mm) above which the count of fine nodes makes up the volume; a start for Newton's steps."""
    values, spacing_mm = level_set.values, level_set.step * level_set.mask.spacing_mm
    count = int(np.clip(level_set.volume_mm3 / np.prod(spacing_mm), 1, values.size - 1))
    return float(np.partition(values.ravel(), values.size - count)[values.size - count])


def _cut(level_set: LevelSet, level_mm: float) -> Surface:
    """Marching cubes at one level: the largest part, outward, in world mm, capped on the faces."""
    mask, height = level_set.mask, level_set.values - level_mm
    height[np.abs(height) < LEVEL_GAP_MM] = LEVEL_GAP_MM
    if not (height > 0).any() or not (height < 0).any():
        raise MeshError(
            "the mask is too thin for a smooth surface: it vanishes in the smoothing; repair the mask"
        )
    points, triangles, _, _ = marching_cubes(height.astype(np.float32), 0.0)
    index = np.clip(points.astype(float) * level_set.step + level_set.start, -0.5, np.array(mask.shape) - 0.5)
    surface = _largest_part(Surface(mask.to_world(index), triangles))
    if enclosed_volume_mm3(surface) < 0:
        surface = Surface(surface.points_mm, surface.triangles[:, ::-1])
    return surface


def _largest_part(surface: Surface) -> Surface:
    """The connected part that encloses most; MeshError when the others hold more than a crumb."""
    triangles = surface.triangles
    n = len(surface.points_mm)
    ones = np.ones(len(triangles) * 2, dtype=np.int8)
    links = coo_matrix((ones, (triangles[:, [0, 1]].ravel(), triangles[:, [1, 2]].ravel())), shape=(n, n))
    count, part_of_point = connected_components(links, directed=False)
    if count == 1:
        return surface
    part = part_of_point[triangles[:, 0]]
    points_mm = surface.points_mm - surface.points_mm.mean(axis=0)
    a, b, c = (points_mm[triangles[:, i]] for i in range(3))
    volumes_mm3 = np.abs(np.bincount(part, np.einsum("ij,ij->i", a, np.cross(b, c)), minlength=count)) / 6
    largest = volumes_mm3.argmax()
    lost = 1 - volumes_mm3[largest] / volumes_mm3.sum()
    if lost > LOST_VOLUME_FRACTION:
        raise MeshError(
            f"smoothing breaks the mask into parts and {100 * lost:.0f}% of it would be lost: "
            "a neck of the mask is too thin; repair the mask"
        )
    kept = triangles[part == largest]
    used, compact = np.unique(kept, return_inverse=True)
    return Surface(surface.points_mm[used], compact.reshape(kept.shape))
