"""The anatomical frame of a proximal femur from its mask: head sphere, neck axis, shaft axis."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from hipqct.errors import AnatomyError
from hipqct.image import Image
from hipqct.solid import bounding_box, solid_mask

# The head's centre lies within this distance of the mask's top, for heads of up to 35 mm radius.
TOP_MM = 75.0
# Bonus (mm of radius per mm) for positions towards the head, as the trochanters can hold an equally large
# ball.
TOWARD_HEAD = 0.1
SMOOTHING_MM = 2.0  # rough edges of a mask are no anatomy
OUTWARD_MM = 1.5  # of smoothing, to tell which way the surface faces
# Points this near to the sphere (shares of its radius) are taken to be the head's.
SHELL = (0.85, 1.15)
# Round the neck's axis there is no head surface.
NECK_CONE_DEG = 65.0
FIT_ROUNDS, FEWEST_POINTS = 8, 60
# A neck leaves the head downwards and to the side; where the search for it starts.
FIRST_NECK_SHAFT_DEG = 128.0
# Where the neck may be narrowest, as distances from the head's centre in head radii, and how wide its
# sections are looked at.
NECK_PLACES = np.arange(0.8, 2.01, 0.05)
NECK_REACH = 1.6
SECTION_MM = 1.0
NECK_ROUNDS, NECK_TOLERANCE_DEG = 30, 0.2
# The shaft proper starts so many head radii below the head's centre, under the lesser trochanter.
SHAFT_FROM_RADII = 3.6
SHORTEST_SHAFT_MM = 20.0
# The head's free surface: this far round the direction away from the neck, in cells of this size.
FREE_CAP_DEG, CAP_DIRECTIONS = 90.0, 400
# A voxel more than this share of the radius outside the sphere, on the free side, is no head.
LEAK_FROM = 1.15
LEAK_REACH = 1.8


class Sphere(NamedTuple):
    """A sphere in LPS mm."""

    center_mm: np.ndarray
    radius_mm: float


@dataclass(frozen=True)
class FemurFrame:
    """Landmarks in LPS mm and unit axes.

    Args:
        side: ``left`` or ``right``.
        head_center_mm, head_radius_mm: the sphere fitted to the head.
        head_misfit_mm: mean distance of the head's surface from it.
        head_coverage: share of the sphere's free half (away from the neck) that has mask surface near it.
        leak_mm3: mask outside the sphere on its free half, where no femur is.
        neck_center_mm, neck_area_mm2: of the neck's narrowest section.
        neck_axis: from the head's centre to that of the neck, unit.
        shaft_axis: along the shaft towards the head, unit.
        shaft_length_mm: of the shaft proper that the axis is of; with less than 20 mm it is the scan's.
        below_head_mm: from the head's centre down to the mask's lowest slice.
    """

    side: str
    head_center_mm: np.ndarray
    head_radius_mm: float
    head_misfit_mm: float
    head_coverage: float
    leak_mm3: float
    neck_center_mm: np.ndarray
    neck_area_mm2: float
    neck_axis: np.ndarray
    shaft_axis: np.ndarray
    shaft_length_mm: float
    below_head_mm: float

    @property
    def has_own_shaft(self) -> bool:
        """Whether the shaft's axis is its own; else it is the scan's, for want of shaft."""
        return self.shaft_length_mm >= SHORTEST_SHAFT_MM

    @property
    def lateral(self) -> np.ndarray:
        """Unit vector perpendicular to the shaft, in the plane of neck and shaft, away from the head."""
        across = self.neck_axis - (self.neck_axis @ self.shaft_axis) * self.shaft_axis
        return across / np.linalg.norm(across)

    @property
    def posterior(self) -> np.ndarray:
        """Unit vector perpendicular to neck and shaft, to the back."""
        back = np.cross(self.shaft_axis, self.lateral)
        return back if self.side == "left" else -back

    @property
    def neck_shaft_angle_deg(self) -> float:
        """Angle between the neck (towards the head) and the shaft (downwards); 120 to 135 in most people."""
        return float(np.degrees(np.arccos(np.clip(self.neck_axis @ self.shaft_axis, -1, 1))))

    def facts(self) -> dict:
        """Everything as plain numbers, for JSON."""
        names = [*self.__dataclass_fields__, "has_own_shaft", "lateral", "posterior", "neck_shaft_angle_deg"]
        values = {name: getattr(self, name) for name in names}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


def find_frame(mask: Image, side: str) -> FemurFrame:
    """Fit the frame of a femur to its mask.

    The head: the largest ball inside the mask near its top, then a sphere fitted by least squares to the
    surface round it, the neck left out. The neck: of all sections perpendicular to the line from the head's
    centre, the narrowest; the line is then drawn through that section's centroid, until it stays where it is.
    The shaft: the line through the centroids of the slices from 3.6 head radii below the head's centre down,
    or the scan's own axis where there are less than 20 mm of them.

    Args:
        mask: nonzero is bone, one solid femur, slices along z, the third axis nearer to the head.
        side: ``left`` or ``right``.

    Raises:
        AnatomyError: the mask has no rounded head near its top, or no neck.
    """
    rough = _trim(mask)
    mask = rough.with_array(_smooth(rough))
    up = mask.up
    neck_axis = _first_neck_axis(up, side)
    head = _head_ball(mask, up, neck_axis)
    surface_mm = _surface_points(mask)
    for _ in range(2):
        for _ in range(FIT_ROUNDS):
            head, misfit_mm = _fit_head(surface_mm, head, neck_axis)
        neck_axis, neck_mm, area_mm2 = _find_neck(mask, head, neck_axis)
    shaft_axis, length_mm = _find_shaft(mask, head, up)
    voxels_mm = rough.to_world(np.argwhere(rough.array))
    return FemurFrame(
        side=side,
        head_center_mm=head.center_mm,
        head_radius_mm=head.radius_mm,
        head_misfit_mm=misfit_mm,
        head_coverage=_coverage(surface_mm, head, neck_axis),
        leak_mm3=_leak_mm3(voxels_mm, mask.voxel_volume_mm3, head, neck_axis),
        neck_center_mm=neck_mm,
        neck_area_mm2=area_mm2,
        neck_axis=neck_axis,
        shaft_axis=shaft_axis,
        shaft_length_mm=length_mm,
        below_head_mm=float(-((voxels_mm - head.center_mm) @ up).min() + mask.spacing_mm[2] / 2),
    )


def _trim(mask: Image) -> Image:
    """The part of the image that holds the mask, with a rim of air as wide as smoothing reaches."""
    array = np.asarray(mask.array, bool)
    if not array.any():
        raise AnatomyError("the mask is empty, so it has no anatomy: look at the segmentation first")
    box = bounding_box(array)
    rim = [int(np.ceil(4 * SMOOTHING_MM / mm)) for mm in mask.spacing_mm]
    origin_mm = tuple(mask.to_world([side.start - n for side, n in zip(box, rim, strict=True)]))
    return replace(mask, array=np.pad(array[box], [(n, n) for n in rim]), origin_mm=origin_mm)


def _smooth(mask: Image) -> np.ndarray:
    """The mask's voxels without roughness, as one piece; those of the mask itself where nothing is left."""
    smooth = ndimage.gaussian_filter(mask.array.astype(np.float32), SMOOTHING_MM / np.array(mask.spacing_mm))
    return solid_mask(smooth >= 0.5) if (smooth >= 0.5).any() else mask.array


