"""The left femur: periosteal surface, cortex and trabecular density, in the femur's own frame.

Frame: origin at the centre of the head, z along the shaft to the head end, y to the back, x to the side
(lateral). A right femur is the mirror image. ``trochanteric`` coordinates are relative to the point where
the neck's axis meets the shaft's: lateral and posterior as seen along the neck, and up along the shaft.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from hipqct.phantom import shapes

# Lengths below are for a head of this radius and scale with it.
REFERENCE_HEAD_RADIUS_MM = 24.0

# Outer radius of the shaft over the radius below the lesser trochanter, by height above the neck-shaft point.
# Narrowest at the isthmus, 110 to 160 mm below.
SHAFT_HEIGHT_MM = (-400, -260, -160, -110, -85, -65, -48, -32, -18, 0, 20)
SHAFT_WIDENING = (1.2, 1.03, 0.96, 0.97, 0.985, 1.0, 1.04, 1.12, 1.2, 1.26, 1.15)
# The shaft's cortex over its thickness at the isthmus; the canal widens above and below.
CORTEX_HEIGHT_MM = (-400, -260, -170, -100, -70, -45, -20, 5)
CORTEX_SHARE = (0.45, 0.8, 1.0, 1.0, 0.86, 0.6, 0.38, 0.14)

# Radii of the neck over the head's radius along the neck, from the head's centre (0) to the shaft's axis (1).
NECK_POSITION = (-0.2, 0.0, 0.3, 0.45, 0.6, 0.8, 1.0, 1.2)
NECK_HIGH = (0.70, 0.78, 0.76, 0.72, 0.75, 0.86, 0.98, 1.0)
NECK_DEEP = (0.66, 0.70, 0.62, 0.57, 0.57, 0.62, 0.68, 0.68)


@dataclass(frozen=True)
class FemurShape:
    """Lengths (mm), angles (degrees) and densities (mg/cm3) of one femur.

    ``head_shell`` is the head's shell over ``shell_mm``, the shell elsewhere; where the shaft's cortex asks
    for more (0.14 of its thickness at least, at any height) that hides it, see docs/phantoms.md.
    """

    head_radius_mm: float = 24.0
    head_flattening: float = 0.0
    neck_shaft_angle_deg: float = 127.0
    anteversion_deg: float = 14.0
    offset_mm: float = 43.0
    neck_scale_high: float = 1.0
    neck_scale_deep: float = 1.0
    shaft_radius_mm: float = 15.8
    shaft_flattening: float = 0.0
    bow_radius_mm: float = 1100.0
    trochanter_height_mm: float = 0.0
    trochanter_scale: float = 1.0
    lesser_trochanter_mm: float = 8.0
    fovea_depth_mm: float = 1.8
    shell_mm: float = 0.85
    head_shell: float = 1.0
    calcar_mm: float = 4.2
    shaft_cortex_mm: float = 6.0
    cortical_mg_cm3: float = 1120.0
    head_mg_cm3: float = 170.0
    neck_mg_cm3: float = 85.0
    trochanter_mg_cm3: float = 75.0
    marrow_mg_cm3: float = -55.0
    compressive_mg_cm3: float = 210.0
    compressive_width: float = 0.34
    tensile_mg_cm3: float = 60.0
    ward_mg_cm3: float = 90.0
    texture_mg_cm3: float = 55.0
    endosteal_mg_cm3: float = 380.0
    endosteal_mm: float = 2.2

    @property
    def scale(self) -> float:
        """Size relative to the reference femur."""
        return self.head_radius_mm / REFERENCE_HEAD_RADIUS_MM

    @cached_property
    def neck_axis(self) -> np.ndarray:
        """Unit vector from the shaft to the head."""
        inclination = np.radians(180 - self.neck_shaft_angle_deg)
        return np.append(np.sin(inclination) * -self.lateral[:2], np.cos(inclination))

    @cached_property
    def lateral(self) -> np.ndarray:
        """Unit vector away from the head, perpendicular to the shaft."""
        anteversion = np.radians(self.anteversion_deg)
        return np.array([np.cos(anteversion), np.sin(anteversion), 0.0])

    @cached_property
    def posterior(self) -> np.ndarray:
        """Unit vector to the back of neck and trochanters."""
        return np.array([-self.lateral[1], self.lateral[0], 0.0])

    @cached_property
    def neck_length_mm(self) -> float:
        """From the head's centre to the shaft's axis."""
        return self.offset_mm / np.sin(np.radians(180 - self.neck_shaft_angle_deg))

    @cached_property
    def shaft_point_mm(self) -> np.ndarray:
        """Where the neck's axis meets the shaft's."""
        return -self.neck_length_mm * self.neck_axis

    def at(self, lateral: float, posterior: float, up: float) -> np.ndarray:
        """A trochanteric position given for the reference size."""
        local = lateral * self.lateral + posterior * self.posterior + np.array([0, 0, up])
        return self.shaft_point_mm + self.scale * local


def _coordinates(points_mm: np.ndarray, shape: FemurShape) -> dict:
    """Neck coordinates (fraction along, superior, deep) and shaft coordinates (side, back, up) of points."""
    up_axis = np.array([0, 0, 1.0]) - shape.neck_axis[2] * shape.neck_axis
    up_axis /= np.linalg.norm(up_axis)
    at_shaft = shapes.shift(points_mm, shape.shaft_point_mm)
    up = at_shaft[2]
    below = np.minimum(up, 0)
    return {
        "along": shapes.dot(points_mm, -shape.neck_axis) / np.float32(shape.neck_length_mm),
        "superior": shapes.dot(points_mm, up_axis),
        "deep": shapes.dot(points_mm, shape.posterior),
        "side": shapes.dot(at_shaft, shape.lateral),
        "back": shapes.dot(at_shaft, shape.posterior)
        - below * below * np.float32(0.5 / shape.bow_radius_mm)
        + below * np.float32(-0.02),
        "up": up,
    }


def _neck(c: dict, shape: FemurShape) -> np.ndarray:
    """Elliptic neck, open inside head and shaft."""
    radius_mm = shape.head_radius_mm
    high = np.interp(c["along"], NECK_POSITION, NECK_HIGH).astype(np.float32) * np.float32(
        radius_mm * shape.neck_scale_high
    )
    deep = np.interp(c["along"], NECK_POSITION, NECK_DEEP).astype(np.float32) * np.float32(
        radius_mm * shape.neck_scale_deep
    )
    u, v = c["superior"] / high, c["deep"] / deep
    length = np.sqrt(u * u + v * v)
    slope = np.sqrt((u / high) ** 2 + (v / deep) ** 2)
    wall = length * (length - 1) / np.maximum(slope, np.float32(1e-6))
    middle = np.abs(c["along"] - np.float32(0.5)) - np.float32(0.5)
    return np.maximum(wall, middle * np.float32(shape.neck_length_mm))


def _shaft(c: dict, shape: FemurShape) -> np.ndarray:
    """Shaft and metaphysis, closed at the top, with the linea aspera as a low ridge behind."""
    height = c["up"] / np.float32(shape.scale)
    radius = np.interp(height, SHAFT_HEIGHT_MM, SHAFT_WIDENING).astype(np.float32)
    radius *= np.float32(shape.shaft_radius_mm)
    widen = np.float32(1 + shape.shaft_flattening)
    ridge = (
        np.exp(-((c["side"] / np.float32(5)) ** 2)) * (c["back"] > 0) * shapes.sigmoid((-60 - height) / 10)
    )
    side, back = c["side"] / widen, c["back"] * widen
    wall = np.sqrt(side * side + back * back) - radius - ridge * np.float32(1.5)
    return -shapes.smooth_union(-wall, np.float32(6 * shape.scale) - c["up"], 14.0)


def _trochanters(points_mm: np.ndarray, shape: FemurShape) -> list:
    """Greater trochanter with its overhang, the line in front, the crest behind, the lesser trochanter."""
    k, g, tip = shape.scale, shape.scale * shape.trochanter_scale, shape.trochanter_height_mm / shape.scale
    at = shape.at
    small = shape.lesser_trochanter_mm / 8.0
    return [
        shapes.cone(points_mm, at(5, 0, -8), at(8, 6, 18), 17.5 * g, 12 * g),
        shapes.cone(points_mm, at(8, 5, 16), at(4, 12, 30 + tip), 11 * g, 7 * g),
        shapes.cone(points_mm, at(3, 13, 27 + tip), at(-5, 15, 16), 5.5 * g, 5.5 * g),
        shapes.cone(points_mm, at(7, -15.5, 12), at(-10, -13.5, -24), 4.5 * k, 4.5 * k),
        shapes.cone(points_mm, at(-4, 14, 14), at(-11, 11, -28), 5.5 * k, 6 * k),
        shapes.cone(points_mm, at(-7, 7, -24), at(-11 - 5 * small, 11 + 9 * small, -31), 11 * k, 6 * k),
    ]


def periosteal_distance(points_mm: np.ndarray, shape: FemurShape) -> np.ndarray:
    """Signed distance (mm, negative inside) to the outer surface at points ``(3, ...)``."""
    c = _coordinates(points_mm, shape)
    radius_mm = shape.head_radius_mm
    long_mm = radius_mm * (1 + shape.head_flattening)
    head = shapes.ellipsoid(points_mm, (0, 0, 0), (radius_mm, radius_mm, long_mm))
    fovea_axis = np.array([-0.9, 0.25, 0.1])
    fovea_axis /= np.linalg.norm(fovea_axis)
    fovea = shapes.sphere(points_mm, fovea_axis * (radius_mm + 7 - shape.fovea_depth_mm), 7.0)
    head = shapes.smooth_cut(head, fovea, 2.0)
    k = shape.scale
    *greater, lesser = _trochanters(points_mm, shape)
    bone = shapes.union_all([_shaft(c, shape), *greater], 9 * k)
    bone = shapes.smooth_union(bone, lesser, 5 * k)
    bone = shapes.smooth_union(bone, _neck(c, shape), 10 * k)
    bone = shapes.smooth_cut(bone, shapes.sphere(points_mm, shape.at(-9, 11, 20), 7.5 * k), 6 * k)
    return shapes.smooth_union(bone, head, 5 * k)


def cortex_thickness(points_mm: np.ndarray, shape: FemurShape) -> np.ndarray:
    """Thickness (mm) of the cortex near each point: thin shell at the head, calcar, thick shaft."""
    c = _coordinates(points_mm, shape)
    height = c["up"] / np.float32(shape.scale)
    shaft = np.interp(height, CORTEX_HEIGHT_MM, CORTEX_SHARE).astype(np.float32)
    medial = 1 + np.float32(0.18) * shapes.sigmoid((-c["side"] - 4) / 3) * shapes.sigmoid((height + 80) / 10)
    lower = shapes.sigmoid((-c["superior"] / np.float32(shape.head_radius_mm) - 0.35) * 9)
    in_neck = shapes.sigmoid((c["along"] - 0.38) * 16) * shapes.sigmoid((1.15 - c["along"]) * 8)
    in_head = shapes.sigmoid((0.38 - c["along"]) * 16)
    thinner = 1 - np.float32(1 - shape.head_shell) * in_head
    neck_shell = np.float32(shape.shell_mm) * (thinner + np.float32(0.6) * in_neck)
    calcar = np.float32(shape.calcar_mm) * lower * in_neck
    return np.maximum(np.maximum(neck_shell, calcar), np.float32(shape.shaft_cortex_mm) * shaft * medial)


def cortical_density(thickness_mm: np.ndarray, shape: FemurShape) -> np.ndarray:
    """Density (mg/cm3) of the cortex: thin shells are porous and patchy, thick ones compact."""
    compact = np.clip((thickness_mm - 0.6) / np.float32(2.4), 0, 1)
    return shape.cortical_mg_cm3 * (np.float32(0.28) + np.float32(0.72) * compact)


def endosteal_density(below_mm: np.ndarray, thickness_mm: np.ndarray, shape: FemurShape) -> np.ndarray:
    """Extra density (mg/cm3) of the dense trabeculae under the cortex, fading over a few mm inward.

    ``below_mm`` is the depth under the cortex's inner surface; the zone is strong under thick cortices that
    turn into trabeculae (calcar, trochanters) and weak under the head's shell.
    """
    strength = np.float32(shape.endosteal_mg_cm3) * np.clip(
        (thickness_mm - np.float32(0.7)) / np.float32(2.0), 0.05, 1.0
    )
    return strength * np.exp(-np.maximum(below_mm, 0) / np.float32(shape.endosteal_mm))


def trabecular_density(points_mm: np.ndarray, shape: FemurShape) -> np.ndarray:
    """Apparent mineral density (mg/cm3) inside the cortex, without texture; fatty marrow is negative."""
    c = _coordinates(points_mm, shape)
    n, length, radius = shape.neck_axis, shape.neck_length_mm, shape.head_radius_mm
    height = c["up"] / np.float32(shape.scale)
    in_head = shapes.sigmoid((np.float32(0.42) - c["along"]) * 12)
    in_shaft = shapes.sigmoid((-28 - height) / 9)
    base = shape.neck_mg_cm3 + (shape.head_mg_cm3 - shape.neck_mg_cm3) * in_head
    lateral = shapes.sigmoid((c["along"] - 0.9) * 10)
    base = base + (shape.trochanter_mg_cm3 - base) * lateral
    top = np.array([0.0, 0.0, radius])
    calcar = -0.55 * length * n + np.array([0, 0, -0.6 * radius])
    line = shapes.cone(points_mm, top, calcar, 0, 0)
    compressive = np.exp(-((line / np.float32(shape.compressive_width * radius)) ** 2))
    bends = [(-0.5 * radius, 0, 0), -0.35 * length * n + [0, 0, 0.35 * radius], shape.at(5, 0, 8)]
    bends.append(shape.at(14, 0, -25))
    arc = shapes.union_all([shapes.cone(points_mm, a, b, 0, 0) for a, b in pairwise(bends)], 4.0)
    tensile = np.exp(-((arc / np.float32(0.25 * radius)) ** 2))
    ward = np.exp(
        -((shapes.sphere(points_mm, -0.66 * length * n + [0, 0, -1], 0) / np.float32(0.42 * radius)) ** 2)
    )
    density = base + shape.compressive_mg_cm3 * compressive * (1 - lateral)
    density = density + shape.tensile_mg_cm3 * tensile - shape.ward_mg_cm3 * ward
    return density + (shape.marrow_mg_cm3 - density) * in_shaft
