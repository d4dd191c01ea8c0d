"""CalculiX: load cases as input decks, runs of the solver, and its printed results."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from hipqct.errors import SolverError
from hipqct.io.files import replace_when_done
from hipqct.io.meshes import deck_comment
from hipqct.loads import LoadCase
from hipqct.mesh import DISTAL_SLAB, Mesh

SOLVER = "ccx"
RESULT_HEADS = {"displacements": "displacement_mm", "forces": "force_n"}
OUTPUT_KEPT = 600  # characters of the solver's last words in an error


def write_load_case(
    mesh: Mesh,
    path,
    mesh_file: str,
    case: LoadCase,
    push: np.ndarray,
    hinge: np.ndarray | None,
    header: list[str],
) -> None:
    """Write a deck with one linear static step that includes the mesh's deck.

    Args:
        mesh_file: path of the mesh's deck from the folder of this one.
        push: unit vector of the cap's way.
        hinge: unit vector of the hinge's axis, None where the slab is clamped.
        header: lines of the comment on top.
    """
    count = len(mesh.points_mm)
    parts = [deck_comment(header), f"*INCLUDE, INPUT={mesh_file}\n"]
    pushed = [name for name in (case.head_set, case.trochanter_set) if name]
    parts += [_local_axes(name, push) for name in pushed]
    if hinge is None:
        held = f"{DISTAL_SLAB}, 1, 3\n"
    else:
        middle = ", ".join(f"{x:.9g}" for x in mesh.points_mm[mesh.node_sets[DISTAL_SLAB]].mean(axis=0))
        parts.append(f"*NODE, NSET=HINGE\n{count + 1}, {middle}\n")
        parts.append(f"*NODE, NSET=HINGE_TURN\n{count + 2}, {middle}\n")
        parts.append(_local_axes("HINGE_TURN", hinge))
        parts.append(f"*RIGID BODY, NSET={DISTAL_SLAB}, REF NODE={count + 1}, ROT NODE={count + 2}\n")
        held = f"{count + 1}, 1, 3\n{count + 2}, 2, 3\n"
    plate = f"{case.trochanter_set}, 1, 1\n" if case.trochanter_set else ""
    parts.append("*BOUNDARY\n" + held + plate)
    parts.append(f"*STEP\n*STATIC\n*BOUNDARY\n{case.head_set}, 1, 1, {case.displacement_mm:.9g}\n")
    reacting = [*pushed, DISTAL_SLAB if hinge is None else "HINGE"]
    parts.append("*NODE PRINT, NSET=NALL, GLOBAL=YES\nU\n")
    parts += [f"*NODE PRINT, NSET={name}, GLOBAL=YES\nRF\n" for name in reacting]
    parts.append("*END STEP\n")
    with replace_when_done(path) as temporary:
        temporary.write_text("".join(parts), encoding="ascii", errors="replace", newline="\n")


def _local_axes(name: str, axis: np.ndarray) -> str:
    """Axes for a node set whose first is ``axis``."""
    across = np.eye(3)[np.abs(axis).argmin()]
    across = across - (across @ axis) * axis
    numbers = ", ".join(f"{x:.9g}" for x in (*axis, *across))
    return f"*TRANSFORM, NSET={name}, TYPE=R\n{numbers}\n"


def find_solver() -> str:
    """Path of ccx.

    Raises:
        SolverError: it is not installed.
    """
    path = shutil.which(SOLVER)
    if path is None:
        raise SolverError(
            "CalculiX (ccx) is not installed: apt-get install calculix-ccx, or set solve/cases to []"
        )
    return path


def run_solver(deck: Path, threads: int, timeout_s: float) -> dict[str, dict[str, np.ndarray]]:
    """Solve a deck in its folder and read what it printed.

    Returns:
        By node set, in capitals: ``nodes`` (numbers from 1), and ``displacement_mm`` or ``force_n``, each of
        shape ``(n, 3)``.

    Raises:
        SolverError: no solver, an error in the deck, too long, or no result.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [find_solver(), deck.stem]
    try:
        run = subprocess.run(
            command, cwd=deck.parent, env=environment, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise SolverError(
            f"CalculiX did not solve {deck.name} in {timeout_s:.0f} s: choose a coarser mesh"
        ) from None
    if run.returncode < 0:
        raise SolverError(
            f"CalculiX was killed on {deck.name} (signal {-run.returncode}): give solve_mesh more memory "
            "(mem_mb in the profile), or choose a coarser mesh"
        )
    if run.returncode or "*ERROR" in run.stdout or "Job finished" not in run.stdout:
        raise SolverError(f"CalculiX failed on {deck.name}: {' '.join(run.stdout.split())[-OUTPUT_KEPT:]}")
    return read_results(deck.with_suffix(".dat"))


def read_results(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Tables of displacements and forces of a .dat file by node set; the last of each counts.

    Rows come by ascending node number, in whatever order the solver prints them.
    """
    results, rows, what = {}, [], None
    for line in path.read_text(encoding="ascii").splitlines():
        if head := re.match(r"\s*(displacements|forces) .* for set (\S+)", line):
            rows, what = [], RESULT_HEADS[head[1]]
            results.setdefault(head[2], {})[what] = rows
        elif what and line.strip():
            rows.append(line.split())
    if not results:
        raise SolverError(f"{path.name} holds no results: CalculiX stopped before its end")
    tables = {}
    for name, found in results.items():
        tables[name] = {}
        for what, lines in found.items():
            table = np.array(lines, dtype=float)
            table = table[np.argsort(table[:, 0], kind="stable")]
            tables[name] |= {"nodes": table[:, 0].astype(int), what: table[:, 1:]}
    return tables
