"""From a probability map to a mask: Otsu, one part, no holes, and what to beware of."""

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from hipqct.bone import mask_on_grid, mask_on_slices, segment_probability, touches_field_edge
from hipqct.errors import AnatomyError
from hipqct.image import Image
from hipqct.volume import voxel_volume_mm3

SHAPE, SPACING_MM, ORIGIN_MM = (64, 64, 40), (1.6, 1.6, 3.0), (10.0, -50.0, 200.0)


def world_mm(image: Image) -> np.ndarray:
    return np.moveaxis(image.to_world(np.moveaxis(np.indices(image.shape), 0, -1)), -1, 0)


def grid(shape=SHAPE, spacing_mm=SPACING_MM, origin_mm=ORIGIN_MM, direction=None) -> Image:
    direction = np.eye(3) if direction is None else direction
    return Image(np.zeros(shape, np.float32), spacing_mm, origin_mm, direction)


def depth_mm(image: Image) -> np.ndarray:
    """Depth in a toy femur: a head of 22 mm on a shaft of 16 mm that leaves the scan below."""
    x, y, z = world_mm(image)
    head = 22 - np.sqrt((x - 55) ** 2 + y**2 + (z - 280) ** 2)
    shaft = np.minimum(16 - np.hypot(x - 60, y), 280 - z)
    return np.maximum(head, shaft)


def femur_map(image: Image | None = None, **changes) -> Image:
    """Its probability, from 0 to 1 within about 2 mm of the surface."""
    image = image or grid(**changes)
    return image.with_array((1 / (1 + np.exp(-2 * depth_mm(image)))).astype(np.float32))


def changed(probability: Image, place, value) -> Image:
    array = probability.array.copy()
    array[place] = value
    return probability.with_array(array)


def test_what_ends_high_above_the_scans_lowest_slice_is_no_femur():
    """A map over the pelvis alone; below a femur only padding may follow, or nothing if it is whole."""
    cut = changed(femur_map(), np.s_[:, :, :6], 0.0)
    with pytest.raises(AnatomyError, match="ends 18 mm above the scan's lowest slice"):
        segment_probability(cut)
    assert segment_probability(cut, lowest_slice=6).mask.array.any()
    assert segment_probability(changed(femur_map(), np.s_[:, :, :3], 0.0)).mask.array.any()


def test_a_clear_map_gives_its_femur_without_flags():
    probability = femur_map()
    bone = segment_probability(probability)
    assert bone.mask.array.dtype == bool and bone.mask.same_grid(probability)
    assert bone.otsu_threshold == threshold_otsu(probability.array)
    assert (bone.components, bone.flags) == (1, [])
    true_mm3 = np.count_nonzero(depth_mm(probability) > 0) * probability.voxel_volume_mm3
    assert voxel_volume_mm3(bone.mask) == pytest.approx(true_mm3, rel=0.02)


def test_the_canal_open_at_the_scans_end_and_a_cavity_are_filled():
    whole = segment_probability(femur_map()).mask.array
    x, y, z = world_mm(grid())
    canal = (np.hypot(x - 60, y) < 7) & (z < 260)
    cavity = np.sqrt((x - 55) ** 2 + y**2 + (z - 280) ** 2) < 8
    bone = segment_probability(changed(femur_map(), canal | cavity, 0.0))
    assert bone.mask.array[canal | cavity].all()
    # The holes shift Otsu's threshold a little.
    assert np.count_nonzero(bone.mask.array ^ whole) < 0.005 * np.count_nonzero(whole)


def test_the_largest_part_is_kept_and_parts_that_share_only_an_edge_are_apart():
    block = (slice(2, 8), slice(2, 8), slice(2, 12))
    bone = segment_probability(changed(femur_map(), block, 1.0))
    assert bone.components == 2 and bone.flags == ["several_components"]
    assert not bone.mask.array[block].any()
    corner = np.zeros(SHAPE, bool)
    corner[10:30, 10:30, :20] = corner[30:32, 30:32, 10:12] = True
    assert segment_probability(grid().with_array(corner.astype(float))).components == 2


def test_a_speck_is_counted_and_not_flagged():
    bone = segment_probability(changed(femur_map(), (slice(2, 4), 2, 2), 1.0))
    assert bone.components == 2 and bone.flags == []


