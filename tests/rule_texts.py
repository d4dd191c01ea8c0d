"""The rules of the workflow as text, for tests of how they are written."""

import re

from conftest import ROOT

RULE_FILES = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]


def rules() -> dict[str, str]:
    """Name and text of every rule that runs something; targets such as ``all`` run nothing."""
    found = {}
    for path in RULE_FILES:
        parts = re.split(r"^(?:rule|checkpoint) (\w+):$", path.read_text(encoding="utf-8"), flags=re.M)
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return {name: text for name, text in found.items() if re.search(r"^    (script|shell|run):", text, re.M)}
