"""The cohort's tables: one row per hip, and the statistics of all, of men and of women."""

from collections import defaultdict
from functools import partial

import numpy as np
import pandas as pd

from hipqct.folds import SEEN_IN_TRAINING
from hipqct.metrics import bootstrap_interval, determination, volume_agreement
from hipqct.phantom import SYNTHETIC

COHORTS = {"all": None, "male": "M", "female": "F"}
MEASURED = (
    "volume_mm3",
    "volume_voxel_mm3",
    "surface_area_mm2",
    "integral_density_mg_cm3",
    "bone_mineral_content_mg",
    "mean_hu",
    "otsu_threshold",
)
# Of the femur down to `mesh/distal_cut_mm` below its head's centre, if that is set and the scan goes there.
TO_CUT = ("volume_to_cut_mm3", "integral_density_to_cut_mg_cm3", "bone_mineral_content_to_cut_mg")
SCANNED = ("slope", "intercept", "basis", "kvp", "kernel")
SCORES = ("dice", "sensitivity", "specificity", "hausdorff95_mm", "surface_distance_mm")
EVALUATED = (*SCORES, "volume_reference_mm3", "volume_predicted_mm3", "relative_error_percent")
DESCRIBED = ("subject", "side", "sex", "age", "group", "status", "exclude", "reference")
WITH_REFERENCE = "yes"  # in the column `reference`: the sheet names a mask to evaluate the hip against
# Of each solved load case; the shipped configuration has these two.
SOLVED = ("stiffness_n_mm", "failure_load_n")
LOAD_CASES = ("stance", "fall")
# Of fewer patients, resamples hold two or one alone, and R2 means nothing.
FEWEST_FOR_R2 = 10
# Scores of a test set that chose the epoch: too good.
CHOSEN_ON_TEST = "chosen_on_test"
# Ten millimetres of shaft are 4 to 10 % of a volume; a stiffness changes by 2 % and more where it is held.
OTHER_LENGTH, LENGTH_TOLERANCE_MM = "other_length", 10.0
SAME_SCAN, NO_MESH = "same_scan", "no_mesh"
SUBJECT_COLUMNS = (
    *DESCRIBED,
    *MEASURED,
    *TO_CUT,
    *SCANNED,
    *EVALUATED,
    *(f"{case}_{name}" for case in LOAD_CASES for name in SOLVED),
    "below_head_mm",
    "flags",
)
TEXT_COLUMNS = ("subject", "side", "sex", "group", "status", "exclude", "reference")
TEXT_COLUMNS += ("basis", "kernel", "flags")
TEXT_COLUMNS += ("step", "reason")
FAILURE_COLUMNS = ("subject", "side", "step", "reason")


def subject_table(hips: list[dict]) -> pd.DataFrame:
    """One row per hip with the columns `SUBJECT_COLUMNS`; what a hip has no value for stays empty.

    Load cases of the user's own add their columns before the flags.

    Args:
        hips: for each hip its description and, as far as done, its measures; ``flags`` is a list of words.
    """
    more = {key for hip in hips for key in hip if key.endswith(SOLVED)} - set(SUBJECT_COLUMNS)
    table = pd.DataFrame(hips, columns=[*SUBJECT_COLUMNS[:-2], *sorted(more), *SUBJECT_COLUMNS[-2:]])
    table["flags"] = [",".join(flags) if isinstance(flags, list) else "" for flags in table["flags"]]
    return table


def flag_other_lengths(hips: list[dict]) -> None:
    """Flag hips whose bone ends more than 10 mm from where it ends, in the median, in the others.

    Their volume, mineral and mean density, and without a distal cut their stiffness and failure load, are
    those of a longer or shorter bone.

    Args:
        hips: as `subject_table` takes them; ``below_head_mm`` tells how far below the head's centre they end.
    """
    measured = [hip for hip in hips if hip.get("below_head_mm")]
    if measured:
        # One of the lengths, not the middle between two: of two groups alike, one is then told apart.
        median_mm = np.percentile([hip["below_head_mm"] for hip in measured], 50, method="lower")
        for hip in measured:
            if abs(hip["below_head_mm"] - median_mm) > LENGTH_TOLERANCE_MM:
                hip["flags"] = [*hip["flags"], OTHER_LENGTH]


def flag_same_scans(hips: list[dict]) -> None:
    """Flag hips of one side that come from one scan under several names: they would count as several people.

    Told by the series, or, of copies and files without one, by a volume and a mean CT number that agree to
    the last digit.

    Args:
        hips: as `subject_table` takes them, those that are done with ``series`` (a hash, or None).
    """
    rows = defaultdict(set)
    for i, hip in enumerate(hips):
        if hip.get("series"):
            rows[hip["side"], hip["series"]].add(i)
        if hip.get("volume_mm3"):
            rows[hip["side"], hip["volume_mm3"], hip["mean_hu"]].add(i)
    for i in sorted(set().union(*(same for same in rows.values() if len(same) > 1))):
        hips[i]["flags"] = [*hips[i]["flags"], SAME_SCAN]


def is_synthetic(subjects: pd.DataFrame) -> bool:
    """Whether every hip that is done comes from a phantom."""
    done = select(subjects, "all")
    return 0 < len(done) == count_synthetic(subjects)


