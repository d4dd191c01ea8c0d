"""From the probability of femur to its mask, its measures, its scores and a picture."""

import logging

import numpy as np

from hipqct.bone import mask_on_grid, mask_on_slices, segment_probability, touches_field_edge
from hipqct.density import (
    PLAUSIBLE_DENSITY_MG_CM3,
    bone_mineral_content_mg,
    integral_density,
    is_usual_calibration,
    mean_hu,
)
from hipqct.errors import AnatomyError, ScanError
from hipqct.folds import SEEN_IN_TRAINING
from hipqct.hounsfield import shown_slices
from hipqct.image import Image, reorient_to_lps, share_outside
from hipqct.io.files import read_json, replace_when_done, write_json
from hipqct.io.hdf5 import read_probability, read_roi
from hipqct.io.images import read_image, write_image
from hipqct.metrics import relative_error_percent, score_masks
from hipqct.phantom import SYNTHETIC
from hipqct.resample import resample_mask_slices
from hipqct.volume import measure_mask, voxel_volume_mm3

log = logging.getLogger(__name__)

UNCALIBRATED = "uncalibrated"
UNUSUAL_CALIBRATION, IMPLAUSIBLE_DENSITY = "unusual_calibration", "implausible_density"
PHANTOM_MODEL = "phantom_model"
LEAVES_CROP = "reference_leaves_crop"
FIELD_EDGE = "touches_field_edge"
# From probability.h5 to bone.json.
NETWORK_FACTS = (
    "model", "weights_sha256", "engine", "device", "step", "blend", "ends", "trained_on", "models_dice_min"
)  # fmt: skip
MODELS_DISAGREE, LEAST_MODELS_DICE = "models_disagree", 0.95  # human readers agree to about 0.98


def threshold_bone(probability_path, resampled_path, ct_path, mask_path, mask_native_path, bone_path) -> None:
    """Binarise a probability map and write the mask on the resampled and on the scan's own grid.

    Args:
        bone_path: bone.json, with ``otsu_threshold``, ``components``, ``doubtful_share``, ``flags`` (two of
            them of the network: ``models_disagree``, ``seen_in_training``), and the
            ``network``'s model, weights, engine, device and step.

    Raises:
        AnatomyError: the map shows no femur; no file is written then.
        ScanError: a file is unreadable.
    """
    probability, attributes = read_probability(probability_path)
    resampled = read_image(resampled_path)
    bone = segment_probability(probability, *shown_slices(resampled.array))
    if attributes.get("models_dice_min", 1.0) < LEAST_MODELS_DICE:
        bone.flags.append(MODELS_DISAGREE)
    if attributes.get(SEEN_IN_TRAINING):
        bone.flags.append(SEEN_IN_TRAINING)
    mask = mask_on_grid(probability, bone, resampled)
    if touches_field_edge(mask.array, resampled.array):
        bone.flags.append(FIELD_EDGE)
    write_image(mask, mask_path)
    write_image(mask_on_slices(mask, read_image(ct_path)), mask_native_path)
    facts = {
        "otsu_threshold": bone.otsu_threshold,
        "components": bone.components,
        "doubtful_share": bone.doubtful_share,
        "flags": bone.flags,
        "network": {key: attributes[key] for key in NETWORK_FACTS if key in attributes},
    }
    write_json(facts, bone_path)
    log.info(
        "Threshold %.3f, doubtful %.3f of the mask, flags: %s",
        bone.otsu_threshold,
        bone.doubtful_share,
        ", ".join(bone.flags) or "none",
    )


