"""Steps that make the demo cohort: a phantom as files, and its scan as a DICOM series."""

import os
import shutil
from pathlib import Path

from hipqct.errors import SheetError
from hipqct.io.dicom_writer import write_dicom_series
from hipqct.io.files import read_json, write_json
from hipqct.io.images import read_image, write_image
from hipqct.phantom.generate import generate_phantom
from hipqct.phantom.parameters import PhantomParameters, sample_parameters

# Columns of a phantom sheet that are not parameters of the phantom.
NOT_PARAMETERS = ("subject", "format")


def _number(text):
    """A cell of a sheet as a whole number, a number, a truth value, or the text itself."""
    if not isinstance(text, str):
        return text
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_empty(cell) -> bool:
    return cell is None or cell == "" or cell != cell


def read_parameters(row: dict) -> PhantomParameters:
    """The phantom of one row of a phantom sheet: ``seed`` is needed, empty cells are drawn.

    Raises:
        SheetError: no seed, or a column that names no parameter.
    """
    values = {k: _number(v) for k, v in row.items() if k not in NOT_PARAMETERS and not _is_empty(v)}
    if "seed" not in values:
        raise SheetError(f"phantom {row.get('subject', '?')}: there is no seed; give a whole number.")
    try:
        return sample_parameters(**values)
    except (TypeError, ValueError) as error:
        raise SheetError(f"phantom {row.get('subject', '?')}: {error}; mend that column.") from error


def make_phantom(parameters: dict, ct_path, left_path, right_path, truth_path):
    """Generate one phantom and write its scan, the masks of both femurs and the truth."""
    phantom = generate_phantom(read_parameters(parameters))
    write_image(phantom.ct, ct_path)
    write_image(phantom.left_femur, left_path)
    write_image(phantom.right_femur, right_path)
    write_json({"subject": str(parameters.get("subject", "phantom")), **phantom.truth}, truth_path)


def write_phantom_dicom(ct_path, truth_path, dicom_dir):
    """Write a phantom's scan as a DICOM series; the folder appears under its name only when complete."""
    truth, dicom_dir = read_json(truth_path), Path(dicom_dir)
    drawn = truth["parameters"]
    temporary = dicom_dir.with_name(f".{os.getpid()}.tmp.{dicom_dir.name}")
    try:
        write_dicom_series(read_image(ct_path), temporary, drawn["sex"], drawn["age"], truth["subject"])
        if dicom_dir.exists():
            shutil.rmtree(dicom_dir)
        temporary.rename(dicom_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
