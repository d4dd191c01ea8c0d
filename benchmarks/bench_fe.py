"""Finite-element models of a synthetic femur: exactness, convergence, symmetry, robustness, time, peers.

    python benchmarks/bench_fe.py             everything
    python benchmarks/bench_fe.py --mirror    the mirrored subject only, into the results that are there
    python benchmarks/bench_fe.py --times     times, memory and peers only, likewise
    python benchmarks/bench_fe.py --masks     spoilt masks only, likewise

Needs CalculiX (ccx), and as peers (``fe_peers.py``) ciclope and py_bonemat_abaqus, which ``make bench``
installs. Of a peer that is not there the figures before stay if they are of this machine and version, and the
benchmark ends with status 1. The femur is the left one of a held-out phantom, 0.8 x 0.8 x 3 mm. One core;
times are the quickest of three.
"""

import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from committed import describe_machine, read_results, write_results
from decks import solve
from fe_peers import PARTS, POISSON, compare_peers, keep_peers, missing_peers, quickest, without_peers
from perturbations import OPTIONS, PERTURBATIONS, femur
from shipped import mesh_options
from test_ccx import STRAIN, WIDTH_MM, bar, pull, tet_bar

from hipqct.anatomy import find_frame
from hipqct.errors import MeshError
from hipqct.hexahedra import SHAPES, build_hexahedra
from hipqct.image import Image
from hipqct.io.calculix import run_solver, write_load_case
from hipqct.io.files import read_json
from hipqct.io.images import write_image
from hipqct.io.meshes import write_inp, write_stl, write_vtu
from hipqct.loads import LoadCase, add_load_sets, hinge_axis, push_direction
from hipqct.material import bin_modulus
from hipqct.mesh import dihedral_angles_deg, enclosed_volume_mm3
from hipqct.phantom.seeds import TEST_SEEDS
from hipqct.solid import solid_mask
from hipqct.steps.materials import Calibration, add_hex_materials, add_tet_materials
from hipqct.steps.mesh import export_mesh
from hipqct.steps.phantom_training import build_crops, no_changes
from hipqct.surface import extract_surface, smooth_level_set
from hipqct.tetrahedra import build_tetrahedra

RESULTS = Path(__file__).parent / "results" / "fe.json"
MESH = mesh_options()
SPACING_MM = (0.8, 0.8, 3.0)
MODULUS_MPA = 17_000.0
HEX_SIZES_MM, TET_SIZES_MM = (3.0, 2.5, 2.0, 1.5), (5.0, 4.0, 3.0)
# Models whose mirrored subject is solved too: by their names in the table of convergence.
MIRRORED = {
    "hex_mask_3mm": lambda mask: build_hexahedra(mask, {}, 3.0),
    "tet_5mm": lambda mask: build_tetrahedra(mask, 5.0),
}
# Pairs of cubes and tetrahedra whose stiffness is compared: the shipped sizes, and converged ones.
DEFAULT_PAIR, CONVERGED_PAIR = ("hex_mask_3mm", "tet_3mm"), ("hex_surface_1.5mm", "tet_3mm")
SLOPE, INTERCEPT = 0.8, -5.0
SOLVER_S = 3600


def solve_bar(mesh, folder: Path) -> float:
    """Relative error of a bar's modulus in tension."""
    folder.mkdir()
    write_inp(
        mesh, folder / "mesh.inp", ["bar"], bin_modulus(np.full(len(mesh.cells), MODULUS_MPA), 0), POISSON
    )
    results = solve(folder, pull(mesh))
    force_n = sum(force[2] for force in results["RF"].values())
    return abs(force_n / WIDTH_MM**2 / STRAIN / MODULUS_MPA - 1)


