"""The left hip bone round the femoral head, and the sacrum with the coccyx.

Frame of the hip bone: origin at the centre of the femoral head, x to the side, y to the back, z up; a right
hip bone is the mirror image. Frame of the sacrum: origin midway between the two heads. Lengths are for a
head of 24 mm radius and scale with ``PelvisShape.scale``. Simplified solids, not atlas shapes.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from hipqct.phantom import shapes


@dataclass(frozen=True)
class PelvisShape:
    """Lengths (mm), angles (degrees) and densities (mg/cm3) of the pelvis.

    ``socket_shift_mm`` is where the socket's centre lies from the head's (the joint space is then uneven);
    ``fossa_mm`` how deep the fossa at the socket's floor lies below the surface that bears.
    """

    head_radius_mm: float = 24.0
    joint_space_mm: float = 3.0
    socket_shift_mm: tuple = (0.0, 0.0, 0.0)
    fossa_mm: float = 0.0
    half_width_mm: float = 90.0
    cup_abduction_deg: float = 45.0
    cup_anteversion_deg: float = 18.0
    wall_mm: float = 5.0
    rim_mm: float = 1.0
    cortex_mm: float = 1.6
    roof_mm: float = 3.0
    cortical_mg_cm3: float = 950.0
    trabecular_mg_cm3: float = 130.0
    roof_mg_cm3: float = 420.0
    sacrum_mg_cm3: float = 110.0
    texture_mg_cm3: float = 40.0
    endosteal_mg_cm3: float = 200.0
    jitter_mm: float = 1.2

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
    """Shell of the acetabulum, thick at the roof and thin at the medial wall, with the notch below.

    Points are relative to the socket's centre, as in `_fossa`.
    """
    outward = shapes.dot(points_mm, shape.opening)
    radius = shapes.sphere(points_mm, (0, 0, 0), 0)
    roof = shapes.sigmoid((points_mm[2] + np.float32(0.3) * points_mm[1]) / np.float32(8) - 1)
    thickness = np.float32(shape.wall_mm * 0.7) + np.float32(shape.wall_mm * 0.6) * roof
    behind = shapes.sigmoid((shapes.dot(points_mm, _fossa_axis(shape)) / radius - np.float32(0.6)) * 12)
    shell = radius - np.float32(shape.socket_radius_mm) - thickness - np.float32(shape.fossa_mm) * behind
    shell = -shapes.smooth_union(-shell, np.float32(shape.rim_mm * shape.scale) - outward, 3.0)
    r = shape.socket_radius_mm
    low, lower = (-0.5 * r, -0.15 * r, -0.75 * r), (-0.4 * r, -0.2 * r, -1.6 * r)
    return shapes.smooth_cut(shell, shapes.cone(points_mm, low, lower, 0.36 * r, 0.4 * r), 4.0)


def _fossa_axis(shape: PelvisShape) -> np.ndarray:
    """Unit vector to the middle of the acetabular fossa: into the socket, and down."""
    axis = -shape.opening + np.array([0, 0, -0.75])
    return axis / np.linalg.norm(axis)


def _fossa(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Distance to the ball that hollows the socket's floor by ``fossa_mm``."""
    r = 0.6 * shape.socket_radius_mm
    out_mm = shape.socket_radius_mm + shape.fossa_mm - r
    return shapes.sphere(points_mm, out_mm * _fossa_axis(shape), r)


# Cones of the left hip bone for a head of 24 mm radius: start, end (mm from its centre), both radii.
HIP_CONES = {
    "body of ilium": ((-13, 5, 30), (-2, 5, 50), 17, 12),
    "wing above": ((-2, 5, 48), (18, 8, 90), 11, 7),
    "roof": ((-4, 4, 32), (8, 5, 31), 9, 6),
    "anterior inferior spine": ((-12, -14, 26), (4, -27, 32), 10, 5),
    "anterior border": ((3, -25, 34), (20, -32, 62), 5, 6),
    "greater sciatic notch": ((-18, 22, 30), (-20, 44, 40), 11, 9),
    "behind the socket": ((-17, 22, 24), (-25, 37, 8), 11, 9),
    "posterior column": ((-25, 37, 8), (-27, 37, -12), 9, 10),
    "posterior wall": ((-18, 27, 10), (3, 29, 3), 8, 5),
    "posterior wall low": ((-20, 28, -4), (-4, 28, -8), 8, 5),
    "ischium": ((-27, 32, -12), (-27, 28, -36), 11, 12),
    "ischium front": ((-26, 18, -14), (-24, 16, -32), 9, 8),
    "tuberosity": ((-27, 40, -30), (-31, 38, -58), 11, 12),
    "ischial spine": ((-33, 42, 4), (-42, 50, -5), 4, 2.5),
    "anterior column": ((-18, -16, 14), (-34, -23, -1), 9, 8.5),
    "anterior wall": ((-16, -24, 12), (-4, -26, 12), 6, 4),
    "superior ramus": ((-34, -23, -1), (-56, -29, -8), 8.5, 7.5),
}
# The same near the symphysis; a positive x is the distance from the middle of the body.
PUBIC_CONES = {
    "ramus to body": ((-56, -29, -8), (14, -36, -18), 7.5, 8.5),
    "body of pubis": ((8, -35, -16), (8, -27, -38), 8, 7),
    "inferior ramus": ((9, -26, -40), (42, 14, -66), 6, 6),
    "ramus of ischium": ((42, 14, -66), (58, 34, -58), 6.5, 11),
}
HIP_PLATES = {
    "wing front": (((18, -30, 58), (-16, 48, 44), (60, -10, 130)), 5.0),
    "wing back": (((-16, 48, 44), (60, -10, 130), (-20, 75, 120)), 5.0),
    "neck of ilium": (((0, -14, 38), (-16, 42, 36), (18, -25, 60)), 9.0),
    "medial wall": (((-29, -14, 22), (-29, 36, 20), (-29, 18, -18)), 3.0),
}


