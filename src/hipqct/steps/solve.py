"""From a finite-element model to stiffness, strains and an estimate of the failure load."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.spatial import cKDTree

from hipqct.errors import SolverError
from hipqct.io.calculix import run_solver
from hipqct.io.files import hash_file, read_json, write_json
from hipqct.io.meshes import read_vtu, write_vtu
from hipqct.loads import DISTAL_SLAB
from hipqct.mesh import HexMesh, TetMesh, hex_volumes_mm3, tet_volumes_mm3
from hipqct.steps.decks import LOAD_CASES, SOLVED_MODULUS
from hipqct.strains import Criterion, element_strains, energy_density_mpa, failure_factor, utilisation

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
EVERY_NODE, HINGE = "NALL", "HINGE"
LARGEST_IMBALANCE = 1e-3  # of the force; solved models have 1e-6, from the digits that CalculiX prints


def solve_mesh(
    mesh_folder, folder, cases: list[str], model: str, criterion: dict, minutes: float, threads: int
):
    """Solve load cases of a hip's model with CalculiX; summary.json and a VTU per case in a folder.

    A hip without load cases (no calibration, no anatomical frame: flags of its mesh say so) gets a summary
    that tells why, with no cases.

    Args:
        mesh_folder: from `hipqct.steps.mesh.export_mesh`.
        cases: names of load cases; those that the mesh has are solved.
        model: ``hex`` or ``tet``.
        criterion: fields of `hipqct.strains.Criterion`.
        minutes: longest run of the solver.

    Raises:
        SolverError: CalculiX is missing, fails, or takes too long.
    """
    mesh_folder, folder, criterion = Path(mesh_folder), Path(folder), Criterion(**criterion)
    facts = read_json(mesh_folder / "mesh.json")
    wanted = [name for name in cases if name in facts["load_cases"]]
    summary = {
        "software": facts["software"],
        "model": model,
        "mesh_sha256": hash_file(mesh_folder / "mesh.json"),
        "flags_of_mesh": facts["flags"],
        "criterion": asdict(criterion),
        "not_solved": "" if wanted else _why_not(facts),
        "cases": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    if wanted:
        mesh = read_vtu(mesh_folder / f"{model}.vtu")
        with TemporaryDirectory() as scratch:
            shutil.copy(mesh_folder / f"{model}.inp", scratch)
            decks = shutil.copytree(mesh_folder / LOAD_CASES, Path(scratch) / LOAD_CASES)
            for name in wanted:
                deck = decks / f"{model}_{name}.inp"
                printed = run_solver(deck, threads, 60 * minutes)
                case = facts["load_cases"][name]
                found, fields = _evaluate(mesh, case, printed, facts["poissons_ratio"], criterion)
                summary["cases"][name] = found
                displacement_mm = {"displacement_mm": printed[EVERY_NODE]["displacement_mm"]}
                write_vtu(mesh, folder / f"{name}.vtu", mesh.cell_data | fields, displacement_mm)
                log.info("%s of %s: %.0f N/mm", name, mesh_folder, found["stiffness_n_mm"])
    write_json(summary, folder / SUMMARY)


def has_materials(facts: dict) -> bool:
    """Whether models have moduli, by their mesh.json; else the record of a failed try is an older one's."""
    return not facts["uncalibrated"] or facts["uncalibrated_modulus_mpa"] is not None


def read_solution(hip_folder) -> dict | None:
    """A solved hip's numbers for the cohort's table; None without a solution of this very mesh."""
    path = Path(hip_folder) / "solution" / SUMMARY
    if not path.is_file():
        return None
    summary = read_json(path)
    if summary["mesh_sha256"] != hash_file(Path(hip_folder) / "mesh" / "mesh.json"):
        return None
    return {
        f"{name}_{key}": case[key]
        for name, case in summary["cases"].items()
        for key in ("stiffness_n_mm", "failure_load_n")
    }


def _why_not(facts: dict) -> str:
    if facts["no_anatomical_frame"]:
        return facts["no_anatomical_frame"]
    if facts["uncalibrated"]:
        return "the scan has no density calibration, so its models have no materials and no load cases"
    return "the configuration names no load case of the mesh"


def _check_nodes(name: str, nodes: np.ndarray, count: int):
    """SolverError where the displacements are not those of every node of the mesh, in order."""
    if not np.array_equal(nodes, np.arange(1, count + 1)):
        raise SolverError(
            f"load case {name}: CalculiX printed displacements of {len(nodes)} nodes that are not the mesh's "
            f"1 to {count}; make the mesh again"
        )


