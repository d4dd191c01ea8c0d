"""The phantom's truth: volumes, places, determinism, rods, sexes, seeds."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.special import hyp1f1

from hipqct.image import Image
from hipqct.io.files import read_json
from hipqct.phantom import pelvis, seeds
from hipqct.phantom.blocks import Bone, paint_bone, solid_volume_mm3
from hipqct.phantom.femur import FemurShape, cortex_thickness, periosteal_distance
from hipqct.phantom.generate import femur_distance_mm, femur_mask, generate_phantom, scan_grid
from hipqct.phantom.parameters import CONTACT_MM, sample_parameters
from hipqct.phantom.scanner import Scanner, blur_between_slices, noise
from hipqct.phantom.soft_paint import HAND_MM, _beside

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"matrix": 112, "pixel_mm": 3.6, "slice_mm": 3.6, "top_mm": 36.0, "bottom_mm": 72.0}


@pytest.fixture(scope="module")
def phantom():
    return generate_phantom(sample_parameters(seeds.CASE_SEEDS[0], **SMALL, rods=True, noise_sd_hu=10.0))


def empty_image(pixel_mm: float, slice_mm: float, size_mm: float = 64.0) -> Image:
    counts = (round(size_mm / pixel_mm),) * 2 + (round(size_mm / slice_mm),)
    spacing_mm = (pixel_mm, pixel_mm, slice_mm)
    origin_mm = [-(n - 1) / 2 * s for n, s in zip(counts, spacing_mm, strict=True)]
    return Image(np.zeros(counts, dtype=np.float32), spacing_mm, origin_mm)


def ball(radius_mm: float) -> Bone:
    def distance_mm(points_mm):
        return np.sqrt((points_mm**2).sum(axis=0)) - np.float32(radius_mm)

    def density(points_mm, depth_mm):
        return np.float32(1.0), 1000.0, 200.0

    return Bone("ball", distance_mm, density)


def test_a_balls_volume_is_integrated_to_a_thousandth():
    volume_mm3 = solid_volume_mm3(empty_image(2.0, 3.0), ball(20.0), step_mm=1.0)
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 20.0**3, rel=1e-3)


def test_a_balls_volume_ends_where_the_scan_ends():
    image = empty_image(2.0, 2.0)
    half = Image(image.array[..., :16], image.spacing_mm, image.origin_mm)
    volume_mm3 = solid_volume_mm3(half, ball(20.0), step_mm=1.0)
    assert volume_mm3 == pytest.approx(2 / 3 * np.pi * 20.0**3, rel=2e-3)


def test_a_painted_ball_holds_its_bone_mineral():
    """Shell and core are thinner than voxels, but the sum of density over voxels is the ball's mineral."""
    image = empty_image(2.0, 3.0)
    scan = Scanner(slope=0.8, intercept=-2.0)
    occupied, painted_mg = paint_bone(image, ball(20.0), scan)
    mineral_mg = float((image.array * 0.8 - 2.0 * occupied).sum()) * image.voxel_volume_mm3 / 1000
    assert painted_mg == pytest.approx(mineral_mg, rel=1e-4)
    core_mm3, all_mm3 = 4 / 3 * np.pi * 19.0**3, 4 / 3 * np.pi * 20.0**3
    assert mineral_mg == pytest.approx((200 * core_mm3 + 1000 * (all_mm3 - core_mm3)) / 1000, rel=0.01)


def test_the_mask_converges_to_the_continuous_volume():
    shape = FemurShape()

    def distance_mm(points_mm):
        return periosteal_distance(points_mm, shape)

    bone = Bone("femur", distance_mm, ball(1.0).density)
    errors = []
    for step_mm in (4.0, 2.0, 1.0):
        image = empty_image(step_mm, step_mm, size_mm=176.0)
        truth_mm3 = solid_volume_mm3(image, bone, step_mm=1.0)
        mask = paint_bone(image, bone, Scanner(substep_mm=step_mm))[0] >= 0.5
        errors.append(abs(mask.sum() * image.voxel_volume_mm3 / truth_mm3 - 1))
    assert errors[0] < 0.02
    assert errors[2] < 0.002
    assert errors[2] < errors[0]


def test_masks_hold_the_continuous_volumes(phantom):
    for side, mask in (("left", phantom.left_femur), ("right", phantom.right_femur)):
        measured_mm3 = mask.array.sum() * mask.voxel_volume_mm3
        assert measured_mm3 == pytest.approx(phantom.truth["volume_mm3"][side], rel=0.02)