def _first_neck_axis(up: np.ndarray, side: str) -> np.ndarray:
    """Unit vector from the head to the neck of a usual femur; ``up`` is the scan's axis."""
    outward = np.array([1.0 if side == "left" else -1.0, 0.0, 0.0])
    outward -= (outward @ up) * up
    angle = np.radians(FIRST_NECK_SHAFT_DEG)
    return np.sin(angle) * outward / np.linalg.norm(outward) + np.cos(angle) * up


def _head_ball(mask: Image, up: np.ndarray, neck_axis: np.ndarray) -> Sphere:
    """The largest ball in the mask's top, towards the head preferred."""
    depth_mm = ndimage.distance_transform_edt(mask.array, sampling=mask.spacing_mm)
    index = np.argwhere(mask.array)
    points_mm = mask.to_world(index)
    height_mm = points_mm @ up
    near_top = height_mm > height_mm.max() - TOP_MM
    index, points_mm = index[near_top], points_mm[near_top]
    best = (depth_mm[tuple(index.T)] - TOWARD_HEAD * points_mm @ neck_axis).argmax()
    return Sphere(points_mm[best], float(depth_mm[tuple(index[best])]))


def _surface_points(mask: Image) -> np.ndarray:
    """World points (mm) of the mask's outermost voxels, moved half a voxel outward, shape ``(n, 3)``."""
    shell = np.argwhere(mask.array & ~ndimage.binary_erosion(mask.array))
    smooth = ndimage.gaussian_filter(mask.array.astype(np.float32), OUTWARD_MM / np.array(mask.spacing_mm))
    slope = np.stack([np.gradient(smooth, s, axis=a) for a, s in enumerate(mask.spacing_mm)], -1)
    slope = slope[tuple(shell.T)]
    outward = -slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
    half_mm = 0.5 * np.abs(outward) @ np.array(mask.spacing_mm)
    return mask.to_world(shell) + half_mm[:, None] * outward @ mask.direction.T


def _in_shell(points_mm: np.ndarray, head: Sphere, low: float, high: float) -> tuple[np.ndarray, ...]:
    """Points ``(n, 3)`` from the centre (mm), distances, and which lie ``low`` to ``high`` radii off."""
    offset = points_mm - head.center_mm
    distance = np.linalg.norm(offset, axis=1)
    return offset, distance, (distance > low * head.radius_mm) & (distance < high * head.radius_mm)


