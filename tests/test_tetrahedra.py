"""The tetrahedral mesh: the mask's volume, good angles, conforming, and whole."""

import numpy as np
import pytest
from body_factory import femur_like
from scipy.spatial import cKDTree

from hipqct.errors import MeshError
from hipqct.image import Image
from hipqct.mesh import (
    TET_EDGES,
    Surface,
    boundary_faces,
    dihedral_angles_deg,
    enclosed_volume_mm3,
    euler_number,
    is_closed,
    row_keys,
    tet_volumes_mm3,
)
from hipqct.tetrahedra import build_tetrahedra


def ball(radius_mm=18.0, spacing_mm=(0.8, 0.8, 3.0)) -> Image:
    counts = [int(56 / s) for s in spacing_mm]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(counts, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return Image(x**2 + y**2 + z**2 < radius_mm**2, spacing_mm)


@pytest.fixture(scope="module")
def femur():
    return build_tetrahedra(femur_like(), 3.0)


@pytest.mark.parametrize("size_mm", [2.5, 3.0, 3.5])
def test_a_femur_meshes_with_good_angles_and_the_masks_volume(size_mm):
    mask = femur_like()
    mesh = build_tetrahedra(mask, size_mm)
    volumes_mm3 = tet_volumes_mm3(mesh.points_mm, mesh.cells)
    assert volumes_mm3.min() > 0
    # No element is inside out or overlaps another: their volumes are what the boundary encloses.
    boundary = Surface(mesh.points_mm, boundary_faces(mesh.cells[:, :4]))
    assert volumes_mm3.sum() == pytest.approx(enclosed_volume_mm3(boundary), rel=1e-9)
    assert volumes_mm3.sum() == pytest.approx(mask.array.sum() * mask.voxel_volume_mm3, rel=1e-3)
    assert dihedral_angles_deg(mesh.points_mm, mesh.cells).min() > 10
    ends = mesh.points_mm[mesh.cells[:, TET_EDGES]]
    lengths_mm = np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=2)
    assert lengths_mm.mean() == pytest.approx(size_mm, rel=0.05)


def test_neighbours_fit_and_the_boundary_is_one_closed_sphere(femur):
    """Every inner face belongs to two elements: else the boundary would be larger, or open."""
    faces = boundary_faces(femur.cells[:, :4])
    surface = Surface(femur.points_mm, faces)
    assert is_closed(surface)
    assert euler_number(surface) == 2
    assert set(np.unique(faces)) <= set(femur.node_sets["SURFACE"])
    surface_nodes = femur.points_mm[femur.node_sets["SURFACE"]]
    assert len(surface_nodes) == pytest.approx(2 * len(faces) + 2)  # corners and mid-edges of a sphere


def test_middles_lie_between_their_corners(femur):
    ends = femur.points_mm[femur.cells[:, TET_EDGES]]
    np.testing.assert_allclose(femur.points_mm[femur.cells[:, 4:]], ends.mean(axis=2), atol=1e-9)


def test_a_balls_boundary_lies_on_the_ball():
    mesh = build_tetrahedra(ball(), 3.0)
    corners = np.intersect1d(np.unique(mesh.cells[:, :4]), mesh.node_sets["SURFACE"])
    points_mm = mesh.points_mm[corners]
    radius_mm = np.linalg.norm(points_mm - points_mm.mean(axis=0), axis=1)
    assert radius_mm.mean() == pytest.approx(18.0, abs=0.2)
    assert radius_mm.std() < 0.25


