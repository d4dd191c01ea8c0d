"""Integration over tetrahedra: exact where it must be, and as good as promised elsewhere."""

import numpy as np
import pytest

from hipqct.image import Image
from hipqct.mapping import integration_points, mean_over_tetrahedra
from hipqct.mesh import TET_EDGES, TetMesh


def element(corners_mm) -> TetMesh:
    corners_mm = np.array(corners_mm, float)
    points_mm = np.concatenate([corners_mm, corners_mm[TET_EDGES].mean(axis=1)])
    return TetMesh(points_mm, np.arange(10)[None])


UNIT = element([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])


def linear_image() -> Image:
    """15 + 5 (x + y + z) on -1..1, the image of py_bonemat's own tests."""
    x, y, z = np.indices((3, 3, 3)) - 1.0
    return Image(15 + 5 * (x + y + z), (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0))


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_the_value_that_py_bonemat_publishes(parts):
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


def test_a_quadratic_law_converges_to_its_exact_mean():
    """The mean of x^2 over the unit tetrahedron is 1/10."""
    x = np.indices((3, 3, 3))[0] - 1.0
    image = Image(x, (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0))
    errors = [
        abs(mean_over_tetrahedra(UNIT, image, n, {"e": lambda v: v**2})["e"][0] - 0.1) for n in (2, 4, 8, 16)
    ]
    assert errors[2] < 0.002
    assert np.all(np.diff(errors) < 0)


def test_a_mean_of_the_law_is_not_the_law_of_the_mean():
    means = mean_over_tetrahedra(UNIT, linear_image(), 8, {"hu": lambda v: v, "e": lambda v: v**3})
    assert means["e"][0] > means["hu"][0] ** 3
