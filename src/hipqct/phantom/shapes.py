"""Signed distances (mm, negative inside) of the simple solids that the bones are built from.

Points are float32 arrays of shape ``(3, ...)`` in millimetres; every function returns an array of shape
``(...)``. Distances are exact for spheres and cones of one radius and first-order accurate near the surface
for the others. Formulae: J. C. Hart, Sphere tracing (1996); polynomial smooth minimum after I. Quilez.
"""

import numpy as np


def dot(points_mm: np.ndarray, vector) -> np.ndarray:
    """Scalar product of every point with one vector, shape ``(...)``."""
    x, y, z = (np.float32(v) for v in vector)
    return points_mm[0] * x + points_mm[1] * y + points_mm[2] * z


def shift(points_mm: np.ndarray, origin_mm) -> np.ndarray:
    """Points relative to ``origin_mm``."""
    origin_mm = np.asarray(origin_mm, dtype=np.float32)
    return points_mm - origin_mm.reshape(3, *[1] * (points_mm.ndim - 1))


def sphere(points_mm: np.ndarray, center_mm, radius_mm: float) -> np.ndarray:
    """Distance to a sphere."""
    x, y, z = (points_mm[i] - np.float32(center_mm[i]) for i in range(3))
    return np.sqrt(x * x + y * y + z * z) - np.float32(radius_mm)


def ellipsoid(points_mm: np.ndarray, center_mm, radii_mm) -> np.ndarray:
    """First-order distance to an ellipsoid with axes along x, y, z."""
    scaled = [(points_mm[i] - np.float32(center_mm[i])) / np.float32(radii_mm[i]) for i in range(3)]
    length = np.sqrt(sum(s * s for s in scaled))
    slope = np.sqrt(sum((s / np.float32(r)) ** 2 for s, r in zip(scaled, radii_mm, strict=True)))
    return length * (length - 1) / np.maximum(slope, np.float32(1e-6))


def cone(points_mm: np.ndarray, start_mm, end_mm, start_radius_mm: float, end_radius_mm: float) -> np.ndarray:
    """Distance to a capsule whose radius runs linearly from start to end."""
    start_mm = np.asarray(start_mm, dtype=float)
    axis_mm = np.asarray(end_mm, dtype=float) - start_mm
    x, y, z = (points_mm[i] - np.float32(start_mm[i]) for i in range(3))
    ax, ay, az = (np.float32(a) for a in axis_mm)
    along = np.clip((x * ax + y * ay + z * az) / np.float32(axis_mm @ axis_mm), 0, 1)
    x, y, z = x - along * ax, y - along * ay, z - along * az
    radius_mm = np.float32(start_radius_mm) + along * np.float32(end_radius_mm - start_radius_mm)
    return np.sqrt(x * x + y * y + z * z) - radius_mm


def triangle(points_mm: np.ndarray, corners_mm, radius_mm: float) -> np.ndarray:
    """Distance to a plate: all points within ``radius_mm`` of the triangle with these three corners."""
    a, b, c = (np.asarray(corner, dtype=float) for corner in corners_mm)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal)
    edges = [cone(points_mm, s, e, 0, 0) for s, e in ((a, b), (b, c), (c, a))]
    inside = np.ones(points_mm.shape[1:], dtype=bool)
    for s, e in ((a, b), (b, c), (c, a)):
        inward = np.cross(normal, e - s)
        inside &= dot(points_mm, inward) >= np.float32(inward @ s)
    plane = np.abs(dot(points_mm, normal) - np.float32(normal @ a))
    edge = np.minimum(np.minimum(edges[0], edges[1]), edges[2])
    return np.where(inside, plane, edge) - np.float32(radius_mm)


def smooth_union(first: np.ndarray, second: np.ndarray, blend_mm: float) -> np.ndarray:
    """Union with a fillet about ``blend_mm`` wide."""
    h = np.maximum(np.float32(blend_mm) - np.abs(first - second), 0)
    return np.minimum(first, second) - h * h * np.float32(0.25 / blend_mm)


def smooth_cut(body: np.ndarray, tool: np.ndarray, blend_mm: float) -> np.ndarray:
    """``body`` without ``tool``, the rim rounded over ``blend_mm``."""
    return -smooth_union(-body, tool, blend_mm)


def union_all(distances, blend_mm: float) -> np.ndarray:
    """Smooth union of several solids."""
    distances = iter(distances)
    result = next(distances)
    for distance in distances:
        result = smooth_union(result, distance, blend_mm)
    return result


def occupancy(distance_mm: np.ndarray, width_mm: float) -> np.ndarray:
    """Fraction of a cell ``width_mm`` wide that lies inside, 0..1, from the distance at its centre."""
    return np.clip(np.float32(0.5) - distance_mm * np.float32(1 / width_mm), 0, 1)


def sigmoid(value: np.ndarray) -> np.ndarray:
    """Logistic step from 0 to 1, safe for large arguments."""
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * value))


def rotation(x_deg: float, y_deg: float, z_deg: float) -> np.ndarray:
    """Rotation matrix: about x, then y, then z (degrees, right-handed)."""
    (cx, sx), (cy, sy), (cz, sz) = [(np.cos(a), np.sin(a)) for a in np.radians([x_deg, y_deg, z_deg])]
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def rotate(points_mm: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``matrix @ point`` for every point."""
    return np.stack([dot(points_mm, row) for row in matrix])


class WaveField:
    """A smooth random vector (or scalar) field: a sum of plane waves with unit root-mean-square.

    Args:
        rng: source of directions and phases.
        components: 3 for a displacement, 1 for a scalar.
        shortest_mm, longest_mm: range of wavelengths.
        waves: how many per component.
    """

    def __init__(self, rng, components: int, shortest_mm: float, longest_mm: float, waves: int = 5):
        direction = rng.normal(size=(components, waves, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        wavelength_mm = rng.uniform(shortest_mm, longest_mm, size=(components, waves, 1))
        self.frequency = 2 * np.pi * direction / wavelength_mm
        self.phase = rng.uniform(0, 2 * np.pi, size=(components, waves))
        self.amplitude = np.sqrt(2 / waves)

    def __call__(self, points_mm: np.ndarray) -> np.ndarray:
        """Values at the points, shape ``(components, ...)``."""
        values = []
        for frequencies, phases in zip(self.frequency, self.phase, strict=True):
            waves = (
                np.sin(dot(points_mm, k) + np.float32(p)) for k, p in zip(frequencies, phases, strict=True)
            )
            values.append(sum(waves) * np.float32(self.amplitude))
        return np.stack(values)
