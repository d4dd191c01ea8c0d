"""Models of a femur are solved, and what is found is in balance and symmetric."""

import json
import shutil

import meshio
import numpy as np
import pytest
from perturbations import COARSE, femur
from shipped import mesh_options

from hipqct.errors import SolverError
from hipqct.image import Image
from hipqct.io.calculix import read_results, run_solver
from hipqct.io.images import write_image
from hipqct.io.meshes import read_vtu
from hipqct.mesh import Mesh, cell_volumes_mm3
from hipqct.steps.mesh import export_mesh
from hipqct.steps.solve import read_solution, solve_mesh
from hipqct.strains import check_balance, check_moments, check_nodes, mean_energy_density_mpa

CRITERION = {
    "measure": "effective",
    "tension": 0.007,
    "compression": 0.007,
    "volume_percent": 2,
    "bone_from_mpa": 0,
    "apart_mm": 9,
}
OPTIONS = mesh_options(COARSE, cube_mm=5.0, tet_mm=8.0, points_per_edge=2)
needs_ccx = pytest.mark.skipif(shutil.which("ccx") is None, reason="CalculiX (ccx) is not installed")


def export(mask: Image, folder, side="left", **calibration):
    """A mesh folder of a femur whose density rises towards its surface."""
    depth = np.minimum(np.cumsum(mask.array, axis=2), 12)
    hu = np.where(mask.array, 150 + 60 * depth, -60).astype(np.int16)
    write_image(mask, folder / "mask.nii.gz")
    write_image(mask.with_array(hu), folder / "ct.nii.gz")
    paths = (folder / "mask.nii.gz", folder / "ct.nii.gz", folder / "mesh")
    export_mesh(*paths, side, OPTIONS, "K2HPO4", **calibration)
    return folder / "mesh"


def solve(mesh_folder, model="hex", cases=("stance", "fall"), **changes) -> dict:
    out = mesh_folder.parent / f"solution-{model}"
    solve_mesh(mesh_folder, out, list(cases), model, CRITERION | changes, 10, 1)
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    return export(femur(), tmp_path_factory.mktemp("left"), slope=0.8, intercept=0.0)


@needs_ccx
def test_both_load_cases_are_solved_in_balance(left):
    summary = solve(left)
    assert set(summary["cases"]) == {"stance", "fall"} and summary["not_solved"] == ""
    for name, case in summary["cases"].items():
        assert case["reaction_balance"] < 1e-5 and case["moment_balance"] < 1e-5
        assert case["soft_percent"] == 0
        assert case["stiffness_n_mm"] > 100
        assert 0 < case["failure_load_n"] < 1e5
        mesh = read_vtu(left.parent / "solution-hex" / f"{name}.vtu")
        push = np.array(json.loads((left / "mesh.json").read_text())["load_cases"][name]["push"])
        moved_mm = mesh.cell_data  # cell arrays only; displacements are point data
        assert {"principal_strains", "energy_density_mpa", "share_of_limit"} <= set(moved_mm)
        assert 0 < case["pull_percent"] < 100 and 0 < case["left_out_percent"] < 50
        assert np.linalg.norm(push) == pytest.approx(1)


@needs_ccx
@pytest.mark.parametrize("model", ["hex", "tet"])
def test_the_energy_of_all_elements_is_the_work_done(left, model):
    """Deck, units, moduli, node order, strains and reactions in one number."""
    for name, case in solve(left, model)["cases"].items():
        mesh = read_vtu(left.parent / f"solution-{model}" / f"{name}.vtu")
        energy_mj = mesh.cell_data["energy_density_mpa"] @ cell_volumes_mm3(mesh)
        assert energy_mj == pytest.approx(case["work_mj"], rel=2e-4)


@needs_ccx
@pytest.mark.parametrize("model", ["hex", "tet"])
def test_a_mirrored_subject_is_as_stiff(left, tmp_path, model):
    mask = femur()
    mirrored = Image(mask.array[::-1], mask.spacing_mm, mask.origin_mm)
    right = solve(export(mirrored, tmp_path, "right", slope=0.8, intercept=0.0), model)
    for name, case in solve(left, model)["cases"].items():
        other = right["cases"][name]
        assert other["stiffness_n_mm"] == pytest.approx(case["stiffness_n_mm"], rel=1e-3)
        assert other["failure_load_n"] == pytest.approx(case["failure_load_n"], rel=1e-3)


