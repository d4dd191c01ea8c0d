"""From labelled hips to what a training reads: their folds, and one HDF5 file."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from hipqct.errors import ModelError, SheetError
from hipqct.folds import age_band, assign_folds
from hipqct.io.dataset import Hip, write_dataset
from hipqct.io.files import read_json
from hipqct.io.hdf5 import read_roi
from hipqct.io.tables import read_table, write_table
from hipqct.phantom import SYNTHETIC
from hipqct.sheet import read_sheet
from hipqct.steps.evaluation import read_reference

log = logging.getLogger(__name__)

FOLD_COLUMNS = ("subject", "side", "patient", "sex", "age", "fold")


def divide_cohort(sheet_path, results_dir, folds_path, settings: dict) -> None:
    """Write folds.tsv: every hip with a reference that is not excluded, and its fold (-1: the test set).

    One division serves all cohorts, so that nobody tested by one model trains another. It is stratified by
    sex and 15-year age bands; hips of one patient go together (``group_by``: the sheet's subject or group).

    Args:
        settings: ``folds``, ``test_share``, ``seed``, ``group_by`` of the config's ``train``.

    Raises:
        SheetError: too few labelled patients, or a group asked for that a row lacks.
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
    write_table(table, folds_path)
    log.info("%d hips: %s", len(table), table["fold"].value_counts().sort_index().to_dict())


def build_dataset(folds_path, results_dir, sheet_path, dataset_path, side: str) -> None:
    """Write the crops and reference masks of all hips in folds.tsv into one HDF5 file.

    Args:
        results_dir: holds ``subjects/{subject}/{side}/roi.h5`` of each.
        side: ``left``: right hips are mirrored, as inference does; ``both``: they stay as they are.

    Raises:
        ScanError: a crop or a reference is unreadable, or a reference is no mask of one femur in its crop.
        ModelError: crops differ in their voxels.
    """
    results_dir = Path(results_dir)
    subjects = {s.subject: s for s in read_sheet(sheet_path, made_here=(results_dir / "phantoms",))}
    table = read_table(folds_path, ("subject", "side", "patient", "sex"))
    spacings_mm = set()

    def hips():
        for row in table.itertuples():
            roi, _ = read_roi(results_dir / "subjects" / row.subject / row.side / "roi.h5")
            mask = read_reference(subjects[row.subject].reference[row.side], roi).array
            spacings_mm.add(tuple(round(v, 3) for v in roi.spacing_mm))
            if len(spacings_mm) > 1:
                raise ModelError(
                    f"{row.subject} has voxels of {roi.spacing_mm} mm, others {sorted(spacings_mm)}: "
                    "set crop/pixel_mm, so that all crops have the same"
                )
            mirror = slice(None, None, -1 if side == "left" and row.side == "right" else 1)
            sex = row.sex if isinstance(row.sex, str) else ""
            age = None if np.isnan(row.age) else float(row.age)
            yield Hip(row.subject, row.side, roi.array[mirror], mask[mirror], sex, age, int(row.fold))

    folders = [results_dir / "subjects" / subject for subject in table["subject"]]
    first, _ = read_roi(folders[0] / table["side"][0] / "roi.h5")
    synthetic = all(SYNTHETIC in read_json(folder / "scan.json")["flags"] for folder in folders)
    plan = {"side": side, "spacing_mm": first.spacing_mm, "data": SYNTHETIC if synthetic else ""}
    write_dataset(hips(), dataset_path, plan)
