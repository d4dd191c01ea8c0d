"""From labelled hips to what a training reads: their folds, and one HDF5 file."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from hipqct.cohort import COHORTS
from hipqct.errors import ModelError, ScanError, SheetError
from hipqct.folds import TEST, age_band, assign_folds
from hipqct.image import Image, share_outside
from hipqct.io.dataset import Hip, hash_crop, write_dataset
from hipqct.io.files import read_json
from hipqct.io.hdf5 import read_roi, read_roi_spacing
from hipqct.io.models import SPACING_TOLERANCE
from hipqct.io.tables import read_table, write_table
from hipqct.network import turn_to
from hipqct.phantom import SYNTHETIC
from hipqct.resample import distance_to_mask_mm, resample_mask_slices
from hipqct.sheet import Subject, first_rows, is_labelled, read_sheet
from hipqct.solid import surface_distance_um
from hipqct.steps.mask import load_reference

log = logging.getLogger(__name__)

FOLD_COLUMNS = ("subject", "side", "patient", "sex", "age", "fold")
OUTSIDE_MAX = 0.01  # share of a reference that its hip's crop may leave out


def divide_cohort(sheet_path, results_dir, folds_path, settings: dict) -> None:
    """Write folds.tsv: every hip with a reference that is not excluded, and its fold (-1: the test set).

    One division serves all cohorts, so that nobody tested by one model trains another. It is stratified by
    sex and 15-year age bands; hips of one patient go together (``group_by``: the sheet's subject or group),
    and so do rows of one scan or with one reference mask. By subject, rows that share a group cause a
    warning: of one patient, they might be in training and in test.

    Args:
        settings: ``folds``, ``test_share``, ``seed``, ``group_by``, ``cohorts`` of the config's ``train``.

    Raises:
        SheetError: as `plan_folds`.
    """
    subjects = read_sheet(sheet_path, made_here=(Path(results_dir) / "phantoms",))
    table = plan_folds(subjects, settings)
    write_table(table, folds_path)
    log.info("%d hips: %s", len(table), table["fold"].value_counts().sort_index().to_dict())


def plan_folds(subjects: Iterable[Subject], settings: dict) -> pd.DataFrame:
    """The table that `divide_cohort` writes, from the rows of the sheet.

    Raises:
        SheetError: too few labelled patients, a group asked for that a row lacks, one scan in two groups, or
            a cohort without a hip in one of the parts.
    """
    rows = []
    for subject, patient in _find_patients(subjects, settings["group_by"]):
        sides = [side for side in subject.sides if side in subject.reference]
        rows += [(subject.subject, side, patient, subject.sex, subject.age) for side in sides]
    table = pd.DataFrame(rows, columns=list(FOLD_COLUMNS[:-1]))
    strata = [(sex or "", age_band(age)) for *_, sex, age in rows]
    chosen = (settings["folds"], settings["test_share"], settings["seed"])
    table["fold"] = assign_folds(table["patient"].tolist(), strata, *chosen)
    for cohort in settings["cohorts"]:
        _check_parts(table, cohort, settings["folds"])
    return table


def _find_patients(subjects: Iterable[Subject], group_by: str) -> list[tuple[Subject, str]]:
    """The labelled rows, and whose each is."""
    subjects = [subject for subject in subjects if is_labelled(subject)]
    of_scan, of_group = defaultdict(list), defaultdict(set)
    scans = first_rows(subjects)
    for subject, scan in zip(subjects, scans, strict=True):
        own = subject.subject if group_by == "subject" else subject.group
        if not own:
            raise SheetError(f"{subject.subject} has no group in the sheet, by which train/group_by asks")
        of_scan[scan].append(own)
        if group_by == "group" and len(two := sorted(set(of_scan[scan]))) > 1:
            raise SheetError(
                f"{subject.subject} and another row of the sheet have the same scan or reference, and the "
                f"groups {' and '.join(two)}: give both the patient's (or, if it is a folder of several "
                "patients, every row its series_uid)"
            )
    patients = [min(of_scan[scan]) for scan in scans]
    for subject, patient in zip(subjects, patients, strict=True):
        of_group[subject.group].add(patient)
    apart = [sorted(found) for group, found in of_group.items() if group and len(found) > 1]
    if group_by == "subject" and apart:
        log.warning(
            "%d groups of the sheet have several subjects, the first %s: if a group is a patient, set "
            "train/group_by to group, else one patient may stand in training and test",
            len(apart),
            " and ".join(apart[0][:2]),
        )
    return list(zip(subjects, patients, strict=True))


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
        ModelError: crops differ in their voxels by more than a hundredth.
        SheetError: two patients have the same series, or the same crop.
    """
    results_dir = Path(results_dir)
    table = read_table(folds_path, ("subject", "side", "patient", "sex"))
    folders = [results_dir / "subjects" / subject for subject in table["subject"]]
    names = [f"{row.subject}, {row.side}" for row in table.itertuples()]
    crops = [folder / side / "roi.h5" for folder, side in zip(folders, table["side"], strict=True)]
    facts = [read_json(folder / "scan.json") for folder in folders]
    first_with_series, first_with_crop, of_study = {}, {}, defaultdict(dict)
    for scan, name, patient in zip(facts, names, table["patient"], strict=True):
        if series := scan.get("series"):
            _keep_apart(first_with_series, series, name, patient, "series")
        if study := scan.get("study"):
            of_study[study].setdefault(patient, name)
    _tell_of_shared_studies(of_study.values())
    spacing_mm = _common_spacing([read_roi_spacing(path) for path in crops], names)
    subjects = {s.subject: s for s in read_sheet(sheet_path, made_here=(results_dir / "phantoms",))}

    def hips():
        for row, name, path in zip(table.itertuples(), names, crops, strict=True):
            roi, _ = read_roi(path)
            _keep_apart(first_with_crop, hash_crop(roi.array), name, row.patient, "crop, voxel for voxel")
            mask, distance_um = _reference_in_crop(subjects[row.subject].reference[row.side], roi, row)
            mirror = turn_to(side, row.side)
            sex = row.sex if isinstance(row.sex, str) else ""
            age = None if np.isnan(row.age) else float(row.age)
            arrays = (roi.array[mirror], mask[mirror])
            known = (sex, age, int(row.fold), row.patient, roi.spacing_mm)
            yield Hip(row.subject, row.side, *arrays, *known, distance_um[mirror])

    synthetic = all(SYNTHETIC in scan["flags"] for scan in facts)
    plan = {"side": side, "spacing_mm": spacing_mm, "data": SYNTHETIC if synthetic else ""}
    write_dataset(hips(), dataset_path, plan)


def _keep_apart(first_with: dict, key: str, name: str, patient: str, what: str) -> None:
    """Refuse two patients with the same thing: one scan under two names would stand in training and test."""
    first, other = first_with.setdefault(key, (name, patient))
    if other != patient:
        raise SheetError(
            f"The hips {first} and {name} have the same {what}, and stand for two patients: exclude one, "
            "or give both rows one group and set train/group_by to group"
        )


def _tell_of_shared_studies(studies: Iterable[dict[str, str]]) -> None:
    """Warn of series of one DICOM study that stand for two patients; each study: a hip's name by patient."""
    shared = [list(names.values()) for names in studies if len(names) > 1]
    if shared:
        log.warning(
            "%d DICOM studies stand for several patients each, the first for %s: if these are one, give "
            "their rows one group and set train/group_by to group, else one patient may stand in training "
            "and test",
            len(shared),
            " and ".join(shared[0][:2]),
        )


def _common_spacing(spacings_mm: list[tuple], names: list[str]) -> tuple[float, float, float]:
    """The crops' median voxel; ModelError where one is so much unlike it that its model would refuse it.

    2-mm slices that the scanner writes as 1.99 or 2.01 mm become 2.985 or 3.015 mm: these go together.
    """
    found = np.array(spacings_mm)
    median = np.median(found, axis=0)
    unlike = np.abs(found / median - 1) > SPACING_TOLERANCE
    if unlike.any():
        which = int(np.flatnonzero(unlike.any(axis=1))[0])
        this, usual = (" x ".join(f"{mm:g}" for mm in voxel) for voxel in (found[which], median))
        same = "crop/pixel_mm" if unlike[which, :2].any() else "resample/method to area"
        raise ModelError(
            f"The crop of {names[which]} has voxels of {this} mm, {usual} mm are usual in this training: "
            f"set {same}, so that all crops have the same, or exclude the hip"
        )
    return tuple(float(mm) for mm in median)


def _reference_in_crop(path, roi: Image, hip) -> tuple[np.ndarray, np.ndarray]:
    """The reference on the crop's grid and the distance to its surface, as its own voxels have it.

    Raises:
        ScanError: it is cut, and would teach that bone is none.
    """
    reference = load_reference(path)
    outside = share_outside(reference, roi)
    if outside > OUTSIDE_MAX:
        raise ScanError(
            f"{path} lies {100 * outside:.0f} % outside the crop of the {hip.side} hip of {hip.subject}: "
            f"check its side and geometry, set center_{hip.side} in the sheet, or exclude the row"
        )
    mask = resample_mask_slices(reference, roi).array
    return mask, surface_distance_um(mask, roi.spacing_mm, distance_to_mask_mm(reference, roi))
