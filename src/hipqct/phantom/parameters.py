"""Named parameters of a digital hip phantom, and how they are drawn from published ranges.

Means and standard deviations (women, men), and what published abstracts say where one was found; the others
are the author's choice from general knowledge and are marked *chosen*:

- neck-shaft angle 126.5, 127 +- 5 degrees: 129.2 in 375 femurs (Toogood, Skalak, Cooperman 2009, PMC2650061),
  124.7 +- 6.2 on CT of 628 people (Carmona et al., hal-03553324), median 122.2 on 1070 CTs (Hartel et al.
  2016, PMC4775021): definitions differ, ours lies between.
- anteversion 12, 9 +- 8 degrees: 9.7 (Toogood 2009), 14.5 +- 8.1 (Carmona), 16.4 in women and 12.1 in men
  (Hartel 2016).
- head offset 39.5, 44.5 +- 4.5 mm: 42.9 +- 6.8 for both sexes (Carmona).
- joint space 3.2 +- 0.9 mm, uneven (the socket lies 0.5 mm per axis off the head's centre) and narrower in
  arthritis: 4.19 +- 0.92 mm at the apex, less in the superomedial part and in women (Lequesne, Malghem, Dion
  2004, doi 10.1136/ard.2003.018424).
- trabecular density falls 8.5, 6.5% of its value at 25 per decade, chosen: trabecular loss starts in
  young adults, at 0.4 to 1.6% a year at other sites (Riggs et al. 2008, PMC2665699), cortical loss in women
  at mid-life and in men after 75; over 20 to 90 years the femur's trabecular density falls by 33, 28% on
  3D-DXA (Brance et al. 2024, doi 10.11005/jbm.24.765), less than here.
- chosen: head radius 21.3 +- 1.0, 24.0 +- 1.15 mm; outer shaft radius below the lesser trochanter 14.0, 15.6
  +- 0.95 mm; densities and cortices, set so that Hounsfield numbers come near those of real scans; and every
  other length, angle and Hounsfield number drawn (neck, bow, trochanters, fovea, cup, pelvis, soft tissue,
  pose, scanner), from general knowledge of their size.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from hipqct.phantom.confounders import Confounders, sample_confounders
from hipqct.phantom.femur import FemurShape
from hipqct.phantom.pelvis import PelvisShape
from hipqct.phantom.scanner import Scanner, sample_scanner
from hipqct.phantom.soft import SoftTissue

CONTACT_MM = 0.2  # the least joint space: bones that touch

SEXES = ("F", "M")
YOUNGEST, OLDEST = 27, 90


@dataclass(frozen=True)
class Pose:
    """Where the patient and the legs lie; angles in degrees about the heads' centres, shifts in mm."""

    shift_mm: tuple = (0.0, 0.0)
    turn_deg: tuple = (0.0, 0.0, 0.0)
    left_leg_deg: tuple = (0.0, 5.0, 0.0)
    right_leg_deg: tuple = (0.0, 5.0, 0.0)


@dataclass(frozen=True)
class PhantomParameters:
    """Everything that makes one phantom; the same parameters give the same bytes."""

    seed: int
    sex: str
    age: int
    left: FemurShape = field(default_factory=FemurShape)
    right: FemurShape = field(default_factory=FemurShape)
    pelvis: PelvisShape = field(default_factory=PelvisShape)
    soft: SoftTissue = field(default_factory=SoftTissue)
    pose: Pose = field(default_factory=Pose)
    scanner: Scanner = field(default_factory=Scanner)
    confounders: Confounders = field(default_factory=Confounders)
    deformation_mm: float = 1.5
    roughness_mm: float = 0.35

    def __post_init__(self):
        if self.sex not in SEXES:
            raise ValueError(f"sex must be F or M, got {self.sex!r}")


