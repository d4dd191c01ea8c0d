"""The smooth surface: analytic bodies, closedness, held volume, caps, oblique frames."""

import numpy as np
import pytest
import trimesh
from body_factory import QCT_SPACING_MM, ball, voxelise

from hipqct.errors import MeshError
from hipqct.image import Image
from hipqct.mesh import Surface, enclosed_volume_mm3, euler_number, is_closed, surface_area_mm2
from hipqct.surface import extract_surface, smooth_level_set


def mask_volume_mm3(mask: Image) -> float:
    return mask.array.sum() * mask.voxel_volume_mm3


def rotation(degrees, axis) -> np.ndarray:
    return trimesh.transformations.rotation_matrix(np.radians(degrees), axis)[:3, :3]


def assert_one_clean_body(surface: Surface):
    oracle = trimesh.Trimesh(surface.points_mm, surface.triangles, process=False)
    assert oracle.is_volume  # watertight, consistent winding, outward
    assert oracle.body_count == 1
    assert oracle.euler_number == euler_number(surface) == 2
    assert is_closed(surface)


@pytest.mark.parametrize("spacing_mm", [QCT_SPACING_MM, (1.0, 1.0, 1.0), (0.7, 0.7, 1.25)])
def test_a_balls_surface_is_clean_and_holds_the_masks_volume(spacing_mm):
    mask = ball(24.0, spacing_mm)
    surface = extract_surface(mask)
    assert_one_clean_body(surface)
    assert enclosed_volume_mm3(surface) == pytest.approx(mask_volume_mm3(mask), rel=1e-3)
    assert surface_area_mm2(surface) == pytest.approx(4 * np.pi * 24**2, rel=0.01)


def test_a_balls_volume_and_area_converge_to_the_analytic_ones():
    centers_mm = [(32.0, 32.4, 33.0), (31.7, 32.1, 32.2), (32.3, 31.6, 33.7), (31.9, 32.9, 32.7)]
    errors = []
    for step_mm in (4.0, 1.0):
        surfaces = [extract_surface(ball(20.0, (step_mm,) * 3, center_mm)) for center_mm in centers_mm]
        volumes = np.array([enclosed_volume_mm3(s) for s in surfaces]) / (4 / 3 * np.pi * 20**3) - 1
        areas = np.array([surface_area_mm2(s) for s in surfaces]) / (4 * np.pi * 20**2) - 1
        errors.append(np.sqrt([(volumes**2).mean(), (areas**2).mean()]))
    assert (errors[1] < errors[0] / 4).all()  # first order or better, step by four
    assert (errors[1] < 0.002).all()


@pytest.mark.parametrize("pixel_mm", [0.8, 2.0, 3.0])
def test_a_balls_area_is_free_of_the_staircase_on_coarse_pixels_too(pixel_mm):
    surface = extract_surface(ball(23.0, (pixel_mm, pixel_mm, 3.0)))
    assert surface_area_mm2(surface) == pytest.approx(4 * np.pi * 23.0**2, rel=0.012)


def test_points_lie_on_the_ball():
    surface = extract_surface(ball(24.0, QCT_SPACING_MM))
    distance_mm = np.linalg.norm(surface.points_mm - (32.0, 32.4, 33.0), axis=1) - 24.0
    assert np.abs(distance_mm).mean() < 0.25
    assert np.abs(distance_mm).max() < 1.5  # half a slice: the poles of a stack of discs


def test_a_shaft_cut_by_the_scans_ends_is_capped_flat_on_their_faces():
    radius_mm, slices = 14.0, 20
    mask = voxelise(
        lambda x, y, z: (x - 20) ** 2 + (y - 20.3) ** 2 <= radius_mm**2,
        QCT_SPACING_MM,
        (40, 40, 3.0 * slices),
    )
    surface = extract_surface(mask)
    assert_one_clean_body(surface)
    z = surface.points_mm[:, 2]
    assert z.min() == pytest.approx(-1.5, abs=1e-9) and z.max() == pytest.approx(3.0 * slices - 1.5, abs=1e-9)
    assert enclosed_volume_mm3(surface) == pytest.approx(mask_volume_mm3(mask), rel=1e-3)
    area_mm2 = 2 * np.pi * radius_mm**2 + 2 * np.pi * radius_mm * 3.0 * slices
    assert surface_area_mm2(surface) == pytest.approx(area_mm2, rel=0.01)
    rim = surface.points_mm[np.isclose(z, -1.5)]  # no rounded rim: the cap is as wide as the shaft
    assert np.linalg.norm(rim[:, :2] - (20, 20.3), axis=1).max() == pytest.approx(radius_mm, abs=0.4)


