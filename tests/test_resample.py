import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.resample import (
    distance_to_mask_mm,
    group_matrix,
    resample_mask_slices,
    resample_slices,
    resample_to,
    stack_weights,
)

METHODS = ("fourier-group3", "fourier-stack", "area")


def column(values, slice_mm=2.0, **place):
    """A scan of 2 x 3 pixels that all hold the same values along z."""
    array = np.broadcast_to(np.asarray(values, float), (2, 3, len(values)))
    return Image(np.rint(array).astype(np.int16), (0.8, 0.9, slice_mm), **place)


def test_group_of_the_paper_leaks_as_the_transform_says():
    # A group is periodic to its transform: the last slice leaks into the first.
    np.testing.assert_allclose(group_matrix(0) @ (0, 0, 1000), (-111.1, 777.8), atol=0.1)
    np.testing.assert_allclose(group_matrix(-0.25) @ (0, 0, 1000), (-52, 718), atol=1)


@pytest.mark.parametrize("shift", [0.0, -0.25])
def test_group_matrix_is_numpys_zero_padded_transform(shift):
    group = np.array([10.0, -300.0, 700.0])
    spectrum = np.fft.fft(group)
    turn = np.exp(2j * np.pi * shift * np.array([0, 1, -1]) / 3)
    padded = np.zeros(6, complex)
    padded[[0, 1, -1]] = spectrum * turn
    samples = np.fft.ifft(padded).real * 2
    np.testing.assert_allclose(group_matrix(shift) @ group, samples.reshape(2, 3).mean(1), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("slices", [30, 31, 32])
def test_constants_stay(method, slices):
    resampled, _ = resample_slices(column([137] * slices), method=method)
    assert (resampled.array == 137).all()


@pytest.mark.parametrize("phase", ["samples", "slab-centred"])
def test_means_of_groups_are_kept(phase):
    values = np.random.default_rng(3).integers(-1000, 2000, 30)
    resampled, _ = resample_slices(column(values), method="fourier-group3", phase=phase)
    expected = values.reshape(-1, 3).mean(1)
    np.testing.assert_allclose(resampled.array[0, 0].reshape(-1, 2).mean(1), expected, atol=0.51)


@pytest.mark.parametrize("method", ["fourier-stack", "area"])
@pytest.mark.parametrize("slice_mm", [0.5, 1.0, 2.0, 2.5, 3.0])
def test_the_mean_of_the_scan_is_kept(method, slice_mm):
    slices = round(90 / slice_mm)
    values = np.random.default_rng(4).integers(-1000, 2000, slices)
    resampled, facts = resample_slices(column(values, slice_mm), method=method)
    assert facts["lost_mm"] == 0
    assert resampled.array[0, 0].mean() == pytest.approx(values.mean(), abs=0.5)


@pytest.mark.parametrize("phase", ["samples", "slab-centred"])
def test_a_wave_periodic_in_the_group_is_reproduced(phase):
    z_mm = 2 * np.arange(30)
    wave = column(1000 * np.cos(2 * np.pi * z_mm / 6))
    resampled, _ = resample_slices(wave, method="fourier-group3", phase=phase)
    at_mm = resampled.origin_mm[2] + 3 * np.arange(20)[:, None] + np.array([-1, 0, 1])
    np.testing.assert_allclose(resampled.array[0, 0], 1000 * np.cos(2 * np.pi * at_mm / 6).mean(1), atol=1)


def test_a_band_limited_wave_is_reproduced_by_the_stack_method():
    slices, spacing_mm, waves = 45, 2.0, 17
    height_mm = slices * spacing_mm
    values = np.cos(np.pi * waves * (np.arange(slices) + 0.5) / slices)
    centers_mm = 0.5 + 3 * np.arange(30)
    low, high = (np.pi * waves * (centers_mm + 1 + edge) / height_mm for edge in (-1.5, 1.5))
    exact = (np.sin(high) - np.sin(low)) / (high - low)
    np.testing.assert_allclose(stack_weights(slices, spacing_mm, centers_mm, 3.0) @ values, exact, atol=1e-12)


@pytest.mark.parametrize("spacing_mm", [1.99, 2.01])
def test_slices_that_are_not_quite_2_mm_apart_keep_their_place(spacing_mm):
    z_mm = spacing_mm * np.arange(99)
    values = 2000 * np.exp(-(((z_mm - 170) / 9) ** 2))
    ct = Image(np.tile(values, (3, 3, 1)), (1.0, 1.0, spacing_mm))
    resampled, _ = resample_slices(ct, method="fourier-group3")
    assert resampled.spacing_mm[2] == pytest.approx(1.5 * spacing_mm)
    (_, _, before), (_, _, after) = (
        image.to_world(ndimage.center_of_mass(image.array.astype(float))) for image in (ct, resampled)
    )
    assert after == pytest.approx(before, abs=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("phase", ["samples", "slab-centred"])
def test_a_smooth_bump_stays_where_it_is_in_the_world(method, phase):
    tilt = np.deg2rad(20)
    direction = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    z_mm = 2.0 * np.arange(60)
    ct = column(2000 * np.exp(-(((z_mm - 57.3) / 12) ** 2)), origin_mm=(5, -7, 300), direction=direction)
    resampled, _ = resample_slices(ct, method=method, phase=phase)

    def centroid(image):
        index = ndimage.center_of_mass(image.array.astype(float))
        return image.to_world(index)

    along_mm = (centroid(resampled) - centroid(ct)) @ direction
    known_mm = 0.5 if (method, phase) == ("fourier-group3", "samples") else 0.0  # see resample_slices
    np.testing.assert_allclose(along_mm, (0, 0, known_mm), atol=0.05)


@pytest.mark.parametrize(
    ("slices", "phase", "tail", "kept", "lost_mm"),
    [
        (30, "samples", "area", 20, 0.0),
        (30, "slab-centred", "area", 20, 0.0),
        (31, "samples", "area", 21, 0.0),
        (31, "samples", "drop", 20, 1.5),
        (32, "samples", "area", 21, 0.5),
        (32, "slab-centred", "area", 21, 1.0),
        (32, "slab-centred", "drop", 20, 4.0),
    ],
)
def test_what_happens_at_the_head_end_is_told(slices, phase, tail, kept, lost_mm):
    resampled, facts = resample_slices(column(range(slices)), phase=phase, tail=tail)
    assert facts["method"] == "fourier-group3"
    assert resampled.shape[2] == facts["slices_after"] == kept
    assert facts["tail_slices"] == slices % 3
    assert facts["lost_mm"] == pytest.approx(lost_mm)


def test_three_millimetre_slices_pass_unchanged():
    values = np.random.default_rng(5).integers(-1000, 2000, 40)
    resampled, facts = resample_slices(column(values, 3.0, origin_mm=(1, 2, 3)))
    assert facts["method"] == "area"
    np.testing.assert_array_equal(resampled.array[0, 0], values)
    assert resampled.origin_mm == (1, 2, 3)


def test_spacings_out_of_reach_are_refused():
    with pytest.raises(ScanError, match=r"the slices are 6 mm apart; resampling takes 0\.5 to 5\.0 mm"):
        resample_slices(column(range(30), 6.0))
    with pytest.raises(ScanError, match="fourier-group3 brings 2-mm slices to 3 mm, got"):
        resample_slices(column(range(30), 2.5), method="fourier-group3")


def test_resample_to_agrees_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(6)
    turned = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    source = Image(rng.normal(0, 100, (20, 22, 12)).astype(np.float32), (1.1, 0.9, 3.0), (3, -4, 5), turned)
    target = Image(np.zeros((9, 8, 7)), (1.5, 1.4, 2.0), (-2, 6, 12))

    def to_sitk(image):
        out = sitk.GetImageFromArray(np.ascontiguousarray(image.array.T))
        out.SetSpacing(image.spacing_mm)
        out.SetOrigin(image.origin_mm)
        out.SetDirection(image.direction.ravel())
        return out

    oracle = sitk.Resample(to_sitk(source), to_sitk(target), sitk.Transform(), sitk.sitkLinear, -1024.0)
    ours = resample_to(source, target).array
    theirs = sitk.GetArrayFromImage(oracle).T
    both_inside = (ours > -1000) & (theirs > -1000)
    assert both_inside.mean() > 0.5
    np.testing.assert_allclose(ours[both_inside], theirs[both_inside], atol=1e-2)


@pytest.mark.parametrize(
    ("old_mm", "new_mm"),
    [(0.5, 3), (0.75, 3), (1, 3), (1.25, 3), (1.5, 3), (2, 3), (2.5, 3), (3, 2), (3, 1.5), (5, 3), (3, 3)],
)
def test_a_ball_keeps_its_volume_on_other_slices(old_mm, new_mm):
    def grid(slice_mm, pixel_mm):
        shape = [round(80 / s) for s in (pixel_mm, pixel_mm, slice_mm)]
        return Image(np.zeros(shape, bool), (pixel_mm, pixel_mm, slice_mm), (-40, -40, -40 + slice_mm / 2))

    source = grid(old_mm, 0.8)
    x, y, z = (source.to_world(np.indices(source.shape).reshape(3, -1).T)).T
    ball = source.with_array((x**2 + y**2 + z**2 <= 25**2).reshape(source.shape))
    target = resample_mask_slices(ball, grid(new_mm, 0.9))
    volumes_mm3 = [image.array.sum() * image.voxel_volume_mm3 for image in (ball, target)]
    assert volumes_mm3[1] == pytest.approx(volumes_mm3[0], rel=0.02 if new_mm < old_mm else 0.006)


@pytest.mark.parametrize("slice_mm", [0.75, 1.5, 2.5])
def test_voxels_covered_by_half_leave_the_volume_of_a_cone_that_is_cut_flat(slice_mm):
    """Pixels as before; a body wider at one end than at the other, as a femur is."""
    shape = (100, 100, round(90 / slice_mm))
    source = Image(np.zeros(shape, bool), (0.8, 0.8, slice_mm), (-40, -40, slice_mm / 2))
    x, y, z = np.moveaxis(source.to_world(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    cone = source.with_array((np.hypot(x, y) <= 10 + z / 4) & (z < 75))
    target = Image(np.zeros((100, 100, 30)), (0.8, 0.8, 3.0), (-40, -40, 1.5))
    volumes_mm3 = [m.array.sum() * m.voxel_volume_mm3 for m in (cone, resample_mask_slices(cone, target))]
    assert volumes_mm3[1] == pytest.approx(volumes_mm3[0], rel=2.5e-3)


@pytest.mark.parametrize("slice_mm", [2, 4, 5])
def test_a_mask_on_a_turned_grid_keeps_its_end_slices(slice_mm):
    slices = round(160 / slice_mm)
    bar = np.zeros((60, 60, slices), bool)
    bar[20:40, 20:40] = True
    mask = Image(bar, (1, 1, slice_mm), (-30, -30, -80 + slice_mm / 2))
    turn = Rotation.from_euler("xyz", (2, -1, 3), degrees=True).as_matrix()
    target = Image(np.zeros((80, 80, 80)), (0.9, 0.9, 3.0), (-36, -36, -118), turn)
    turned = resample_mask_slices(mask, target)
    assert turned.array.sum() * target.voxel_volume_mm3 == pytest.approx(20 * 20 * 160, rel=0.01)


def test_a_mask_on_its_own_grid_and_outside_it():
    rng = np.random.default_rng(7)
    mask = Image(rng.random((9, 8, 7)) > 0.5, (0.8, 0.8, 3.0), (1, 2, 3))
    np.testing.assert_array_equal(resample_mask_slices(mask, mask).array, mask.array)
    turn = Rotation.from_euler("xyz", (1, -2, 3), degrees=True).as_matrix()
    oblique = Image(mask.array, mask.spacing_mm, mask.origin_mm, turn)
    barely_off = Image(mask.array, mask.spacing_mm, mask.origin_mm, turn @ np.diag([1, 1, 1 + 2e-6]))
    np.testing.assert_array_equal(resample_mask_slices(barely_off, oblique).array, mask.array)
    np.testing.assert_array_equal(resample_to(oblique, oblique).array, mask.array)
    far = Image(np.zeros((4, 4, 4)), (1, 1, 1), (500, 0, 0))
    assert not resample_mask_slices(mask, far).array.any()


@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (2, -1, 3)])
def test_the_distance_to_a_masks_surface_is_that_of_the_body_on_any_grid(turn_deg):
    turn = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    source = Image(np.zeros((80, 80, 40), bool), (0.9, 0.9, 2.0), (-36, -36, -39))
    target = Image(np.zeros((90, 90, 27)), (0.8, 0.8, 3.0), (-36, -36, -39), turn)

    def ball_mm(grid):
        points_mm = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
        return (np.linalg.norm(points_mm, axis=1) - 25).reshape(grid.shape)

    ball = source.with_array(ball_mm(source) < 0)
    distance_mm, wanted_mm = distance_to_mask_mm(ball, target), ball_mm(target)
    near = np.abs(wanted_mm) < 2
    assert np.abs(distance_mm - wanted_mm)[near].mean() < 0.6  # half a voxel, from centre to centre
    assert np.array_equal((distance_mm < 0)[~near], (wanted_mm < 0)[~near])
    wrong = np.count_nonzero((distance_mm < 0) != (wanted_mm < 0))
    assert wrong < 0.04 * np.count_nonzero(wanted_mm < 0)


def test_the_distance_to_a_masks_surface_ends_where_its_image_ends():
    """Half a voxel beyond the last slice's centre, as the mask does; and no bone is far."""
    bar = np.zeros((30, 30, 10), bool)
    bar[10:20, 10:20] = True
    mask = Image(bar, (1, 1, 2), direction=np.diag([1.0, 1, -1]))
    longer = Image(np.zeros((30, 30, 14)), (1, 1, 2), (0, 0, 4), mask.direction)
    distance_mm = distance_to_mask_mm(mask, longer)
    np.testing.assert_allclose(distance_mm[15, 15, :5], [3, 1, -1, -3, -5])
    np.testing.assert_allclose(distance_mm[15, 15, -5:], [-5, -3, -1, 1, 3])
    np.testing.assert_allclose(distance_mm[9, 15, 4:-4], 1.0)
    assert (distance_to_mask_mm(mask.with_array(bar & False), longer) > 2).all()


def test_the_distance_to_a_large_mask_is_taken_where_it_is_asked_for():
    voxels = np.zeros((400, 400, 60), np.uint8)
    voxels[190:210, 190:210, 20:40] = voxels[0, 0, 0] = voxels[-1, -1, -1] = 1
    mask = Image(voxels, (0.5, 0.5, 1.0))
    target = Image(np.zeros((20, 20, 8)), (0.8, 0.8, 3.0), (92, 92, 18))
    tracemalloc.start()
    distance_mm = distance_to_mask_mm(mask, target)
    peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert (distance_mm < 0).any() and (distance_mm > 0).any()
    assert peak_mb < 60  # all of it takes 600
    far = replace(target, origin_mm=(500.0, 500.0, 500.0))
    assert (distance_to_mask_mm(mask, far) > 3).all()