def stiffness(mesh, frame, surface, folder: Path) -> dict[str, float]:
    """Stiffness (N/mm) of a model of one modulus in the shipped load cases."""
    cases = [LoadCase(name, **case) for name, case in MESH["load_cases"].items()]
    add_load_sets(mesh, frame, cases, surface)
    folder.mkdir()
    write_inp(
        mesh, folder / "mesh.inp", ["femur"], bin_modulus(np.full(len(mesh.cells), MODULUS_MPA), 0), POISSON
    )
    found = {}
    for case in cases:
        push = push_direction(case, frame)
        hinge = hinge_axis(case, frame) if case.distal == "hinged" else None
        deck = folder / f"{case.name}.inp"
        write_load_case(mesh, deck, "mesh.inp", case, push, hinge, ["benchmark"])
        started = time.perf_counter()
        printed = run_solver(deck, 1, SOLVER_S)
        force_n = float(printed[case.head_set]["force_n"].sum(axis=0) @ push)
        found[case.name] = force_n / case.displacement_mm
        found[f"{case.name}_solver_s"] = time.perf_counter() - started
    return found | {"nodes": len(mesh.points_mm), "elements": len(mesh.cells)}


def converge(mask: Image, folder: Path) -> dict:
    """Uniform stiffness by mesh size, of cubes and tetrahedra."""
    frame, surface, table = find_frame(mask, "left"), extract_surface(mask), {}
    for shape, size_mm in itertools.product(SHAPES, HEX_SIZES_MM):
        name = f"hex_{shape}_{size_mm:g}mm"
        mesh = build_hexahedra(mask, {}, size_mm, shape=shape)
        table[name] = stiffness(mesh, frame, surface, folder / name)
    for size_mm in TET_SIZES_MM:
        table[f"tet_{size_mm:g}mm"] = stiffness(
            build_tetrahedra(mask, size_mm), frame, surface, folder / f"t{size_mm}"
        )
    return table


def mirror(mask: Image, folder: Path) -> dict:
    """Uniform stiffness of the mirrored subject's models."""
    mirrored = Image(mask.array[::-1], mask.spacing_mm, mask.origin_mm)
    right, surface = find_frame(mirrored, "right"), extract_surface(mirrored)
    return {
        f"{name}_mirrored": stiffness(build(mirrored), right, surface, folder / f"mirrored-{name}")
        for name, build in MIRRORED.items()
    }


def compare_stiffness(table: dict) -> dict:
    """What the table of convergence says in single numbers, the larger of the two load cases each."""
    for name, row in table.items():
        print(name, {key: round(value, 1) for key, value in row.items()}, flush=True)
    hexes, tets = MIRRORED
    return {
        "uniform_stiffness_hex_tet_relative_difference": relative(table, *CONVERGED_PAIR),
        "uniform_stiffness_hex_tet_relative_difference_is_of": " against ".join(CONVERGED_PAIR),
        "uniform_stiffness_hex_tet_default_relative_difference": relative(table, *DEFAULT_PAIR),
        "uniform_stiffness_hex_tet_default_relative_difference_is_of": " against ".join(DEFAULT_PAIR),
        "mirror_stiffness_relative_difference": relative(table, hexes, f"{hexes}_mirrored"),
        "mirror_stiffness_tet_relative_difference": relative(table, tets, f"{tets}_mirrored"),
        "convergence": table,
    }


def relative(table: dict, one: str, other: str) -> float:
    return max(abs(table[one][case] / table[other][case] - 1) for case in MESH["load_cases"])


def time_exports(mask: Image, ct: Image, folder: Path) -> dict:
    """Seconds for the voxel model, and for surface and tetrahedra, mesh to file."""
    calibration = Calibration(SLOPE, INTERCEPT, "K2HPO4", MESH)

    def write(mesh, bins, name):
        write_inp(mesh, folder / f"{name}.inp", ["benchmark"], bins, POISSON)
        write_vtu(mesh, folder / f"{name}.vtu", mesh.cell_data)

    def export_hex():
        mesh = build_hexahedra(mask, {"hu": ct.array})
        write(mesh, add_hex_materials(mesh, calibration)[0], "hex")

    def export_tet():
        level_set = smooth_level_set(mask)
        write_stl(extract_surface(mask, level_set), folder / "surface.stl")
        mesh = build_tetrahedra(mask, level_set=level_set)
        write(mesh, add_tet_materials(mesh, ct, calibration, PARTS)[0], "tet")

    return {"hex_s": quickest(export_hex), "tet_s": quickest(export_tet)}