def test_a_mask_at_the_images_side_is_capped_there_too():
    mask = voxelise(
        lambda x, y, z: x**2 + (y - 32) ** 2 + (z - 33) ** 2 <= 24**2, QCT_SPACING_MM, (64, 64, 66)
    )
    surface = extract_surface(mask)
    assert_one_clean_body(surface)
    assert surface.points_mm[:, 0].min() == pytest.approx(-0.4, abs=1e-9)
    assert enclosed_volume_mm3(surface) == pytest.approx(mask_volume_mm3(mask), rel=1e-3)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_the_frames_direction_moves_the_surface_rigidly(mirror):
    straight = ball(20.0, QCT_SPACING_MM)
    direction = rotation(17, (1, 2, 0.5)) @ np.diag([mirror, 1, 1])
    turned = Image(straight.array, straight.spacing_mm, (5.0, -7.0, 300.0), direction)
    reference, surface = extract_surface(straight), extract_surface(turned)
    assert_one_clean_body(surface)
    expected_mm = reference.points_mm @ direction.T + (5.0, -7.0, 300.0)
    assert np.allclose(surface.points_mm, expected_mm, atol=1e-6)


def test_the_same_mask_gives_the_same_surface():
    first, second = (extract_surface(ball(15.0, QCT_SPACING_MM)) for _ in range(2))
    assert np.array_equal(first.points_mm, second.points_mm)
    assert np.array_equal(first.triangles, second.triangles)


def test_only_the_largest_part_counts_and_its_cavities_are_filled():
    mask = ball(20.0, QCT_SPACING_MM)
    voxels = mask.array.copy()
    voxels[:3, :3, :2] = True
    voxels[38:42, 38:42, 10:12] = False
    assert_one_clean_body(extract_surface(mask.with_array(voxels)))


def test_a_level_set_that_is_there_already_gives_the_same_surface():
    mask = ball(15.0, QCT_SPACING_MM)
    ours, given = extract_surface(mask), extract_surface(mask, smooth_level_set(mask))
    assert np.array_equal(ours.points_mm, given.points_mm)


@pytest.mark.parametrize(("fill", "word"), [(False, "empty"), (True, "whole image")])
def test_a_mask_without_a_boundary_is_refused(fill, word):
    with pytest.raises(MeshError, match=word):
        extract_surface(Image(np.full((10, 10, 10), fill), QCT_SPACING_MM))


def test_a_single_voxel_is_refused():
    voxels = np.zeros((10, 10, 10), bool)
    voxels[5, 5, 5] = True
    with pytest.raises(MeshError, match="repair"):
        extract_surface(Image(voxels, QCT_SPACING_MM))


def test_two_balls_on_a_thread_are_refused_not_halved():
    index = np.indices((60, 30, 20))
    x, y, z = index * np.reshape(QCT_SPACING_MM, (3, 1, 1, 1))
    balls = [(x - a) ** 2 + (y - 12) ** 2 + (z - 30) ** 2 <= 81 for a in (12, 36)]
    voxels = balls[0] | balls[1]
    voxels[15:45, 15, 10] = True
    with pytest.raises(MeshError, match="too thin"):
        extract_surface(Image(voxels, QCT_SPACING_MM))


def test_an_open_surface_is_not_closed():
    surface = extract_surface(ball(10.0, (2.0, 2.0, 2.0)))
    assert not is_closed(Surface(surface.points_mm, surface.triangles[1:]))
    flipped = surface.triangles.copy()
    flipped[0] = flipped[0, ::-1]
    assert not is_closed(Surface(surface.points_mm, flipped))
