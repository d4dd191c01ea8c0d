"""Soft tissue, table and calibration phantom round the bones.

All fields live in the patient's frame (origin midway between the femoral heads, x left, y back, z up, mm) and
are smooth distances, so that they can be computed on a coarse grid and interpolated to the scan.
"""

from dataclasses import dataclass

import numpy as np

from hipqct.phantom import shapes


@dataclass(frozen=True)
class SoftTissue:
    """Lengths (mm) and Hounsfield numbers of a patient's soft tissue."""

    half_width_mm: float = 180.0
    half_depth_mm: float = 105.0
    subcutaneous_mm: float = 25.0
    fat_plane_mm: float = 2.0
    marbling: float = 0.5
    muscle_hu: float = 55.0
    fat_hu: float = -103.0
    skin_hu: float = 30.0
    vessel_hu: float = 60.0
    bladder_hu: float = 8.0
    bowel_hu: float = 38.0
    calcified_vessels: bool = False
    gas_radius_mm: float = 15.0


MOST_UNEVEN_FAT_MM = 3.0  # one SD of the muscles' outline against the skin; more looks like tumours

BODY_WOBBLE_MM = 1.6  # one SD of the skin's unevenness
CORNER_MM = 7.0  # how wide the fat is where three muscles meet

# Centres of the muscles of the left hip relative to the head (mm), for a head of 24 mm radius: (x, y) at the
# height of the head, their drift in x and y per mm downward, and a size that shifts the borders.
MUSCLES = {
    "iliopsoas": (2, -38, 0.25, 0.25, 22),
    "sartorius": (30, -62, -0.15, 0.0, 10),
    "rectus femoris": (40, -45, 0.05, -0.05, 16),
    "tensor fasciae latae": (68, -32, 0.0, 0.1, 16),
    "gluteus medius": (55, 5, 0.1, 0.0, 24),
    "gluteus minimus": (34, -8, 0.1, 0.0, 14),
    "gluteus maximus": (25, 72, 0.2, 0.0, 44),
    "gluteus maximus low": (-20, 85, 0.4, 0.0, 35),
    "vastus lateralis": (66, 5, 0.0, -0.1, 18),
    "vastus intermedius": (42, -18, 0.05, 0.0, 14),
    "pectineus": (-28, -42, 0.25, 0.1, 16),
    "adductor longus": (-50, -38, 0.25, 0.1, 14),
    "adductor magnus": (-38, 20, 0.25, 0.1, 24),
    "gracilis": (-75, -10, 0.2, 0.05, 10),
    "obturator internus": (-42, 8, 0.0, 0.0, 12),
    "obturator externus": (-35, -12, 0.15, 0.1, 14),
    "quadratus femoris": (8, 36, 0.2, 0.0, 13),
    "hamstrings": (-12, 48, 0.25, -0.1, 14),
    "piriformis": (-5, 50, 0.0, 0.0, 10),
}


def body_distance(points_mm: np.ndarray, soft: SoftTissue) -> np.ndarray:
    """Signed distance to the skin: trunk above, two thighs below the perineum, joined smoothly."""
    x, y, z = points_mm
    wide, deep = soft.half_width_mm, soft.half_depth_mm
    taper = np.clip(-z * np.float32(1 / 250), -0.1, 0.5)
    trunk = np.stack([x / np.float32(wide), (y - 12) / np.float32(deep)])
    trunk = ((np.abs(trunk[0]) ** 2.5 + np.abs(trunk[1]) ** 2.3) ** np.float32(0.42) - 1) * np.float32(deep)
    fold = np.maximum(-35 - z, 0)
    trunk = trunk + fold * fold * np.float32(0.025)
    half = np.float32(0.5) * (wide - 4)
    legs = []
    for side in (-1, 1):
        u = (x - side * (half + 4 - 10 * taper)) / (half * (1 - taper * np.float32(0.35)))
        v = (y - 6) / (np.float32(0.88 * deep) * (1 - taper * np.float32(0.3)))
        legs.append((np.sqrt(u * u + v * v) - 1) * half)
    leg = np.minimum(legs[0], legs[1])
    return shapes.smooth_union(trunk, np.maximum(leg, z - 20), 20.0)


def _muscle_cells(points_mm: np.ndarray, half_width_mm: float, rng):
    """Depth (mm) below the nearest muscle's outline, distance to its middle, and its index.

    A weighted Voronoi diagram whose corners, where three muscles meet, are rounded.
    """
    x, y, z = points_mm
    best = np.full(x.shape, 1e6, dtype=np.float32)
    second, third, label = best.copy(), best.copy(), np.zeros(x.shape, dtype=np.int16)
    index = 0
    for side in (-1, 1):
        for along_x, along_y, slope_x, slope_y, size in MUSCLES.values():
            jitter = rng.normal(0, 4, size=2)
            slope = np.array([slope_x, slope_y]) + rng.normal(0, 0.08, size=2)
            down = -z
            center_x = side * (half_width_mm + along_x + jitter[0] + down * np.float32(slope[0]))
            center_y = along_y + jitter[1] + down * np.float32(slope[1])
            distance = np.sqrt((x - center_x) ** 2 + (y - center_y) ** 2) - np.float32(0.6 * size)
            closer = distance < best
            third = np.minimum(third, np.maximum(second, distance))
            second = np.where(closer, best, np.minimum(second, distance))
            label[closer] = index
            best = np.where(closer, distance, best)
            index += 1
    half = np.float32(0.5)
    return shapes.smooth_union(half * (second - best), half * (third - best), CORNER_MM), best, label


