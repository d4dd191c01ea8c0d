"""Painting soft tissue, table and calibration rods into a scan."""

import numpy as np

from hipqct.image import Image
from hipqct.phantom import shapes
from hipqct.phantom.confounders import hand_tubes
from hipqct.phantom.parameters import PhantomParameters
from hipqct.phantom.patient import SIDE, Patient
from hipqct.phantom.soft import BODY_WOBBLE_MM, SoftTissue, body_distance, soft_fields

COARSE_MM = 3.5  # distances vary smoothly, so this grid with linear interpolation is enough

# Rods of the two common types of calibration phantom, mg/cm3 of their own basis: the nominal steps of the
# five solid rods sold as K2HPO4 equivalents (not those of one phantom's certificate), and of hydroxyapatite
# rods (0 to 800, as in the manufacturer's phantom of PMID 22044640).
ROD_DENSITIES_MG_CM3 = {"K2HPO4": (-50.0, 0.0, 60.0, 155.0, 370.0), "HA": (0.0, 100.0, 200.0, 400.0, 800.0)}
ROD_RADIUS_MM = 9.0
ROD_SPACING_MM = 42.0
PAD_HU = 15.0
PAD_HALF_DEPTH_MM = 14.0
TABLE_HU = -250.0
HAND_MM = 16.0  # from a hand's middle to the skin beside it


def _linear(positions: np.ndarray, nodes: int) -> tuple:
    """Lower node and weight of the upper one for linear interpolation at fractional node positions."""
    low = np.clip(positions.astype(int), 0, nodes - 2)
    return low, (positions - low).astype(np.float32)


class Upsampler:
    """Coarse fields on the scan's box, interpolated to one slice at a time."""

    def __init__(self, ct: Image):
        extent = [n * s for n, s in zip(ct.shape, ct.spacing_mm, strict=True)]
        self.nodes = [max(2, int(np.ceil(e / COARSE_MM)) + 1) for e in extent]
        axes = [
            o - s / 2 + np.linspace(0, e, n)
            for o, s, e, n in zip(ct.origin_mm, ct.spacing_mm, extent, self.nodes, strict=True)
        ]
        self.points_mm = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        self.steps = [
            _linear((np.arange(n) + 0.5) / n * (m - 1), m) for n, m in zip(ct.shape, self.nodes, strict=True)
        ]

    def slice(self, field: np.ndarray, k: int) -> np.ndarray:
        """The field on slice ``k``, shape ``(nx, ny)``."""
        (low_x, part_x), (low_y, part_y), (low_z, part_z) = self.steps
        plane = field[..., low_z[k]] + part_z[k] * (field[..., low_z[k] + 1] - field[..., low_z[k]])
        plane = plane[low_x] + part_x[:, None] * (plane[low_x + 1] - plane[low_x])
        return plane[:, low_y] + part_y * (plane[:, low_y + 1] - plane[:, low_y])


def _blend(hu: np.ndarray, distance: np.ndarray, width_mm: float, tissue_hu) -> np.ndarray:
    fraction = shapes.occupancy(distance, width_mm)
    return hu + (tissue_hu - hu) * fraction


def paint_soft_tissue(ct: Image, parameters: PhantomParameters, patient: Patient, rng) -> list[dict]:
    """Paint everything but bone into ``ct`` in place; return the calibration rods."""
    up = Upsampler(ct)
    soft, pixel_mm = parameters.soft, ct.spacing_mm[0]
    fields = soft_fields(patient.to_patient(up.points_mm), soft, patient.half_width_mm, rng)
    fields["joint"] = _joints(up.points_mm, parameters, patient)
    back_mm = _back(ct, soft, patient)
    if parameters.confounders.hands:
        tubes = hand_tubes(parameters.confounders.hands, _beside(ct, soft.half_width_mm), rng)
        local = patient.to_patient(up.points_mm)
        fields["hand"] = np.minimum.reduce([shapes.cone(local, s, e, r, r) for s, e, r in tubes])
    furniture, rods = _furniture(ct, parameters, back_mm)
    for k in range(ct.shape[2]):
        f = {name: up.slice(field, k) for name, field in fields.items()}
        hu = furniture.copy()
        hu = _blend(hu, f["body"], pixel_mm, soft.skin_hu)
        hu = _blend(hu, f["body"] + 1.8, pixel_mm, soft.fat_hu + 4 * f["streak"])
        fatty = np.maximum(f["grain"] + 0.5 * f["streak"] - 1.1, 0)
        lean = soft.muscle_hu + f["tone"] - np.minimum(90 * soft.marbling * fatty, 130)
        hu = _blend(hu, f["muscle"], 1.5, lean)
        hu = _blend(hu, np.maximum(f["joint"], f["body"]), 3.0, soft.muscle_hu - 5)
        hu = _blend(hu, np.maximum(f["organ"], f["body"] + 15), 1.5, 40.0 + 6 * f["streak"])
        hu = _blend(hu, f["bladder"] - 3, 1.5, 35.0)
        hu = _blend(hu, f["bladder"], 1.5, soft.bladder_hu)
        hu = _blend(hu, f["rectum"], 1.5, 38.0 + 8 * f["streak"])
        hu = _blend(hu, f["rectum"] + 4, 1.5, soft.bowel_hu)
        hu = _blend(hu, f["vessel"], 1.5, soft.vessel_hu)
        if soft.calcified_vessels:
            hu = _blend(hu, np.maximum(np.abs(f["vessel"]) - 0.6, 1.2 - f["streak"]), 1.0, 700.0)
        if "hand" in f:
            hu = _blend(hu, f["hand"], pixel_mm, soft.muscle_hu)
            hu = _blend(hu, f["hand"] + 4.5, 1.5, 750.0)
        ct.array[..., k] = _blend(hu, np.maximum(f["gas"], f["rectum"] + 3), 1.5, -950.0)
    return rods


