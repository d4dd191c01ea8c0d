"""A small independent reader of Abaqus decks and CalculiX results, for tests."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest


def read_deck(path) -> dict:
    """Comments, nodes, elements (by type), sets and materials of a deck, numbered as in the file."""
    deck = {"comments": [], "nodes": {}, "elements": {}, "types": {}, "nset": {}, "elset": {}, "material": {}}
    deck["section"] = {}
    keyword, options, material = "", {}, None
    for line in Path(path).read_text(encoding="ascii").splitlines():
        if line.startswith("**"):
            deck["comments"].append(line[2:].strip())
            continue
        if line.startswith("*"):
            words = [word.strip() for word in line[1:].split(",")]
            keyword = words[0].upper()
            options = dict(word.upper().split("=") for word in words[1:])
            if keyword == "MATERIAL":
                material = options["NAME"]
            if keyword == "SOLID SECTION":
                deck["section"][options["ELSET"]] = options["MATERIAL"]
            continue
        values = [value for value in (part.strip() for part in line.split(",")) if value]
        if keyword == "NODE":
            deck["nodes"][int(values[0])] = [float(value) for value in values[1:]]
        elif keyword == "ELEMENT":
            deck["elements"][int(values[0])] = [int(value) for value in values[1:]]
            deck["types"][int(values[0])] = options["TYPE"]
        elif keyword in ("NSET", "ELSET"):
            deck[keyword.lower()].setdefault(options[keyword], []).extend(int(value) for value in values)
        elif keyword == "ELASTIC":
            deck["material"][material] = tuple(float(value) for value in values)
    return deck


def solve(folder: Path, text: str) -> dict[str, dict[int, np.ndarray]]:
    """Run CalculiX on a deck's text in ``folder``; displacements ``U`` and reactions ``RF`` by node."""
    if shutil.which("ccx") is None:
        pytest.skip("CalculiX (ccx) is not installed; apt-get install calculix-ccx")
    (folder / "job.inp").write_text(text)
    run = subprocess.run(["ccx", "job"], cwd=folder, capture_output=True, text=True, timeout=240)
    assert "Job finished" in run.stdout and "*ERROR" not in run.stdout, run.stdout[-2000:]
    results, name = {}, None
    for line in (folder / "job.dat").read_text().splitlines():
        if line.strip().startswith(("displacements", "forces")):
            name = "U" if line.strip().startswith("displacements") else "RF"
            results[name] = {}
        elif name and re.match(r"\s+\d+\s", line):
            number, *values = line.split()
            results[name][int(number)] = np.array(values, float)
    return results