def _fit_head(surface_mm: np.ndarray, head: Sphere, neck_axis: np.ndarray) -> tuple[Sphere, float]:
    """Least-squares sphere through the surface near the last one, the neck left out; its mean misfit (mm)."""
    offset, distance, near = _in_shell(surface_mm, head, *SHELL)
    near &= offset @ neck_axis < np.cos(np.radians(NECK_CONE_DEG)) * distance
    points = offset[near]
    if len(points) < FEWEST_POINTS:
        raise AnatomyError("the mask has no rounded head near its top: look at the segmentation")
    a = np.column_stack([2 * points, np.ones(len(points))])
    *center, constant = np.linalg.lstsq(a, (points**2).sum(axis=1), rcond=None)[0]
    radius = float(np.sqrt(max(constant + np.dot(center, center), 1e-6)))
    misfit = float(np.abs(np.linalg.norm(points - center, axis=1) - radius).mean())
    return Sphere(head.center_mm + center, radius), misfit


def _find_neck(mask: Image, head: Sphere, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit axis from the head's centre through its narrowest section; its centroid (mm) and area (mm2)."""
    samples = mask.array.astype(np.float32)
    for _ in range(NECK_ROUNDS):
        area_mm2, centroid_mm = _narrowest(mask, samples, head, axis)
        to_neck_mm = centroid_mm - head.center_mm
        last, axis = axis, to_neck_mm / np.linalg.norm(to_neck_mm)
        if axis @ last > np.cos(np.radians(NECK_TOLERANCE_DEG)):
            break
        axis = axis + last  # half way: two sections cannot take turns
        axis /= np.linalg.norm(axis)
    return axis, centroid_mm, area_mm2


def _narrowest(mask: Image, samples: np.ndarray, head: Sphere, axis: np.ndarray) -> tuple[float, np.ndarray]:
    """Area (mm2) and centroid (mm) of the smallest section perpendicular to an axis."""
    u = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    half = int(np.ceil(NECK_REACH * head.radius_mm / SECTION_MM))
    reach = SECTION_MM * np.arange(-half, half + 1)
    a, b = np.meshgrid(reach, reach, indexing="ij")
    plane = a[..., None] * u + b[..., None] * v
    best = None
    for place in NECK_PLACES * head.radius_mm:
        points = head.center_mm + place * axis + plane
        index = mask.to_index(points.reshape(-1, 3)).T
        inside = ndimage.map_coordinates(samples, index, order=1, cval=0.0, prefilter=False).reshape(a.shape)
        labels, _ = ndimage.label(inside >= 0.5)
        if not (label := labels[half, half]):
            continue
        share = np.where(labels == label, inside, 0)
        area_mm2 = float(share.sum()) * SECTION_MM**2
        if best is None or area_mm2 < best[0]:
            best = area_mm2, np.average(points.reshape(-1, 3), axis=0, weights=share.ravel()), place
    # The smallest at the very end of the search is no waist: the section still shrinks.
    if best is None or best[2] == NECK_PLACES[-1] * head.radius_mm:
        raise AnatomyError("the mask has no neck below its head: look at the segmentation")
    return best[:2]


def _find_shaft(mask: Image, head: Sphere, up: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit vector up the shaft, or the scan's axis where it is too short, and its length to the cut (mm)."""
    levels = np.flatnonzero(mask.array.any(axis=(0, 1)))
    middles = [(*np.argwhere(mask.array[:, :, z]).mean(axis=0), z) for z in levels]
    centroids = np.array([mask.to_world(middle) for middle in middles])
    height_mm = (centroids - head.center_mm) @ up
    top_mm, bottom_mm = -SHAFT_FROM_RADII * head.radius_mm, height_mm.min() - mask.spacing_mm[2] / 2
    length_mm = float(max(0.0, top_mm - bottom_mm))
    if length_mm < SHORTEST_SHAFT_MM:
        return up, length_mm
    points = centroids[height_mm < top_mm]
    axis = np.linalg.svd(points - points.mean(axis=0))[2][0]
    return axis * np.sign(axis @ up), length_mm


def _coverage(surface_mm: np.ndarray, head: Sphere, neck_axis: np.ndarray) -> float:
    """Share of directions on the head's free half in which mask surface lies near the sphere."""
    directions = _spread_directions(CAP_DIRECTIONS)
    free = directions[directions @ neck_axis < np.cos(np.radians(180 - FREE_CAP_DEG))]
    offset, distance, near = _in_shell(surface_mm, head, *SHELL)
    if not near.any():
        return 0.0
    nearest = (free @ (offset[near] / distance[near, None]).T).max(axis=1)
    cell_deg = np.degrees(np.sqrt(4 * np.pi / CAP_DIRECTIONS))
    return float((nearest > np.cos(np.radians(cell_deg))).mean())


def _spread_directions(count: int) -> np.ndarray:
    """Unit vectors spread evenly over the sphere, on a spiral, shape ``(count, 3)``."""
    k = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * k / count), np.pi * (1 + np.sqrt(5)) * k
    return np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)


def _leak_mm3(voxels_mm: np.ndarray, voxel_mm3: float, head: Sphere, neck_axis: np.ndarray) -> float:
    """Volume of the mask's voxels ``(n, 3)`` near the head, outside its sphere, away from the neck."""
    offset, _, outside = _in_shell(voxels_mm, head, LEAK_FROM, LEAK_REACH)
    return float((outside & (offset @ neck_axis < 0)).sum()) * voxel_mm3
