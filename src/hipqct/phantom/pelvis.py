"""The left hip bone round the femoral head, and the sacrum with the coccyx.

Frame of the hip bone: origin at the centre of the femoral head, x to the side, y to the back, z up; a right
hip bone is the mirror image. Frame of the sacrum: origin midway between the two heads. Lengths are for a
head of 24 mm radius and scale with ``PelvisShape.scale``. Simplified solids, not atlas shapes.
"""

from dataclasses import dataclass

import numpy as np

from hipqct.phantom import shapes


@dataclass(frozen=True)
class PelvisShape:
    """Lengths (mm), angles (degrees) and densities (mg/cm3) of the pelvis."""

    head_radius_mm: float = 24.0
    joint_space_mm: float = 3.0
    half_width_mm: float = 90.0
    cup_abduction_deg: float = 45.0
    cup_anteversion_deg: float = 18.0
    wall_mm: float = 5.0
    cortex_mm: float = 1.6
    roof_mm: float = 3.0
    cortical_mg_cm3: float = 950.0
    trabecular_mg_cm3: float = 130.0
    roof_mg_cm3: float = 420.0
    sacrum_mg_cm3: float = 110.0
    texture_mg_cm3: float = 40.0

    @property
    def scale(self) -> float:
        """Size relative to a pelvis whose femoral heads have 24 mm radius."""
        return self.head_radius_mm / 24.0

    @property
    def socket_radius_mm(self) -> float:
        """Inner radius of the acetabulum's subchondral bone."""
        return self.head_radius_mm + self.joint_space_mm

    @property
    def opening(self) -> np.ndarray:
        """Unit vector out of the acetabulum: to the side, down and forward."""
        abduction, forward = np.radians([self.cup_abduction_deg, self.cup_anteversion_deg])
        return np.array(
            [np.sin(abduction) * np.cos(forward), -np.sin(abduction) * np.sin(forward), -np.cos(abduction)]
        )


