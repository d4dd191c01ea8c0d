"""From a hip's crop to the probability of femur."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from hipqct import revisions
from hipqct.errors import ScanError
from hipqct.folds import SEEN_IN_TRAINING
from hipqct.io.dataset import hash_crop
from hipqct.io.files import hash_file, replace_when_done
from hipqct.io.hdf5 import read_facts, read_roi, write_probability
from hipqct.io.models import check_crop, read_model
from hipqct.network import turn_to

log = logging.getLogger(__name__)

AHEAD = ".ahead.{}"  # results computed ahead wait under this name, for each hip's own job to take
AHEAD_S = 600  # none is begun after so long: what kills the job takes its own result with it
CLAIM_S = 3600  # a claim older than this was left by a job that died


def segment_femur(
    roi_path,
    probability_path,
    model_dirs,
    windows: Sequence,
    device: str,
    threads: int,
    hips_ahead: int = 0,
) -> None:
    """Run the V-Net over a crop (roi.h5) and write the probability map (probability.h5) on the same grid.

    Right hips are mirrored across the sagittal plane for the network, which knows left femurs only, and the
    result is mirrored back. A crop that one of the models was trained or chosen on, voxel by voxel the same,
    gets ``seen_in_training``.

    A job on a GPU then computes other hips ahead whose crops are there and whose results are not, so that
    the network is loaded once for many. Each is left beside its crop; that hip's own job takes it if crop,
    model and settings are still the same, else computes it itself. A hip that fails ahead fails in its own
    job only; but what kills this job meanwhile makes Snakemake drop its own result.

    Args:
        model_dirs: the models' folders; the probabilities of several models are averaged.
        windows: step, blend and ends of a `hipqct.predict.WindowScheme`.
        device: ``auto``, ``cpu`` or ``gpu``.
        threads: CPU threads to use.
        hips_ahead: how many other hips to compute on a GPU; on the CPU none, whose engine starts in a second.

    Raises:
        ModelError: the model is missing or does not fit the crop, or there is no such device.
    """
    from hipqct.engine import load_engine
    from hipqct.predict import WindowScheme

    roi_path, probability_path = Path(roi_path), Path(probability_path)
    models = [read_model(folder) for folder in model_dirs]
    settings = WindowScheme(*windows)._asdict() | {
        "model": ", ".join(plan["name"] for plan, _ in models),
        "weights_sha256": ", ".join(plan["weights_sha256"] for plan, _ in models),
        "plan_sha256": ", ".join(_hash_plan(plan) for plan, _ in models),
        "trained_on": ", ".join(sorted({plan["training"].get("data", "") for plan, _ in models})),
        "revision": revisions.SEGMENT_FEMUR,
    }
    if device != "cpu" and _take(roi_path, probability_path, settings):
        return
    networks = [(load_engine(plan["network"], weights, device, threads), plan) for plan, weights in models]
    _segment(networks, settings, roi_path, probability_path)
    if networks[0][0].device == "cpu":
        return
    end_s = time.monotonic() + AHEAD_S
    for other in islice(_waiting(roi_path, probability_path.name, settings), hips_ahead):
        if time.monotonic() > end_s:
            break
        _segment_ahead(networks, settings, other, other.with_name(probability_path.name))


def _hash_plan(plan: dict) -> str:
    """Of all in plan.json that inference computes with."""
    used = {key: value for key, value in plan.items() if key not in ("name", "training")}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()


def _segment(networks: list, settings: dict, roi_path: Path, probability_path: Path) -> None:
    from hipqct.predict import WindowScheme
    from hipqct.segment import predict_crop

    roi_sha256 = hash_file(roi_path)  # before it is read: a crop that changes meanwhile then fits no result
    roi, facts = read_roi(roi_path)
    windows = WindowScheme(*(settings[key] for key in WindowScheme._fields))
    for _, plan in networks:
        check_crop(roi, plan, roi_path)
    probability, disagreement, agreement = predict_crop(networks, roi.array, windows, facts["side"])
    engine, seen = networks[-1][0], any(_has_seen(plan, roi.array, facts["side"]) for _, plan in networks)
    made = {"side": facts["side"], "device": engine.device, "engine": engine.name, SEEN_IN_TRAINING: seen}
    attributes = settings | made | agreement | {"roi_sha256": roi_sha256}
    write_probability(replace(roi, array=probability), probability_path, attributes, disagreement)
    log.info("Probability of %s: mean %.4f, windows %s", roi_path, float(probability.mean()), windows)


def _has_seen(plan: dict, ct: np.ndarray, side: str) -> bool:
    """Whether a model was trained or chosen on this crop."""
    crops = plan["training"].get("crops_sha256", ())
    return len(crops) > 0 and hash_crop(ct[turn_to(plan["side"], side)]) in crops


def _waiting(roi_path: Path, name: str, settings: dict):
    """Crops of other hips of this study that have no result by these settings, the subject's own first."""
    subject = roi_path.parents[1]
    others = [*subject.glob(f"*/{roi_path.name}"), *subject.parent.glob(f"*/*/{roi_path.name}")]
    for other in dict.fromkeys(others):
        result, ahead = other.with_name(name), other.with_name(AHEAD.format(name))
        if other != roi_path and not any(_is_current(path, other, settings) for path in (result, ahead)):
            yield other


def _is_current(path: Path, roi_path: Path, settings: dict) -> bool:
    """Whether a result is newer than its crop and made by these settings."""
    try:
        if path.stat().st_mtime_ns < roi_path.stat().st_mtime_ns:
            return False
        facts = read_facts(path)
    except (FileNotFoundError, ScanError):
        return False
    return settings.items() <= facts.items()


def _segment_ahead(networks: list, settings: dict, roi_path: Path, probability_path: Path) -> None:
    """Compute a hip for its own job to take, unless another job is at it; an error is that job's to tell."""
    ahead = probability_path.with_name(AHEAD.format(probability_path.name))
    claim = ahead.with_suffix(".claim")
    try:
        if claim.exists() and time.time() - claim.stat().st_mtime > CLAIM_S:
            claim.unlink()
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
    except OSError:
        return
    try:
        _segment(networks, settings, roi_path, ahead)
        if _is_current(probability_path, roi_path, settings):
            ahead.unlink()
    except Exception as error:
        log.warning("%s could not be computed ahead, its own job will tell: %s", roi_path, error)
    finally:
        claim.unlink(missing_ok=True)


def _take(roi_path: Path, probability_path: Path, settings: dict) -> bool:
    """Whether a result computed ahead was of this very crop, model and settings, and is now this hip's."""
    ahead = probability_path.with_name(AHEAD.format(probability_path.name))
    if not ahead.exists():
        return False
    try:
        facts = read_facts(ahead)
    except ScanError:
        facts = {}
    wanted = settings | {"roi_sha256": hash_file(roi_path)}
    if not wanted.items() <= facts.items():
        ahead.unlink()
        return False
    with replace_when_done(probability_path) as temporary:
        ahead.replace(temporary)
        temporary.touch()
    log.info("Computed ahead by another job: %s on %s", facts["engine"], facts["device"])
    return True
