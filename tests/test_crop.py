from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hipqct.crop import crop_roi, lies_on_side, locate_hip
from hipqct.errors import AnatomyError, SheetError
from hipqct.image import Image
from hipqct.io.hdf5 import read_roi
from hipqct.io.images import write_image
from hipqct.phantom.generate import generate_phantom
from hipqct.phantom.parameters import sample_parameters
from hipqct.resample import resample_mask_slices
from hipqct.steps.image import crop_hip

HALF_CROP_MM = 192 * 0.8 / 2


@pytest.fixture(scope="module")
def phantom():
    return generate_phantom(
        sample_parameters(1003, "F", 60, matrix=128, pixel_mm=3.0, slice_mm=3.0, top_mm=45, bottom_mm=75)
    )


def part(image, box):
    """A box of an image that keeps its place in the world."""
    first = [s.start or 0 for s in box]
    return replace(image, array=image.array[box], origin_mm=tuple(image.to_world(first)))


def mirrored(image):
    """The scan of a patient who is the mirror image of this one."""
    x_mm = -image.to_world((image.shape[0] - 1, 0, 0))[0]
    return replace(image, array=image.array[::-1], origin_mm=(x_mm, *image.origin_mm[1:]))


def share_inside(mask, center_mm):
    """Share of a femur inside the standard crop round a position."""
    away_mm = np.abs(mask.to_world(np.argwhere(mask.array)) - center_mm)[:, :2]
    return (away_mm <= HALF_CROP_MM).all(1).mean()


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_crop_holds_the_whole_femur(phantom, side):
    femur = {"left": phantom.left_femur, "right": phantom.right_femur}[side]
    assert share_inside(femur, locate_hip(phantom.ct, side)) == 1
    other = {"left": "right", "right": "left"}[side]
    assert share_inside(mirrored(femur), locate_hip(mirrored(phantom.ct), other)) == 1


def test_off_centre_field_of_view(phantom):
    shifted = part(phantom.ct, np.s_[25:, 10:, :])
    assert share_inside(phantom.left_femur, locate_hip(shifted, "left")) == 1


def test_a_view_of_one_hip_and_the_hip_it_does_not_show(phantom):
    left_half = part(phantom.ct, np.s_[66:, :, :])
    assert share_inside(phantom.left_femur, locate_hip(left_half, "left")) == 1
    with pytest.raises(AnatomyError, match="no right hip is seen in the scan"):
        locate_hip(left_half, "right")


