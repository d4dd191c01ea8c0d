"""Steps from a probability map to mask, measures, scores and picture, file by file."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Picture

from hipqct.errors import AnatomyError, ScanError, SheetError
from hipqct.image import Image
from hipqct.io.files import read_json, write_json
from hipqct.io.hdf5 import read_probability, write_probability, write_roi
from hipqct.io.images import read_image, write_image
from hipqct.qc import caption, draw_outlines
from hipqct.resample import resample_slices, resample_to
from hipqct.steps.mask import draw_qc, evaluate_mask, measure_volume, threshold_bone

BONE_HU, SOFT_HU = 600, 40
CALIBRATION = {"basis": "K2HPO4", "slope": 0.8, "intercept": -2.0}


def depth_mm(image: Image) -> np.ndarray:
    """Depth in a head of 22 mm on a shaft of 16 mm that leaves the scan below."""
    x, y, z = np.moveaxis(image.to_world(np.moveaxis(np.indices(image.shape), 0, -1)), -1, 0)
    head = 22 - np.sqrt((x - 40) ** 2 + y**2 + (z - 260) ** 2)
    return np.maximum(head, np.minimum(16 - np.hypot(x - 44, y), 260 - z))


def blank(shape, spacing_mm, origin_mm) -> Image:
    return Image(np.zeros(shape, np.float32), spacing_mm, origin_mm)


def files(folder):
    names = {name: folder / f"{name}.nii.gz" for name in ("ct", "resampled", "mask", "native", "reference")}
    names |= {name: folder / f"{name}.h5" for name in ("roi", "probability")}
    return SimpleNamespace(
        **names,
        **{n: folder / f"{n}.json" for n in ("scan", "bone", "volume", "evaluation")},
        png=folder / "qc.png",
    )


@pytest.fixture(scope="module")
def hip(tmp_path_factory):
    """A scan of 2-mm slices with a toy femur, its crop and probability, and the results of the steps."""
    f = files(tmp_path_factory.mktemp("hip"))
    scan = blank((120, 100, 48), (1.3, 1.3, 2.0), (-40.0, -64.0, 200.0))
    inside = depth_mm(scan) > 0
    ct = scan.with_array(np.where(inside, BONE_HU, SOFT_HU).astype(np.int16))
    resampled, _ = resample_slices(ct)
    box = blank((96, 96, resampled.shape[2]), (1.0, 1.0, 3.0), (-6.0, -48.0, resampled.origin_mm[2]))
    write_image(ct, f.ct)
    write_image(resampled, f.resampled)
    write_image(scan.with_array(inside), f.reference)
    write_roi(resample_to(resampled, box), f.roi, {"side": "left"})
    probability = (1 / (1 + np.exp(-2 * depth_mm(box)))).astype(np.float32)
    write_probability(box.with_array(probability), f.probability, {"side": "left", "model": "toy", "step": 8})
    threshold_bone(f.probability, f.resampled, f.ct, f.mask, f.native, f.bone)
    write_json({"flags": []}, f.scan)
    measure_volume(f.mask, f.resampled, f.bone, f.scan, f.volume, **CALIBRATION)
    evaluate_mask(f.mask, f.roi, f.reference, f.evaluation)
    return f


def overlap(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_both_masks_lie_on_their_grids_and_show_the_femur(hip):
    for mask_path, grid_path in ((hip.mask, hip.resampled), (hip.native, hip.ct)):
        mask, grid = read_image(mask_path), read_image(grid_path)
        assert mask.same_grid(grid) and mask.array.dtype == np.uint8
        assert overlap(mask.array > 0, depth_mm(grid) > 0) > 0.985
        assert mask.array[:, :, 0].any()
    assert read_json(hip.bone)["network"] == {"model": "toy", "step": 8}
    assert read_json(hip.bone)["flags"] == [] and 0.3 < read_json(hip.bone)["otsu_threshold"] < 0.7


def test_a_map_without_a_femur_leaves_no_file(hip, tmp_path):
    f = files(tmp_path)
    write_probability(blank((32, 32, 8), (1, 1, 3), (0, 0, 0)), f.probability, {})
    with pytest.raises(AnatomyError):
        threshold_bone(f.probability, hip.resampled, hip.ct, f.mask, f.native, f.bone)
    assert list(tmp_path.iterdir()) == [f.probability]


def test_measures_of_a_femur_of_known_size_and_density(hip):
    volume = read_json(hip.volume)
    shaft_mm3 = np.pi * 16**2 * (260 - 199)
    assert volume["volume_mm3"] == pytest.approx(volume["volume_voxel_mm3"], rel=1e-3)
    # Half the head lies above the shaft's end; below it the shaft is inside most of the head.
    assert shaft_mm3 + 2 / 3 * np.pi * 22**3 < volume["volume_mm3"] < shaft_mm3 + 4 / 3 * np.pi * 22**3
    assert SOFT_HU < volume["mean_hu"] < BONE_HU + 5
    assert volume["mean_hu"] == pytest.approx(BONE_HU, rel=0.05)
    assert volume["integral_density_mg_cm3"] == pytest.approx(0.8 * volume["mean_hu"] - 2)
    content_mg = volume["integral_density_mg_cm3"] * volume["volume_voxel_mm3"] / 1000
    assert volume["bone_mineral_content_mg"] == pytest.approx(content_mg)
    assert volume["calibration"] == {**CALIBRATION, "basis": "K2HPO4"}
    assert volume["otsu_threshold"] == read_json(hip.bone)["otsu_threshold"] and volume["flags"] == []


def test_without_calibration_there_is_no_density(hip, tmp_path):
    measure_volume(hip.mask, hip.resampled, hip.bone, hip.scan, tmp_path / "volume.json", "K2HPO4")
    volume = read_json(tmp_path / "volume.json")
    for key in ("integral_density_mg_cm3", "bone_mineral_content_mg", "calibration"):
        assert volume[key] is None
    assert volume["flags"] == ["uncalibrated"]
    assert volume["mean_hu"] == read_json(hip.volume)["mean_hu"]
    assert "no density" in caption("left", volume) and "uncalibrated" in caption("left", volume)
    calibrated = volume | {"integral_density_mg_cm3": 251.4, "calibration": {"basis": "HA"}}
    assert "integral density 251 mg/cm³ HA\nflags of the mask: " in caption("left", calibrated)


@pytest.mark.parametrize(
    ("slope", "intercept", "flags"),
    [
        (0.8, 0.0, []),
        (0.4, 0.0, ["unusual_calibration"]),
        (0.7, 100.0, ["unusual_calibration"]),
        (1.5, 0.8, ["unusual_calibration", "implausible_density"]),  # a pair swapped
        (0.5, -300.0, ["unusual_calibration", "implausible_density"]),
    ],
)
def test_calibrations_and_densities_of_no_femur_are_flagged(hip, tmp_path, slope, intercept, flags):
    path = tmp_path / "volume.json"
    measure_volume(hip.mask, hip.resampled, hip.bone, hip.scan, path, "K2HPO4", slope, intercept)
    assert read_json(path)["flags"] == flags


@pytest.mark.parametrize(
    ("dice", "seen", "flags"),
    [(0.97, False, []), (0.93, False, ["models_disagree"]), (0.97, True, ["seen_in_training"])],
)
def test_models_that_disagree_or_know_the_hip_are_told(hip, tmp_path, dice, seen, flags):
    probability, facts = read_probability(hip.probability)
    facts |= {"models_dice_min": dice, "seen_in_training": seen}
    write_probability(probability, tmp_path / "p.h5", facts)
    outputs = [tmp_path / name for name in ("m.nii.gz", "n.nii.gz", "bone.json")]
    threshold_bone(tmp_path / "p.h5", hip.resampled, hip.ct, *outputs)
    bone = read_json(tmp_path / "bone.json")
    assert bone["network"]["models_dice_min"] == dice
    assert [flag for flag in bone["flags"] if flag in ("models_disagree", "seen_in_training")] == flags


def test_flags_of_the_scan_are_kept(hip, tmp_path):
    write_json({"flags": ["synthetic", "metal"]}, tmp_path / "scan.json")
    volume_path = tmp_path / "volume.json"
    measure_volume(hip.mask, hip.resampled, hip.bone, tmp_path / "scan.json", volume_path, **CALIBRATION)
    assert read_json(volume_path)["flags"] == ["synthetic", "metal"]


def test_a_model_of_phantoms_is_told_on_other_scans(hip, tmp_path):
    bone = read_json(hip.bone)
    cases = [("synthetic", [], ["phantom_model"]), ("synthetic", ["synthetic"], ["synthetic"])]
    cases += [(", synthetic", [], ["phantom_model"]), ("", [], [])]
    for trained_on, scan_flags, expected in cases:
        write_json(bone | {"network": {"trained_on": trained_on}}, tmp_path / "bone.json")
        write_json({"flags": scan_flags}, tmp_path / "scan.json")
        inputs = (hip.mask, hip.resampled, tmp_path / "bone.json", tmp_path / "scan.json")
        measure_volume(*inputs, tmp_path / "v.json", **CALIBRATION)
        assert read_json(tmp_path / "v.json")["flags"] == expected


def test_a_reference_of_both_femurs_is_refused(hip, tmp_path):
    reference = read_image(hip.reference)
    labels = reference.array.astype(np.uint8)
    labels[:5] = 2
    write_image(reference.with_array(labels), tmp_path / "labels.nii.gz")
    with pytest.raises(ScanError, match=r"labels\.nii\.gz holds 2 values above 0 \(1, 2\)"):
        evaluate_mask(hip.mask, hip.roi, tmp_path / "labels.nii.gz", tmp_path / "e.json")


def test_a_calibration_in_grams_and_an_empty_mask_are_refused(hip, tmp_path):
    inputs = (hip.mask, hip.resampled, hip.bone, hip.scan, tmp_path / "v.json")
    with pytest.raises(SheetError, match="mg/cm3"):
        measure_volume(*inputs, "K2HPO4", slope=0.0008, intercept=0)
    resampled = read_image(hip.resampled)
    write_image(resampled.with_array(np.zeros(resampled.shape, np.uint8)), tmp_path / "empty.nii.gz")
    with pytest.raises(AnatomyError, match=r"empty\.nii\.gz is empty"):
        measure_volume(tmp_path / "empty.nii.gz", *inputs[1:], "K2HPO4")
    with pytest.raises(AnatomyError, match=r"empty\.nii\.gz is empty"):
        evaluate_mask(tmp_path / "empty.nii.gz", hip.roi, hip.reference, tmp_path / "e.json")
    assert not list(tmp_path.glob("*.json"))


def test_scores_against_the_truth(hip):
    evaluation = read_json(hip.evaluation)
    assert evaluation["dice"] > 0.985 and evaluation["sensitivity"] > 0.97
    assert evaluation["specificity"] > 0.995
    assert evaluation["hausdorff95_mm"] < 3 and evaluation["surface_distance_mm"] < 0.5
    assert abs(evaluation["relative_error_percent"]) < 1.5
    predicted_mm3, reference_mm3 = evaluation["volume_predicted_mm3"], evaluation["volume_reference_mm3"]
    error_percent = 100 * (predicted_mm3 - reference_mm3) / reference_mm3
    assert evaluation["relative_error_percent"] == pytest.approx(error_percent)
    assert predicted_mm3 == pytest.approx(read_json(hip.volume)["volume_voxel_mm3"])
    assert evaluation["flags"] == []


def test_a_mask_is_perfect_against_itself(hip, tmp_path):
    evaluate_mask(hip.mask, hip.roi, hip.mask, tmp_path / "e.json")
    evaluation = read_json(tmp_path / "e.json")
    assert evaluation["dice"] == evaluation["sensitivity"] == evaluation["specificity"] == 1
    for key in ("hausdorff95_mm", "surface_distance_mm", "relative_error_percent"):
        assert evaluation[key] == 0


def test_a_reference_stored_in_another_orientation_scores_alike(hip, tmp_path):
    reference = read_image(hip.reference)
    last = reference.to_world((reference.shape[0] - 1, reference.shape[1] - 1, 0))
    turned = Image(reference.array[::-1, ::-1], reference.spacing_mm, tuple(last), np.diag([-1.0, -1.0, 1.0]))
    write_image(turned, tmp_path / "ras.nii.gz")
    evaluate_mask(hip.mask, hip.roi, tmp_path / "ras.nii.gz", tmp_path / "e.json")
    scores, plain = read_json(tmp_path / "e.json"), read_json(hip.evaluation)
    assert scores.pop("flags") == plain.pop("flags") == []
    assert scores == pytest.approx(plain)


def test_a_larger_reference_gives_a_negative_error_and_less_sensitivity(hip, tmp_path):
    scan = read_image(hip.ct)
    write_image(scan.with_array(depth_mm(scan) > -2), tmp_path / "large.nii.gz")
    evaluate_mask(hip.mask, hip.roi, tmp_path / "large.nii.gz", tmp_path / "e.json")
    evaluation = read_json(tmp_path / "e.json")
    assert evaluation["relative_error_percent"] < -10
    assert evaluation["sensitivity"] < 0.92 and evaluation["specificity"] > 0.999
    assert 1 < evaluation["surface_distance_mm"] < 2.5


def test_a_reference_that_leaves_the_crop_counts_in_the_volume_alone(hip, tmp_path):
    scan = read_image(hip.ct)
    inside = depth_mm(scan) > 0
    inside[2:8, 40:60, 9:21] = True  # from 217 to 241 mm: whole 3-mm slices
    write_image(scan.with_array(inside), tmp_path / "more.nii.gz")
    evaluate_mask(hip.mask, hip.roi, tmp_path / "more.nii.gz", tmp_path / "e.json")
    more, plain = read_json(tmp_path / "e.json"), read_json(hip.evaluation)
    assert more["flags"] == ["reference_leaves_crop"]
    assert more["dice"] == plain["dice"]
    extra_mm3 = more["volume_reference_mm3"] - plain["volume_reference_mm3"]
    assert extra_mm3 == pytest.approx(6 * 20 * 12 * scan.voxel_volume_mm3)


@pytest.mark.parametrize(
    ("where", "match"), [(None, "empty"), ("away", "outside the scan"), ("side", "crop")]
)
def test_a_reference_of_something_else_is_a_sentence(hip, tmp_path, where, match):
    scan = read_image(hip.ct)
    array = np.zeros(scan.shape, np.uint8)
    if where:
        array[2:8, 40:60, 10:20] = 1
    shift_mm = 1000.0 if where == "away" else 0.0
    origin_mm = (scan.origin_mm[0] + shift_mm, *scan.origin_mm[1:])
    path = tmp_path / "other.nii.gz"
    write_image(Image(array, scan.spacing_mm, origin_mm), path)
    with pytest.raises(ScanError, match=match) as error:
        evaluate_mask(hip.mask, hip.roi, path, tmp_path / "e.json")
    assert "other.nii.gz" in str(error.value) and not (tmp_path / "e.json").exists()


def test_the_picture_shows_the_outline_and_the_same_input_gives_the_same_bytes(hip, tmp_path):
    for name in ("a.png", "b.png"):
        draw_qc(hip.resampled, hip.mask, hip.roi, hip.volume, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Picture.open(tmp_path / "a.png") as picture:
        assert set(picture.info) <= {"dpi", "Software"}
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 600 and max(pixels.shape[:2]) < 1500
    orange = (pixels[..., 0] > 200) & (pixels[..., 2] < 60)
    assert 1000 < np.count_nonzero(orange) < 0.05 * orange.size


def test_panels_are_seen_from_the_feet_with_the_patients_right_on_the_left(hip):
    resampled, mask = read_image(hip.resampled), read_image(hip.mask)
    figure = draw_outlines(resampled, mask, resampled, "left", read_json(hip.volume))
    axial, _, _, _, coronal, sagittal = figure.axes
    for axes in (axial, sagittal, coronal):
        assert axes.get_xlim()[0] < axes.get_xlim()[1]
    assert axial.get_ylim()[0] > axial.get_ylim()[1]
    assert sagittal.get_ylim()[0] < sagittal.get_ylim()[1]
    letters = [text.get_text() for text in axial.texts]
    assert letters[:4] == ["R", "L", "A", "P"] and letters[4] == "20 mm"