def _beside(ct: Image, half_width_mm: float) -> float:
    """How far from the middle a hand lies (mm): beside the hip, pressed to it where the field is narrow."""
    edge_mm = min(-ct.origin_mm[0], ct.origin_mm[0] + ct.spacing_mm[0] * (ct.shape[0] - 1)) - HAND_MM
    beside_mm = half_width_mm + HAND_MM
    return min(beside_mm, edge_mm) if edge_mm >= half_width_mm - HAND_MM / 2 else beside_mm


def _joints(points_mm, parameters, patient) -> np.ndarray:
    """Distance to the joint capsules: cartilage, capsule and tendons within some mm of the heads."""
    local = patient.to_patient(points_mm)
    radius_mm = parameters.pelvis.socket_radius_mm + 4
    return np.minimum.reduce(
        [shapes.sphere(local, (s * patient.half_width_mm, 0, 0), radius_mm) for s in SIDE.values()]
    )


def _back(ct: Image, soft: SoftTissue, patient: Patient) -> float:
    """The lowest point of the back (largest y of the body) over the scan's height, in the field or not."""
    bottom_mm, top_mm = ct.origin_mm[2], ct.origin_mm[2] + ct.spacing_mm[2] * (ct.shape[2] - 1)
    axes = (np.arange(-160.0, 161, 10), np.arange(0.0, 301, 2), np.linspace(bottom_mm, top_mm, 12))
    points_mm = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    inside = body_distance(patient.to_patient(points_mm), soft) < BODY_WOBBLE_MM
    return float(points_mm[1][inside].max())


def _furniture(ct: Image, parameters: PhantomParameters, back_mm: float):
    """Air with table and calibration phantom, equal on all slices: HU ``(nx, ny)`` and the rods."""
    s, pixel_mm = parameters.scanner, ct.spacing_mm[0]
    x = (ct.origin_mm[0] + pixel_mm * np.arange(ct.shape[0]))[:, None]
    y = (ct.origin_mm[1] + pixel_mm * np.arange(ct.shape[1]))[None]
    hu = np.full(ct.shape[:2], -1000.0, dtype=np.float32)
    middle_mm = back_mm + s.table_gap_mm + PAD_HALF_DEPTH_MM
    rods = []
    if s.rods:
        pad = np.maximum(np.abs(x) - 125, np.abs(y - middle_mm) - PAD_HALF_DEPTH_MM)
        hu = _blend(hu, pad, pixel_mm, PAD_HU)
        for i, density in enumerate(ROD_DENSITIES_MG_CM3[s.basis]):
            center = (ROD_SPACING_MM * (i - 2), middle_mm)
            distance = np.hypot(x - center[0], y - center[1]) - ROD_RADIUS_MM
            hu = _blend(hu, distance, pixel_mm, s.hounsfield(density))
            if any(
                c - ROD_RADIUS_MM < axis.min() or c + ROD_RADIUS_MM > axis.max()
                for c, axis in zip(center, (x, y), strict=True)
            ):
                continue  # outside the field of view, or cut by it
            rods.append(
                {"center_mm": list(center), "radius_mm": ROD_RADIUS_MM, "density_mg_cm3": density,
                 "hu": s.hounsfield(density)}
            )  # fmt: skip
    table_mm = middle_mm + PAD_HALF_DEPTH_MM + 6 - x * x / 2200
    thickness = np.abs(y - table_mm - 1) - 1.5
    hu = _blend(hu, np.maximum(thickness, np.abs(x) - 215), pixel_mm, TABLE_HU)
    return hu, rods
