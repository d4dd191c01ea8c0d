"""The anatomical frame of a proximal femur from its mask: head sphere, neck axis, shaft axis."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from hipqct.errors import AnatomyError
from hipqct.image import Image
from hipqct.solid import bounding_box, solid_mask

# The head's centre lies within this distance of the mask's top, for heads of up to 35 mm radius.
TOP_MM = 75.0
# What a millimetre towards the head's place, up and inward, counts in mm of the ball's radius: the
# trochanters can hold as large a ball as the head.
TOWARD_HEAD = 0.1
SMOOTHING_MM = 2.0  # rough edges of a mask are no anatomy
# Points this near to the sphere (shares of its radius) are taken to be the head's.
SHELL = (0.85, 1.15)
# Round the neck's axis there is no head surface.
NECK_CONE_DEG = 65.0
FIT_ROUNDS = 8
FEWEST_POINTS = 60
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
        shaft_length_mm: of the shaft proper; its own axis is taken from 20 mm or more, else the scan's.
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
        """Unit vector square to the shaft, in the plane of neck and shaft, away from the head."""
        across = self.neck_axis - (self.neck_axis @ self.shaft_axis) * self.shaft_axis
        return across / np.linalg.norm(across)

    @property
    def posterior(self) -> np.ndarray:
        """Unit vector square to neck and shaft, to the back."""
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
    surface round it, the neck left out. The neck: of all sections square to the line from the head's centre,
    the narrowest; the line is then drawn through that section's centroid, until it stays where it is. The
    shaft: the line through the centroids of the slices from 3.6 head radii below the head's centre down, or
    the scan's own axis where there are less than 20 mm of them.

    Args:
        mask: nonzero is bone, one solid femur, slices along z, the third axis nearer to the head.
        side: ``left`` or ``right``.

    Raises:
        AnatomyError: the mask has no rounded head near its top, or no neck.
    """
    rough = _trim(mask)
    mask = rough.with_array(_smooth(rough))
    solid = mask.array
    up = mask.direction[:, 2] * np.sign(mask.direction[2, 2] or 1.0)
    neck_axis = _first_neck_axis(up, side)
    center_mm, radius_mm = _head_ball(mask, solid, up, neck_axis)
    surface_mm = _surface_points(mask, solid)
    for _ in range(2):
        for _ in range(FIT_ROUNDS):
            center_mm, radius_mm, misfit_mm = _fit_head(surface_mm, center_mm, radius_mm, neck_axis)
        neck_axis, neck_mm, area_mm2 = _find_neck(mask, solid, center_mm, radius_mm, neck_axis)
    shaft_axis, length_mm = _find_shaft(mask, solid, center_mm, radius_mm, up)
    index = np.argwhere(rough.array)
    return FemurFrame(
        side=side,
        head_center_mm=center_mm,
        head_radius_mm=radius_mm,
        head_misfit_mm=misfit_mm,
        head_coverage=_coverage(surface_mm, center_mm, radius_mm, neck_axis),
        leak_mm3=_leak_mm3(mask, index, center_mm, radius_mm, neck_axis),
        neck_center_mm=neck_mm,
        neck_area_mm2=area_mm2,
        neck_axis=neck_axis,
        shaft_axis=shaft_axis,
        shaft_length_mm=length_mm,
        below_head_mm=float(-((mask.to_world(index) - center_mm) @ up).min() + mask.spacing_mm[2] / 2),
    )


def _trim(mask):
    """The part of the image that holds the mask, with a rim of air."""
    if not np.any(mask.array):
        raise AnatomyError("the mask is empty, so it has no anatomy: look at the segmentation first")
    box = bounding_box(np.asarray(mask.array, bool))
    first = [side.start - 1 for side in box]
    return replace(
        mask, array=np.pad(np.asarray(mask.array, bool)[box], 1), origin_mm=tuple(mask.to_world(first))
    )


def _smooth(mask):
    """The mask without its roughness, as one piece; the mask itself where nothing is left."""
    smooth = ndimage.gaussian_filter(mask.array.astype(np.float32), SMOOTHING_MM / np.array(mask.spacing_mm))
    if not (smooth >= 0.5).any():
        return mask.array
    return solid_mask(smooth >= 0.5)[0]


def _first_neck_axis(up, side):
    outward = np.array([1.0 if side == "left" else -1.0, 0.0, 0.0])
    outward -= (outward @ up) * up
    angle = np.radians(FIRST_NECK_SHAFT_DEG)
    return np.sin(angle) * outward / np.linalg.norm(outward) + np.cos(angle) * up


def _head_ball(mask, solid, up, neck_axis):
    """Centre (mm) and radius of the largest ball in the mask's top, nearer to the head's place preferred."""
    depth_mm = ndimage.distance_transform_edt(solid, sampling=mask.spacing_mm)
    index = np.argwhere(solid)
    points_mm = mask.to_world(index)
    height_mm = points_mm @ up
    near_top = height_mm > height_mm.max() - TOP_MM
    index, points_mm = index[near_top], points_mm[near_top]
    best = (depth_mm[tuple(index.T)] - TOWARD_HEAD * points_mm @ neck_axis).argmax()
    return points_mm[best], float(depth_mm[tuple(index[best])])