def test_the_true_mask_on_the_scans_grid_is_the_phantoms_own(phantom):
    drawn = sample_parameters(seeds.CASE_SEEDS[0], **SMALL, rods=True, noise_sd_hu=10.0)
    for side, mask in (("left", phantom.left_femur), ("right", phantom.right_femur)):
        np.testing.assert_array_equal(femur_mask(drawn, side, phantom.ct).array, mask.array)


def test_the_true_mask_ends_where_the_field_of_view_ends(phantom):
    whole = phantom.left_femur
    middle = int(np.argwhere(whole.array)[:, 0].mean())
    center_x_mm = whole.to_world((middle, 0, 0))[0]
    cut = {"cut_edge_mm": float(center_x_mm), "rods": True, "noise_sd_hu": 10.0}
    mask = femur_mask(sample_parameters(seeds.CASE_SEEDS[0], **SMALL | cut), "left", phantom.ct).array
    assert mask[:middle].any() and not mask[middle + 1 :].any()
    np.testing.assert_array_equal(mask[:middle], whole.array[:middle])


def test_the_distance_to_the_surface_is_negative_in_the_true_mask(phantom):
    drawn = sample_parameters(seeds.CASE_SEEDS[0], **SMALL, rods=True, noise_sd_hu=10.0)
    for side, mask in (("left", phantom.left_femur), ("right", phantom.right_femur)):
        distance_mm = femur_distance_mm(drawn, side, phantom.ct)
        # The mask's voxels are filled to half, wherever their centre lies.
        unlike = (distance_mm < 0) != mask.array
        assert np.count_nonzero(unlike) < 0.01 * np.count_nonzero(mask.array)
        assert np.abs(distance_mm[unlike]).max() < 0.5 * max(phantom.ct.spacing_mm)
    shaft = np.argwhere(phantom.left_femur.array[:, :, 0]).mean(axis=0)
    lowest_mm = phantom.ct.to_world((*shaft, -2))  # two slices below the scan, where the shaft goes on
    column = Image(np.zeros((1, 1, 4)), phantom.ct.spacing_mm, tuple(lowest_mm))
    slice_mm = phantom.ct.spacing_mm[2]
    along_mm = femur_distance_mm(drawn, "left", column)[0, 0]
    assert along_mm[:3] == pytest.approx([1.5 * slice_mm, 0.5 * slice_mm, -0.5 * slice_mm], abs=1e-3)


def test_the_true_mask_on_a_finer_grid_holds_the_continuous_volume(phantom):
    drawn = sample_parameters(seeds.CASE_SEEDS[0], **SMALL, rods=True, noise_sd_hu=10.0)
    own = phantom.left_femur
    finer = 2
    fine = Image(
        np.zeros([finer * n for n in own.shape], bool),
        tuple(s / finer for s in own.spacing_mm),
        tuple(o - s / 4 for o, s in zip(own.origin_mm, own.spacing_mm, strict=True)),
    )
    truth_mm3 = phantom.truth["volume_mm3"]["left"]
    volume_mm3 = femur_mask(drawn, "left", fine).array.sum() * fine.voxel_volume_mm3
    assert volume_mm3 == pytest.approx(truth_mm3, rel=0.005)


def test_same_seed_same_bytes(phantom):
    again = generate_phantom(sample_parameters(seeds.CASE_SEEDS[0], **SMALL, rods=True, noise_sd_hu=10.0))
    assert again.ct.array.tobytes() == phantom.ct.array.tobytes()
    assert again.left_femur.array.tobytes() == phantom.left_femur.array.tobytes()
    assert again.truth == phantom.truth


def test_another_seed_is_another_patient(phantom):
    other = generate_phantom(sample_parameters(seeds.CASE_SEEDS[1], **SMALL))
    assert (other.left_femur.array != phantom.left_femur.array).any()


def test_the_left_femur_lies_at_the_patients_left(phantom):
    for side, mask, sign in (("left", phantom.left_femur, 1), ("right", phantom.right_femur, -1)):
        center_mm = mask.to_world(np.argwhere(mask.array)).mean(axis=0)
        assert np.sign(center_mm[0]) == sign
        head_mm = phantom.truth["landmarks_mm"][side]["head_center"]
        assert mask.array[tuple(np.rint(mask.to_index(head_mm)).astype(int))]


