"""The voxel hexahedral mesh: equal cubes where the mask fills enough of them."""

import numpy as np
from scipy import ndimage
from scipy.optimize import brentq

from hipqct.errors import MeshError
from hipqct.image import Image
from hipqct.mesh import DISTAL_SLAB, DISTAL_SLAB_MM, HEX_CORNERS, Mesh
from hipqct.resample import overlap_lengths
from hipqct.solid import bounding_box, largest_component, solid_mask
from hipqct.surface import LevelSet, smooth_level_set

# Keyak's edge length, and the half of a cube that makes it bone. The fraction moves stiffness: 0.3 gives
# +33%, 0.6 gives -7% on one femur, so both are config keys.
CUBE_MM = 3.0
BONE_FRACTION_MIN = 0.5
# A cube at the limit to rounding is at the limit: NIfTI files hold pixels of 0.9 mm as 0.89999998.
FRACTION_TOLERANCE = 1e-6
HEIGHT_TOLERANCE_MM = 1e-6  # multiples of a cube like 1.2 mm are rounded
CUBES_ROUND_AN_INNER_NODE = 8
# What a cube's bone fraction is counted in: the mask's voxels, or its smooth level set, as tetrahedra are.
SHAPES = ("mask", "surface")
# About the distance of the points at which the level set is sampled in every cube.
SAMPLE_MM = 0.5
# Fewest of them along an edge of a cube.
SAMPLES_MIN = 3
# How far from level 0, to both sides, the level that holds the mask's volume is looked for.
LEVEL_REACH_MM = 5.0
# A bone fraction is then off by less than 1e-10.
LEVEL_TOLERANCE_MM = 1e-11


def build_hexahedra(
    mask: Image,
    images: dict[str, np.ndarray],
    cube_mm: float = CUBE_MM,
    bone_fraction_min: float = BONE_FRACTION_MIN,
    shape: str = "mask",
    level_set: LevelSet | None = None,
    slab_mm: float = DISTAL_SLAB_MM,
) -> Mesh:
    """Cubes of ``cube_mm`` along the image's axes, where at least ``bone_fraction_min`` of them is mask.

    Shares and means are exact integrals over the overlap of cubes and voxels, so any spacing fits any
    cube. In the slice plane cube faces run through the pixel edge nearest to the mask's centroid, which
    makes the mesh of a mirrored mask the mirrored mesh and cubes of whole pixels where they fit; along
    the slices they start at the mask's lowest face, so a shaft that is cut flat stays flat. Only the
    largest face-connected set of cubes is kept, and the mask is taken as one solid (``solid_mask``).

    Args:
        mask: nonzero is bone; any spacing and direction.
        images: arrays on the mask's grid by name, for example ``{"hu": ct.array}``.
        shape: ``mask`` counts a cube's bone fraction in the mask's voxels; ``surface`` in its smooth level
            set that holds the same volume, which rounds the steps of thick slices. Means are over the
            mask's voxels either way; a cube without any is left out.
        level_set: of this mask, where it has been computed already; only ``surface`` needs one.
        slab_mm: depth of the slab at the lowest face that load cases hold.

    Returns:
        The mesh; node sets ``DISTAL_FACE`` (lower faces of the lowest layer), ``DISTAL_SLAB`` (within
        ``slab_mm`` of them: whole layers, whose depth is in ``facts``), ``PROXIMAL`` (upper faces of the
        highest layer, the head's top in a hip scan) and ``SURFACE`` (every node on a free face).

    Raises:
        MeshError: the mask is empty, nowhere thick enough for a cube, or too thin for a smooth surface.
        ValueError: ``cube_mm``, ``bone_fraction_min`` or ``shape`` make no sense, or an image is on another
            grid.
    """
    _check_arguments(mask, images, cube_mm, bone_fraction_min, shape)
    solid = solid_mask(mask.array)
    box = bounding_box(solid)
    inside = solid[box].astype(float)
    first, counts, steps = _cube_grid(inside, mask, cube_mm)
    start = [side.start for side in box]
    if shape == "surface":
        first, counts = _one_cube_more(first, counts, steps, mask)
    overlaps = [_overlap(*grid) for grid in zip(first, counts, steps, inside.shape, strict=True)]
    filled = _integrate(inside, overlaps)
    fraction = filled / np.prod(steps)
    if shape == "surface":
        smooth = level_set or smooth_level_set(mask)
        fraction = np.where(filled > 0, _surface_fraction(smooth, first + start, counts, cube_mm), 0.0)
    kept, dropped = _largest_set(fraction >= bone_fraction_min - FRACTION_TOLERANCE, mask, cube_mm)
    corner_index = np.argwhere(kept.transpose(2, 1, 0))[:, ::-1]
    points_index, cells = _nodes_and_cells(corner_index, kept.shape)
    where = tuple(corner_index.T)
    cell_data = {"bone_fraction": np.minimum(fraction[where], 1.0)}
    for name, array in images.items():
        cell_data[name] = _integrate(inside * array[box], overlaps)[where] / filled[where]
    points_mm = mask.to_world(points_index * steps + first + start)
    if np.linalg.det(mask.direction) < 0:
        cells = cells[:, [4, 5, 6, 7, 0, 1, 2, 3]]
    up = 1 if mask.ascending else -1
    facts = {
        "cube_mm": cube_mm,
        "bone_fraction_min": bone_fraction_min,
        "cubes_dropped": dropped,
        "shape": shape,
    }
    height_mm = up * cube_mm * points_index[:, 2]
    node_sets = _node_sets(height_mm, cells, slab_mm)
    facts["set_depths_mm"] = {DISTAL_SLAB: float(np.ptp(height_mm[node_sets[DISTAL_SLAB]]))}
    return Mesh(points_mm, cells, cell_data, node_sets, facts)