def pelvic_cavity(points_mm: np.ndarray, half_width_mm: float) -> np.ndarray:
    """Signed distance to the space between the hip bones that holds fat, bladder and bowel."""
    x, y, z = points_mm
    width = np.float32(half_width_mm - 38)
    ring = np.sqrt((x / width) ** 2 + ((y - 18) / 62) ** 2)
    above = (np.sqrt((x / np.float32(half_width_mm + 10)) ** 2 + ((y + 5) / 75) ** 2) - 1) * 60
    floor = np.maximum(-8 - z, 0)
    low = (ring - 1) * width + floor * floor * np.float32(0.045)
    return shapes.smooth_union(low, np.maximum(above, 35 - z), 15.0)


def vessels(half_width_mm: float, rng) -> list:
    """Femoral artery and vein of both sides as ``(start, end, radius)``, in the patient's frame."""
    tubes = []
    for side in (-1, 1):
        for offset_x, offset_y, radius in ((-12, -52, 4.2), (-24, -48, 5.2)):
            x, y = half_width_mm + offset_x + rng.normal(0, 2), offset_y + rng.normal(0, 3)
            tubes.append(((side * (x - 18), y + 15, 90), (side * x, y, 10), radius))
            tubes.append(((side * x, y, 10), (side * (x + 4), y + 20, -120), radius * 0.9))
    return tubes


def _organs(points_mm: np.ndarray, half_width_mm: float, rng) -> np.ndarray:
    """Distance to the soft organs of the small pelvis: womb or prostate, pelvic floor, loops of bowel."""
    wall_mm = half_width_mm - 44
    solids = [
        shapes.ellipsoid(points_mm, rng.normal((0, 22, 5), 5), rng.uniform((20, 14, 18), (34, 22, 32))),
        *(shapes.cone(points_mm, (s * wall_mm, 0, 15), (s * (wall_mm - 8), 24, -25), 8, 9) for s in (-1, 1)),
        *(shapes.cone(points_mm, (s * (wall_mm - 12), 20, -18), (s * 8, 40, -50), 4, 7) for s in (-1, 1)),
    ]
    for _ in range(int(rng.integers(3, 8))):
        start = rng.uniform((-55, -50, 30), (55, 35, 80))
        solids.append(
            shapes.cone(points_mm, start, start + rng.normal(0, 25, size=3), *rng.uniform(9, 16, size=2))
        )
    return np.minimum.reduce(solids)


def _organ_fields(
    points_mm: np.ndarray, soft: SoftTissue, half_width_mm: float, uneven_mm: np.ndarray, rng
) -> dict:
    """Distances to bladder, soft organs, rectum and the gas in it."""
    filling = rng.uniform(0.6, 1.3)
    organs = _organs(points_mm, half_width_mm, rng) + uneven_mm
    bladder_mm = (rng.normal(0, 4), -8, 22 * filling)
    gas_mm = (2, 46, rng.uniform(-20, 40))
    return {
        "bladder": shapes.ellipsoid(points_mm, bladder_mm, (38 * filling, 28 * filling, 26 * filling)),
        "organ": organs,
        "rectum": shapes.cone(points_mm, (0, 52, -35), (8, 60, 60), 14, 18) + uneven_mm,
        "gas": shapes.ellipsoid(points_mm, gas_mm, soft.gas_radius_mm * np.array([0.9, 0.6, 1.6])),
    }


def soft_fields(points_mm: np.ndarray, soft: SoftTissue, half_width_mm: float, rng) -> dict:
    """Distances and smooth variations from which the scanner paints soft tissue; one array per name."""
    wobble = shapes.WaveField(rng, 2, 60, 150)(points_mm)
    body = body_distance(points_mm, soft) + wobble[0] * np.float32(BODY_WOBBLE_MM)
    uneven_mm = np.float32(min(0.25 * soft.subcutaneous_mm, MOST_UNEVEN_FAT_MM))
    envelope = body + uneven_mm * wobble[1]
    envelope += np.float32(soft.subcutaneous_mm) * (1 + np.clip(points_mm[1] / 80, -1, 1) / 4)
    bend = shapes.WaveField(rng, 3, 50, 140)(points_mm) * np.float32(6)
    bend += shapes.WaveField(rng, 3, 15, 45, waves=7)(points_mm) * np.float32(1.5)
    gap, nearest, label = _muscle_cells(points_mm + bend, half_width_mm, rng)
    uneven_plane = np.clip(1 + shapes.WaveField(rng, 1, 20, 70)(points_mm)[0] * np.float32(0.6), 0, 3)
    stretch = np.array([1, 1, 0.4], np.float32).reshape(3, 1, 1, 1)
    streak = shapes.WaveField(rng, 2, 12, 45, waves=7)(points_mm * stretch)
    tone = rng.normal(0, 6, size=2 * len(MUSCLES)).astype(np.float32)
    cavity = pelvic_cavity(points_mm, half_width_mm) + wobble[0] * 3
    tubes = [
        shapes.cone(points_mm, start, end, radius, radius)
        for start, end, radius in vessels(half_width_mm, rng)
    ]
    return {
        "body": body,
        "muscle": np.maximum(
            np.maximum(envelope, np.float32(soft.fat_plane_mm * 0.5) * uneven_plane - gap), -cavity
        ),
        "lean": nearest,
        "tone": tone[label],
        "streak": streak[0],
        "vessel": np.minimum.reduce(tubes),
        **_organ_fields(points_mm, soft, half_width_mm, streak[1] * 2, rng),
        "grain": shapes.WaveField(rng, 1, 8, 18, waves=8)(points_mm * stretch)[0],
    }