def _cup(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Shell of the acetabulum, thick at the roof and thin at the medial wall, with the notch below."""
    outward = shapes.dot(points_mm, shape.opening)
    radius = shapes.sphere(points_mm, (0, 0, 0), 0)
    roof = shapes.sigmoid((points_mm[2] - points_mm[1] * np.float32(-0.3)) / np.float32(8) - 1)
    thickness = np.float32(shape.wall_mm * 0.7) + np.float32(shape.wall_mm) * roof
    shell = radius - np.float32(shape.socket_radius_mm) - thickness
    shell = -shapes.smooth_union(-shell, np.float32(4.0 * shape.scale) - outward, 5.0)
    r = shape.socket_radius_mm
    notch = shapes.cone(
        points_mm, (-0.5 * r, -0.15 * r, -0.75 * r), (-0.4 * r, -0.2 * r, -1.6 * r), 0.36 * r, 0.4 * r
    )
    return shapes.smooth_cut(shell, notch, 4.0)


def _ilium(points_mm: np.ndarray, shape: PelvisShape) -> list:
    k = shape.scale

    def cone(start, end, start_radius, end_radius):
        return shapes.cone(
            points_mm, k * np.array(start), k * np.array(end), k * start_radius, k * end_radius
        )

    def plate(corners, radius):
        return shapes.triangle(points_mm, k * np.array(corners, dtype=float), k * radius)

    return [
        cone((-11, 4, 26), (-2, 4, 46), 17, 11),
        cone((-2, 4, 44), (22, 10, 90), 10, 6),
        cone((-10, -10, 24), (6, -24, 33), 9, 5),
        cone((4, -22, 34), (20, -30, 62), 5, 6),
        cone((-16, 22, 24), (-20, 44, 38), 9, 8),
        plate([(18, -30, 58), (-16, 48, 44), (60, -10, 130)], 5.0),
        plate([(-16, 48, 44), (60, -10, 130), (-20, 75, 120)], 5.0),
        plate([(0, -12, 38), (-16, 44, 36), (20, -25, 60)], 8.0),
    ]


def _pubis_and_ischium(points_mm: np.ndarray, shape: PelvisShape) -> list:
    k = shape.scale
    middle = (shape.half_width_mm - 5.5) / k

    def cone(start, end, start_radius, end_radius):
        return shapes.cone(
            points_mm, k * np.array(start), k * np.array(end), k * start_radius, k * end_radius
        )

    return [
        cone((-24, -16, 10), (-48, -27, 2), 10, 7.5),
        cone((-48, -27, 2), (-middle + 8, -36, -16), 7.5, 8),
        cone((-middle + 6, -35, -16), (-middle + 6, -26, -40), 7, 6),
        cone((-middle + 7, -26, -42), (-46, 16, -66), 5.5, 6),
        cone((-46, 16, -66), (-31, 34, -58), 6, 10),
        cone((-20, 40, 30), (-27, 38, 8), 8, 8),
        cone((-27, 38, 8), (-28, 34, -16), 8, 9),
        cone((-24, 18, -14), (-26, 28, -36), 10, 11),
        cone((-28, 34, -34), (-30, 38, -56), 12, 11),
        cone((-33, 42, 4), (-40, 48, -4), 4, 2.5),
        shapes.triangle(
            points_mm, k * np.array([(-29, -14, 22), (-29, 36, 20), (-29, 18, -18)], dtype=float), 2.6 * k
        ),
    ]


def hip_distance(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Signed distance (mm) to the surface of the hip bone, socket cut out; points ``(3, ...)``."""
    solids = _ilium(points_mm, shape) + _pubis_and_ischium(points_mm, shape)
    bone = shapes.union_all([_cup(points_mm, shape), *solids], 7.0 * shape.scale)
    socket = shapes.sphere(points_mm, (0, 0, 0), shape.socket_radius_mm)
    doorway = shapes.cone(
        points_mm, (0, 0, 0), 60 * shape.opening, 0.8 * shape.socket_radius_mm, 1.1 * shape.socket_radius_mm
    )
    return shapes.smooth_cut(shapes.smooth_cut(bone, socket, 1.0), doorway, 3.0)


def hip_cortex(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Thickness (mm) of the hip bone's cortex: thicker at the weight-bearing roof."""
    near = shapes.sigmoid((shape.socket_radius_mm + 4 - shapes.sphere(points_mm, (0, 0, 0), 0)) / 1.5)
    roof = shapes.sigmoid(points_mm[2] / 5 - 2)
    return np.float32(shape.cortex_mm) + np.float32(shape.roof_mm - shape.cortex_mm) * roof * near


def hip_density(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Trabecular density (mg/cm3): a dense dome above the head, fading with distance."""
    radius = shapes.sphere(points_mm, (0, 0, 0), 0)
    beyond = np.maximum(radius - shape.socket_radius_mm, 0)
    dome = shapes.sigmoid(points_mm[2] / 6 - 1.5) * np.exp(-beyond / np.float32(9))
    far = np.exp(-beyond / np.float32(60))
    base = shape.trabecular_mg_cm3 * (np.float32(0.4) + np.float32(0.6) * far)
    return base + shape.roof_mg_cm3 * dome


def sacrum_distance(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Signed distance (mm) to sacrum and coccyx, in the frame midway between the heads."""
    k = shape.scale
    x, y, z = points_mm
    flat = np.stack([x * np.float32(0.5), y, z])
    body = [
        shapes.cone(flat, k * np.array([0, 52, 120.0]), k * np.array([0, 78, 70.0]), 22 * k, 13 * k),
        shapes.cone(flat, k * np.array([0, 78, 70.0]), k * np.array([0, 84, 34.0]), 12 * k, 8 * k),
        shapes.cone(points_mm, k * np.array([0, 86, 34.0]), k * np.array([0, 82, 12.0]), 8 * k, 6 * k),
        shapes.cone(points_mm, k * np.array([0, 81, 7.0]), k * np.array([0, 70, -12.0]), 5 * k, 3.5 * k),
    ]
    bone = shapes.union_all(body, 5.0)
    for level in (52, 74, 96):
        for side in (-1, 1):
            hole = shapes.cone(
                points_mm,
                k * np.array([side * 16, 50, level]),
                k * np.array([side * 18, 110, level]),
                4 * k,
                4 * k,
            )
            bone = shapes.smooth_cut(bone, hole, 2.0)
    return bone