@pytest.mark.parametrize("size_mm", [3.0, 4.0])
def test_a_mirrored_mask_gives_the_mirrored_elements_but_for_ties(size_mm):
    mask = femur_like()
    turned = Image(mask.array[::-1], mask.spacing_mm)
    first, second = build_tetrahedra(mask, size_mm), build_tetrahedra(turned, size_mm)
    width_mm = (mask.shape[0] - 1) * mask.spacing_mm[0]
    _, partner = cKDTree(first.points_mm).query(second.points_mm * [-1, 1, 1] + [width_mm, 0, 0])
    elements, mirrored = (
        set(map(tuple, np.sort(corners, axis=1).tolist()))
        for corners in (first.cells[:, :4], partner[second.cells[:, :4]])
    )
    assert len(elements ^ mirrored) <= 1e-3 * len(elements)


@pytest.mark.parametrize("flip", [1, -1])
def test_volumes_are_positive_in_any_frame(flip):
    mask = ball()
    direction = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, float(flip)]])
    turned = Image(mask.array, mask.spacing_mm, (5.0, -3.0, 100.0), direction)
    mesh = build_tetrahedra(turned)
    assert tet_volumes_mm3(mesh.points_mm, mesh.cells).min() > 0
    ends = mesh.points_mm[mesh.cells[:, TET_EDGES]]
    np.testing.assert_allclose(mesh.points_mm[mesh.cells[:, 4:]], ends.mean(axis=2), atol=1e-9)
    lowest = mesh.points_mm[mesh.node_sets["DISTAL_SLAB"]][:, 2].max() - mesh.points_mm[:, 2].min()
    assert lowest <= 6.0 + 1e-6


def test_the_distal_face_is_flat_and_in_the_slab(femur):
    face = femur.points_mm[femur.node_sets["DISTAL_FACE"]]
    assert np.ptp(face[:, 2]) <= 0.05
    assert len(face) > 20
    assert set(femur.node_sets["DISTAL_FACE"]) <= set(femur.node_sets["DISTAL_SLAB"])


def test_the_same_mask_gives_the_same_bytes():
    first, second = build_tetrahedra(ball()), build_tetrahedra(ball())
    assert first.points_mm.tobytes() == second.points_mm.tobytes()
    assert first.cells.tobytes() == second.cells.tobytes()


def test_a_speck_on_a_thread_is_no_second_body():
    """A ball and a block joined by a thread of one voxel, which no element can hold: the ball is meshed."""
    mask = ball(radius_mm=12.0, spacing_mm=(0.8, 0.8, 0.8))
    middle = mask.array.shape[0] // 2
    mask.array[middle, middle, :25] = True
    mask.array[middle - 3 : middle + 4, middle - 3 : middle + 4, 2:9] = True
    mesh = build_tetrahedra(mask, 3.0)
    assert mesh.facts["tets_dropped"] > 0
    assert euler_number(Surface(mesh.points_mm, boundary_faces(mesh.cells[:, :4]))) == 2
    assert mesh.points_mm[:, 2].min() > mask.spacing_mm[2] * 12  # the block ends at 9, the ball begins at 20
    whole_mm3 = mask.array.sum() * mask.voxel_volume_mm3
    assert tet_volumes_mm3(mesh.points_mm, mesh.cells).sum() == pytest.approx(whole_mm3, rel=2.5e-3)


def test_what_is_too_thin_is_refused():
    mask = Image(np.zeros((20, 20, 8), bool), (0.8, 0.8, 3.0))
    mask.array[5:15, 9, 2:6] = True
    with pytest.raises(MeshError, match="too thin"):
        build_tetrahedra(mask)
    with pytest.raises(ValueError, match="size_mm"):
        build_tetrahedra(ball(), 0)


@pytest.mark.parametrize("points", [50, 5_000_000])
def test_keys_of_rows_are_ordered_as_the_rows_are_and_do_not_overflow(points):
    rows = np.random.default_rng(3).integers(points - 50, points, (400, 3))
    keys = row_keys(rows, points)
    assert keys.min() >= 0
    assert (rows[np.argsort(keys, kind="stable")] == rows[np.lexsort(rows.T[::-1])]).all()
    assert len(np.unique(keys)) == len(np.unique(rows, axis=0))
