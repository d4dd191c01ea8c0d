"""How a cohort's numbers were made: settings that the results record, and versions of software."""

import platform
from collections import Counter
from importlib import metadata
from pathlib import Path

import pandas as pd

from hipqct.cohort import select
from hipqct.io.files import read_json

PACKAGES = (
    *("hipqct", "snakemake", "numpy", "scipy", "scikit-image", "SimpleITK", "pydicom", "h5py"),
    *("keras", "tensorflow", "openvino", "meshio", "pandas", "matplotlib"),
)
SHORT_HASH = 8


def settings_used(subjects: pd.DataFrame, results_dir: Path) -> dict[str, str]:
    """Resampling, network and calibration of the hips that are done, each with its number of hips.

    Read from what stands beside the results, not from the config, which may have changed since.
    """
    used = {"Resampling": Counter(), "Network": Counter(), "Calibration": Counter()}
    for row in select(subjects, "all").itertuples(index=False):
        subject = results_dir / "subjects" / row.subject
        side = subject / row.side
        used["Resampling"][_resampling(_facts(subject / "resampled.json"))] += 1
        used["Network"][_network(_facts(side / "bone.json").get("network"))] += 1
        used["Calibration"][_calibration(_facts(side / "volume.json").get("calibration"))] += 1
    return {name: _count(values) for name, values in used.items() if values}


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that do the work, as far as they are installed."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _facts(path: Path) -> dict:
    return read_json(path) if path.exists() else {}


def _resampling(facts: dict) -> str:
    phase = f", {facts['phase']}" if "phase" in facts else ""
    return facts["method"] + phase if "method" in facts else "not recorded"


def _network(facts: dict | None) -> str:
    if not facts:
        return "not recorded"
    hashes = ", ".join(sha256[:SHORT_HASH] for sha256 in facts["weights_sha256"].split(", "))
    model = f"{facts['model']} (weights {hashes})"
    windows = f"window step {facts['step']}, {facts['blend']} blend, ends {facts['ends']}"
    return f"{model}, {windows}, {facts['engine']} on {facts['device']}"


def _calibration(facts: dict | None) -> str:
    return f"slope and intercept of the sample sheet, {facts['basis']}" if facts else "none"


def _count(values: Counter) -> str:
    """Each value with its number of hips, the most frequent first."""
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{value} ({count} hip{'s' if count > 1 else ''})" for value, count in ranked)