def _surface_points(mask, solid):
    """World points of the mask's outermost voxels, moved half a voxel outward along its gradient."""
    shell = np.argwhere(solid & ~ndimage.binary_erosion(solid))
    smooth = ndimage.gaussian_filter(solid.astype(np.float32), 1.5 / np.array(mask.spacing_mm))
    slope = np.stack([np.gradient(smooth, s, axis=a) for a, s in enumerate(mask.spacing_mm)], -1)
    slope = slope[tuple(shell.T)]
    outward = -slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
    half_mm = 0.5 * np.abs(outward) @ np.array(mask.spacing_mm)
    return mask.to_world(shell) + half_mm[:, None] * outward @ mask.direction.T


def _fit_head(surface_mm, center_mm, radius_mm, neck_axis):
    """Least-squares sphere through the surface near the last one, away from the neck."""
    offset = surface_mm - center_mm
    distance = np.linalg.norm(offset, axis=1)
    near = (distance > SHELL[0] * radius_mm) & (distance < SHELL[1] * radius_mm)
    near &= offset @ neck_axis < np.cos(np.radians(NECK_CONE_DEG)) * distance
    points = offset[near]
    if len(points) < FEWEST_POINTS:
        raise AnatomyError("the mask has no rounded head near its top: look at the segmentation")
    a = np.column_stack([2 * points, np.ones(len(points))])
    *center, constant = np.linalg.lstsq(a, (points**2).sum(axis=1), rcond=None)[0]
    radius = float(np.sqrt(max(constant + np.dot(center, center), 1e-6)))
    misfit = float(np.abs(np.linalg.norm(points - center, axis=1) - radius).mean())
    return center_mm + center, radius, misfit


def _find_neck(mask, solid, center_mm, radius_mm, axis):
    """Axis from the head's centre through the centroid of its narrowest section, that centroid, its area."""
    samples = solid.astype(np.float32)
    for _ in range(NECK_ROUNDS):
        found = _narrowest(mask, samples, center_mm, radius_mm, axis)
        if found is None:
            raise AnatomyError("the mask has no neck below its head: look at the segmentation")
        area_mm2, centroid_mm = found
        last, axis = axis, (centroid_mm - center_mm) / np.linalg.norm(centroid_mm - center_mm)
        if axis @ last > np.cos(np.radians(NECK_TOLERANCE_DEG)):
            break
        axis = axis + last  # half way: two sections cannot take turns
        axis /= np.linalg.norm(axis)
    return axis, centroid_mm, area_mm2


def _narrowest(mask, samples, center_mm, radius_mm, axis):
    """Area (mm2) and centroid (mm) of the smallest section square to an axis; None without a waist."""
    helper = np.eye(3)[np.abs(axis).argmin()]
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    half = int(np.ceil(NECK_REACH * radius_mm / SECTION_MM))
    reach = SECTION_MM * np.arange(-half, half + 1)
    a, b = np.meshgrid(reach, reach, indexing="ij")
    plane = a[..., None] * u + b[..., None] * v
    best = None
    for place in NECK_PLACES * radius_mm:
        points = center_mm + place * axis + plane
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
    if best is None or best[2] == NECK_PLACES[-1] * radius_mm:
        return None
    return best[:2]


def _find_shaft(mask, solid, center_mm, radius_mm, up):
    """Unit vector up the shaft, or the scan's axis where it is too short, and the shaft's length."""
    centroids = []
    for z in np.flatnonzero(solid.any(axis=(0, 1))):
        middle = np.argwhere(solid[:, :, z]).mean(axis=0)
        centroids.append(mask.to_world(np.append(middle, z)))
    centroids = np.array(centroids)
    height_mm = (centroids - center_mm) @ up
    shaft = height_mm < -SHAFT_FROM_RADII * radius_mm
    length_mm = float(np.ptp(height_mm[shaft])) if shaft.sum() > 2 else 0.0
    if length_mm < SHORTEST_SHAFT_MM:
        return up, length_mm
    points = centroids[shaft]
    axis = np.linalg.svd(points - points.mean(axis=0))[2][0]
    return axis * np.sign(axis @ up), length_mm


def _coverage(surface_mm, center_mm, radius_mm, neck_axis):
    """Share of directions on the head's free half in which mask surface lies near the sphere."""
    directions = _spread_directions(CAP_DIRECTIONS)
    free = directions[directions @ neck_axis < np.cos(np.radians(180 - FREE_CAP_DEG))]
    offset = surface_mm - center_mm
    distance = np.linalg.norm(offset, axis=1)
    near = (distance > SHELL[0] * radius_mm) & (distance < SHELL[1] * radius_mm)
    if not near.any():
        return 0.0
    nearest = (free @ (offset[near] / distance[near, None]).T).max(axis=1)
    cell_deg = np.degrees(np.sqrt(4 * np.pi / CAP_DIRECTIONS))
    return float((nearest > np.cos(np.radians(cell_deg))).mean())


def _spread_directions(count):
    """Unit vectors spread evenly over the sphere, on a spiral."""
    k = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * k / count), np.pi * (1 + np.sqrt(5)) * k
    return np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)


def _leak_mm3(mask, index, center_mm, radius_mm, neck_axis):
    """Volume of mask near the head but outside its sphere, on the side away from the neck."""
    offset = mask.to_world(index) - center_mm
    distance = np.linalg.norm(offset, axis=1)
    away = -(offset @ neck_axis) > 0
    outside = away & (distance > LEAK_FROM * radius_mm) & (distance < LEAK_REACH * radius_mm)
    return float(outside.sum()) * mask.voxel_volume_mm3
