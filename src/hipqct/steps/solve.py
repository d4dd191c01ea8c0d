"""From a finite-element model to stiffness, strains and an estimate of the failure load."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from hipqct.io.calculix import run_solver
from hipqct.io.files import hash_file, read_json, write_json
from hipqct.io.meshes import read_vtu, write_vtu
from hipqct.steps.decks import LOAD_CASES
from hipqct.strains import EVERY_NODE, Criterion, evaluate_case

log = logging.getLogger(__name__)

SUMMARY = "summary.json"


def solve_mesh(
    mesh_folder, folder, cases: list[str], model: str, criterion: dict, minutes: float, threads: int
) -> None:
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
    (folder / SUMMARY).unlink(missing_ok=True)  # an earlier solution's would pass for one of the new VTUs
    if wanted:
        mesh = read_vtu(mesh_folder / f"{model}.vtu")
        with TemporaryDirectory() as scratch:
            shutil.copy(mesh_folder / f"{model}.inp", scratch)
            decks = shutil.copytree(mesh_folder / LOAD_CASES, Path(scratch) / LOAD_CASES)
            for name in wanted:
                deck = decks / f"{model}_{name}.inp"
                printed = run_solver(deck, threads, 60 * minutes)
                case = facts["load_cases"][name]
                found, fields = evaluate_case(mesh, case, printed, facts["poissons_ratio"], criterion)
                summary["cases"][name] = found
                displacement_mm = {"displacement_mm": printed[EVERY_NODE]["displacement_mm"]}
                write_vtu(mesh, folder / f"{name}.vtu", mesh.cell_data | fields, displacement_mm)
                log.info("%s of %s: %.0f N/mm", name, mesh_folder, found["stiffness_n_mm"])
    write_json(summary, folder / SUMMARY)


def has_materials(facts: dict) -> bool:
    """Whether models have moduli, by their mesh.json; else the record of a failed try is an older one's."""
    return not facts["uncalibrated"] or facts["uncalibrated_modulus_mpa"] is not None


def read_solution(hip_folder) -> dict | None:
    """A solved hip's numbers for the cohort's table; None without a solution of this very mesh.

    Empty where the mesh has no load case to solve, as without a head: ``not_solved`` in the summary tells.
    """
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
