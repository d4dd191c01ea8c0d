"""Soft Dice and the L2 term."""

import numpy as np
import pytest

from hipqct.losses import SMOOTHING, dice_l2_loss, soft_dice
from hipqct.network import PAPER

TRUTH = (np.random.default_rng(0).random((2, 8, 8, 8, 1)) > 0.7).astype(np.float32)


def test_dice_of_a_perfect_prediction_is_one():
    assert float(soft_dice(TRUTH, TRUTH)) == pytest.approx(1, abs=1e-6)


def test_dice_of_a_disjoint_prediction_is_near_zero():
    expected = SMOOTHING / (TRUTH.size + SMOOTHING)
    assert float(soft_dice(TRUTH, 1 - TRUTH)) == pytest.approx(expected, rel=1e-5)


def test_dice_of_probabilities_is_the_papers_sum():
    probability = np.random.default_rng(1).random(TRUTH.shape, dtype=np.float32)
    expected = (2 * (TRUTH * probability).sum() + SMOOTHING) / (TRUTH.sum() + probability.sum() + SMOOTHING)
    assert float(soft_dice(TRUTH, probability)) == pytest.approx(expected, rel=1e-5)


def test_nothing_found_where_nothing_is_costs_nothing():
    nothing = np.zeros((1, 8, 8, 8, 1), np.float32)
    assert float(soft_dice(nothing, nothing)) == 1


def test_loss_is_one_minus_dice_plus_alpha_times_squared_kernels():
    from hipqct.vnet import build_vnet, get_weights

    model = build_vnet(PAPER | {"filters": (2, 2, 2, 2), "batch_norm": True})
    squares = sum((w**2).sum() for name, w in get_weights(model).items() if name.endswith("/kernel"))
    for alpha in (0.0, 1e-3):
        assert float(dice_l2_loss(model, alpha)(TRUTH, TRUTH)) == pytest.approx(alpha * squares, abs=1e-5)
