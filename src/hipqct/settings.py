"""The configuration, checked against its schema, with one sentence per fault."""

from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from hipqct.errors import ModelError, SheetError
from hipqct.gates import gate_faults
from hipqct.mesh_options import law_faults
from hipqct.network import check_precision


def check_settings(config: dict, schema_path) -> None:
    """Refuse a configuration that its JSON schema (YAML) forbids, or that names what is not there.

    Raises:
        SheetError: every fault at once, by key.
    """
    schema = yaml.safe_load(Path(schema_path).read_text(encoding="utf-8"))
    faults = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda fault: list(fault.path))
    lines = [f"{'/'.join(map(str, fault.path)) or 'top level'}: {fault.message}" for fault in faults]
    lines = lines or _faults_between_keys(config)
    if lines:
        raise SheetError("\n  ".join([f"the configuration has {len(lines)} fault(s):", *lines]))


def _faults_between_keys(config: dict) -> list[str]:
    """What the schema cannot see: names that one key uses and another, or the package, does not know."""
    mesh, solve, train = config["mesh"], config["solve"], config["train"]
    unknown = [
        f"solve/cases: {name!r} is none of mesh/load_cases ({', '.join(mesh['load_cases'])})"
        for name in solve["cases"]
        if name not in mesh["load_cases"]
    ]
    try:
        check_precision(train["precision"], train["backend"])
    except ModelError as error:
        unknown.append(f"train/precision: {error}")
    gates = gate_faults(mesh["gates"], mesh["gate_errors"])
    return unknown + gates + law_faults(mesh, config["density"]["basis"])
