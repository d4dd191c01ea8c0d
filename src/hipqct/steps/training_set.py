"""From labelled hips to what a training reads: their folds, and one HDF5 file."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from hipqct.cohort import COHORTS
from hipqct.errors import ModelError, ScanError, SheetError
from hipqct.folds import TEST, age_band, assign_folds
from hipqct.image import Image
from hipqct.io.dataset import Hip, write_dataset
from hipqct.io.files import read_json
from hipqct.io.hdf5 import read_roi
from hipqct.io.tables import read_table, write_table
from hipqct.phantom import SYNTHETIC
from hipqct.resample import resample_mask_slices
from hipqct.sheet import read_sheet
from hipqct.steps.evaluation import load_reference, share_outside

log = logging.getLogger(__name__)

FOLD_COLUMNS = ("subject", "side", "patient", "sex", "age", "fold")
OUTSIDE_MAX = 0.01  # share of a reference that its hip's crop may leave out


def divide_cohort(sheet_path, results_dir, folds_path, settings: dict) -> None:
    """Write folds.tsv: every hip with a reference that is not excluded, and its fold (-1: the test set).

    One division serves all cohorts, so that nobody tested by one model trains another. It is stratified by
    sex and 15-year age bands; hips of one patient go together (``group_by``: the sheet's subject or group).

    Args:
        settings: ``folds``, ``test_share``, ``seed``, ``group_by``, ``cohorts`` of the config's ``train``.

    Raises:
        SheetError: too few labelled patients, a group asked for that a row lacks, or a cohort without a hip
            in one of the parts.
    """
    rows = []
    for subject in read_sheet(sheet_path, made_here=(Path(results_dir) / "phantoms",)):
        patient = subject.subject if settings["group_by"] == "subject" else subject.group
        for side in subject.sides:
            if side in subject.reference and not subject.exclude:
                if not patient:
                    raise SheetError(
                        f"{sheet_path}: {subject.subject} has no group, by which train/group_by asks"
                    )
                rows.append((subject.subject, side, patient, subject.sex, subject.age))
    table = pd.DataFrame(rows, columns=list(FOLD_COLUMNS[:-1]))
    strata = [(sex or "", age_band(age)) for *_, sex, age in rows]
    chosen = (settings["folds"], settings["test_share"], settings["seed"])
    table["fold"] = assign_folds(table["patient"].tolist(), strata, *chosen)
    for cohort in settings["cohorts"]:
        _check_parts(table, cohort, settings["folds"])
    write_table(table, folds_path)
    log.info("%d hips: %s", len(table), table["fold"].value_counts().sort_index().to_dict())


def _check_parts(table: pd.DataFrame, cohort: str, folds: int) -> None:
    """Refuse a cohort that has no hip in a fold or in the test set."""
    sex = COHORTS[cohort]
    hips = table if sex is None else table[table["sex"] == sex]
    missing = sorted({*range(folds), TEST} - {*hips["fold"]})
    if missing:
        parts = ", ".join("the test set" if fold == TEST else f"fold {fold}" for fold in missing)
        told = f"sex {sex} in the sheet" if sex else "a reference"
        raise SheetError(
            f"the cohort '{cohort}' has {len(hips)} labelled hips ({told}) and none of them in {parts}: "
            "label more scans, fill the column sex, set train/folds lower or train/test_share higher, or "
            "leave the cohort out of train/cohorts"
        )


def build_dataset(folds_path, results_dir, sheet_path, dataset_path, side: str) -> None:
    """Write the crops and reference masks of all hips in folds.tsv into one HDF5 file.

    Args:
        results_dir: holds ``subjects/{subject}/{side}/roi.h5`` of each.
        side: ``left``: right hips are mirrored, as inference does; ``both``: they stay as they are.

    Raises:
        ScanError: a crop or a reference is unreadable, a reference is no mask of one femur, or more than a
            hundredth of it lies outside its crop.
        ModelError: crops differ in their voxels.
    """
    results_dir = Path(results_dir)
    subjects = {s.subject: s for s in read_sheet(sheet_path, made_here=(results_dir / "phantoms",))}
    table = read_table(folds_path, ("subject", "side", "patient", "sex"))
    spacings_mm = set()

    def hips():
        for row in table.itertuples():
            roi, _ = read_roi(results_dir / "subjects" / row.subject / row.side / "roi.h5")
            mask = _reference_in_crop(subjects[row.subject].reference[row.side], roi, row)
            spacings_mm.add(tuple(round(v, 3) for v in roi.spacing_mm))
            if len(spacings_mm) > 1:
                raise ModelError(
                    f"{row.subject} has voxels of {roi.spacing_mm} mm, others {sorted(spacings_mm)}: "
                    "set crop/pixel_mm, so that all crops have the same"
                )
            mirror = slice(None, None, -1 if side == "left" and row.side == "right" else 1)
            sex = row.sex if isinstance(row.sex, str) else ""
            age = None if np.isnan(row.age) else float(row.age)
            known = (sex, age, int(row.fold), row.patient)
            yield Hip(row.subject, row.side, roi.array[mirror], mask[mirror], *known)

    folders = [results_dir / "subjects" / subject for subject in table["subject"]]
    first, _ = read_roi(folders[0] / table["side"][0] / "roi.h5")
    synthetic = all(SYNTHETIC in read_json(folder / "scan.json")["flags"] for folder in folders)
    plan = {"side": side, "spacing_mm": first.spacing_mm, "data": SYNTHETIC if synthetic else ""}
    write_dataset(hips(), dataset_path, plan)


def _reference_in_crop(path, roi: Image, hip) -> np.ndarray:
    """The reference on the crop's grid; ScanError where it is cut: it would teach that bone is none."""
    reference = load_reference(path)
    outside = share_outside(reference, roi)
    if outside > OUTSIDE_MAX:
        raise ScanError(
            f"{path} lies {100 * outside:.0f} % outside the crop of the {hip.side} hip of {hip.subject}: "
            f"check its side and geometry, set center_{hip.side} in the sheet, or exclude the row"
        )
    return resample_mask_slices(reference, roi).array