def _anatomy(rng, sex: str, age: float) -> dict:
    """Lengths and densities common to both femurs."""
    woman = sex == "F"
    size = rng.normal()

    def draw(women, men, sd, shared=0.0):
        mean = women if woman else men
        return mean + sd * (shared * size + np.sqrt(1 - shared**2) * rng.normal())

    decades = (age - 25) / 10
    loss = np.clip(1 - (0.085 if woman else 0.065) * decades, 0.4, 1.05)
    quality = np.exp(rng.normal(0, 0.18)) * loss
    thinning = 1 - (0.055 if woman else 0.02) * max(age - 45, 0) / 10
    return {
        "head_radius_mm": np.clip(draw(21.3, 24.0, 1.0 if woman else 1.15, 0.85), 18.0, 28.5),
        "head_flattening": rng.normal(0, 0.012),
        "neck_shaft_angle_deg": np.clip(draw(126.5, 127.0, 5.0), 113, 141),
        "anteversion_deg": np.clip(draw(12, 9, 8.0), -12, 36),
        "offset_mm": np.clip(draw(39.5, 44.5, 4.5, 0.5), 28, 58),
        "neck_scale_high": np.clip(rng.normal(1, 0.05), 0.86, 1.15),
        "neck_scale_deep": np.clip(rng.normal(1, 0.06), 0.84, 1.18),
        "shaft_radius_mm": np.clip(draw(14.0, 15.6, 0.95, 0.6), 11.0, 19.0),
        "shaft_flattening": rng.normal(0.01, 0.03),
        "bow_radius_mm": np.clip(rng.normal(1100, 200), 650, 1800),
        "trochanter_height_mm": rng.normal(0, 2.5),
        "trochanter_scale": np.clip(rng.normal(1, 0.06), 0.85, 1.15),
        "lesser_trochanter_mm": np.clip(rng.normal(8, 1.5), 4, 12),
        "fovea_depth_mm": rng.uniform(1.0, 3.0),
        "shell_mm": np.clip(rng.normal(0.95, 0.17), 0.5, 1.5),
        "head_shell": rng.uniform(0.45, 1.1),
        "calcar_mm": np.clip(draw(3.8, 4.6, 0.7) * thinning, 1.6, 6.0),
        "shaft_cortex_mm": np.clip(draw(6.0, 7.0, 0.9, 0.2) * thinning, 2.6, 9.0),
        "cortical_mg_cm3": np.clip(rng.normal(1110, 55) - 12 * max(age - 50, 0) / 10, 900, 1260),
        "head_mg_cm3": draw(155, 165, 30) * quality,
        "neck_mg_cm3": draw(85, 90, 26) * quality,
        "trochanter_mg_cm3": draw(112, 118, 22) * quality,
        "marrow_mg_cm3": rng.normal(-48, 12) + 60 * max(0.0, rng.normal(0, 0.4)),
        "compressive_mg_cm3": np.clip(draw(330, 350, 120), 20, 700) * quality,
        "compressive_width": rng.uniform(0.30, 0.55),
        "tensile_mg_cm3": draw(65, 70, 15) * quality,
        "ward_mg_cm3": rng.uniform(60, 230) + 20 * (1 - loss),
        "texture_mg_cm3": rng.uniform(8, 60),
        "endosteal_mg_cm3": rng.uniform(150, 550),
        "endosteal_mm": rng.uniform(1.5, 4.0),
    }


def _side(rng, common: dict) -> FemurShape:
    """One femur: the common anatomy with the small differences between a person's sides."""
    relative = {
        "head_radius_mm": 0.008, "offset_mm": 0.03, "shaft_radius_mm": 0.015, "calcar_mm": 0.05,
        "shaft_cortex_mm": 0.03, "lesser_trochanter_mm": 0.06, "trochanter_scale": 0.02,
    }  # fmt: skip
    absolute = {"neck_shaft_angle_deg": 1.8, "anteversion_deg": 3.0, "trochanter_height_mm": 0.8}
    values = {name: float(value) for name, value in common.items()}
    for name, sd in relative.items():
        values[name] *= float(np.exp(rng.normal(0, sd)))
    for name, sd in absolute.items():
        values[name] += float(rng.normal(0, sd))
    return FemurShape(**values)


def _pelvis(rng, sex: str, common: dict) -> PelvisShape:
    woman = sex == "F"
    arthritic = rng.random() < 0.12
    joint_mm = rng.uniform(0.3, 1.6) if arthritic else np.clip(rng.normal(3.2, 0.9), 1.5, 5.0)
    shift_mm = rng.normal(0, 0.5, size=3)
    shift_mm *= min(1.0, (joint_mm - CONTACT_MM) / np.linalg.norm(shift_mm))
    density = common["head_mg_cm3"] / 155
    return PelvisShape(
        head_radius_mm=float(common["head_radius_mm"]),
        joint_space_mm=float(joint_mm),
        socket_shift_mm=tuple(float(v) for v in shift_mm),
        fossa_mm=float(rng.uniform(0.0, 5.0)),
        half_width_mm=float(np.clip(rng.normal(88 if woman else 90, 4), 76, 102)),
        cup_abduction_deg=float(rng.normal(42, 4)),
        cup_anteversion_deg=float(rng.normal(20 if woman else 16, 5)),
        wall_mm=float(np.clip(rng.normal(5.5, 0.8), 3.5, 8)),
        rim_mm=float(rng.normal(-3.5, 2.5)),
        cortex_mm=float(np.clip(rng.normal(1.15, 0.28), 0.6, 2.2)),
        roof_mm=float(np.clip(rng.normal(3.0, 0.6), 1.5, 5)),
        cortical_mg_cm3=float(rng.normal(850, 70)),
        trabecular_mg_cm3=float(140 * density * np.exp(rng.normal(0, 0.15))),
        roof_mg_cm3=float(np.clip(rng.normal(320, 90), 100, 600)),
        sacrum_mg_cm3=float(100 * density * np.exp(rng.normal(0, 0.15))),
        texture_mg_cm3=float(rng.uniform(25, 65)),
        endosteal_mg_cm3=float(rng.uniform(30, 260)),
        jitter_mm=float(rng.uniform(0.6, 2.2)),
    )