def test_bone_is_dense_and_marrow_is_not(phantom):
    ct, landmarks = phantom.ct, phantom.truth["landmarks_mm"]["left"]
    index = np.rint(ct.to_index(landmarks["head_center"])).astype(int)
    assert 60 < ct.array[tuple(index)] < 700
    assert ct.array.dtype == np.int16
    assert ct.array[phantom.left_femur.array].max() > 600


def test_rods_have_their_densities():
    drawn = sample_parameters(
        seeds.CASE_SEEDS[2], matrix=256, pixel_mm=1.6, slice_mm=5.0, top_mm=5.0, bottom_mm=5.0, rods=True
    )
    phantom = generate_phantom(drawn)
    ct, truth = phantom.ct, phantom.truth
    x, y, _ = np.moveaxis(ct.to_world(np.moveaxis(np.indices(ct.shape), 0, -1)), -1, 0)
    assert len(truth["rods"]) == 5
    for rod in truth["rods"]:
        inside = np.hypot(x - rod["center_mm"][0], y - rod["center_mm"][1]) < rod["radius_mm"] - 4
        density = truth["slope"] * ct.array[inside].mean() + truth["intercept"]
        assert density == pytest.approx(rod["density_mg_cm3"], abs=6)


def test_women_are_smaller_and_lose_more_bone():
    women = [sample_parameters(s, sex="F", age=75) for s in range(1000, 1150)]
    men = [sample_parameters(s, sex="M", age=75) for s in range(1000, 1150)]
    young = [sample_parameters(s, sex="F", age=30) for s in range(1000, 1150)]

    def mean(group, name):
        return np.mean([getattr(p.left, name) for p in group])

    for name in ("head_radius_mm", "offset_mm", "shaft_radius_mm", "shaft_cortex_mm", "neck_mg_cm3"):
        assert mean(women, name) < mean(men, name)
    assert mean(women, "head_mg_cm3") < mean(young, "head_mg_cm3")
    assert mean(women, "shaft_cortex_mm") < mean(young, "shaft_cortex_mm")


def test_seed_ranges_are_disjoint():
    ranges = sorted(seeds.SEEDS.values(), key=lambda r: r.start)
    for before, after in itertools.pairwise(ranges):
        assert before.stop <= after.start


def test_overrides_reach_every_part_and_unknown_names_are_refused():
    drawn = sample_parameters(5, matrix=96, head_radius_mm=22.0)
    assert drawn.scanner.matrix == 96
    assert drawn.left.head_radius_mm == drawn.right.head_radius_mm == drawn.pelvis.head_radius_mm == 22.0
    with pytest.raises(ValueError, match="hed_radius"):
        sample_parameters(5, hed_radius=3)


def test_parameters_round_trip_through_truth(phantom):
    assert phantom.truth["parameters"] == dataclasses.asdict(
        sample_parameters(seeds.CASE_SEEDS[0], **SMALL, rods=True, noise_sd_hu=10.0)
    )


@pytest.mark.parametrize("peak_per_mm", [0.11, 0.22])
def test_noise_has_the_asked_spread_and_the_autocorrelation_of_its_spectrum(peak_per_mm):
    field = noise((128, 128, 4), 0.8, 15.0, np.random.default_rng(0), peak_per_mm)
    assert field.std() == pytest.approx(15.0, rel=0.05)
    for pixels in (1, 2, 4):
        found = np.corrcoef(field[pixels:].ravel(), field[:-pixels].ravel())[0, 1]
        # The Hankel transform of f exp(-(f / peak)^2) is Kummer's function.
        expected = hyp1f1(1.5, 1, -((np.pi * 0.8 * pixels * peak_per_mm) ** 2))
        assert found == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("between", [0.0, 0.25, 0.5])
def test_noise_of_neighbouring_slices_is_correlated_as_asked(between):
    field = noise((160, 160, 12), 0.8, 15.0, np.random.default_rng(0), 0.16, between)
    assert field.std() == pytest.approx(15.0, rel=0.03)
    found = [np.corrcoef(field[..., :-n].ravel(), field[..., n:].ravel())[0, 1] for n in (1, 2)]
    assert found == pytest.approx([between, 0.0], abs=0.03)


