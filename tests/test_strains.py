"""Strains of known displacement fields, and the loads at which criteria are met."""

import numpy as np
import pytest
from body_factory import bar, tet_bar
from perturbations import femur

from hipqct.mesh import cell_volumes_mm3, hex_volumes_mm3
from hipqct.strains import (
    GAUSS_POINTS,
    Criterion,
    corner_strains,
    effective_strain,
    element_strains,
    energy_density_mpa,
    failure_factor,
    mean_energy_density_mpa,
    share_of_limits,
)
from hipqct.tetrahedra import build_tetrahedra

PRINCIPAL = Criterion("principal", 0.0073, 0.0104, 0, 0, 0)
EFFECTIVE = Criterion("effective", 0.007, 0.007, 2, 0, 0)


@pytest.mark.parametrize("mesh", [bar(), tet_bar()], ids=["hex", "tet"])
def test_a_linear_field_gives_its_symmetric_gradient_everywhere(mesh):
    gradient = np.array([[1.0, 2.0, -3.0], [0.5, -1.0, 0.2], [0.0, 0.7, 2.0]]) * 1e-3
    for place in (None, *GAUSS_POINTS[mesh.element]):
        strains = element_strains(mesh, mesh.points_mm @ gradient.T, place)
        assert np.allclose(strains, (gradient + gradient.T) / 2, atol=1e-12)


def test_turning_without_deforming_strains_nothing():
    mesh = build_tetrahedra(femur(), 8.0)
    spin = np.array([[0, -1, 2], [1, 0, -0.5], [-2, 0.5, 0]]) * 1e-3
    assert np.abs(element_strains(mesh, mesh.points_mm @ spin.T)).max() < 1e-12


def test_a_quadratic_field_has_its_slope_at_the_centroid():
    """u_z = z^2: strain 2z, which quadratic elements hold exactly."""
    mesh = tet_bar()
    displacement_mm = np.zeros_like(mesh.points_mm)
    displacement_mm[:, 2] = mesh.points_mm[:, 2] ** 2
    centroids = mesh.points_mm[mesh.cells[:, :4]].mean(axis=1)
    assert np.allclose(element_strains(mesh, displacement_mm)[:, 2, 2], 2 * centroids[:, 2])
    corners = np.unique(mesh.cells[:, :4])
    at_corners = corner_strains(mesh, displacement_mm)[corners, 2, 2]
    assert np.allclose(at_corners, 2 * mesh.points_mm[corners, 2], atol=1e-9)


def test_the_strain_at_a_corner_is_the_mean_of_the_elements_that_meet_there():
    mesh = tet_bar()
    displacement_mm = np.random.default_rng(0).normal(0, 1e-3, mesh.points_mm.shape)
    corner = mesh.cells[0, 2]
    meeting = [
        element_strains(mesh, displacement_mm, np.eye(4)[i])[element]
        for element, i in zip(*np.nonzero(mesh.cells[:, :4] == corner), strict=True)
    ]
    assert len(meeting) > 1
    assert np.allclose(corner_strains(mesh, displacement_mm)[corner], np.mean(meeting, axis=0))


@pytest.mark.parametrize("mesh", [bar(), tet_bar()], ids=["hex", "tet"])
def test_bending_energy_counts_in_full(mesh):
    """u_x = y z, u_y = u_z = 0: shear y and z over 2, so the energy is the integral of G (y^2 + z^2) / 2."""
    points_mm, modulus_mpa = mesh.points_mm, np.full(len(mesh.cells), 1000.0)
    displacement_mm = np.zeros_like(points_mm)
    displacement_mm[:, 0] = points_mm[:, 1] * points_mm[:, 2]
    low, high = points_mm.min(axis=0), points_mm.max(axis=0)
    squares = (high**3 - low**3) / 3
    x, y, z = high - low
    wanted_mj = 1000 / 2.6 / 2 * x * (squares[1] * z + squares[2] * y)
    density_mpa = mean_energy_density_mpa(mesh, displacement_mm, modulus_mpa, 0.3)
    assert density_mpa @ cell_volumes_mm3(mesh) == pytest.approx(wanted_mj)


def test_energy_of_uniaxial_stress_is_half_stress_times_strain():
    strain, ratio, modulus_mpa = 2e-3, 0.3, 15_000.0
    tensor = np.diag([-ratio * strain, -ratio * strain, strain])[None]
    energy_mpa = energy_density_mpa(tensor, np.array([modulus_mpa]), ratio)
    assert energy_mpa[0] == pytest.approx(modulus_mpa * strain**2 / 2)
    assert effective_strain(energy_mpa, np.array([modulus_mpa]))[0] == pytest.approx(strain)


def test_tension_and_compression_have_their_own_limits():
    pulled, pressed = np.array([0, 0, 0.0073]), np.array([-0.0104, 0, 0])
    used = share_of_limits(np.stack([pulled, pressed, pressed / 2]), PRINCIPAL)
    assert used == pytest.approx([1, 1, 0.5])


def test_failure_comes_when_the_share_of_volume_is_beyond():
    used, volumes_mm3 = np.array([4.0, 2.0, 1.0, 0.5]), np.array([1.0, 1.0, 8.0, 90.0])
    every = np.ones(4, bool)
    assert failure_factor(used, volumes_mm3, every, PRINCIPAL) == (0.25, 0)
    # 2 % of 100 mm3 are beyond once the third element gets there.
    assert failure_factor(used, volumes_mm3, every, EFFECTIVE) == (1.0, 2)
    assert failure_factor(used, volumes_mm3, np.array([0, 0, 1, 1], bool), PRINCIPAL) == (1.0, 2)


def test_a_measure_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="measure must be one of"):
        Criterion("efective", 0.007, 0.007, 2, 0, 0)


def test_cubes_have_their_volume():
    mesh = bar()
    assert np.allclose(hex_volumes_mm3(mesh.points_mm, mesh.cells), 27.0)