def hip_solids(shape: PelvisShape, rng) -> list:
    """The hip bone's solids as functions of points, each shifted and scaled a little at random."""
    k, middle = shape.scale, -shape.half_width_mm / shape.scale
    solids = []

    def near(point):
        return k * (np.asarray(point, dtype=float) + rng.normal(0, shape.jitter_mm, size=3))

    def size(radius):
        return k * radius * np.exp(rng.normal(0, shape.jitter_mm * 0.05))

    pubic = [
        (_from_middle(start, middle), _from_middle(end, middle), *radii)
        for start, end, *radii in PUBIC_CONES.values()
    ]
    for start, end, start_radius, end_radius in [*HIP_CONES.values(), *pubic]:
        solids.append(
            partial(
                shapes.cone,
                start_mm=near(start),
                end_mm=near(end),
                start_radius_mm=size(start_radius),
                end_radius_mm=size(end_radius),
            )
        )
    for corners, radius in HIP_PLATES.values():
        solids.append(partial(shapes.triangle, corners_mm=[near(c) for c in corners], radius_mm=size(radius)))
    return solids


def _from_middle(point, middle: float):
    """A pubic point: a positive x is the distance from the symphysis."""
    return point if point[0] < 0 else (middle + point[0], point[1], point[2])


def hip_distance(points_mm: np.ndarray, shape: PelvisShape, solids: list) -> np.ndarray:
    """Signed distance (mm) to the surface of the hip bone, socket cut out; points ``(3, ...)``."""
    at_socket = shapes.shift(points_mm, shape.socket_shift_mm)
    bone = shapes.union_all([_cup(at_socket, shape), *(s(points_mm) for s in solids)], 8.0 * shape.scale)
    r = shape.socket_radius_mm
    socket = shapes.sphere(at_socket, (0, 0, 0), r)
    doorway = shapes.cone(at_socket, shape.rim_mm * shape.opening, 60 * shape.opening, r, 1.35 * r)
    bone = shapes.smooth_cut(shapes.smooth_cut(bone, socket, 1.0), doorway, 3.0)
    if shape.fossa_mm:
        bone = shapes.smooth_cut(bone, _fossa(at_socket, shape), 3.0)
    gap = np.float32(2.0 - shape.half_width_mm) - points_mm[0]
    return -shapes.smooth_union(-bone, -gap, 3.0)


def hip_cortex(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Thickness (mm) of the hip bone's cortex: thicker at the weight-bearing roof."""
    radius = shapes.sphere(points_mm, shape.socket_shift_mm, 0)
    near = shapes.sigmoid((shape.socket_radius_mm + 4 - radius) / 1.5)
    roof = shapes.sigmoid(points_mm[2] / 5 - 2)
    return np.float32(shape.cortex_mm) + np.float32(shape.roof_mm - shape.cortex_mm) * roof * near


def hip_density(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Trabecular density (mg/cm3): a dense dome above the head, fading with distance."""
    radius = shapes.sphere(points_mm, shape.socket_shift_mm, 0)
    beyond = np.maximum(radius - shape.socket_radius_mm, 0)
    dome = shapes.sigmoid(points_mm[2] / 6 - 1.5) * np.exp(-beyond / np.float32(7))
    far = np.exp(-beyond / np.float32(60))
    base = shape.trabecular_mg_cm3 * (np.float32(0.35) + np.float32(0.5) * far)
    return base + shape.roof_mg_cm3 * dome


# Middles (back, up; mm, for heads of 24 mm radius) of the bodies of the fifth to second lumbar vertebrae.
VERTEBRAE = ((41, 148), (36, 184), (38, 220), (44, 256))


def _vertebra(points_mm: np.ndarray, back: float, up: float) -> np.ndarray:
    """Distance to a lumbar vertebra: an oval body 27 mm high with a spinous process behind the canal."""
    x, y, z = points_mm
    x, y, z = x * np.float32(0.72), y - np.float32(back), np.abs(z - np.float32(up)) - np.float32(13.5)
    body = np.maximum(np.sqrt(x * x + y * y) - np.float32(17), z)
    arch = shapes.cone(points_mm, (0, back + 36, up - 4), (0, back + 62, up - 10), 5, 4)
    return np.minimum(body, arch)


def sacrum_distance(points_mm: np.ndarray, shape: PelvisShape) -> np.ndarray:
    """Signed distance (mm) to sacrum, coccyx and lumbar spine, in the frame midway between the heads."""
    k = shape.scale
    x, y, z = points_mm
    flat = np.stack([x * np.float32(0.36), y, z])
    body = [
        shapes.cone(flat, k * np.array([0, 52, 120.0]), k * np.array([0, 76, 70.0]), 20 * k, 13 * k),
        shapes.cone(flat, k * np.array([0, 76, 70.0]), k * np.array([0, 84, 32.0]), 12 * k, 9 * k),
        shapes.cone(flat, k * np.array([0, 85, 30.0]), k * np.array([0, 82, 14.0]), 7.5 * k, 5 * k),
        shapes.cone(points_mm, k * np.array([0, 81, 7.0]), k * np.array([0, 70, -12.0]), 5 * k, 3.5 * k),
    ]
    body += [_vertebra(points_mm / np.float32(k), *middle) * np.float32(k) for middle in VERTEBRAE]
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
