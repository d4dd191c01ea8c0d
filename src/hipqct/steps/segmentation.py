"""From a hip's crop to the probability of femur."""

import logging
from dataclasses import replace

import numpy as np

from hipqct.io.hdf5 import read_roi, write_probability
from hipqct.io.models import check_spacing, read_model

log = logging.getLogger(__name__)


def segment_femur(
    roi_path, probability_path, model_dir, step: int | str, blend: str, ends: str, device: str, threads: int
) -> None:
    """Run the V-Net over a crop (roi.h5) and write the probability map (probability.h5) on the same grid.

    Right hips are mirrored across the sagittal plane for the network, which knows left femurs only, and the
    result is mirrored back.

    Args:
        model_dir: folder with plan.json and weights.h5.
        step, blend, ends: how windows are placed and averaged, see `hipqct.predict.predict_probability`.
        device: ``auto``, ``cpu`` or ``gpu``.
        threads: CPU threads to use.

    Raises:
        ModelError: the model is missing or does not fit the crop, or there is no such device.
    """
    from hipqct.predict import load_engine, predict_probability

    roi, facts = read_roi(roi_path)
    plan, weights = read_model(model_dir)
    check_spacing(roi, plan, roi_path)
    engine = load_engine(plan["network"], weights, device, threads)
    mirror = slice(None, None, -1 if facts["side"] != plan["side"] else 1)
    left = np.ascontiguousarray(roi.array[mirror])
    probability = predict_probability(engine, left, plan, step, blend, ends)[mirror]
    attributes = {
        "side": facts["side"],
        "device": engine.device,
        "engine": engine.name,
        "step": step,
        "blend": blend,
        "ends": ends,
        "model": plan["name"],
        "weights_sha256": plan["weights_sha256"],
    }
    write_probability(replace(roi, array=probability), probability_path, attributes)
    log.info("Probability of %s: mean %.4f, step %s", roi_path, float(probability.mean()), step)
