"""The shipped configuration, for tests and benchmarks: its values stand nowhere else."""

from copy import deepcopy

import yaml
from conftest import ROOT

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
CONFIG = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def mesh_options(gates: dict | None = None, **changes) -> dict:
    """The mesh options as shipped but for some, and for the limits of some gates."""
    options = deepcopy(CONFIG["mesh"])
    options["gates"] |= gates or {}
    return options | changes