def test_hydroxyapatite_rods_have_their_densities_and_the_truth_says_so():
    changes = {"matrix": 192, "pixel_mm": 2.1, "slice_mm": 5.0, "top_mm": 2.5, "bottom_mm": 2.5}
    drawn = sample_parameters(
        seeds.CASE_SEEDS[2], rods=True, basis="HA", dark_band_hu=0.0, noise_sd_hu=1.0, **changes
    )
    phantom = generate_phantom(drawn)
    x, y, _ = np.moveaxis(phantom.ct.to_world(np.moveaxis(np.indices(phantom.ct.shape), 0, -1)), -1, 0)
    truth = phantom.truth
    assert truth["basis"] == "HA"
    assert [rod["density_mg_cm3"] for rod in truth["rods"]] == [0.0, 100.0, 200.0, 400.0, 800.0]
    for rod in truth["rods"]:
        inside = np.hypot(x - rod["center_mm"][0], y - rod["center_mm"][1]) < rod["radius_mm"] - 5
        density = truth["slope"] * phantom.ct.array[inside].mean() + truth["intercept"]
        assert density == pytest.approx(rod["density_mg_cm3"], abs=6)
    with pytest.raises(ValueError, match="basis"):
        sample_parameters(1, basis="water")


def test_a_field_of_view_of_one_hip_holds_that_femur_alone():
    half_width_mm = sample_parameters(seeds.CASE_SEEDS[3]).pelvis.half_width_mm
    drawn = sample_parameters(
        seeds.CASE_SEEDS[3],
        **{**SMALL, "matrix": 80, "pixel_mm": 2.6},
        center_x_mm=half_width_mm + 12,
        cut_edge_mm=0.0,
    )
    phantom = generate_phantom(drawn)
    assert phantom.truth["volume_mm3"]["right"] == 0
    assert not phantom.right_femur.array.any()
    whole = generate_phantom(sample_parameters(seeds.CASE_SEEDS[3], **SMALL, cut_edge_mm=0.0))
    assert phantom.truth["volume_mm3"]["left"] == pytest.approx(whole.truth["volume_mm3"]["left"], rel=2e-3)


def test_some_fields_of_view_cut_one_side():
    scans = [sample_parameters(s).scanner for s in range(1000, 1300)]
    cut = [s for s in scans if s.cut_edge_mm]
    assert 0.02 < len(cut) / len(scans) < 0.09
    assert {np.sign(s.cut_edge_mm) for s in cut} == {-1.0, 1.0}
    for edge_mm, last in ((140.0, -1), (-140.0, 0)):
        ct = scan_grid(sample_parameters(1000, **SMALL, cut_edge_mm=edge_mm))
        side_mm = ct.to_world((last % ct.shape[0], 0, 0))[0] + np.sign(edge_mm) * ct.spacing_mm[0] / 2
        assert side_mm == pytest.approx(edge_mm)


def test_a_bell_shaped_slice_keeps_the_sum_and_adds_its_variance():
    line = np.zeros((1, 1, 21))
    line[0, 0, 10] = 1.0
    bell = blur_between_slices(line, 0.31)[0, 0]
    place = np.arange(21) - 10
    assert bell.sum() == pytest.approx(1)
    assert (bell * place**2).sum() == pytest.approx(0.31**2)
    with pytest.raises(ValueError, match="blur"):
        blur_between_slices(line, 0.8)


def test_the_fossa_hollows_the_sockets_floor_and_the_hip_bone_still_closes_it():
    rng = np.random.default_rng(0)
    shape = pelvis.PelvisShape(fossa_mm=4.0, socket_shift_mm=(0.5, 0.0, -0.5))
    solids = pelvis.hip_solids(shape, rng)
    axis = pelvis._fossa_axis(shape)
    along_mm = np.arange(20.0, 45.0, 0.25)
    points_mm = (np.array(shape.socket_shift_mm)[:, None] + axis[:, None] * along_mm).astype(np.float32)
    flat = pelvis.hip_distance(points_mm, dataclasses.replace(shape, fossa_mm=0.0), solids)
    hollow = pelvis.hip_distance(points_mm, shape, solids)
    assert along_mm[flat < 0][0] == pytest.approx(shape.socket_radius_mm, abs=0.5)
    assert along_mm[hollow < 0][0] == pytest.approx(shape.socket_radius_mm + 4.0, abs=0.5)


