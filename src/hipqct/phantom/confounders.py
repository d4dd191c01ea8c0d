"""What makes real scans harder: bone lesions, osteophytes, metal, hands, dark bands and streaks."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hipqct.phantom import shapes
from hipqct.phantom.femur import FemurShape

METAL_MG_CM3 = 6000.0  # beyond what 12 bits hold, as titanium and steel are
ISLAND_MG_CM3 = 900.0
CYST_MG_CM3 = 20.0

# Along y, a dark band lies within this distance (mm, one SD) of the rows with most bone.
BAND_BLUR_MM = 12.0


@dataclass(frozen=True)
class Confounders:
    """How many, where and how strong; all absent by default.

    ``osteophytes``, ``islands`` and ``cysts`` count per femur; ``metal_side`` is ``"left"``, ``"right"`` or
    empty: a nail and a neck screw lie in that femur. ``dark_band_hu`` is the depth of the beam-hardening band
    between the hips, ``streak_noise`` the ratio of horizontal streaks (photon starvation) to the noise.
    """

    osteophytes: int = 0
    islands: int = 0
    cysts: int = 0
    metal_side: str = ""
    hands: int = 0
    dark_band_hu: float = 0.0
    streak_noise: float = 0.0


def sample_confounders(rng, age: float) -> Confounders:
    """Draw confounders; bone disease grows with age."""
    disease = np.clip((age - 40) / 50, 0.05, 1.0)
    return Confounders(
        osteophytes=int(rng.integers(2, 9)) if rng.random() < 0.35 * disease else 0,
        islands=int(rng.integers(1, 3)) if rng.random() < 0.12 else 0,
        cysts=int(rng.integers(1, 4)) if rng.random() < 0.25 * disease else 0,
        metal_side=str(rng.choice(["left", "right"])) if rng.random() < 0.04 else "",
        hands=int(rng.integers(1, 3)) if rng.random() < 0.08 else 0,
        dark_band_hu=float(rng.uniform(2, 22)) if rng.random() < 0.6 else 0.0,
        streak_noise=float(rng.uniform(0, 0.5)) if rng.random() < 0.4 else 0.0,
    )


def osteophytes(shape: FemurShape, count: int, rng) -> list:
    """Bony spurs ``(centre in the femur's frame, radius)`` round the border of head and neck, in mm."""
    axis = shape.neck_axis
    across = np.cross(axis, shape.posterior)
    spurs = []
    for _ in range(count):
        turn, place = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35)
        around = np.cos(turn) * across + np.sin(turn) * shape.posterior
        radius_mm = shape.head_radius_mm
        center = -place * radius_mm * axis * 1.5 + 0.92 * radius_mm * around * np.sqrt(1 - 0.6 * place)
        spurs.append((center, rng.uniform(2.0, 5.0)))
    return spurs


def lesions(shape: FemurShape, confounders: Confounders, rng) -> list:
    """Bone islands and cysts ``(centre in the femur's frame, radius mm, mg/cm3)``."""
    found = []
    for count, density, radius_mm in (
        (confounders.islands, ISLAND_MG_CM3, (1.5, 4.0)),
        (confounders.cysts, CYST_MG_CM3, (2.0, 6.0)),
    ):
        for _ in range(count):
            along = rng.uniform(-0.3, 1.0) * shape.neck_length_mm
            center = -along * shape.neck_axis + rng.normal(0, 0.3 * shape.head_radius_mm, size=3)
            found.append((center, rng.uniform(*radius_mm), density))
    return found


def add_lesions(density: np.ndarray, points_mm: np.ndarray, found: list) -> np.ndarray:
    """Trabecular density with lesions blended in over 1 mm."""
    for center, radius_mm, lesion in found:
        share = shapes.occupancy(shapes.sphere(points_mm, center, radius_mm), 1.0)
        density = density + (np.float32(lesion) - density) * share
    return density


def metal_distance(points_mm: np.ndarray, shape: FemurShape) -> np.ndarray:
    """Signed distance to an intramedullary nail with a neck screw, points in the femur's frame."""
    at = shape.at
    nail = shapes.cone(points_mm, at(0, 1, 22), at(0, 0, -160), 5.5, 5.0)
    tip = 0.35 * shape.head_radius_mm * shape.neck_axis
    screw = shapes.cone(points_mm, tip, shape.shaft_point_mm - 18 * shape.neck_axis, 5.0, 5.0)
    return np.minimum(nail, screw)


def metal_streaks(shape, pixel_mm: float, center_px, rng) -> np.ndarray:
    """Bright and dark rays (HU, ``(nx, ny)``) out of metal at ``center_px``, fading over decimetres."""
    x = (np.arange(shape[0]) - center_px[0])[:, None] * pixel_mm
    y = (np.arange(shape[1]) - center_px[1])[None] * pixel_mm
    rays = ndimage.gaussian_filter1d(rng.normal(size=720), 3.0, mode="wrap")
    rays = (rays + rays[(np.arange(720) + 360) % 720]) / rays.std()
    angle = (np.arctan2(y, x) / np.pi + 1) * 360
    value = np.interp(angle, np.arange(721), np.append(rays, rays[0]))
    distance = np.hypot(x, y)
    return (90 * value * np.exp(-distance / 70) * np.clip(distance / 12, 0, 1)).astype(np.float32)


def dark_band(hu: np.ndarray, pixel_mm: float, depth_hu: float) -> np.ndarray:
    """Beam hardening: how much darker (HU) the rows become that cross much bone, shape ``(1, ny, nz)``."""
    bone = np.clip(hu - 200, 0, 1200).sum(axis=0) * np.float32(pixel_mm / 1000)
    band = ndimage.gaussian_filter1d(bone, BAND_BLUR_MM / pixel_mm, axis=0)
    return depth_hu * np.clip(band / 60, 0, 1.5)[None]


def hand_tubes(count: int, beside_mm: float, rng) -> list:
    """Fingers ``beside_mm`` from the middle, each round a bone: ``(start, end, radius)``, patient's frame."""
    tubes = []
    for side in rng.permutation([-1, 1])[:count]:
        x, y, z = beside_mm, rng.uniform(-30, 30), rng.uniform(-90, 20)
        for finger in range(4):
            start = (side * (x + rng.uniform(-3, 3)), y + 17 * finger, z + rng.uniform(-10, 10) + 60)
            end = (start[0] + rng.uniform(-6, 6), start[1] + rng.uniform(-8, 8), start[2] - 130)
            tubes.append((start, end, rng.uniform(8, 10)))
    return tubes
