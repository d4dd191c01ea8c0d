"""From a hip's crop to its femur, as every step and benchmark does it: models, air outside, mean, mask."""

import numpy as np

from hipqct.bone import BoneMask, segment_probability
from hipqct.engine import Engine
from hipqct.hounsfield import shown_slices
from hipqct.image import Image
from hipqct.network import turn_to
from hipqct.predict import WindowScheme, clear_outside, combine_models, predict_probability


def predict_crop(
    networks: list[tuple[Engine, dict]], ct: np.ndarray, windows: WindowScheme, side: str = "left"
) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """The mean probability of several models, 0 in air outside, and how much they disagree.

    Args:
        networks: of each model the engine and the plan.
        ct: HU, shape ``(x, y, z)``, on the plans' spacing.
        windows: how they are placed along z.
        side: the hip's; it is mirrored for models of the other side, and the result is mirrored back.

    Returns:
        As `hipqct.predict.combine_models`.
    """
    maps = []
    for engine, plan in networks:
        turn = turn_to(plan["side"], side)
        turned = np.ascontiguousarray(ct[turn])
        maps.append(clear_outside(predict_probability(engine, turned, plan, *windows), turned)[turn])
    return combine_models(maps)


def mask_crop(probability: np.ndarray, ct: np.ndarray, spacing_mm: tuple[float, float, float]) -> BoneMask:
    """The femur's mask from the probability of a crop, be the air outside cleared of it or not.

    Args:
        probability, ct: of one shape ``(x, y, z)``; ``ct`` in HU.

    Raises:
        AnatomyError: the map shows no femur.
    """
    return segment_probability(Image(clear_outside(probability, ct), spacing_mm), *shown_slices(ct))


def segment_crop(
    networks: list[tuple[Engine, dict]],
    ct: np.ndarray,
    spacing_mm: tuple[float, float, float],
    windows: WindowScheme,
    side: str = "left",
) -> BoneMask:
    """The femur's mask by one model or several; see `predict_crop` and `mask_crop`."""
    probability, _, _ = predict_crop(networks, ct, windows, side)
    return mask_crop(probability, ct, spacing_mm)