def test_a_head_cut_by_the_scans_top_is_flagged_and_the_shafts_end_is_not():
    probability = femur_map()
    head_cut = Image(
        probability.array[:, :, :28], probability.spacing_mm, probability.origin_mm, probability.direction
    )
    assert "touches_scan_end" in segment_probability(head_cut).flags
    assert segment_probability(probability).mask.array[:, :, 0].any()


def test_a_femur_at_the_crops_side_is_flagged():
    assert segment_probability(femur_map(origin_mm=(45.0, -50.0, 200.0))).flags == ["touches_crop_border"]


def test_doubt_is_the_volume_between_the_thresholds_a_quarter_and_three_quarters():
    sure = femur_map()
    shell = (depth_mm(sure) > 0) & (depth_mm(sure) < 3)
    doubtful = segment_probability(changed(sure, shell, 0.6))
    assert segment_probability(sure).doubtful_share < 0.15
    assert doubtful.flags == ["low_confidence"]
    assert doubtful.doubtful_share == pytest.approx(shell.sum() / doubtful.mask.array.sum(), abs=0.1)


def test_doubt_and_an_odd_size_are_flagged():
    doubtful = femur_map()
    assert "low_confidence" in segment_probability(doubtful.with_array(0.7 * doubtful.array)).flags
    x, y, z = world_mm(grid())
    ball = np.sqrt((x - 55) ** 2 + y**2 + (z - 210) ** 2) < 15
    assert segment_probability(grid().with_array(ball.astype(float))).flags == ["implausible_volume"]


def noise(high):
    return np.random.default_rng(1).uniform(0, high, SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(SHAPE),
        np.full(SHAPE, 0.2),
        noise(0.4),
        np.pad(np.ones((62, 62, 38)), 1),
        np.pad(np.ones((8, 8, 8)), ((0, 56), (0, 56), (0, 32))),
    ],
    ids=["nothing", "constant", "faint noise", "all of the crop", "a speck"],
)
def test_a_map_without_a_femur_is_a_sentence_and_no_mask(array):
    with pytest.raises(AnatomyError, match=r"no femur.*\d.*center_left"):
        segment_probability(grid().with_array(array))


def test_on_its_own_grid_the_mask_is_itself():
    probability = femur_map()
    bone = segment_probability(probability)
    assert (mask_on_grid(probability, bone, probability).array == bone.mask.array).all()


TURN = np.array([[np.cos(0.05), -np.sin(0.05), 0], [np.sin(0.05), np.cos(0.05), 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "direction"),
    [((300, 300, 60), (0.7, 0.7, 2.0), None), ((150, 150, 120), (1.3, 1.3, 1.0), TURN)],
    ids=["2-mm slices", "oblique 1-mm slices"],
)
def test_masks_on_other_grids_are_the_same_femur(shape, spacing_mm, direction):
    crop = grid(direction=direction)
    low_mm = crop.to_world((-30, -20, -0.5)) + np.array([0, 0, spacing_mm[2] / 2])
    target = grid(shape, spacing_mm, tuple(low_mm), direction)
    probability = femur_map(crop)
    bone = segment_probability(probability)
    mask = mask_on_grid(probability, bone, target)
    truth = (depth_mm(target) > 0) & np.isin(np.arange(shape[2]), np.arange(int(120 / spacing_mm[2])))
    overlap = 2 * np.count_nonzero(mask.array & truth) / (mask.array.sum() + truth.sum())
    assert overlap > 0.985
    assert voxel_volume_mm3(mask) == pytest.approx(voxel_volume_mm3(bone.mask), rel=0.01)


def test_slices_midway_between_two_of_the_mask_are_no_larger_than_others():
    """2-mm slices of a scan: every third lies midway between two of 3 mm."""
    mask = segment_probability(femur_map()).mask
    low_mm = mask.to_world((0, 0, -0.5)) + np.array([0, 0, 1.0])
    target = grid((*SHAPE[:2], 60), (*SPACING_MM[:2], 2.0), tuple(low_mm))
    found, truth = mask_on_slices(mask, target).array, depth_mm(target) > 0
    assert voxel_volume_mm3(target.with_array(found)) == pytest.approx(voxel_volume_mm3(mask), rel=1e-3)
    in_head = np.flatnonzero(truth.sum((0, 1)) > 100)[-20:]
    ratios = found[:, :, in_head].sum((0, 1)) / truth[:, :, in_head].sum((0, 1))
    midway = in_head % 3 == 1
    assert ratios[midway].mean() == pytest.approx(ratios[~midway].mean(), abs=0.01)
    overlap = 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum())
    assert overlap > 0.985
    assert (mask_on_slices(mask, mask).array == mask.array).all()