def _soft(rng, sex: str, age: float, trochanter_mm: float) -> SoftTissue:
    woman = sex == "F"
    obesity = np.clip(rng.normal(0, 1), -1.8, 2.5)
    subcutaneous_mm = np.clip((32 if woman else 20) + 11 * obesity, 5, 75)
    muscle_mm = np.clip(rng.normal(24, 5), 12, 40)
    return SoftTissue(
        half_width_mm=float(trochanter_mm + muscle_mm + subcutaneous_mm),
        half_depth_mm=float(108 + 12 * obesity + rng.normal(0, 5)),
        subcutaneous_mm=float(subcutaneous_mm),
        fat_plane_mm=float(rng.uniform(1.0, 3.5)),
        marbling=float(rng.uniform(0.0, 1.0) * np.clip(age / 60, 0.3, 1.3)),
        muscle_hu=float(rng.normal(50 - 0.12 * (age - 50), 8)),
        fat_hu=float(rng.normal(-101, 6)),
        skin_hu=float(rng.normal(10, 20)),
        vessel_hu=float(rng.uniform(120, 260) if rng.random() < 0.35 else rng.normal(45, 6)),
        bladder_hu=float(rng.normal(8, 4)),
        bowel_hu=float(rng.uniform(100, 400) if rng.random() < 0.2 else rng.normal(38, 8)),
        calcified_vessels=bool(rng.random() < 0.25),
        gas_radius_mm=float(rng.uniform(3, 22)),
    )


def _pose(rng) -> Pose:
    tilted = 4.0 if rng.random() < 0.25 else 1.5
    return Pose(
        shift_mm=tuple(float(v) for v in rng.normal(0, (12, 8))),
        turn_deg=tuple(float(v) for v in rng.normal(0, (tilted, 0.5 * tilted, tilted))),
        left_leg_deg=(float(rng.normal(2, 4)), float(rng.normal(4.5, 3)), float(rng.normal(6, 10))),
        right_leg_deg=(float(rng.normal(2, 4)), float(rng.normal(4.5, 3)), float(rng.normal(6, 10))),
    )


def sample_parameters(
    seed: int, sex: str | None = None, age: int | None = None, **overrides
) -> PhantomParameters:
    """Draw one phantom's parameters.

    Args:
        seed: any whole number >= 0; reserved ranges are in `hipqct.phantom.seeds`.
        sex: ``"F"`` or ``"M"``; drawn when None.
        age: years; drawn between 27 and 90 when None.
        overrides: values for any field of ``PhantomParameters`` or of its parts by the field's own name, such
            as ``matrix=96`` or ``head_radius_mm=22``; a name that several parts share is set in all.

    Raises:
        ValueError: an override names no field.
    """
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(0,)))
    drawn_sex, drawn_age = SEXES[int(rng.integers(2))], int(rng.integers(YOUNGEST, OLDEST + 1))
    sex, age = sex or drawn_sex, drawn_age if age is None else int(age)
    common = _anatomy(rng, sex, age)
    left, right, hips = _side(rng, common), _side(rng, common), _pelvis(rng, sex, common)
    trochanter_mm = hips.half_width_mm + common["offset_mm"] + 14.0
    parameters = PhantomParameters(
        seed=int(seed),
        sex=sex,
        age=age,
        left=left,
        right=right,
        pelvis=hips,
        soft=_soft(rng, sex, age, trochanter_mm),
        pose=_pose(rng),
        scanner=sample_scanner(
            rng,
            np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(2,))),
            float(common["head_radius_mm"]),
        ),
        confounders=sample_confounders(rng, age),
        deformation_mm=float(rng.uniform(0.6, 2.2)),
        roughness_mm=float(rng.uniform(0.15, 0.5)),
    )
    return override(parameters, overrides)


def override(parameters: PhantomParameters, values: dict) -> PhantomParameters:
    """The same parameters with some fields replaced, by name, wherever a part has that field."""
    changes, unused = {}, set(values)
    for own in dataclasses.fields(parameters):
        part = getattr(parameters, own.name)
        if own.name in values:
            changes[own.name] = values[own.name]
            unused.discard(own.name)
        elif dataclasses.is_dataclass(part):
            known = {f.name: values[f.name] for f in dataclasses.fields(part) if f.name in values}
            unused -= set(known)
            changes[own.name] = dataclasses.replace(part, **known)
    if unused:
        raise ValueError(f"override must name a phantom parameter, got {', '.join(sorted(unused))}")
    return dataclasses.replace(parameters, **changes)
