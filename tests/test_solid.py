"""A mask as one solid: its largest part without cavities, cut to a length whichever way it lies."""

import numpy as np
import pytest
from body_factory import QCT_SPACING_MM, ball
from scipy.spatial.transform import Rotation

from hipqct.image import Image
from hipqct.solid import bounding_box, cut_below, share_above, solid_mask, surface_distance_um


def test_the_largest_part_is_kept_and_its_cavities_are_filled():
    mask = ball(20.0, QCT_SPACING_MM)
    voxels = mask.array.copy()
    voxels[:3, :3, :2] = True
    voxels[38:42, 38:42, 10:12] = False
    assert np.array_equal(solid_mask(voxels), mask.array)


def test_a_surface_distance_is_negative_in_the_mask_alone_and_ends_a_voxel_away():
    mask = ball(20.0, QCT_SPACING_MM).array
    distance_um = surface_distance_um(mask, QCT_SPACING_MM)
    assert distance_um.dtype == np.int16
    assert np.array_equal(distance_um < 0, mask)
    assert np.abs(distance_um).max() == np.ceil(1000 * np.linalg.norm(QCT_SPACING_MM))
    known_mm = np.where(mask, 0.4, 0.3)  # says that nothing is inside
    known_um = surface_distance_um(mask, QCT_SPACING_MM, known_mm)
    assert np.array_equal(np.unique(known_um[mask]), [-1])
    assert np.array_equal(np.unique(known_um[~mask]), [300])


def test_a_box_holds_all_of_a_mask_and_no_more():
    voxels = np.zeros((9, 8, 7), bool)
    voxels[2, 3, 4] = voxels[5, 3, 6] = True
    assert bounding_box(voxels) == (slice(2, 6), slice(3, 4), slice(4, 7))


@pytest.mark.parametrize("distance_mm", [10.0, 11.4, 12.6])
@pytest.mark.parametrize("turn_deg", [0, 25])
@pytest.mark.parametrize("descending", [False, True])
def test_a_mask_ends_where_it_is_cut_to_half_a_slice(distance_mm, turn_deg, descending):
    """Along the slices' axis, however it is turned and whichever end of the array is up."""
    turn = Rotation.from_euler("xy", [turn_deg, -turn_deg / 2], degrees=True).as_matrix()
    turn = turn @ np.diag([1.0, 1.0, -1.0 if descending else 1.0])
    mask = Image(np.ones((4, 5, 30), bool), QCT_SPACING_MM, (10.0, -20.0, 500.0), turn)
    point_mm = mask.to_world(np.array([[2, 2, 15]]))[0]
    cut = cut_below(mask, point_mm, distance_mm)
    up = turn[:, 2] * np.sign(turn[2, 2])
    below_mm = (point_mm - mask.to_world(np.argwhere(cut.array))) @ up
    assert below_mm.max() + 1.5 == pytest.approx(distance_mm, abs=1.5)
    gone_mm = (point_mm - mask.to_world(np.argwhere(mask.array & ~cut.array))) @ up
    assert gone_mm.min() > distance_mm
    assert mask.array.all()  # the mask given stays as it was


def test_a_cut_beyond_the_mask_takes_nothing_off():
    mask = ball(15.0, QCT_SPACING_MM)
    assert np.array_equal(cut_below(mask, np.array([32.0, 32, 33]), 100.0).array, mask.array)


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (0.6, 0.0, 0.8), (0.36, 0.48, 0.8)])
def test_the_volume_above_a_plane_is_that_of_parts_of_voxels(flip, axis):
    """Whichever way the slices are ordered; against voxels cut into a thousand parts."""
    mask = Image(np.ones((12, 14, 10), bool), (2.0, 1.0, 3.0), direction=np.diag([1.0, 1.0, flip]))
    mask.array[:2, 5, 3:] = False
    point_mm = mask.to_world((6, 7, 9 if flip > 0 else 0))
    share = share_above(mask, point_mm, np.array(axis), 11.1)
    index = np.argwhere(mask.array)
    parts = np.stack(np.meshgrid(*[(np.arange(10) + 0.5) / 10 - 0.5] * 3), -1).reshape(-1, 3)
    above = (mask.to_world(index[:, None] + parts) - point_mm) @ np.array(axis) > -11.1
    assert share.shape == (mask.array.sum(),)
    assert share.sum() == pytest.approx(above.mean(axis=1).sum(), rel=1e-2)
    assert np.abs(share - above.mean(axis=1)).max() < 0.15
