"""Drawing a cohort of phantoms whose femur volumes are distributed as in the paper (arXiv 2006.05513).

A femur's volume within a scan follows from its size and from where the scan ends below. Sizes are the
anatomy's; the lower ends are drawn so that mean and standard deviation per sex become those of Table 1.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from hipqct.errors import SheetError
from hipqct.image import Image
from hipqct.phantom.blocks import layer_volumes_mm3
from hipqct.phantom.generate import RandomStreams
from hipqct.phantom.parameters import SEXES, PhantomParameters, sample_parameters
from hipqct.phantom.patient import Patient
from hipqct.phantom.seeds import COHORT_SEEDS

# Mean and standard deviation (ddof 0) of the reference volume of the femur in the paper's Table 1.
PAPER_VOLUMES_MM3 = {"F": (76_833.0, 13_341.0), "M": (105_490.0, 18_344.0)}
FEWEST_SLICES, MOST_SLICES = 37, 95  # of 3 mm, in the paper's scans
SLICE_MM, RESAMPLED_MM = 2.0, 3.0

# Lower ends (mean and standard deviation, mm below the heads' centres) that give Table 1 in large cohorts.
BOTTOM_MM = {"F": (36.1, 4.3), "M": (38.2, 5.3)}
LOWEST_BOTTOM_MM, HIGHEST_BOTTOM_MM = 75.0, 18.0
FEWEST_TO_FIT = 100  # below, a sample's own SD is too far from the population's to be forced on Table 1's

LAYER_MM = 2.0  # integration step: volumes within 0.2% of those at 1 mm
ABOVE_HEAD_MM = 42.0  # no femur reaches higher above the centre of its head
ONE_HIP_SHARE = 0.03
ONE_HIP_PIXEL_MM = (0.4, 0.5)

# Seeds of one cohort, women first; more subjects than half of it would meet the next cohort's.
SEEDS_PER_COHORT = 10_000


@dataclass(frozen=True)
class Draft:
    """One subject before its scan's lower end is set.

    ``left_volumes_mm3`` are volumes of the left femur above ``depths_mm`` below the heads' centres, both
    ascending; ``deviate`` is the standard normal number that places the lower end.
    """

    subject: str
    parameters: PhantomParameters
    resampled_slices: int
    deviate: float
    depths_mm: np.ndarray
    left_volumes_mm3: np.ndarray

    def volume_mm3(self, bottom_mm: float) -> float:
        """Volume of the left femur in a scan that ends ``bottom_mm`` below the heads' centres."""
        return float(np.interp(bottom_mm, self.depths_mm, self.left_volumes_mm3))


def subject_seed(cohort_seed: int, sex: str, number: int) -> int:
    """Seed of the ``number``-th (from 0) woman or man of a cohort: no two subjects or cohorts share one.

    Raises:
        SheetError: the cohort's seed or the number lies outside the reserved seeds.
    """
    half = SEEDS_PER_COHORT // 2
    seed = COHORT_SEEDS.start + cohort_seed * SEEDS_PER_COHORT + SEXES.index(sex) * half + number
    if not 0 <= number < half or cohort_seed < 0 or seed not in COHORT_SEEDS:
        most = len(COHORT_SEEDS) // SEEDS_PER_COHORT - 1
        raise SheetError(f"a cohort has up to {half} women and {half} men and a seed from 0 to {most}.")
    return seed


def draft_subject(cohort_seed: int, sex: str, number: int) -> Draft:
    """Draw one subject: anatomy, field of view, number of slices, and the femur's volume by depth."""
    seed = subject_seed(cohort_seed, sex, number)
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(3,)))
    deviate = float(np.clip(rng.normal(), -2.5, 2.5))
    slices = FEWEST_SLICES + round((MOST_SLICES - FEWEST_SLICES) * rng.beta(1.1, 3.0))
    drawn = sample_parameters(seed, sex)
    scanner = drawn.scanner
    # The left hip is the one studied: it is whole, without metal, and the calibration is K2HPO4's.
    changes = {
        "slice_mm": SLICE_MM,
        "pixel_mm": round(scanner.pixel_mm, 4),
        "cut_edge_mm": round(-abs(scanner.cut_edge_mm), 1),
        "basis": "K2HPO4",
        "slope": round(scanner.slope, 4),
        "intercept": round(scanner.intercept, 2),
    }
    if drawn.confounders.metal_side:
        changes["metal_side"] = "right"
    if rng.random() < ONE_HIP_SHARE:
        changes["cut_edge_mm"] = 0.0
        changes["center_x_mm"] = round(drawn.pelvis.half_width_mm + 12, 1)
        changes["pixel_mm"] = round(rng.uniform(*ONE_HIP_PIXEL_MM), 3)
    parameters = sample_parameters(seed, sex, **changes)
    return Draft(f"{sex}{number + 1:04d}", parameters, slices, deviate, *_volumes_by_depth(parameters))