@needs_ccx
def test_tetrahedra_and_cubes_agree_even_when_coarse(left):
    """Cubes of 5 mm and tetrahedra of 8 mm: found 8 and 9 % apart; of 3 and 5 mm 1 and 5 %."""
    hexes, tets = (solve(left, model)["cases"] for model in ("hex", "tet"))
    for name in ("stance", "fall"):
        assert tets[name]["stiffness_n_mm"] == pytest.approx(hexes[name]["stiffness_n_mm"], rel=0.1)
        assert tets[name]["failure_load_n"] == pytest.approx(hexes[name]["failure_load_n"], rel=0.15)


@needs_ccx
def test_failure_load_scales_with_the_limit(left):
    low, high = (solve(left, cases=["stance"], tension=t)["cases"]["stance"] for t in (0.007, 0.014))
    assert high["failure_load_n"] == pytest.approx(2 * low["failure_load_n"])


@needs_ccx
@pytest.mark.parametrize("percent", [2.0, 4.0])
def test_at_the_failure_load_the_stated_share_of_the_bone_is_at_its_limit(left, percent):
    case = solve(left, cases=["stance"], volume_percent=percent)["cases"]["stance"]
    cells = read_vtu(left.parent / "solution-hex" / "stance.vtu").cell_data
    used = cells["share_of_limit"][cells["looked_at"] == 1] * case["failure_load_n"] / case["force_n"]
    beyond, reached = 100 * (used > 1 + 1e-6).mean(), 100 * (used > 1 - 1e-6).mean()
    assert beyond <= percent < reached < percent + 100 * 3 / len(used)


def test_reactions_that_do_not_cancel_are_refused():
    printed = {"HEAD": {"force_n": np.array([[0, 0, -90.0]])}, "SLAB": {"force_n": np.array([[0, 0, 100.0]])}}
    with pytest.raises(SolverError, match="load case fall: the reactions miss balance by 11% of the force"):
        check_balance("fall", printed, 90.0)


def test_moments_that_do_not_cancel_are_refused():
    """Two opposite forces a millimetre apart: in balance as forces, not as moments."""
    points_mm = np.array([[0.0, 0, 0], [1, 0, 100]])
    mesh = Mesh(points_mm, np.zeros((0, 8), int), node_sets={"DISTAL_SLAB": np.array([0])})
    printed = {
        "HEAD": {"nodes": np.array([2]), "force_n": np.array([[0, 0, -100.0]])},
        "DISTAL_SLAB": {"nodes": np.array([1]), "force_n": np.array([[0, 0, 100.0]])},
    }
    case = {"name": "stance", "hinge": None}
    with pytest.raises(SolverError, match="load case stance: the moments miss balance by 1% of the force"):
        check_moments(case, printed, mesh, 100.0)
    assert check_moments(case | {"hinge": [1.0, 0, 0]}, printed, mesh, 100.0) == 0  # the hinge carries it
    with pytest.raises(SolverError, match="moments"):
        check_moments(case | {"hinge": [0, 1.0, 0]}, printed, mesh, 100.0)


@needs_ccx
def test_soft_elements_are_no_bone_to_the_criterion_where_it_says_so(left):
    """What fails first is soft: without it the load rises, and the element that decides is stiff."""
    every = solve(left, cases=["fall"])["cases"]["fall"]
    limit_mpa = every["failure_modulus_mpa"] + 500
    stiff = solve(left, cases=["fall"], bone_from_mpa=limit_mpa)["cases"]["fall"]
    modulus_mpa = read_vtu(left / "hex.vtu").cell_data["material_modulus_mpa"]
    looked_at = read_vtu(left.parent / "solution-hex" / "fall.vtu").cell_data["looked_at"] == 1
    assert modulus_mpa[looked_at].min() >= limit_mpa
    assert stiff["failure_modulus_mpa"] >= limit_mpa and 0 < stiff["soft_percent"] < 100
    assert stiff["failure_load_n"] > every["failure_load_n"]
    assert stiff["stiffness_n_mm"] == every["stiffness_n_mm"]