def _check_arguments(
    mask: Image, images: dict[str, np.ndarray], cube_mm: float, bone_fraction_min: float, shape: str
) -> None:
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}")
    if not cube_mm > 0:
        raise ValueError(f"cube_mm must be positive, got {cube_mm}")
    if not 0 < bone_fraction_min <= 1:
        raise ValueError(f"bone_fraction_min must be above 0 and at most 1, got {bone_fraction_min}")
    for name, array in images.items():
        if array.shape != mask.shape:
            raise ValueError(f"image {name} must have the mask's shape {mask.shape}, got {array.shape}")


def _cube_grid(inside: np.ndarray, mask: Image, cube_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First face (fractional index in ``inside``), number and length (in voxels) of cubes along each axis.

    ``inside``: the mask's voxels within its bounding box.
    """
    steps = cube_mm / np.array(mask.spacing_mm)
    size = np.array(inside.shape)
    middle = np.rint(np.array(ndimage.center_of_mass(inside)) + 0.5) - 0.5
    first = middle - np.ceil((middle + 0.5) / steps - FRACTION_TOLERANCE) * steps
    first[2] = -0.5
    if not mask.ascending:  # the lowest face is the array's last
        first[2] = size[2] - 0.5 - np.ceil(size[2] / steps[2]) * steps[2]
    counts = np.ceil((size - 0.5 - first) / steps - FRACTION_TOLERANCE).astype(int)
    return first, counts, steps


def _one_cube_more(
    first: np.ndarray, counts: np.ndarray, steps: np.ndarray, mask: Image
) -> tuple[np.ndarray, np.ndarray]:
    """The grid with a cube more on every side but the lowest, where the smooth surface may pass the mask."""
    below = np.array([1, 1, 0 if mask.ascending else 1])
    return first - below * steps, counts + np.array([2, 2, 1])


def _surface_fraction(
    level_set: LevelSet, first: np.ndarray, counts: np.ndarray, cube_mm: float
) -> np.ndarray:
    """Share of every cube inside the mask's smooth level set, at the level that holds the mask's volume, 3-D.

    The level set is about a distance in mm, so a sample point near the level counts in part.
    """
    height_mm, spacing_mm = level_set.values, level_set.mask.spacing_mm
    parts = max(SAMPLES_MIN, round(cube_mm / SAMPLE_MM))
    sample_mm = cube_mm / parts
    for axis, count in enumerate(counts):
        index = first[axis] + (np.arange(count * parts) + 0.5) * sample_mm / spacing_mm[axis]
        place = (index - level_set.start[axis]) / level_set.step[axis]
        height_mm = _interpolate(height_mm, place, axis)

    def share(level_mm):
        return np.clip(0.5 + (height_mm - level_mm) / sample_mm, 0, 1)

    def excess_mm3(level_mm):
        return share(level_mm).sum() * sample_mm**3 - level_set.volume_mm3

    if excess_mm3(-LEVEL_REACH_MM) < 0 or excess_mm3(LEVEL_REACH_MM) > 0:
        raise MeshError(
            f"no smooth surface within {LEVEL_REACH_MM:g} mm of the mask's holds the mask's "
            f"{level_set.volume_mm3:.0f} mm3: the mask is too thin, correct it or set hex_shape to mask"
        )
    level_mm = brentq(excess_mm3, -LEVEL_REACH_MM, LEVEL_REACH_MM, xtol=LEVEL_TOLERANCE_MM)
    nx, ny, nz = counts
    return share(level_mm).reshape(nx, parts, ny, parts, nz, parts).mean(axis=(1, 3, 5))


def _interpolate(array: np.ndarray, place: np.ndarray, axis: int) -> np.ndarray:
    """Values of a 3-D ``array`` at fractional places along one axis, linear; its ends go on."""
    place = np.clip(place, 0, array.shape[axis] - 1)
    low = np.minimum(place.astype(int), array.shape[axis] - 2)
    weight = (place - low).reshape([-1 if i == axis else 1 for i in range(3)])
    return array.take(low, axis) * (1 - weight) + array.take(low + 1, axis) * weight


def _overlap(first: float, count: int, step: float, voxels: int) -> np.ndarray:
    """Length (in voxels) that each cube shares with each voxel along one axis, shape ``(count, voxels)``."""
    cubes = first + np.arange(count) * step
    return overlap_lengths(cubes, cubes + step, np.arange(voxels + 1) - 0.5)


def _integrate(array: np.ndarray, overlaps: list[np.ndarray]) -> np.ndarray:
    """Sum of ``array`` over the voxels in each cube, in voxel volumes."""
    for overlap in overlaps:  # contracts the leading axis and appends the cubes': x, y, z come out in order
        array = np.tensordot(array, overlap, axes=(0, 1))
    return array


def _largest_set(kept: np.ndarray, mask: Image, cube_mm: float) -> tuple[np.ndarray, int]:
    """The largest face-connected set of cubes (3-D, boolean), and how many cubes lie outside it."""
    largest, sizes = largest_component(kept)
    if not len(sizes):
        raise MeshError(
            f"the mask of {mask.array.astype(bool).sum()} voxels is nowhere thick enough for a cube of "
            f"{cube_mm:g} mm: repair the mask or choose smaller cubes"
        )
    return largest, int(sizes.sum() - sizes.max())


def _nodes_and_cells(corner_index: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Grid positions of the nodes in use ``(n, 3)``, z slowest, and the cells' nodes ``(m, 8)``, C3D8 order.

    ``corner_index``: of the lowest corner of every cube, shape ``(m, 3)``; ``shape``: of the grid of cubes.
    """
    nx, ny = shape[0] + 1, shape[1] + 1
    corners = corner_index[:, None, :] + HEX_CORNERS
    flat = corners[..., 0] + nx * (corners[..., 1] + ny * corners[..., 2])
    used, cells = np.unique(flat, return_inverse=True)
    points_index = np.stack([used % nx, used // nx % ny, used // (nx * ny)], axis=1)
    return points_index, cells.reshape(-1, 8)


def _node_sets(height_mm: np.ndarray, cells: np.ndarray, slab_mm: float) -> dict[str, np.ndarray]:
    """Lowest, highest and surface nodes, and the slab at the lower end, from the nodes' heights."""
    cubes_round_node = np.bincount(cells.ravel(), minlength=len(height_mm))
    return {
        "DISTAL_FACE": np.flatnonzero(height_mm == height_mm.min()),
        DISTAL_SLAB: np.flatnonzero(height_mm <= height_mm.min() + slab_mm + HEIGHT_TOLERANCE_MM),
        "PROXIMAL": np.flatnonzero(height_mm == height_mm.max()),
        "SURFACE": np.flatnonzero(cubes_round_node < CUBES_ROUND_AN_INNER_NODE),
    }