def measure_volume(
    mask_path,
    resampled_path,
    bone_path,
    scan_facts_path,
    volume_path,
    basis: str,
    slope: float | None = None,
    intercept: float | None = None,
) -> None:
    """Write volume.json: the mask's volumes, area and density, with the threshold and flags of bone.json.

    The flags of scan.json (see `hipqct.steps.image.import_scan`) are kept; ``phantom_model`` is set where a
    model, or one of several, that was trained on digital phantoms alone meets another scan.
    Without slope and intercept (mg/cm3 of ``basis``, per HU) ``integral_density_mg_cm3``,
    ``bone_mineral_content_mg`` and ``calibration`` are null and the flag ``uncalibrated`` is set. A
    calibration unlike what calibration phantoms in use give sets ``unusual_calibration``, a density of no
    femur ``implausible_density``.

    Raises:
        AnatomyError: the mask is empty.
        SheetError: the calibration cannot be in mg/cm3 per HU.
        MeshError: the mask is too thin to have a surface.
    """
    mask, ct, bone = read_image(mask_path), read_image(resampled_path), read_json(bone_path)
    if not mask.array.any():
        raise AnatomyError(f"{mask_path} is empty, nothing to measure: look at the probability map")
    size = measure_mask(mask)
    density_mg_cm3 = content_mg = calibration = None
    scan_flags = read_json(scan_facts_path)["flags"]
    flags = scan_flags + bone["flags"]
    if SYNTHETIC not in scan_flags and SYNTHETIC in bone["network"].get("trained_on", "").split(", "):
        flags.append(PHANTOM_MODEL)
    if slope is None or intercept is None:
        flags.append(UNCALIBRATED)
    else:
        density_mg_cm3 = integral_density(ct, mask, slope, intercept)
        content_mg = bone_mineral_content_mg(density_mg_cm3, size["volume_voxel_mm3"])
        calibration = {"slope": slope, "intercept": intercept, "basis": basis}
        if not is_usual_calibration(slope, intercept):
            flags.append(UNUSUAL_CALIBRATION)
        low, high = PLAUSIBLE_DENSITY_MG_CM3
        if not low <= density_mg_cm3 <= high:
            flags.append(IMPLAUSIBLE_DENSITY)
    content = {
        "volume_mm3": size["volume_mm3"],
        "volume_voxel_mm3": size["volume_voxel_mm3"],
        "surface_area_mm2": size["surface_area_mm2"],
        "integral_density_mg_cm3": density_mg_cm3,
        "bone_mineral_content_mg": content_mg,
        "mean_hu": mean_hu(ct, mask),
        "calibration": calibration,
        "otsu_threshold": bone["otsu_threshold"],
        "flags": flags,
    }
    write_json(content, volume_path)


def evaluate_mask(mask_path, roi_path, reference_path, evaluation_path) -> None:
    """Compare a mask with a reference mask and write evaluation.json.

    The reference may lie on any grid. ``dice``, ``sensitivity``, ``specificity``, ``hausdorff95_mm`` and
    ``surface_distance_mm`` are taken over the voxels of the crop, the volumes (voxel counts) over the
    resampled grid, on which the mask is. What the reference has outside the crop therefore counts in its
    volume and in no score, and sets the flag ``reference_leaves_crop``.

    Raises:
        ScanError: the reference is unreadable, empty, or lies outside the scan or the crop.
        AnatomyError: the mask is empty.
    """
    mask = read_image(mask_path)
    mask = mask.with_array(mask.array > 0)
    roi, _ = read_roi(roi_path)
    own = load_reference(reference_path)
    reference, reference_in_crop = resample_mask_slices(own, mask), resample_mask_slices(own, roi).array
    if not reference.array.any():
        where_mm = own.to_world(np.argwhere(own.array > 0).mean(axis=0))
        place = ", ".join(f"{coordinate:.0f}" for coordinate in where_mm)
        raise ScanError(f"{reference_path} lies outside the scan, round {place} mm (LPS): check its geometry")
    predicted_in_crop = resample_mask_slices(mask, roi).array
    if not reference_in_crop.any():
        raise ScanError(f"{reference_path} has no voxel in the crop of this hip: check its side and geometry")
    if not predicted_in_crop.any():
        raise AnatomyError(f"{mask_path} is empty, nothing to evaluate: look at the probability map")
    reference_mm3, predicted_mm3 = voxel_volume_mm3(reference), voxel_volume_mm3(mask)
    content = {
        **score_masks(reference_in_crop, predicted_in_crop, roi.spacing_mm),
        "volume_reference_mm3": reference_mm3,
        "volume_predicted_mm3": predicted_mm3,
        "relative_error_percent": relative_error_percent(reference_mm3, predicted_mm3),
        "flags": [LEAVES_CROP] if share_outside(reference, roi) else [],
    }
    write_json(content, evaluation_path)
    log.info("Dice %.4f, volume error %.2f%%", content["dice"], content["relative_error_percent"])


def load_reference(path) -> Image:
    """A reference mask on its own grid, turned to LPS; ScanError if it is empty or holds several labels."""
    reference = reorient_to_lps(read_image(path))
    if not (reference.array > 0).any():
        raise ScanError(f"{path} is empty: give a mask with the femur's voxels above 0")
    labels = np.unique(reference.array[reference.array > 0])
    if len(labels) > 1:
        some = ", ".join(f"{label:g}" for label in labels[:4])
        raise ScanError(
            f"{path} holds {len(labels)} values above 0 ({some}): give a mask of this femur alone"
        )
    return reference


def draw_qc(resampled_path, mask_path, roi_path, volume_path, png_path) -> None:
    """Draw the mask's outline over slices of the hip (qc.png), with its volume, density and flags."""
    from hipqct.qc import PNG_SETTINGS, draw_outlines

    roi, facts = read_roi(roi_path)
    figure = draw_outlines(
        read_image(resampled_path), read_image(mask_path), roi, facts["side"], read_json(volume_path)
    )
    with replace_when_done(png_path) as temporary:
        figure.savefig(temporary, **PNG_SETTINGS)