@needs_ccx
def test_the_held_end_of_a_fall_is_rigid_and_turns_freely_about_its_hinge(left, tmp_path):
    case = json.loads((left / "mesh.json").read_text())["load_cases"]["fall"]
    hinge = np.array(case["hinge"])
    folder = shutil.copytree(left, tmp_path / "mesh")
    printed = run_solver(folder / "load_cases/hex_fall.inp", 1, 600)
    mesh = read_vtu(left / "hex.vtu")
    slab = mesh.node_sets["DISTAL_SLAB"]
    middle_mm = mesh.points_mm[slab].mean(axis=0)
    moved_mm = printed["NALL"]["displacement_mm"][slab]
    # Rigid: moved = shift + turn x arm, solved for shift and turn.
    arms_mm = mesh.points_mm[slab] - middle_mm
    cross = [np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]]) for x, y, z in arms_mm]
    system = np.concatenate([np.hstack([np.eye(3), matrix]) for matrix in cross])
    found = np.linalg.lstsq(system, moved_mm.ravel(), rcond=None)[0]
    shift_mm, turn = found[:3], found[3:]
    assert np.abs(system @ found - moved_mm.ravel()).max() < 1e-3 * np.abs(moved_mm).max()
    assert np.linalg.norm(shift_mm) < 1e-3 * np.abs(moved_mm).max()
    assert abs(turn @ hinge) > 1e-4
    assert np.linalg.norm(turn - (turn @ hinge) * hinge) < 1e-3 * np.linalg.norm(turn)
    # Cap and plate alone balance about the hinge: it carries no moment about its axis, but does square to it.
    moment_n_mm, largest_n_mm = np.zeros(3), 0.0
    for name in (case["head_set"], case["trochanter_set"]):
        forces_n = printed[name]["force_n"]
        moments = np.cross(mesh.points_mm[printed[name]["nodes"] - 1] - middle_mm, forces_n)
        moment_n_mm += moments.sum(axis=0)
        largest_n_mm = max(largest_n_mm, abs(moments.sum(axis=0) @ hinge))
    assert largest_n_mm > 0 and abs(moment_n_mm @ hinge) < 1e-3 * largest_n_mm


@needs_ccx
def test_fields_are_those_of_the_modulus_that_was_solved(left):
    solve(left)
    mesh = read_vtu(left.parent / "solution-hex" / "stance.vtu")
    grid = meshio.read(left.parent / "solution-hex" / "stance.vtu")
    assert set(grid.field_data) == {"units_mm_N_MPa", "frame_LPS"}
    displacement_mm = grid.point_data["displacement_mm"]
    binned, own = mesh.cell_data["material_modulus_mpa"], mesh.cell_data["youngs_modulus_mpa"]
    assert not np.array_equal(binned, own)
    expected = mean_energy_density_mpa(mesh, displacement_mm, binned, 0.3)
    np.testing.assert_allclose(mesh.cell_data["energy_density_mpa"], expected, rtol=1e-6)


@needs_ccx
def test_a_criterion_that_leaves_no_bone_to_look_at_is_told(left):
    with pytest.raises(SolverError, match="no element of 0 MPa or more lies more than 500 mm from"):
        solve(left, cases=["stance"], apart_mm=500)


def test_rows_that_calculix_prints_in_another_order_are_sorted(tmp_path):
    head = " displacements (vx,vy,vz) for set NALL and time  0.1000000E+01\n\n"
    rows = [f"  {node}  {node}.5  0.0  -{node}.0\n" for node in (3, 1, 10, 2)]
    (tmp_path / "job.dat").write_text("\n" + head + "".join(rows))
    found = read_results(tmp_path / "job.dat")["NALL"]
    assert found["nodes"].tolist() == [1, 2, 3, 10]
    assert found["displacement_mm"][:, 0].tolist() == [1.5, 2.5, 3.5, 10.5]


@pytest.mark.parametrize("nodes", [[1, 2, 4], [1, 2], [1, 2, 2]])
def test_displacements_of_other_nodes_than_the_meshs_are_refused(nodes):
    check_nodes("fall", np.array([1, 2, 3]), 3)
    with pytest.raises(SolverError, match="load case fall: CalculiX printed displacements of"):
        check_nodes("fall", np.array(nodes), 3)


def test_a_scan_without_calibration_says_why_nothing_was_solved(tmp_path):
    mesh_folder = export(femur(), tmp_path)
    summary = solve(mesh_folder)
    assert summary["cases"] == {} and "calibration" in summary["not_solved"]
    assert not list((mesh_folder / "load_cases").iterdir())


