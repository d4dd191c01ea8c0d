"""The decks solve in CalculiX and give the mechanics back."""

from dataclasses import replace

import numpy as np
import pytest
from body_factory import bar, femur_like, tet_bar
from decks import solve

from hipqct.hexahedra import build_hexahedra
from hipqct.io.meshes import write_inp
from hipqct.material import SOLVED_MODULUS, bin_modulus
from hipqct.mesh import tet_volumes_mm3
from hipqct.strains import (
    Criterion,
    element_strains,
    failure_factor,
    mean_energy_density_mpa,
    utilisation,
)

LENGTH_MM, WIDTH_MM, STRAIN = 30.0, 9.0, 1e-3
EFFECTIVE = Criterion("effective", 0.007, 0.007, 2, 0, 0)
PRINCIPAL = Criterion("principal", 0.007, 0.0104, 0, 0, 0)


def pull(mesh) -> str:
    """Stretch the bar along z by STRAIN; planes x, y, z = min are symmetric, so it contracts freely."""
    x, y, z = mesh.points_mm.T
    corner = {
        name: 1 + np.flatnonzero(np.isclose(axis, axis.min()))
        for name, axis in zip("xyz", (x, y, z), strict=True)
    }
    fixed = [f"{node}, {dof}\n" for dof, name in enumerate("xyz", 1) for node in corner[name]]
    return (
        "*INCLUDE, INPUT=mesh.inp\n*BOUNDARY\n" + "".join(fixed) + "*STEP\n*STATIC\n*BOUNDARY\n"
        f"PROXIMAL, 3, 3, {STRAIN * LENGTH_MM:.9g}\n"
        "*NODE PRINT, NSET=PROXIMAL\nRF\n*NODE PRINT, NSET=NALL\nU\n*END STEP\n"
    )


def apparent_modulus_mpa(tmp_path, modulus_mpa, poissons_ratio=0.3) -> float:
    mesh = bar()
    write_inp(mesh, tmp_path / "mesh.inp", ["bar"], bin_modulus(modulus_mpa, 0), poissons_ratio)
    results = solve(tmp_path, pull(mesh))
    force_n = sum(force[2] for force in results["RF"].values())
    return force_n / WIDTH_MM**2 / STRAIN


def test_a_bar_in_tension_gives_its_modulus_to_six_digits(tmp_path):
    assert apparent_modulus_mpa(tmp_path, np.full(90, 17_000.0)) == pytest.approx(17_000.0, rel=1e-6)


def test_a_bar_of_quadratic_tetrahedra_gives_its_modulus_to_six_digits(tmp_path):
    mesh = tet_bar()
    assert tet_volumes_mm3(mesh.points_mm, mesh.cells).min() > 0
    write_inp(mesh, tmp_path / "mesh.inp", ["bar"], bin_modulus(np.full(540, 17_000.0), 0), 0.3)
    results = solve(tmp_path, pull(mesh))
    force_n = sum(force[2] for force in results["RF"].values())
    assert force_n / WIDTH_MM**2 / STRAIN == pytest.approx(17_000.0, rel=1e-6)


@pytest.mark.parametrize("mesh", [bar(), tet_bar()], ids=["hex", "tet"])
@pytest.mark.parametrize("criterion", [EFFECTIVE, PRINCIPAL], ids=["effective", "principal"])
def test_a_bar_in_tension_fails_at_modulus_times_area_times_the_limit(tmp_path, mesh, criterion):
    """17,000 MPa x 81 mm2 x 0.007 = 9,639 N, by either measure: stress and strain are uniform."""
    modulus_mpa = np.full(len(mesh.cells), 17_000.0)
    write_inp(mesh, tmp_path / "mesh.inp", ["bar"], bin_modulus(modulus_mpa, 0), 0.3)
    results = solve(tmp_path, pull(mesh))
    force_n = sum(force[2] for force in results["RF"].values())
    moved_mm = np.array([results["U"][node + 1] for node in range(len(mesh.points_mm))])
    mesh = replace(mesh, cell_data={SOLVED_MODULUS: modulus_mpa})
    energy_mpa = mean_energy_density_mpa(mesh, moved_mm, modulus_mpa, 0.3)
    at_centroids = np.linalg.eigvalsh(element_strains(mesh, moved_mm))
    used, principal = utilisation(mesh, moved_mm, at_centroids, energy_mpa, criterion)
    np.testing.assert_allclose(principal[:, 2], STRAIN, rtol=1e-5)
    every = np.ones(len(used), bool)
    factor, _ = failure_factor(used, every.astype(float), every, criterion)
    assert force_n * factor == pytest.approx(9_639.0, rel=1e-5)


def test_a_bar_of_two_materials_in_series_is_exact_without_lateral_strain(tmp_path):
    """Ten layers, five of each material: compliances add up (Reuss)."""
    layer = np.arange(90) // 9
    modulus_mpa = np.where(layer < 5, 500.0, 17_000.0)
    expected_mpa = 2 / (1 / 500.0 + 1 / 17_000.0)
    assert apparent_modulus_mpa(tmp_path, modulus_mpa, 0.0) == pytest.approx(expected_mpa, rel=1e-6)


def test_two_materials_in_parallel_add_their_stiffness(tmp_path):
    """Nine fibres along the bar, three of them stiff: moduli average (Voigt)."""
    modulus_mpa = np.where(np.arange(90) % 3 == 1, 17_000.0, 500.0)
    expected_mpa = (17_000.0 + 2 * 500.0) / 3
    assert apparent_modulus_mpa(tmp_path, modulus_mpa, 0.0) == pytest.approx(expected_mpa, rel=1e-6)


@pytest.fixture(scope="module")
def femur_mesh():
    mask = femur_like()
    hu = 200.0 + 600.0 * np.indices(mask.shape)[2] / mask.shape[2]
    return build_hexahedra(mask, {"hu": hu})


def test_a_femur_under_a_unit_load_is_in_balance(tmp_path, femur_mesh):
    bins = bin_modulus(5.0 * femur_mesh.cell_data["hu"], 0.05)
    write_inp(femur_mesh, tmp_path / "mesh.inp", ["femur"], bins, 0.3)
    head = femur_mesh.node_sets["PROXIMAL"] + 1
    load = "".join(f"{node}, 3, {-1.0 / len(head):.12g}\n" for node in head)
    results = solve(
        tmp_path,
        "*INCLUDE, INPUT=mesh.inp\n*BOUNDARY\nDISTAL_FACE, 1, 3\n*STEP\n*STATIC\n*CLOAD\n"
        + load
        + "*NODE PRINT, NSET=DISTAL_FACE\nRF\n*NODE PRINT, NSET=NALL\nU\n*END STEP\n",
    )
    reaction_n = np.sum(list(results["RF"].values()), axis=0)
    assert reaction_n == pytest.approx([0, 0, 1], abs=1e-4)
    assert len(results["U"]) == len(femur_mesh.points_mm)
    head_mm = np.mean([results["U"][node] for node in head], axis=0)
    assert -1.0 < head_mm[2] < -1e-6  # it gives way downwards, by less than a millimetre per newton
    arms_mm = femur_mesh.points_mm[femur_mesh.node_sets["DISTAL_FACE"]]
    forces_n = np.array([results["RF"][node + 1] for node in femur_mesh.node_sets["DISTAL_FACE"]])
    load_mm = femur_mesh.points_mm[femur_mesh.node_sets["PROXIMAL"]].mean(axis=0)
    moment = np.cross(arms_mm, forces_n).sum(axis=0) + np.cross(load_mm, [0, 0, -1.0])
    assert np.abs(moment).max() < 1e-2
