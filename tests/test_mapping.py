"""Integration over tetrahedra: exact where it must be, and as good as promised elsewhere."""

import numpy as np
import pytest

from hipqct.hexahedra import build_hexahedra
from hipqct.image import Image
from hipqct.mapping import integration_points, mean_over_tetrahedra
from hipqct.mesh import TET_EDGES, Mesh


def element(corners_mm) -> Mesh:
    corners_mm = np.array(corners_mm, float)
    points_mm = np.concatenate([corners_mm, corners_mm[TET_EDGES].mean(axis=1)])
    return Mesh(points_mm, np.arange(10)[None])


UNIT = element([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])


def linear_image() -> Image:
    """15 + 5 (x + y + z) on -1..1, the image of py_bonemat's own tests."""
    x, y, z = np.indices((3, 3, 3)) - 1.0
    return Image(15 + 5 * (x + y + z), (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0))


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_the_value_that_py_bonemat_publishes(parts):
    """18.75 in its tests, version 2: 15 + 5 (x + y + z) at the centroid."""
    means = mean_over_tetrahedra(UNIT, linear_image(), parts, {"hu": lambda hu: hu})
    assert means["hu"][0] == pytest.approx(18.75, rel=1e-7)


def test_points_are_inside_and_balanced():
    points, weights = integration_points(8)
    assert points.shape == (120 + 84 + 56, 4)
    assert points.min() > 0
    np.testing.assert_allclose(points.sum(axis=1), 1)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights @ points, 0.25)
    with pytest.raises(ValueError, match="parts"):
        integration_points(0)


def bonemat_modulus_mpa(hu):
    """HU to density, to ash density, to modulus: the three laws that were given to py_bonemat."""
    return 14900 * (1.06 * hu / 30 + 0.0389) ** 1.86


@pytest.mark.parametrize("parts", [4, 8])
def test_a_mean_modulus_is_that_of_bonemats_version_3(parts):
    """Bonemat 3 takes the law of the voxels and integrates their moduli, trilinear between them.

    py_bonemat_abaqus 1.0.9 (Pegg and Gill 2016, J Biomech 49:3116), ``quad_tet.integral`` of the unit
    tetrahedron in its tests' linear field with the laws above: 7900.54, 7895.12, 7893.77 and 7893.43 MPa
    with 4, 8, 16 and 32 steps, which tends to 7893.31.
    """
    mean = mean_over_tetrahedra(UNIT, linear_image(), parts, {"e": bonemat_modulus_mpa})["e"][0]
    assert mean == pytest.approx(7893.31, rel=1e-3 * (4 / parts) ** 2)
    # Exactly: the field is 15, 20, 25 and 30 at the cell's corners; the means of 1, x, xy, xyz are known.
    e = bonemat_modulus_mpa(np.array([15.0, 20.0, 25.0, 30.0]))
    slopes = e[0], 3 * (e[1] - e[0]), 3 * (e[2] - 2 * e[1] + e[0]), e[3] - 3 * e[2] + 3 * e[1] - e[0]
    exact = np.dot(slopes, [1, 1 / 4, 1 / 20, 1 / 120])
    assert exact == pytest.approx(7893.31, abs=0.01)
    # The law of the interpolated density is another number, 1 % lower.
    index = integration_points(32)
    density = index[0] @ np.array([15.0, 20.0, 20.0, 20.0])
    assert index[1] @ bonemat_modulus_mpa(density) < 0.995 * mean


def test_a_wedge_of_three_tetrahedra_has_its_centroids_value():
    """22.5, to which py_bonemat tends: 21.875 in its tests with 4 steps (off the centroid), 22.42 with 32."""
    corners = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1)])
    tets = [element(corners[list(four)]) for four in ((0, 1, 2, 5), (0, 1, 5, 4), (0, 4, 5, 3))]
    means = [mean_over_tetrahedra(tet, linear_image(), 8, {"hu": lambda hu: hu})["hu"][0] for tet in tets]
    assert np.mean(means) == pytest.approx(22.5, rel=1e-6)  # all three have the same volume
    # The points of its 4 steps: six in the triangle, by their shares of its second and third corner.
    shares = np.array([(1, 1), (1, 3), (1, 5), (3, 1), (3, 3), (5, 1)]) / 8
    x, y = shares.sum(axis=1), shares[:, 1]
    assert (15 + 5 * (x + y + 0.5)).mean() == pytest.approx(21.875)


@pytest.mark.parametrize(
    ("law", "mean"), [(lambda hu: hu, 22.5), (bonemat_modulus_mpa, 10914.61242774)], ids=["V2", "V3"]
)
def test_a_cube_has_the_values_of_py_bonemats_hexahedron(law, mean):
    """2-mm cubes of eight voxels whose values are those at the corners of py_bonemat's unit hexahedron.

    22.5 is published in its tests; the mean modulus is its ``linear_hex.integral`` with the laws above.
    """
    mask = Image(np.zeros((6, 6, 4), bool), (1.0, 1.0, 1.0))
    mask.array[1:5, 1:5, 1:3] = True
    corner = (np.indices(mask.shape) + 1) % 2
    mesh = build_hexahedra(mask, {"value": law(15.0 + 5 * corner.sum(axis=0))}, 2.0)
    assert mesh.cell_data["value"].tolist() == pytest.approx([mean] * 4, rel=1e-9)


def test_the_integral_of_what_is_trilinear_converges():
    """The mean of xy over the unit tetrahedron is 1/20."""
    x, y, _ = np.indices((3, 3, 3)) - 1.0
    image = Image(x * y, (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0))
    errors = [
        abs(mean_over_tetrahedra(UNIT, image, n, {"e": lambda v: v})["e"][0] - 0.05) for n in (2, 4, 8, 16)
    ]
    assert errors[2] < 0.001
    assert np.all(np.diff(errors) < 0)


def test_a_mean_of_the_law_is_not_the_law_of_the_mean():
    means = mean_over_tetrahedra(UNIT, linear_image(), 8, {"hu": lambda v: v, "e": lambda v: v**3})
    assert means["e"][0] > means["hu"][0] ** 3


def test_an_element_outside_the_image_gets_its_edge():
    far = element(np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]) + 50.0)
    assert mean_over_tetrahedra(far, linear_image(), 2, {"hu": lambda v: v})["hu"][0] == pytest.approx(30)