def peak_of_export(mask: Image, ct: Image, folder: Path) -> float:
    """Peak memory (GB) of the whole step in a process of its own."""
    write_image(mask, folder / "mask.nii.gz")
    write_image(ct, folder / "ct.nii.gz")
    command = [sys.executable, __file__, "--export", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def perturb() -> dict:
    """How many spoilt masks mesh, or are refused, with the right words."""
    wrong = []
    for perturbation in PERTURBATIONS:
        mask = perturbation.change(femur())
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_image(mask, folder / "mask.nii.gz")
            write_image(
                mask.with_array(np.where(mask.array, 300, -50).astype(np.int16)), folder / "ct.nii.gz"
            )
            paths = (folder / "mask.nii.gz", folder / "ct.nii.gz", folder / "mesh")
            try:
                export_mesh(*paths, perturbation.side, OPTIONS, "K2HPO4")
            except MeshError as error:
                right = bool(perturbation.refused) and any(
                    word in str(error) for word in perturbation.refused.split("|")
                )
            else:
                facts = read_json(folder / "mesh/mesh.json")
                right = not perturbation.refused and perturbation.is_right(set(facts["flags"]))
        if not right:
            wrong.append(perturbation.name)
    print("wrong:", wrong or "none", flush=True)
    return {"perturbed_masks_tried": len(PERTURBATIONS) - 1, "perturbed_masks_wrong": len(wrong)}


def make_femur(folder: Path) -> tuple[Image, Image]:
    """Scan and mask of the synthetic femur."""
    build_crops(TEST_SEEDS[:1], folder, 1, lambda done, total: None, no_changes)
    with np.load(folder / f"{TEST_SEEDS[0]}_left.npz") as arrays:
        return Image(arrays["ct"], SPACING_MM), Image(solid_mask(arrays["mask"]), SPACING_MM)


def main_part(part: str) -> None:
    """Measure one part again, into the results that are there."""
    before = read_json(RESULTS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if part == "--mirror":
            _, mask = make_femur(folder)
            result = before | compare_stiffness(before["convergence"] | mirror(mask, folder))
        elif part == "--times":
            measured = measure_cost(*make_femur(folder), folder)
            finish(without_peers(before) | measured | {"machine": describe_machine(1)}, before)
            return
        else:
            result = before | perturb()
    write_results(result, RESULTS)


def finish(result: dict, before: dict) -> None:
    """Write what was measured, and of absent peers what is kept; end with status 1 where one is absent."""
    missing = missing_peers(result)
    keep_peers(result, before)
    write_results(result, RESULTS)
    if missing:
        sys.exit(missing)


def measure_cost(ct: Image, mask: Image, folder: Path) -> dict:
    """Times, memory and peers."""
    return (
        time_exports(mask, ct, folder)
        | compare_peers(mask, ct, folder)
        | {"peak_rss_gb": peak_of_export(mask, ct, folder)}
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ct, mask = make_femur(folder)
        volume_mm3 = mask.array.sum() * mask.voxel_volume_mm3
        tets = build_tetrahedra(mask)
        result = measure_cost(ct, mask, folder)
        result |= {
            "bar_relative_error": max(
                solve_bar(bar(), folder / "bar"), solve_bar(tet_bar(), folder / "tet-bar")
            ),
            "surface_volume_relative_error": abs(enclosed_volume_mm3(extract_surface(mask)) / volume_mm3 - 1),
            "tet_min_dihedral_deg": float(dihedral_angles_deg(tets.points_mm, tets.cells).min()),
        }
        print(result, flush=True)
        table = converge(mask, folder) | mirror(mask, folder)
    result |= {
        **compare_stiffness(table),
        **perturb(),
        "data": "synthetic",
        "machine": describe_machine(1),
    }
    finish(result, read_results(RESULTS))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--export"]:
        place = Path(sys.argv[2])
        paths = (place / "mask.nii.gz", place / "ct.nii.gz", place / "mesh")
        export_mesh(*paths, "left", MESH, "K2HPO4", SLOPE, INTERCEPT)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    elif sys.argv[1:] in (["--mirror"], ["--times"], ["--masks"]):
        main_part(sys.argv[1])
    else:
        main()
