"""One phantom from its parameters: scan, masks of both femurs and truth."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from hipqct.density import MM3_PER_CM3
from hipqct.image import Image, beyond_box_mm
from hipqct.phantom import confounders, scanner
from hipqct.phantom.blocks import Bone, paint_bone, solid_volume_mm3
from hipqct.phantom.parameters import PhantomParameters
from hipqct.phantom.patient import Patient
from hipqct.phantom.soft_paint import paint_soft_tissue

VOLUME_STEP_MM = 1.0


@dataclass(frozen=True)
class Phantom:
    """A synthetic scan (int16 HU), the true masks of both femurs on its grid, and the continuous truth."""

    ct: Image
    left_femur: Image
    right_femur: Image
    truth: dict


class RandomStreams:
    """Independent random generators of one phantom, by what they draw."""

    def __init__(self, seed: int):
        streams = np.random.SeedSequence(entropy=seed, spawn_key=(1,)).spawn(4)
        self.anatomy, self.soft, self.texture, self.noise = (np.random.default_rng(s) for s in streams)


def scan_box(parameters: PhantomParameters) -> Image:
    """The scan's grid without voxels: y centred on the table, z from the bottom up."""
    s = parameters.scanner
    edge_mm = -(s.matrix - 1) / 2 * s.pixel_mm
    origin_mm = (s.field_center_mm + edge_mm, edge_mm, s.slice_mm / 2 - s.bottom_mm)
    return Image.empty((s.matrix, s.matrix, s.slices), (s.pixel_mm, s.pixel_mm, s.slice_mm), origin_mm)


def scan_grid(parameters: PhantomParameters) -> Image:
    """An image of air on the scan's grid, float32."""
    box = scan_box(parameters)
    return box.with_array(np.full(box.shape, scanner.PHYSICAL_AIR_HU, dtype=np.float32))


def _reconstruct(ct: Image, parameters: PhantomParameters, patient: Patient, rng) -> np.ndarray:
    """Painted tissue to Hounsfield numbers: implant and its streaks, beam hardening, blur, noise."""
    s, c = parameters.scanner, parameters.confounders
    hu = ct.array
    if c.dark_band_hu:
        hu = hu - confounders.dark_band(hu, s.pixel_mm, c.dark_band_hu) * (hu > -300)
    metal = patient.metal()
    if metal is not None:
        share, _ = paint_bone(ct.with_array(hu), metal, s)
        for k in np.flatnonzero(share.any(axis=(0, 1))):
            center = np.average(np.argwhere(share[..., k]), axis=0, weights=share[..., k][share[..., k] > 0])
            hu[..., k] += confounders.metal_streaks(hu.shape, s.pixel_mm, center, rng)
    hu = scanner.blur_between_slices(hu, s.profile_blur)
    hu = scanner.blur_in_plane(hu, s.pixel_mm, s.blur_sigma_mm)
    texture = (s.noise_peak_per_mm, s.noise_between, c.streak_noise)
    return hu + scanner.noise(hu.shape, s.pixel_mm, s.noise_sd_hu, rng, *texture)


def generate_phantom(parameters: PhantomParameters) -> Phantom:
    """Make one phantom; the same parameters give the same bytes.

    The masks hold the voxels of which at least half lies inside the femur's outer surface. ``truth`` has the
    continuous volumes (mm3) of both femurs within the scanned slab and field of view, the mineral (mg)
    painted into them and its mean density (mg/cm3 of ``basis``; before blur, noise, beam hardening and
    metal), landmarks in LPS mm, the calibration, the rods and all parameters.
    """
    streams = RandomStreams(parameters.seed)
    patient = Patient(parameters, streams.anatomy)
    ct = scan_grid(parameters)
    rods = paint_soft_tissue(ct, parameters, patient, streams.soft)
    for bone in patient.pelvic_bones(streams.texture):
        paint_bone(ct, bone, parameters.scanner)
    masks, volumes_mm3, minerals_mg = {}, {}, {}
    for side in ("left", "right"):
        bone = patient.femur(side, streams.texture)
        occupied, minerals_mg[side] = paint_bone(ct, bone, parameters.scanner)
        masks[side] = ct.with_array(occupied >= 0.5)
        volumes_mm3[side] = solid_volume_mm3(ct, bone, VOLUME_STEP_MM)
    hu = _reconstruct(ct, parameters, patient, streams.noise)
    s = parameters.scanner
    truth = {
        "volume_mm3": volumes_mm3,
        "bone_mineral_content_mg": minerals_mg,
        "integral_density_mg_cm3": {
            side: MM3_PER_CM3 * mg / volumes_mm3[side] if volumes_mm3[side] else None
            for side, mg in minerals_mg.items()
        },
        "landmarks_mm": patient.landmarks(),
        "slope": s.slope,
        "intercept": s.intercept,
        "basis": s.basis,
        "rods": rods,
        "parameters": dataclasses.asdict(parameters),
    }
    return Phantom(ct.with_array(scanner.to_int16(hu)), masks["left"], masks["right"], truth)


def femur_mask(parameters: PhantomParameters, side: str, grid: Image) -> Image:
    """The true mask of a phantom's femur on any grid: voxels of which at least half lies inside its surface.

    Taken from the continuous shape. The scan's own mask, brought to another grid, would carry the steps of
    the scan's voxels along: on crops of 0.8 x 0.8 x 3 mm they cost a Dice of 0.007 to 0.010. What the scan's
    field of view cuts off is no part of it.
    """
    share, _ = paint_bone(
        grid.with_array(np.zeros(grid.shape, np.float32)), _femur(parameters, side), parameters.scanner
    )
    return grid.with_array((share >= 0.5) & (beyond_box_mm(grid, scan_box(parameters)) < 0))


def femur_distance_mm(parameters: PhantomParameters, side: str, grid: Image) -> np.ndarray:
    """Signed distance of a grid's voxel centres to the surface of `femur_mask`, negative inside; float32."""
    points_mm = grid.to_world(np.indices(grid.shape).reshape(3, -1).T).T.astype(np.float32)
    distance_mm = _femur(parameters, side).distance_mm(points_mm).reshape(grid.shape)
    return np.maximum(distance_mm, beyond_box_mm(grid, scan_box(parameters)))


def _femur(parameters: PhantomParameters, side: str) -> Bone:
    streams = RandomStreams(parameters.seed)
    return Patient(parameters, streams.anatomy).femur(side, streams.texture)
