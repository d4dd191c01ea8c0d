"""The configuration, checked against its schema, with one sentence per fault."""

from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from hipqct.errors import SheetError


def check_settings(config: dict, schema_path) -> None:
    """Refuse a configuration that its JSON schema (a YAML file) does not allow.

    Raises:
        SheetError: every fault at once, by key.
    """
    schema = yaml.safe_load(Path(schema_path).read_text(encoding="utf-8"))
    faults = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda fault: list(fault.path))
    if faults:
        lines = [f"  {'/'.join(map(str, fault.path)) or 'top level'}: {fault.message}" for fault in faults]
        raise SheetError(f"the configuration has {len(faults)} fault(s):\n" + "\n".join(lines))
