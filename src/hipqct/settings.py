"""The configuration, checked against its schema, with one sentence per fault."""

import math
from collections.abc import Iterable
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators

from hipqct.errors import ModelError, SheetError
from hipqct.mesh_options import law_faults, option_faults
from hipqct.network import check_precision
from hipqct.recipe import recipe_faults, recipe_fields
from hipqct.sheet import Subject

# What the ranges of `hipqct.augment.Ranges` may hold: degrees, factors, HU, mm, shares.
AUGMENTATION_LIMITS = {
    "rotation": (-180, 180),
    "mirror": (1, 1),
    "truncation": (0.01, 1),
    "brightness": (-1000, 1000),
    **dict.fromkeys(("scale", "bone", "contrast", "gamma"), (0.05, 20)),
    **dict.fromkeys(("bone_field", "noise_grain", "blur", "elastic"), (0, 50)),
    **dict.fromkeys(("noise", "low_dose"), (0, 1000)),
}
AUGMENTATION_KEYS = {"mirror": "augmentation/mirror"}  # where the configuration has them
# JSON has one kind of number, so that 2.0 would be an integer: Python can neither count nor index with it.
IS_WHOLE = {"integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool)}
Validator = validators.extend(
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(IS_WHOLE)
)


def check_settings(config: dict, schema_path) -> None:
    """Refuse a configuration that its JSON schema (YAML) forbids, or that names what is not there.

    Raises:
        SheetError: every fault at once, by key.
    """
    schema = yaml.safe_load(Path(schema_path).read_text(encoding="utf-8"))
    faults = sorted(Validator(schema).iter_errors(config), key=lambda fault: list(fault.path))
    lines = [
        f"{'/'.join(map(str, fault.path)) or 'top level'}: {fault.message}{_advice(fault)}"
        for fault in faults
    ]
    lines = lines or _not_finite(config) or _faults_between_keys(config)
    if lines:
        raise SheetError("\n  ".join([f"the configuration has {len(lines)} fault(s):", *lines]))


def check_bases(subjects: Iterable[Subject], mesh: dict) -> None:
    """Refuse subjects whose own calibration basis the configuration has no material laws for (SheetError).

    Args:
        mesh: the configuration's ``mesh``.
    """
    first_with = {}
    for subject in subjects:
        if subject.basis:
            first_with.setdefault(subject.basis, subject.subject)
    for basis, subject in first_with.items():  # each once: the laws are read from files
        if faults := law_faults(mesh, basis):
            raise SheetError(f"{subject}: basis {basis}: {faults[0]}")


def _advice(fault: ValidationError) -> str:
    """What to write instead of a text that looks like a number, or of a whole number with a point."""
    wanted = fault.validator_value if fault.validator == "type" else []
    wanted = [wanted] if isinstance(wanted, str) else wanted
    try:
        value = float(fault.instance) if isinstance(fault.instance, str | float) else math.nan
    except ValueError:
        return ""
    if "number" in wanted and math.isfinite(value):  # text: YAML 1.1 reads 1e-4, without a point, as such
        digits, _, exponent = fault.instance.strip().lower().partition("e")
        return f": write {float(digits)}e{int(exponent):+d}" if exponent else f": write {digits}, unquoted"
    return f": write {int(value)}" if "integer" in wanted and value.is_integer() else ""


def _not_finite(value, path: tuple = ()) -> list[str]:
    """Numbers that no range of a schema refuses: NaN and infinity."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [line for key, part in items for line in _not_finite(part, (*path, key))]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{'/'.join(map(str, path))}: {value} must be a finite number"]
    return []


def _training_faults(train: dict) -> list[str]:
    """What is wrong between keys of ``train``."""
    faults = []
    try:
        check_precision(train["precision"], train["backend"])
    except ModelError as error:
        faults.append(f"train/precision: {error}")
    wrong = recipe_faults(recipe_fields(train) | {"side": train["side"]})
    faults += [f"train/{AUGMENTATION_KEYS.get(name, name)} {fault}" for name, fault in wrong.items()]
    return faults + _augmentation_faults(train["augmentation"])


def _augmentation_faults(augmentation: dict) -> list[str]:
    faults = []
    for name, (_, low, high) in augmentation.items():
        least, most = AUGMENTATION_LIMITS[name]
        if not (least <= low <= high <= most):
            key = f"train/augmentation/{name}"
            faults.append(f"{key}: {low:g} to {high:g} must rise and lie within {least:g} to {most:g}")
    return faults


def _faults_between_keys(config: dict) -> list[str]:
    """What the schema cannot see: names that one key uses and another, or the package, does not know."""
    mesh, solve = config["mesh"], config["solve"]
    unknown = [
        f"solve/cases: {name!r} is none of mesh/load_cases ({', '.join(mesh['load_cases'])})"
        for name in solve["cases"]
        if name not in mesh["load_cases"]
    ]
    unknown += _training_faults(config["train"])
    return unknown + option_faults(mesh, config["density"]["basis"])