def _volumes_by_depth(parameters: PhantomParameters) -> tuple[np.ndarray, np.ndarray]:
    """Depths (mm below the heads' centres) and volumes (mm3) of the left femur above them."""
    s = parameters.scanner
    patient = Patient(parameters, RandomStreams(parameters.seed).anatomy)
    bone = patient.femur("left", np.random.default_rng(0))
    layers = round((LOWEST_BOTTOM_MM + ABOVE_HEAD_MM) / LAYER_MM)
    edge_mm = -(s.matrix - 1) / 2 * s.pixel_mm
    box = Image.empty(
        (s.matrix, s.matrix, layers),
        (s.pixel_mm, s.pixel_mm, LAYER_MM),
        (s.field_center_mm + edge_mm, edge_mm, LAYER_MM / 2 - LOWEST_BOTTOM_MM),
    )
    volumes_mm3 = layer_volumes_mm3(box, bone, LAYER_MM)[::-1]
    depths_mm = LAYER_MM * np.arange(layers + 1) - (layers * LAYER_MM - LOWEST_BOTTOM_MM)
    return depths_mm, np.concatenate([[0], np.cumsum(volumes_mm3)])


def place_bottoms(drafts: list[Draft]) -> np.ndarray:
    """Lower ends (mm below the heads' centres) of the drafts of one sex.

    From ``FEWEST_TO_FIT`` subjects on, their mean and spread are chosen so that the left femurs' volumes
    have Table 1's mean and standard deviation (ddof 0); fewer subjects are placed as in a large cohort.
    """
    sex = drafts[0].parameters.sex
    deviates = np.array([d.deviate for d in drafts])

    def bottoms_mm(place):
        return np.clip(place[0] + place[1] * deviates, HIGHEST_BOTTOM_MM, LOWEST_BOTTOM_MM)

    def misfit(place):
        pairs = zip(drafts, bottoms_mm(place), strict=True)
        volumes = np.array([draft.volume_mm3(bottom_mm) for draft, bottom_mm in pairs])
        mean, sd = PAPER_VOLUMES_MM3[sex]
        return [(volumes.mean() - mean) / mean, (volumes.std() - sd) / sd]

    place = BOTTOM_MM[sex]
    if len(drafts) >= FEWEST_TO_FIT:
        place = least_squares(misfit, place, bounds=([25, -15], [60, 15]), x_scale=[5, 2]).x
    return np.round(bottoms_mm(place), 3)


def plan_rows(drafts: list[Draft]) -> list[dict]:
    """Rows of the cohort's phantom sheet, one per draft: parameters, slices at 3 mm and volume (mm3)."""
    rows = {}
    for sex in SEXES:
        group = [d for d in drafts if d.parameters.sex == sex]
        for draft, bottom_mm in zip(group, place_bottoms(group) if group else [], strict=True):
            rows[draft.subject] = _row(draft, float(bottom_mm))
    return [rows[d.subject] for d in drafts]


def _row(draft: Draft, bottom_mm: float) -> dict:
    p, s = draft.parameters, draft.parameters.scanner
    slices = int(np.ceil(draft.resampled_slices * RESAMPLED_MM / SLICE_MM))
    return {
        "subject": draft.subject,
        "seed": p.seed,
        "sex": p.sex,
        "age": p.age,
        "slice_mm": SLICE_MM,
        "pixel_mm": s.pixel_mm,
        "top_mm": round(slices * SLICE_MM - bottom_mm, 3),
        "bottom_mm": bottom_mm,
        "center_x_mm": s.center_x_mm,
        "cut_edge_mm": s.cut_edge_mm,
        "metal_side": p.confounders.metal_side,
        "basis": s.basis,
        "slope": s.slope,
        "intercept": s.intercept,
        "resampled_slices": draft.resampled_slices,
        "left_volume_mm3": round(draft.volume_mm3(bottom_mm), 1),
    }


def summarise_rows(rows: list[dict]) -> list[dict]:
    """Per sex: subjects, ages, slices, mean and SD (ddof 0) of the left femurs' volumes, and the paper's."""
    table = []
    for sex in SEXES:
        group = [r for r in rows if r["sex"] == sex]
        if not group:
            continue
        volumes = np.array([r["left_volume_mm3"] for r in group])
        ages, slices = [r["age"] for r in group], [r["resampled_slices"] for r in group]
        mean_mm3, sd_mm3 = PAPER_VOLUMES_MM3[sex]
        table.append(
            {"sex": sex, "n": len(group), "ages": f"{min(ages)}-{max(ages)}",
             "slices": f"{min(slices)}-{max(slices)}", "mean_mm3": float(volumes.mean()),
             "sd_mm3": float(volumes.std()), "paper_mean_mm3": mean_mm3, "paper_sd_mm3": sd_mm3}
        )  # fmt: skip
    return table
