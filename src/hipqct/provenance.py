"""How a cohort's numbers were made: settings that the results record, and versions of software."""

import platform
from collections import Counter
from importlib import metadata
from pathlib import Path

import pandas as pd

from hipqct.cohort import SOLVED, select
from hipqct.io.files import read_json
from hipqct.progress import MESH

PACKAGES = (
    *("hipqct", "snakemake", "numpy", "scipy", "scikit-image", "SimpleITK", "pydicom", "h5py"),
    *("keras", "tensorflow", "openvino", "meshio", "pandas", "matplotlib"),
)
SHORT_HASH = 8


# Hips made by different ones are not to be compared. How a scan was resampled depends on its slices, density
# laws on its calibration.
COMPARED = ("Network", "Meshes", "Materials", "Load cases", "Solver")
OTHER_SETTINGS = "other_settings"


def settings_used(subjects: pd.DataFrame, failures: pd.DataFrame, results_dir: Path) -> dict[str, str]:
    """What made the hips that are done, from resampling to solver, each with its number of hips."""
    used = {}
    for made in _settings(
        select(subjects, "all").to_dict("records"), failures.to_dict("records"), results_dir
    ):
        for name, value in made.items():
            if value is not None:
                used.setdefault(name, Counter())[value] += 1
    return {name: _count(values) for name, values in used.items()}


def flag_other_settings(hips: list[dict], failures: list[dict], results_dir: Path) -> None:
    """Flag hips that another network, mesh, law, load case or criterion made than most others.

    Args:
        hips: as `hipqct.cohort.subject_table` takes them; those that are done are compared.
        failures: rows of the table of failures; a mesh or a solution that does not count is not compared.
    """
    done = [hip for hip in hips if hip["status"] == "done"]
    settings = _settings(done, failures, results_dir)
    for name in COMPARED:
        values = [made[name] for made in settings if made[name] is not None]
        usual = max(sorted(set(values)), key=values.count, default=None)
        for hip, made in zip(done, settings, strict=True):
            if made[name] not in (None, usual) and OTHER_SETTINGS not in hip["flags"]:
                hip["flags"] = [*hip["flags"], OTHER_SETTINGS]


def _settings(hips: list[dict], failures: list[dict], results_dir: Path) -> list[dict[str, str | None]]:
    without_mesh = {(row["subject"], row["side"]) for row in failures if row["step"] == MESH.name}
    return [
        hip_settings(
            results_dir / "subjects" / hip["subject"],
            hip["side"],
            meshed=(hip["subject"], hip["side"]) not in without_mesh,
            solved=any(name.endswith(SOLVED) and pd.notna(value) for name, value in hip.items()),
        )
        for hip in hips
    ]


def hip_settings(folder: Path, side: str, meshed: bool, solved: bool) -> dict[str, str | None]:
    """What made a hip's numbers, in words; None for what it has none of.

    Read from what stands beside the results, not from the config, which may have changed since.

    Args:
        folder: the subject's.
        meshed: whether its mesh counts; solved: whether its solution does. Older ones may stand there.
    """
    network = _facts(folder / side / "bone.json").get("network")
    mesh = _facts(folder / side / "mesh" / "mesh.json") if meshed else {}
    solution = _facts(folder / side / "solution" / "summary.json") if solved else {}
    return {
        "Resampling": _resampling(_facts(folder / "resampled.json")),
        "Network": _network(network),
        "Engine": f"{network['engine']} on {network['device']}" if network else None,
        "Calibration": _calibration(_facts(folder / side / "volume.json").get("calibration")),
        "Meshes": _meshes(mesh),
        "Density laws": _density_laws(mesh.get("material")),
        "Materials": _materials(mesh.get("material")),
        "Load cases": _load_cases(mesh.get("load_cases")),
        "Solver": _solver(solution),
    }


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
    return f"{model}, window step {facts['step']}, {facts['blend']} blend, ends {facts['ends']}"


def _calibration(facts: dict | None) -> str:
    return f"slope and intercept of the sample sheet, {facts['basis']}" if facts else "none"


def _meshes(facts: dict) -> str | None:
    if "hex" not in facts:
        return None
    hexes, tets, cut_mm = facts["hex"], facts["tet"], facts["distal_cut_mm"]
    cut = "not cut" if cut_mm is None else f"cut {cut_mm:g} mm below the head's centre"
    slab = f"slab {facts['distal_slab_mm']:g} mm"
    cubes = f"cubes of {hexes['cube_mm']:g} mm ({hexes['shape']}, from {hexes['bone_fraction_min']:g})"
    return f"{cubes}, tetrahedra of {tets['size_mm']:g} mm ({tets['beyond_mask']}), {cut}, {slab}"


def _density_laws(facts: dict | None) -> str | None:
    """They depend on what the calibration counts in, which `Calibration` says."""
    return ", ".join(law["name"] for law in (facts or {}).get("density_laws", ())) or None


def _materials(facts: dict | None) -> str | None:
    if not facts or "modulus_law" not in facts:
        return None
    law = facts["modulus_law"]["name"]
    least = f"at least {facts['minimum_modulus_mpa']:g} MPa"
    bins = f"bins of {facts['bin_width']:g}"
    return f"{law}, {facts['average']} averaged, {least}, Poisson's ratio {facts['poissons_ratio']:g}, {bins}"


def _load_cases(cases: dict | None) -> str | None:
    described = [
        f"{name} ({case['angle_to_shaft_deg']:g} and {case['posterior_deg']:g} degrees, {case['distal']}, "
        f"cap {case['head_cap_deg']:g} degrees, plate {case['contact_depth_mm']:g} mm)"
        for name, case in (cases or {}).items()
    ]
    return "; ".join(described) or None


def _solver(facts: dict) -> str | None:
    if not facts.get("cases") or "criterion" not in facts:
        return None
    c = facts["criterion"]
    limits = f"{c['measure']} strain {c['tension']:g} / {c['compression']:g} in {c['volume_percent']:g} %"
    return (
        f"{facts['model']}, {limits} of the bone from {c['bone_from_mpa']:g} MPa, {c['apart_mm']:g} mm apart"
    )


def _count(values: Counter) -> str:
    """Each value with its number of hips, the most frequent first."""
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{value} ({count} hip{'s' if count > 1 else ''})" for value, count in ranked)