def count_synthetic(subjects: pd.DataFrame) -> int:
    """How many of the hips that are done come from phantoms."""
    return count_flagged(select(subjects, "all"), SYNTHETIC)


def count_flagged(hips: pd.DataFrame, flag: str) -> int:
    """How many rows of subjects.tsv carry a flag."""
    return sum(flag in str(flags).split(",") for flags in hips["flags"])


def select(subjects: pd.DataFrame, cohort: str) -> pd.DataFrame:
    """The hips of a cohort that are done; of unknown sex only in ``all``."""
    done = subjects[subjects["status"] == "done"]
    return done if COHORTS[cohort] is None else done[done["sex"] == COHORTS[cohort]]


def count_unevaluated(subjects: pd.DataFrame, cohort: str) -> int:
    """How many hips of a cohort have a reference and no score, since they or their evaluation failed.

    They are missing from means and agreement, which may be too good without them.
    """
    tried = subjects[(subjects["status"] != "excluded") & (subjects["reference"] == WITH_REFERENCE)]
    tried = tried if COHORTS[cohort] is None else tried[tried["sex"] == COHORTS[cohort]]
    return int((tried["dice"].isna() | (tried["status"] == "failed")).sum())


def _warned(hips: pd.DataFrame, subjects: pd.DataFrame, cohort: str) -> dict:
    """What makes statistics over these hips of a cohort too good: the last columns of both tables.

    ``failed``: see `count_unevaluated`; ``seen_in_training``: how many of the hips trained their own model.
    """
    return {
        "failed": count_unevaluated(subjects, cohort),
        SEEN_IN_TRAINING: count_flagged(hips, SEEN_IN_TRAINING),
    }


def segmentation_table(subjects: pd.DataFrame) -> pd.DataFrame:
    """Per cohort: number of evaluated hips, mean and SD (of the sample, ddof 1) of every score."""
    rows = []
    for cohort in COHORTS:
        evaluated = select(subjects, cohort).dropna(subset=["dice"])
        row = {"cohort": cohort, "n": len(evaluated)}
        for score in SCORES:
            values = evaluated[score].astype(float)
            row |= {f"{score}_mean": values.mean(), f"{score}_sd": values.std(ddof=1)}
        rows.append(row | _warned(evaluated, subjects, cohort))
    return pd.DataFrame(rows)


def volume_agreement_table(subjects: pd.DataFrame) -> pd.DataFrame:
    """Per cohort: agreement of predicted with reference volumes, see `hipqct.metrics.volume_agreement`."""
    rows = []
    for cohort in COHORTS:
        evaluated = select(subjects, cohort).dropna(subset=["volume_reference_mm3"])
        reference_mm3 = evaluated["volume_reference_mm3"].to_numpy(dtype=float)
        predicted_mm3 = evaluated["volume_predicted_mm3"].to_numpy(dtype=float)
        agreement = volume_agreement(reference_mm3, predicted_mm3)
        rows.append({"cohort": cohort, **agreement} | _warned(evaluated, subjects, cohort))
    return pd.DataFrame(rows)


def accuracy_table(tested: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The paper's Table 1 for models trained on different cohorts, each on its own test set.

    Means, SDs (ddof 1) and 95% bootstrap intervals (``_low``, ``_high``) of the scores, then the agreement of
    volumes with intervals for MAE, R2 and bias. Patients are resampled, with all their hips: two hips of one
    body are no two witnesses. ``chosen_on_test``: the test set chose the models' epochs, so its scores
    are too good.

    Args:
        tested: by the cohort that the model was trained on, its test hips as in `subject_table`, with the
            patient as ``group`` where that is not the subject.
    """
    rows = []
    for cohort, hips in tested.items():
        done = select(hips, "all").dropna(subset=["dice"])
        patients = done["subject"].where(done["group"].isna() | (done["group"] == ""), done["group"])
        interval = partial(_interval, patients.to_numpy())
        row = {"cohort": cohort, "n": len(done), "failed": int((hips["status"] == "failed").sum())}
        row["chosen_on_test"] = bool(hips["flags"].astype(str).str.contains(CHOSEN_ON_TEST).any())
        for score in SCORES:
            values = done[score].astype(float)
            row |= {f"{score}_mean": values.mean(), f"{score}_sd": values.std(ddof=1)}
            row |= interval(score, np.mean, values.to_numpy())
        reference_mm3 = done["volume_reference_mm3"].to_numpy(float)
        predicted_mm3 = done["volume_predicted_mm3"].to_numpy(float)
        row |= {k: v for k, v in volume_agreement(reference_mm3, predicted_mm3).items() if k != "n"}
        row |= interval("mae_mm3", lambda r, p: np.abs(p - r).mean(), reference_mm3, predicted_mm3)
        row |= interval(
            "r2", lambda r, p: determination(r, p)[0], reference_mm3, predicted_mm3, fewest=FEWEST_FOR_R2
        )
        row |= interval("bias_mm3", lambda r, p: (p - r).mean(), reference_mm3, predicted_mm3)
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(patients: np.ndarray, name: str, statistic, *samples: np.ndarray, **options) -> dict:
    low, high = bootstrap_interval(statistic, *samples, groups=patients, **options)
    return {f"{name}_low": low, f"{name}_high": high}
