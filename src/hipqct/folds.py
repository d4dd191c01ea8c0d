"""Who trains, who validates and who is only tested: a test set and folds, stratified and grouped."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

from hipqct.errors import SheetError

TEST = -1  # the fold of those that no training sees
# Flag of a hip whose crop one of its models was trained or chosen on: its scores are too good.
SEEN_IN_TRAINING = "seen_in_training"
AGE_BAND_YEARS = 15  # ages within a band count as alike


def age_band(age: float | None) -> int | None:
    """Number of the 15-year band an age lies in; None stays None."""
    return None if age is None else int(age // AGE_BAND_YEARS)


def assign_folds(
    patients: Sequence[str], strata: Sequence[Hashable], folds: int, test_share: float, seed: int
) -> list[int]:
    """Give each hip its fold, 0 to ``folds`` - 1, or `TEST`.

    All hips of a patient go together. Patients of a stratum (sex and age band) are put in an order that
    depends on their names and the seed alone; the test set takes its share evenly out of the whole order and
    the folds are dealt from the rest, so that every part has its share of every stratum to within one.

    Args:
        patients: whose each hip is.
        strata: what to balance, for each hip; a patient counts in one stratum, whatever the hips' order.

    Returns:
        A fold for every hip, in order.

    Raises:
        SheetError: fewer patients than folds and test set need.
    """
    of_patient = defaultdict(set)
    for patient, stratum in zip(patients, strata, strict=True):
        of_patient[patient].add(stratum)
    of_stratum = defaultdict(list)
    for patient, found in of_patient.items():
        of_stratum[min(found, key=repr)].append(patient)
    order = [
        patient
        for stratum in sorted(of_stratum, key=repr)
        for patient in sorted(of_stratum[stratum], key=lambda name: _shuffled(name, seed))
    ]
    tested = round(len(order) * test_share)
    chosen = {order[int((i + 0.5) * len(order) / tested)] for i in range(tested)}
    rest = [patient for patient in order if patient not in chosen]
    if folds < 2 or len(rest) < folds:
        raise SheetError(
            f"{folds} folds need at least 2 folds and {folds} patients beside the test set's {tested}, got "
            f"{len(rest)}: label more scans (reference_left, reference_right) or set train/folds lower."
        )
    fold = {patient: i % folds for i, patient in enumerate(rest)} | dict.fromkeys(chosen, TEST)
    return [fold[patient] for patient in patients]


def _shuffled(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