def test_one_modulus_for_an_uncalibrated_scan_is_marked_everywhere(tmp_path):
    mask = femur()
    write_image(mask, tmp_path / "mask.nii.gz")
    write_image(mask.with_array(np.zeros(mask.shape, np.int16)), tmp_path / "ct.nii.gz")
    options = OPTIONS | {"uncalibrated_modulus_mpa": 5000.0}
    export_mesh(tmp_path / "mask.nii.gz", tmp_path / "ct.nii.gz", tmp_path, "left", options, "K2HPO4")
    for name in ("hex.inp", "tet.inp", "load_cases/hex_stance.inp", "load_cases/tet_fall.inp"):
        assert "UNCALIBRATED: the scan has no density calibration" in (tmp_path / name).read_text()
    for name in ("surface.stl", "surface.vtp"):
        assert b"UNCALIBRATED" in (tmp_path / name).read_bytes()[:400]
    assert "5000, 0.3" in (tmp_path / "hex.inp").read_text()
    assert (read_vtu(tmp_path / "hex.vtu").cell_data["youngs_modulus_mpa"] == 5000).all()
    assert "uncalibrated" in json.loads((tmp_path / "mesh.json").read_text())["flags"]


@pytest.mark.parametrize("model", ["hex", "tet"])
@pytest.mark.parametrize(
    ("case", "angle", "held"),
    [("stance", "20 deg", "held"), ("fall", "100 deg", "rigid, free to turn")],
)
def test_every_deck_tells_its_angles_and_fixation(left, model, case, angle, held):
    text = (left / f"load_cases/{model}_{case}.inp").read_text()
    header = " ".join(line[2:].strip() for line in text.splitlines() if line.startswith("**"))
    facts = json.loads((left / "mesh.json").read_text())["load_cases"][case]
    push = "{:.6f} {:.6f} {:.6f}".format(*facts["push"])
    for words in (
        f"push {angle} from the shaft",
        f"DISTAL_SLAB, lowest 6 mm: {held}",
        push,
        f"HEAD_{case.upper()}",
        "40 deg",
        "LPS",
        "mm below the head's centre",
    ):
        assert words in header, words


def test_the_decks_headers_tell_the_laws_constants(left):
    header = " ".join(
        line[2:].strip() for line in (left / "hex.inp").read_text().splitlines() if line.startswith("**")
    )
    assert "density mg/cm3 K2HPO4 = 0.8 HU + 0" in header
    assert "law keyak1994_ash: rho_ash = 1.06 rho_K2HPO4 + 0.0389 (g/cm3" in header
    assert "law keyak_three_range: E (MPa) = 33900 rho_ash^2.2 up to 0.27, then 5307 rho_ash + 469" in header
    assert "then 10200 rho_ash^2.01 (g/cm3" in header


def test_the_decks_headers_tell_angles_fixation_and_source(left):
    text = (left / "load_cases/hex_fall.inp").read_text()
    for words in (
        "*INCLUDE, INPUT=../hex.inp",
        "load case fall",
        "15 deg",
        "free to turn",
        "rigid",
        "mm, N, MPa",
        "Keyak",
    ):
        assert words in text, words
    facts = json.loads((left / "mesh.json").read_text())
    assert facts["load_cases"]["fall"]["angle_to_shaft_deg"] == 100
    assert facts["hex"]["node_sets"]["HEAD_FALL"] > 0


def test_a_missing_solver_is_one_sentence(left, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SolverError, match="calculix-ccx"):
        solve(left)


def test_a_solver_that_is_killed_is_told(left, tmp_path, monkeypatch):
    solver = tmp_path / "ccx"
    solver.write_text("#!/bin/sh\nkill -9 $$\n")
    solver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SolverError, match=r"killed on hex_stance.inp \(signal 9\): give solve_mesh more"):
        solve(left)


@needs_ccx
def test_a_deck_that_cannot_be_solved_is_told(left, tmp_path):
    folder = tmp_path / "mesh"
    shutil.copytree(left, folder)
    deck = folder / "load_cases/hex_stance.inp"
    deck.write_text(deck.read_text().replace("HEAD_STANCE, 1, 1", "NO_SUCH_SET, 1, 1"))
    with pytest.raises(SolverError, match="hex_stance"):
        solve(folder)
    assert not list((tmp_path / "solution-hex").glob("summary.json"))


def test_a_hip_that_was_not_solved_has_no_numbers(tmp_path):
    assert read_solution(tmp_path) is None


def test_results_that_break_off_are_told(tmp_path):
    (tmp_path / "job.dat").write_text("\n")
    with pytest.raises(SolverError, match="no results"):
        read_results(tmp_path / "job.dat")