def test_every_slice_of_the_scan_up_to_the_crops_outer_faces_is_kept():
    probability = femur_map()
    # 1-mm slices from the lower face of the first 3-mm slice, and two slices below it.
    target = grid((64, 64, 20), (1.6, 1.6, 1.0), (10.0, -50.0, 200.0 - 1.5 + 0.5 - 2.0))
    bone = segment_probability(probability)
    assert (
        mask_on_grid(probability, bone, target).array.any(axis=(0, 1)).tolist() == [False] * 2 + [True] * 18
    )
    target = grid((*SHAPE[:2], 20), (*SPACING_MM[:2], 1.0), (*ORIGIN_MM[:2], 200.0 - 1.5 + 0.5 - 2.0))
    assert mask_on_slices(bone.mask, target).array.any((0, 1)).tolist() == [False] * 2 + [True] * 18


def test_filled_holes_and_dropped_parts_stay_so_on_other_grids():
    x, y, z = world_mm(grid())
    probability = changed(femur_map(), (np.hypot(x - 60, y) < 7) & (z < 260), 0.0)
    probability = changed(probability, (slice(2, 8), slice(2, 8), slice(2, 12)), 1.0)
    bone = segment_probability(probability)
    target = grid((128, 128, 120), (0.8, 0.8, 1.0), (9.6, -50.4, 199.0))
    mask = mask_on_grid(probability, bone, target)
    x, y, z = world_mm(target)
    assert mask.array[(np.hypot(x - 60, y) < 7) & (z < 260) & (z > 198.5)].all()
    assert voxel_volume_mm3(mask) == pytest.approx(voxel_volume_mm3(bone.mask), rel=0.01)
    assert not mask.array[:24, :24, :40].any()


@pytest.mark.parametrize("slices", [(1.6, 1.6, 1.0), (0.9, 0.9, 3.0)])
def test_a_map_without_doubt_keeps_its_volume_on_other_grids(slices):
    sharp = femur_map()
    sharp = sharp.with_array((sharp.array > 0.5).astype(np.float32))
    bone = segment_probability(sharp)
    assert bone.otsu_threshold == pytest.approx(0.5)
    shape = [round(n * old / new) for n, old, new in zip(SHAPE, SPACING_MM, slices, strict=True)]
    target = grid(shape, slices, tuple(np.subtract(ORIGIN_MM, np.subtract(SPACING_MM, slices) / 2)))
    volumes_mm3 = [voxel_volume_mm3(mask) for mask in (bone.mask, mask_on_grid(sharp, bone, target))]
    assert volumes_mm3[1] == pytest.approx(volumes_mm3[0], rel=0.015)


def test_bone_in_the_last_slice_that_shows_anything_is_told():
    probability = femur_map()
    top = int(np.flatnonzero(segment_probability(probability).mask.array.any((0, 1)))[-1])
    assert segment_probability(probability, 0, top).flags == ["touches_scan_end"]
    assert segment_probability(probability, 0, top + 1).flags == []


def test_bone_that_the_field_of_view_may_cut_is_told():
    mask = femur_map().array > 0.5
    body = np.full(SHAPE, 40.0)
    assert not touches_field_edge(mask, body)
    x, y = np.indices(SHAPE[:2])
    away = np.hypot(x - 31.5, y - 31.5)
    first, side = np.flatnonzero(mask.any((1, 2)))[0], (away[..., None] * mask).max()
    for radius, touched in ((side + 6, False), (side + 1, True), (side - 4, True)):
        circle = np.where((away > radius)[..., None], -1024.0, body)
        assert touches_field_edge(mask & (circle > -500), circle) is touched, radius
    at_side = np.s_[first - 1 :]
    assert touches_field_edge(mask[at_side], body[at_side])
    gas = body.copy()
    gas[first - 4 : first, 30:34, 20:24] = -900  # of a bowel beside it: not the end of anything
    assert not touches_field_edge(mask, gas)
    assert not touches_field_edge(np.zeros(SHAPE, bool), body)