@pytest.mark.parametrize(("first", "fat_mm"), [(66, 60), (60, 45), (48, 60)])
def test_a_wide_view_of_one_hip_of_a_large_body_is_known_for_what_it_is(phantom, first, fat_mm):
    """Its middle is no midline: what lies beyond is not the other hip."""
    view = part(phantom.ct, np.s_[first:, :, :])
    flank = np.flatnonzero((view.array > -300).any((1, 2)))[-1] - 3
    fat = view.array[flank : flank + 1].repeat(fat_mm // 3, axis=0)
    view = replace(view, array=np.concatenate([view.array[:flank], fat, view.array[flank:]]))
    center_mm = locate_hip(view, "left")
    assert share_inside(phantom.left_femur, center_mm) == 1
    assert lies_on_side(view, center_mm, "left") and not lies_on_side(view, center_mm, "right")
    with pytest.raises(AnatomyError, match="no right hip is seen in the scan"):
        locate_hip(view, "right")


def test_a_side_without_its_femur_is_refused(phantom):
    gone = ndimage.binary_dilation(phantom.left_femur.array, iterations=2)
    amputee = phantom.ct.with_array(np.where(gone, np.int16(40), phantom.ct.array))
    with pytest.raises(AnatomyError, match="no left hip is seen"):
        locate_hip(amputee, "left")
    assert share_inside(phantom.right_femur, locate_hip(amputee, "right")) == 1


def test_thighs_alone_are_refused(phantom):
    top = np.flatnonzero(phantom.left_femur.array.any((0, 1)))[-1]
    shafts = phantom.ct.array[:, :, :3].repeat(top, axis=2)  # the lowest slices, over and over
    with pytest.raises(AnatomyError, match="no left hip is seen"):
        locate_hip(replace(phantom.ct, array=shafts), "left")


def test_a_forearm_beside_the_hip_does_not_draw_the_crop_away(phantom):
    x, y = np.indices(phantom.ct.shape[:2]) * 3.0
    edge_mm = 3.0 * np.flatnonzero(phantom.ct.array[:, 64].max(1) > -200)[-1]
    array = phantom.ct.array.copy()
    array[np.hypot(x - edge_mm - 12, (y - 192) / 2) < 18] = 40
    for height_mm in (178, 206):
        array[np.hypot(x - edge_mm - 12, y - height_mm) < 7] = 700
    center = locate_hip(phantom.ct.with_array(array), "left")
    assert share_inside(phantom.left_femur, center) == 1


def test_the_side_of_a_single_hip_is_never_guessed(phantom):
    """Without the scanner's origin, and with skin on neither side, a short view of one hip tells nothing."""
    femur = np.argwhere(phantom.left_femur.array)
    middle = int(femur[:, 0].mean())
    view = replace(part(phantom.ct, np.s_[middle - 25 : middle + 25, :, :]), origin_mm=(0.0, 0.0, 0.0))
    with pytest.raises(AnatomyError, match="cannot be told whether it is the left one"):
        locate_hip(view, "left")
    center_mm = view.to_world(np.array(view.shape) / 2)
    assert lies_on_side(view, center_mm, "left") and lies_on_side(view, center_mm, "right")


def test_a_scan_without_bone_or_body_is_refused(phantom):
    soft = phantom.ct.with_array(np.minimum(phantom.ct.array, 60))
    with pytest.raises(AnatomyError, match="no left hip is seen"):
        locate_hip(soft, "left")
    with pytest.raises(AnatomyError, match="no body is seen"):
        locate_hip(phantom.ct.with_array(np.full(phantom.ct.shape, -1000, np.int16)), "left")


def ramp(shape=(40, 30, 5), **place):
    """A scan whose HU are the world x and y position, exactly linear."""
    empty = Image(np.zeros(shape, np.int16), (1.0, 1.5, 3.0), **place)
    x, y, z = np.moveaxis(empty.to_world(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    return empty.with_array(np.rint(10 * x + 3 * y + z).astype(np.int16))


def test_crop_lies_where_it_says_and_is_interpolated_linearly():
    turn = np.deg2rad(10)
    direction = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    ct = ramp(origin_mm=(-20, 5, 100), direction=direction)
    center_mm = ct.to_world((20, 14, 0))
    roi = crop_roi(ct, center_mm, pixels=16, pixel_mm=0.8)
    assert roi.shape == (16, 16, 5)
    np.testing.assert_allclose(roi.to_world((7.5, 7.5, 0)), center_mm, atol=1e-9)
    x, y, z = np.moveaxis(roi.to_world(np.moveaxis(np.indices(roi.shape), 0, -1)), -1, 0)
    np.testing.assert_allclose(roi.array, 10 * x + 3 * y + z, atol=1.01)


@pytest.mark.parametrize("tilt_deg", [(0.05, 0.05, 0), (2, 1, 0), (10, -7, 5)])
def test_a_crop_of_an_oblique_scan(tilt_deg):
    ct = ramp(direction=Rotation.from_euler("xyz", tilt_deg, degrees=True).as_matrix())
    center_mm = ct.to_world((20, 14, 2))
    roi = crop_roi(ct, center_mm, pixels=16, pixel_mm=0.8)
    x, y, z = np.moveaxis(roi.to_world(np.moveaxis(np.indices(roi.shape), 0, -1)), -1, 0)
    np.testing.assert_allclose(roi.array, 10 * x + 3 * y + z, atol=1.01)


def test_an_oblique_scan_of_a_hip(phantom):
    turn = Rotation.from_euler("xyz", (3, -2, 1), degrees=True).as_matrix()
    ct, femur = (
        replace(image, direction=turn, origin_mm=tuple(turn @ image.origin_mm))
        for image in (phantom.ct, phantom.left_femur)
    )
    center_mm = locate_hip(ct, "left")
    np.testing.assert_allclose(turn.T @ center_mm, locate_hip(phantom.ct, "left"), atol=1e-6)
    roi, straight = crop_roi(ct, center_mm), crop_roi(phantom.ct, turn.T @ center_mm)
    assert np.abs(roi.array.astype(int) - straight.array).max() <= 1
    assert resample_mask_slices(femur, roi).array.sum() > 0.99 * femur.array.sum() * 9 / 0.64


def test_a_centre_of_the_sheet_is_taken_on_its_own_side_only(phantom, tmp_path):
    write_image(phantom.ct, tmp_path / "ct.nii.gz")
    center_mm = tuple(phantom.left_femur.to_world(np.argwhere(phantom.left_femur.array).mean(0)).tolist())
    crop_hip(tmp_path / "ct.nii.gz", tmp_path / "roi.h5", "left", 96, 0.8, center_mm)
    roi, facts = read_roi(tmp_path / "roi.h5")
    assert roi.to_world((47.5, 47.5, 0))[:2] == pytest.approx(center_mm[:2])
    assert facts["center_from"] == "sample sheet"
    for side, center in (("right", center_mm), ("left", (900.0, 0.0, 0.0))):
        with pytest.raises(SheetError, match=f"center_{side} .* lies o"):
            crop_hip(tmp_path / "ct.nii.gz", tmp_path / "other.h5", side, 96, 0.8, center)
    assert not (tmp_path / "other.h5").exists()


def test_raw_pixels_are_the_scans_own():
    ct = ramp(origin_mm=(-20, 5, 100))
    roi = crop_roi(ct, ct.to_world((20, 14, 2)), pixels=8, pixel_mm=None)
    assert roi.spacing_mm == ct.spacing_mm
    first = np.rint(ct.to_index(roi.origin_mm)).astype(int)
    np.testing.assert_array_equal(roi.array, ct.array[first[0] : first[0] + 8, first[1] : first[1] + 8])


@pytest.mark.parametrize("pixel_mm", [None, 0.8])
def test_beyond_the_scan_is_air(pixel_mm):
    ct = ramp(origin_mm=(0, 0, 0))
    roi = crop_roi(ct, (0, 0, 0), pixels=32, pixel_mm=pixel_mm)
    assert (roi.array[:14] == -1024).all()
    assert (roi.array[:, :14] == -1024).all()
    assert (roi.array[18:, 18:] > -1024).all()
    nowhere = crop_roi(ct, (5000, 0, 0), pixels=32, pixel_mm=pixel_mm)
    assert (nowhere.array == -1024).all()


@pytest.mark.parametrize("case", ["real-anatomy", "real-shape"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_real_anatomy(shared_data, case, side):
    from hipqct.io.images import read_image

    femur = read_image(shared_data / case / f"{side}_femur.nii.gz")
    assert share_inside(femur, locate_hip(read_image(shared_data / case / "ct.nii.gz"), side)) == 1
