"""Augmentation: drawn separately from being applied, and right in millimetres."""

from dataclasses import fields

import numpy as np
import pytest

from hipqct.augment import (
    BONE_HU,
    Augmentation,
    Ranges,
    change_intensity,
    cut_patch,
    draw_augmentation,
    draw_displacement,
    draw_field,
    draw_noise,
    draw_streaks,
)
from hipqct.errors import ModelError
from hipqct.solid import surface_distance_um

SPACING_MM = (0.8, 0.8, 3.0)
SHAPE = (64, 64, 20)
CENTRE = (31.5, 31.5, 9.5)


def offsets_mm(shape=SHAPE):
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, SPACING_MM, strict=True)]
    return np.meshgrid(*axes, indexing="ij")


def ball(radius_mm: float) -> np.ndarray:
    return (sum(axis**2 for axis in offsets_mm()) <= radius_mm**2).astype(np.uint8)


def cut(array, **changes):
    return cut_patch(array, SPACING_MM, CENTRE, SHAPE, Augmentation(**changes))


def test_no_change_changes_nothing():
    ct = np.random.default_rng(0).integers(-1000, 2000, SHAPE, dtype=np.int16)
    np.testing.assert_allclose(change_intensity(cut(ct), SPACING_MM, Augmentation()), ct, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_a_turned_ball_stays_a_ball_in_millimetres(scale):
    """To six thousandths by the distance to its surface; a mask's voxels are not enough for that."""
    before, after = ball(18.0), ball(18.0 * scale)
    distance_mm = np.sqrt(sum(axis**2 for axis in offsets_mm())) - 18.0

    def wrong_share(array, level):
        turned = cut(array, rotation_deg=(15.0, -15.0, 15.0), scale=scale) < level
        return np.count_nonzero(turned != (after > 0)) / after.sum()

    assert wrong_share(surface_distance_um(before, SPACING_MM, distance_mm), 0) < 0.006
    from_mask = wrong_share(surface_distance_um(before, SPACING_MM), 0)
    assert 0.006 < from_mask < 0.04
    assert from_mask < 0.8 * wrong_share(-before.astype(np.float32), -0.5)


@pytest.mark.parametrize(("axis", "deg"), [(0, 15.0), (1, -10.0), (2, 12.0)])
def test_a_ramp_turns_by_the_angle_asked_for(axis, deg):
    turned = [0.0, 0.0, 0.0]
    turned[axis] = deg
    ramp_axis = (axis + 1) % 3
    ramp = offsets_mm()[ramp_axis]
    result = cut(ramp.astype(np.float32), rotation_deg=tuple(turned))
    core = tuple(slice(n // 2 - 3, n // 2 + 3) for n in SHAPE)
    slopes = [np.gradient(result[core], mm, axis=a).mean() for a, mm in enumerate(SPACING_MM)]
    assert slopes[ramp_axis] == pytest.approx(np.cos(np.radians(deg)), abs=1e-3)
    assert np.linalg.norm(slopes) == pytest.approx(1, abs=1e-3)


def test_scale_is_the_factor_of_size():
    bigger = (cut(ball(16.0), scale=1.15) >= 0.5).sum() / ball(16.0).sum()
    assert bigger == pytest.approx(1.15**3, rel=0.03)


@pytest.mark.parametrize("keep_head_end", [True, False])
def test_truncation_repeats_the_last_slice_that_is_left(keep_head_end):
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), SHAPE)
    result = cut(ramp, truncation=0.5, keep_head_end=keep_head_end)[0, 0]
    expected = [10] * 10 + [*range(10, 20)] if keep_head_end else [*range(10)] + [9] * 10
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_density_acts_on_bone_only():
    ct = np.array([-100.0, BONE_HU, BONE_HU + 400], np.float32).reshape(1, 1, 3)
    result = change_intensity(ct, SPACING_MM, Augmentation(bone=1.5))
    np.testing.assert_allclose(result.ravel(), [-100, BONE_HU, BONE_HU + 600])


def test_density_field_is_smooth_and_has_the_spread_asked_for():
    logs = np.log(draw_field((192, 192, 64), SPACING_MM, Augmentation(bone_field=0.3, noise_seed=3)))
    assert 0.1 < logs.std() < 0.3
    assert np.abs(np.diff(logs, axis=0)).max() < 0.1


def test_gamma_keeps_the_ends_of_its_range_and_what_lies_outside():
    ct = np.array([-1024.0, -200.0, 1500.0, 3000.0], np.float32).reshape(1, 1, 4)
    np.testing.assert_allclose(change_intensity(ct, SPACING_MM, Augmentation(gamma=0.75)), ct, atol=1e-3)


@pytest.mark.parametrize("grain_mm", [0.0, 1.0])
def test_noise_has_the_sd_asked_for_and_its_grain(grain_mm):
    noise = draw_noise(SHAPE, SPACING_MM, Augmentation(noise_hu=30.0, noise_grain_mm=grain_mm, noise_seed=1))
    assert noise.std() == pytest.approx(30, rel=1e-3)
    neighbours = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert neighbours == pytest.approx(0.8 if grain_mm else 0.0, abs=0.1)


def test_streaks_lie_along_x_only_and_have_the_sd_asked_for():
    streaks = draw_streaks(SHAPE, SPACING_MM, Augmentation(streaks_hu=40.0, noise_seed=1))
    assert streaks.std() == pytest.approx(40, rel=1e-3)
    along, across = (
        np.corrcoef(np.moveaxis(streaks, axis, 0)[:-1].ravel(), np.moveaxis(streaks, axis, 0)[1:].ravel())[
            0, 1
        ]
        for axis in (0, 1)
    )
    assert along > 0.95
    assert abs(across) < 0.1


def test_bending_moves_ct_and_mask_alike_by_the_millimetres_asked_for_and_never_folds():
    shape, bent = (96, 96, 32), Augmentation(elastic_mm=3.0, noise_seed=4)
    shift_mm = draw_displacement(shape, SPACING_MM, bent)
    assert 1.0 < shift_mm.std() < 3.0
    for axis, mm in enumerate(SPACING_MM):
        assert np.gradient(shift_mm[axis], mm, axis=axis).min() > -0.9
    ramps = np.stack(offsets_mm(shape)).astype(np.float32)
    centre = (np.array(shape) - 1) / 2
    inside = np.all(np.abs(ramps + shift_mm) < np.abs(ramps).max(axis=(1, 2, 3), keepdims=True), axis=0)
    for axis in range(3):
        found = cut_patch(ramps[axis], SPACING_MM, centre, shape, bent) - ramps[axis]
        np.testing.assert_allclose(found[inside], shift_mm[axis][inside], atol=1e-3)
    assert not bent.keeps_grid


def test_blur_keeps_a_constant():
    ct = np.full((16, 16, 8), 300, np.int16)
    np.testing.assert_allclose(change_intensity(ct, SPACING_MM, Augmentation(blur_mm=1.0)), 300, rtol=1e-5)


def test_drawing_is_deterministic_and_stays_in_range():
    ranges = Ranges()
    draws = [draw_augmentation(np.random.default_rng(seed), ranges) for seed in range(400)]
    assert draws[7] == draw_augmentation(np.random.default_rng(7), ranges)
    angles = np.array([a.rotation_deg for a in draws])
    assert np.abs(angles).max() <= 15
    assert np.mean(angles != 0) == pytest.approx(ranges.rotation[0], abs=0.06)
    assert all(ranges.bone[1][0] <= a.bone <= ranges.bone[1][1] for a in draws)


def test_changes_of_probability_zero_are_never_drawn():
    never = Ranges(**{f.name: (0.0, getattr(Ranges(), f.name)[1]) for f in fields(Ranges)})
    drawn = draw_augmentation(np.random.default_rng(0), never)
    same = Augmentation(noise_seed=drawn.noise_seed, keep_head_end=drawn.keep_head_end)
    assert drawn == same


def test_changes_are_drawn_a_share_as_often():
    half = Ranges().times(0.5)
    assert half.rotation == (0.25, (-15.0, 15.0)) and half.mirror[0] == 0
    assert half.noise_grain == Ranges().noise_grain
    assert {p for p, _ in vars(Ranges().times(0)).values()} == {0, 0.6}
    assert Ranges().times(2).rotation[0] == 1
    for share in (-0.1, 2.1):
        with pytest.raises(ModelError, match="choose 0 to 2"):
            Ranges().times(share)


def test_mirroring_is_a_flip_across_the_sagittal_plane():
    ct = np.random.default_rng(0).integers(-1000, 2000, SHAPE, dtype=np.int16)
    np.testing.assert_allclose(cut(ct, mirrored=True), ct[::-1], atol=1e-3)
    drawn = [
        draw_augmentation(np.random.default_rng(seed), Ranges(mirror=(0.5, (1.0, 1.0)))).mirrored
        for seed in range(200)
    ]
    assert 0.35 < np.mean(drawn) < 0.65
    assert not any(draw_augmentation(np.random.default_rng(seed), Ranges()).mirrored for seed in range(50))


@pytest.mark.parametrize("elastic_mm", [0.0, 1.5])
@pytest.mark.parametrize("place", [(31.5, 31.5, 9.5), (5.0, 60.0, 1.0), (-8.0, 31.0, 25.0)])
def test_only_the_box_that_is_needed_is_read(place, elastic_mm):
    """An array that counts what is read of it gives the patch of the whole array."""

    class Watched:
        shape, largest = SHAPE, 0

        def __getitem__(self, box):
            part = array[box]
            self.largest = max(self.largest, part.size)
            return part

    array = np.random.default_rng(1).normal(0, 100, SHAPE).astype(np.float32)
    changes = Augmentation(rotation_deg=(10.0, -5.0, 12.0), scale=1.1, elastic_mm=elastic_mm)
    watched = Watched()
    found = cut_patch(watched, SPACING_MM, place, (16, 16, 8), changes)
    padded = np.pad(array, 40, mode="edge")
    expected = cut_patch(padded, SPACING_MM, np.add(place, 40), (16, 16, 8), changes)
    np.testing.assert_allclose(found, expected, atol=1e-2)
    assert watched.largest < array.size / 2