def _check_balance(name: str, printed: dict, force_n: float) -> float:
    """The sum of all reactions over the force; SolverError where they do not cancel."""
    reactions_n = [found["force_n"].sum(axis=0) for found in printed.values() if "force_n" in found]
    balance = float(np.linalg.norm(np.sum(reactions_n, axis=0)) / abs(force_n))
    _refuse_imbalance(name, "reactions", balance)
    return balance


def _check_moments(case: dict, printed: dict, mesh: HexMesh | TetMesh, force_n: float) -> float:
    """The reactions' moment about the held slab over force times longest arm; SolverError where it is not 0.

    A hinge carries moments of its own, but none about its axis: there only that one must vanish.
    """
    middle_mm = mesh.points_mm[mesh.node_sets[DISTAL_SLAB]].mean(axis=0)
    moment_n_mm = np.zeros(3)
    for name, found in printed.items():
        if "force_n" in found and name != HINGE:  # which lies in the middle itself
            arms_mm = mesh.points_mm[found["nodes"] - 1] - middle_mm
            moment_n_mm += np.cross(arms_mm, found["force_n"]).sum(axis=0)
    if case["hinge"] is not None:
        moment_n_mm = moment_n_mm @ np.array(case["hinge"])
    longest_mm = np.linalg.norm(mesh.points_mm - middle_mm, axis=1).max()
    balance = float(np.linalg.norm(moment_n_mm) / (abs(force_n) * longest_mm))
    _refuse_imbalance(case["name"], "moments", balance)
    return balance


def _refuse_imbalance(name: str, what: str, share: float):
    if not share < LARGEST_IMBALANCE:
        raise SolverError(
            f"load case {name}: the {what} miss balance by {100 * share:.2g}% of the force, so the "
            "solver's answer cannot be trusted; look at the mesh, or choose another element size"
        )


def _evaluate(
    mesh: HexMesh | TetMesh, case: dict, printed: dict, poissons_ratio: float, criterion: Criterion
):
    """Numbers of one case, and cell arrays: strains, energy density, share of the criterion's limits."""
    _check_nodes(case["name"], printed[EVERY_NODE]["nodes"], len(mesh.points_mm))
    push = np.array(case["push"])
    held = [name for name in (case["head_set"], case["trochanter_set"], DISTAL_SLAB) if name]
    force_n = float(printed[case["head_set"]]["force_n"].sum(axis=0) @ push)
    strains = element_strains(mesh, printed[EVERY_NODE]["displacement_mm"])
    modulus_mpa = mesh.cell_data[SOLVED_MODULUS]
    volumes_mm3 = (hex_volumes_mm3 if mesh.cells.shape[1] == 8 else tet_volumes_mm3)(
        mesh.points_mm, mesh.cells
    )
    used = utilisation(strains, modulus_mpa, poissons_ratio, criterion)
    middles_mm = mesh.points_mm[mesh.cells].mean(axis=1)
    touched = np.concatenate([mesh.node_sets[name] for name in held])
    apart = cKDTree(mesh.points_mm[touched]).query(middles_mm)[0] > criterion.apart_mm
    bone = modulus_mpa >= criterion.bone_from_mpa
    factor, element = failure_factor(used, volumes_mm3, apart & bone, criterion)
    principal = np.linalg.eigvalsh(strains)
    tension = principal[element, 2] / criterion.tension >= -principal[element, 0] / criterion.compression
    numbers = {
        "force_n": force_n,
        "displacement_mm": case["displacement_mm"],
        "stiffness_n_mm": force_n / case["displacement_mm"],
        "reaction_balance": _check_balance(case["name"], printed, force_n),
        "moment_balance": _check_moments(case, printed, mesh, force_n),
        "work_mj": 0.5 * force_n * case["displacement_mm"],
        "failure_load_n": force_n * factor,
        "failure_displacement_mm": case["displacement_mm"] * factor,
        "failure_element": element + 1,
        "failure_place_mm": middles_mm[element].tolist(),
        "failure_in": "tension" if tension else "compression",
        "failure_modulus_mpa": float(modulus_mpa[element]),
        "soft_percent": 100 * float(volumes_mm3[apart & ~bone].sum() / volumes_mm3[apart].sum()),
    }
    fields = {
        "principal_strains": principal[:, ::-1],
        "energy_density_mpa": energy_density_mpa(strains, modulus_mpa, poissons_ratio),
        "share_of_limit": used,
        "looked_at": (apart & bone).astype(np.uint8),
    }
    return numbers, fields