def test_sockets_never_overlap_heads():
    for seed in range(1000, 1200):
        shape = sample_parameters(seed).pelvis
        assert np.linalg.norm(shape.socket_shift_mm) <= shape.joint_space_mm - CONTACT_MM + 1e-9


def test_the_true_density_is_what_the_calibrated_scan_holds():
    """Measured within the mask it is lower, by what blur carries out of it."""
    fine = {"matrix": 300, "pixel_mm": 1.3, "slice_mm": 2.0, "top_mm": 40.0, "bottom_mm": 60.0}
    quiet = {"noise_sd_hu": 1.0, "dark_band_hu": 0.0, "metal_side": "", "cut_edge_mm": 0.0, "osteophytes": 0}
    phantom = generate_phantom(sample_parameters(seeds.CASE_SEEDS[5], **fine, **quiet))
    truth = phantom.truth
    for side, mask in (("left", phantom.left_femur), ("right", phantom.right_femur)):
        density, volume_mm3 = truth["integral_density_mg_cm3"][side], truth["volume_mm3"][side]
        assert truth["bone_mineral_content_mg"][side] == pytest.approx(density * volume_mm3 / 1000)
        inside = truth["slope"] * phantom.ct.array[mask.array].mean() + truth["intercept"]
        assert 0.85 * density < inside < 1.01 * density


def test_a_narrow_field_lists_only_the_rods_that_are_in_it():
    narrow = {"matrix": 128, "pixel_mm": 1.8, "slice_mm": 5.0, "top_mm": 5.0, "bottom_mm": 5.0}
    phantom = generate_phantom(
        sample_parameters(seeds.CASE_SEEDS[2], **narrow, center_x_mm=100.0, cut_edge_mm=0.0, rods=True)
    )
    ct = phantom.ct
    for rod in phantom.truth["rods"]:
        index = ct.to_index((*rod["center_mm"], 0.0))[:2]
        assert np.all(index >= 0) and np.all(index < 128)
    whole = generate_phantom(sample_parameters(seeds.CASE_SEEDS[2], **SMALL, rods=True, cut_edge_mm=0.0))
    assert len(phantom.truth["rods"]) < len(whole.truth["rods"]) == 5


def test_the_canal_is_narrowest_at_the_isthmus():
    shape = FemurShape()
    canal_mm = []
    for height_mm in (-60.0, -135.0, -300.0):
        bow_mm = np.linspace(-100, 100, 201)[:, None] * shape.posterior  # the shaft bows to the front
        points = (shape.shaft_point_mm + bow_mm + [0, 0, height_mm]).T.astype(np.float32)
        depth_mm = -periosteal_distance(points, shape)
        middle = depth_mm.argmax()
        canal_mm.append(depth_mm[middle] - cortex_thickness(points, shape)[middle])
    assert canal_mm[1] < canal_mm[0]
    assert canal_mm[1] < canal_mm[2]


@pytest.mark.parametrize(
    ("body_to_edge_mm", "place"),
    [
        (60.0, "beside"),  # a wide field
        (31.0, "at the edge"),  # a hand beside the body would leave the field
        (9.0, "at the edge"),
        (7.0, "beside"),  # so narrow that a hand in it would lie on the body
    ],
)
def test_hands_lie_in_the_field_beside_the_hip(body_to_edge_mm, place):
    ct = scan_grid(sample_parameters(3000, hands=2, cut_edge_mm=0.0, center_x_mm=0.0, pixel_mm=0.742))
    edge_mm = -ct.origin_mm[0]
    half_width_mm = edge_mm - body_to_edge_mm
    wanted_mm = half_width_mm + HAND_MM if place == "beside" else edge_mm - HAND_MM
    assert _beside(ct, half_width_mm) == pytest.approx(wanted_mm)


def test_the_shipped_models_have_seen_no_phantom_of_demo_test_or_cohort():
    for plan_path in sorted((ROOT / "resources/models").glob("*/plan.json")):
        training = read_json(plan_path)["training"]
        if training["data"] == "synthetic":
            assert set(training["training_seeds"]) <= set(seeds.TRAIN_SEEDS)
            assert set(training["validation_seeds"]) <= set(seeds.VALIDATION_SEEDS)
    demo = (ROOT / "resources/demo/phantoms.tsv").read_text().splitlines()
    column = demo[0].split("\t").index("seed")
    assert {int(line.split("\t")[column]) for line in demo[1:]} <= set(seeds.DEMO_SEEDS)
