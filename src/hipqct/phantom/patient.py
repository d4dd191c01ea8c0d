"""The patient: bones of both sides put together, bent and laid on the table."""

import numpy as np
from scipy import ndimage

from hipqct.phantom import confounders, femur, pelvis, shapes
from hipqct.phantom.blocks import Bone
from hipqct.phantom.parameters import PhantomParameters

SIDE = {"left": 1.0, "right": -1.0}

# Voxels (1 mm) along each edge of the periodic block of trabecular texture.
TEXTURE_CELLS = 64


def texture_block(rng) -> np.ndarray:
    """A periodic block of 1-mm cells with unit variance, grain about 2 mm across and longer upward."""
    white = rng.standard_normal((TEXTURE_CELLS,) * 3, dtype=np.float32)
    fine = ndimage.gaussian_filter(white, (0.8, 0.8, 1.8), mode="wrap")
    coarse = ndimage.gaussian_filter(white[::-1], (2.5, 2.5, 4.0), mode="wrap")
    fine, coarse = fine / fine.std(), coarse / coarse.std()
    return (0.92 * fine + 0.4 * coarse).astype(np.float32)


def sample_texture(block: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    """Texture at points ``(3, n)``."""
    return ndimage.map_coordinates(block, points_mm, order=1, mode="grid-wrap")


class Patient:
    """Bones as functions of world points; deterministic in the random stream given."""

    def __init__(self, parameters: PhantomParameters, rng):
        self.parameters = parameters
        pose = parameters.pose
        self.turn = shapes.rotation(*pose.turn_deg)
        self.shift_mm = np.array([*pose.shift_mm, 0.0])
        self.half_width_mm = parameters.pelvis.half_width_mm
        self.bend = {side: shapes.WaveField(rng, 3, 55, 160) for side in SIDE}
        self.bend_sacrum = shapes.WaveField(rng, 3, 55, 160)
        self.hip_solids = {side: pelvis.hip_solids(parameters.pelvis, rng) for side in SIDE}
        self.spurs, self.lesions = {}, {}
        for side in SIDE:
            shape = getattr(parameters, side)
            self.spurs[side] = confounders.osteophytes(shape, parameters.confounders.osteophytes, rng)
            self.lesions[side] = confounders.lesions(shape, parameters.confounders, rng)
        self.rough = {side: shapes.WaveField(rng, 1, 12, 35, waves=8) for side in SIDE}

    def to_patient(self, points_mm: np.ndarray) -> np.ndarray:
        """World points to the patient's frame."""
        return shapes.rotate(shapes.shift(points_mm, self.shift_mm), self.turn.T)

    def _to_hip(self, points_mm: np.ndarray, side: str) -> np.ndarray:
        """World points to the frame of one hip, as a left hip, bent."""
        local = self.to_patient(points_mm)
        local[0] = local[0] * np.float32(SIDE[side]) - np.float32(self.half_width_mm)
        return local + self.bend[side](local) * np.float32(self.parameters.deformation_mm)

    def _leg(self, side: str) -> np.ndarray:
        pose = self.parameters.pose
        return shapes.rotation(*(pose.left_leg_deg if side == "left" else pose.right_leg_deg))

    def _to_femur(self, points_mm: np.ndarray, side: str) -> np.ndarray:
        return shapes.rotate(self._to_hip(points_mm, side), self._leg(side).T)

    def femur(self, side: str, rng) -> Bone:
        """One femur in the world."""
        shape = getattr(self.parameters, side)
        block = texture_block(rng)
        rough_mm = np.float32(self.parameters.roughness_mm)

        def distance_mm(points_mm):
            local = self._to_femur(points_mm, side)
            away = shapes.sigmoid(shapes.sphere(local, (0, 0, 0), shape.head_radius_mm + 4) / 3)
            surface = femur.periosteal_distance(local, shape)
            for center, radius_mm in self.spurs[side]:
                surface = shapes.smooth_union(surface, shapes.sphere(local, center, radius_mm), 2.0)
            return surface + self.rough[side](local)[0] * rough_mm * away

        def density(points_mm, depth_mm):
            local = self._to_femur(points_mm, side)
            grain = sample_texture(block, local)
            thickness = femur.cortex_thickness(local, shape)
            trabecular = femur.trabecular_density(local, shape)
            spread = np.float32(shape.texture_mg_cm3) * np.clip((trabecular + 60) / 150, 0.1, 1.8)
            trabecular = trabecular + femur.endosteal_density(depth_mm - thickness, thickness, shape)
            cortical = femur.cortical_density(thickness, shape) * (1 + np.float32(0.03) * grain)
            uneven = 1 + grain * np.minimum(np.float32(0.3), np.float32(0.35) / thickness)
            trabecular = confounders.add_lesions(trabecular + spread * grain, local, self.lesions[side])
            return thickness * uneven, cortical, trabecular

        return Bone(f"{side} femur", distance_mm, density)

    def metal(self) -> Bone | None:
        """The implant, if there is one, as a solid in the world."""
        side = self.parameters.confounders.metal_side
        if not side:
            return None
        shape = getattr(self.parameters, side)

        def distance_mm(points_mm):
            return confounders.metal_distance(self._to_femur(points_mm, side), shape)

        def density(points_mm, depth_mm):
            return np.float32(1.0), confounders.METAL_MG_CM3, confounders.METAL_MG_CM3

        return Bone("implant", distance_mm, density)

    def pelvic_bones(self, rng) -> list[Bone]:
        """Both hip bones and the sacrum in the world."""
        shape = self.parameters.pelvis
        block = texture_block(rng)

        def hip(side):
            def distance_mm(points_mm):
                return pelvis.hip_distance(self._to_hip(points_mm, side), shape, self.hip_solids[side])

            def density(points_mm, depth_mm):
                local = self._to_hip(points_mm, side)
                grain = sample_texture(block, local)
                thickness = pelvis.hip_cortex(local, shape) * (1 + np.float32(0.25) * grain)
                trabecular = pelvis.hip_density(local, shape) + np.float32(shape.texture_mg_cm3) * grain
                fading = np.exp(-np.maximum(depth_mm - thickness, 0) / np.float32(2.5))
                trabecular = trabecular + np.float32(shape.endosteal_mg_cm3) * fading
                return thickness, shape.cortical_mg_cm3 * (1 + np.float32(0.05) * grain), trabecular

            return Bone(f"{side} hip bone", distance_mm, density)

        def sacrum_distance(points_mm):
            local = self.to_patient(points_mm)
            local = local + self.bend_sacrum(local) * np.float32(self.parameters.deformation_mm)
            return pelvis.sacrum_distance(local, shape)

        def sacrum_density(points_mm, depth_mm):
            grain = sample_texture(block, self.to_patient(points_mm))
            thickness = shape.cortex_mm * (np.float32(0.8) + np.float32(0.2) * grain)
            return thickness, 0.85 * shape.cortical_mg_cm3, shape.sacrum_mg_cm3 + shape.texture_mg_cm3 * grain

        return [hip("left"), hip("right"), Bone("sacrum", sacrum_distance, sacrum_density)]

    def to_world(self, local_mm, side: str) -> np.ndarray:
        """World position of a point of one femur's frame: bending inverted by fixed-point steps."""
        target = self._leg(side) @ np.asarray(local_mm, dtype=float)
        point = target.copy()
        for _ in range(30):
            bend = self.bend[side](point.reshape(3, 1).astype(np.float32))[:, 0]
            point = target - bend * self.parameters.deformation_mm
        point = np.array([SIDE[side] * (point[0] + self.half_width_mm), point[1], point[2]])
        return self.turn @ point + self.shift_mm

    def landmarks(self) -> dict:
        """World positions (mm) of named points of both femurs: where bending takes the unbent shape's points.

        Bending is uneven: a sphere fitted to the bent head may lie a millimetre or more from
        ``head_center``, and its radius is not quite the ``head_radius_mm`` drawn.
        """
        named = {}
        for side in SIDE:
            shape = getattr(self.parameters, side)
            named[side] = {
                "head_center": self.to_world((0, 0, 0), side).tolist(),
                "neck_center": self.to_world(-0.5 * shape.neck_length_mm * shape.neck_axis, side).tolist(),
                "shaft_point": self.to_world(shape.shaft_point_mm, side).tolist(),
                "lesser_trochanter": self.to_world(shape.at(-13, 15, -31), side).tolist(),
            }
        return named
