"""Training: it learns, it stops in time, and a restart changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
from training_factory import CROPS, NEVER, RECIPE, train

from hipqct import train as train_module
from hipqct.errors import ModelError
from hipqct.network import PRESETS
from hipqct.predict import normalise
from hipqct.recipe import Recipe
from hipqct.train import (
    draw_batch,
    draw_centre,
    draw_patch,
    get_state,
    learning_rate_at,
    set_state,
    start_model,
    validation_dice,
)


def test_a_restart_goes_on_as_if_never_stopped_and_learns():
    _, rows, states = train()
    assert rows[-1]["validation_dice"] > 0.6  # guessing gives 0.2: a ball is a tenth of its crop
    assert rows[-1]["loss"] < rows[0]["loss"]
    _, later, again = train(state=states[20], first_step=20)
    assert later == [pytest.approx(rows[-1], rel=1e-4)]
    assert later[0]["step"] == 30
    assert later[0]["epoch"] == 3
    for name, values in states[30].items():
        np.testing.assert_allclose(again[30][name], values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_learns_a_patch(preset):
    recipe = Recipe(network=PRESETS[preset] | {"dropout": 0.0}, learning_rate=1e-3)
    model, rng = start_model(recipe), np.random.default_rng(0)
    ct = rng.random((1, 16, 16, 8, 1)).astype(np.float32)
    truth = (ct > 0.6).astype(np.float32)
    losses = []
    for _ in range(4):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(ct, truth)[0]))
    assert losses[-1] < losses[0] - 0.02


def test_the_clock_ends_a_training_after_a_whole_epoch():
    _, rows, states = train(minutes=0.0)
    assert [row["step"] for row in rows] == list(states) == [10]


def test_a_precision_that_the_backend_did_not_learn_in_is_refused():
    with pytest.raises(ModelError, match="mixed_bfloat16 is not for the backend tensorflow"):
        start_model(replace(RECIPE, precision="mixed_bfloat16"))


def test_a_batch_depends_on_seed_and_step_only():
    first, second, other = (draw_batch(CROPS, RECIPE, step) for step in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (2, 32, 32, 8, 1)
    assert set(np.unique(first[1])) <= {0.0, 1.0}


def test_a_patch_that_is_not_turned_or_scaled_holds_the_crops_own_voxels():
    ct, _ = draw_patch(CROPS[0], RECIPE, np.random.default_rng(3))
    own = normalise(CROPS[0].ct, RECIPE.plan()["normalisation"])
    windows = np.lib.stride_tricks.sliding_window_view(own, RECIPE.patch)
    assert any((window == ct).all() for window in windows.reshape(-1, *RECIPE.patch))


def test_the_truth_of_a_patch_comes_from_the_distance_to_the_surface():
    more_than_a_pixel_um = np.int16(900)
    grown = replace(CROPS[0], distance_um=CROPS[0].distance_um - more_than_a_pixel_um)
    for recipe in (RECIPE, replace(RECIPE, ranges=replace(NEVER, rotation=(1.0, (5.0, 15.0))))):
        (_, truth), (_, larger) = (
            draw_patch(crop, recipe, np.random.default_rng(3)) for crop in (CROPS[0], grown)
        )
        assert (larger >= truth).all()
        assert larger.sum() > 1.05 * truth.sum()


def test_patches_stay_inside_the_crop():
    rng = np.random.default_rng(0)
    centres = np.array([draw_centre(CROPS[0], (32, 32, 8), rng) for _ in range(300)])
    assert np.all(centres - 15.5 >= [0, 0, 4 - 0.5 - 15.5])
    assert np.all(centres[:, :2] + 15.5 <= 39)
    assert np.all(centres[:, 2] + 3.5 <= 11)


def test_learning_rate_falls_from_its_first_to_its_last_value():
    rates = [learning_rate_at(RECIPE, step) for step in range(RECIPE.steps + 1)]
    assert rates[0] == pytest.approx(RECIPE.learning_rate)
    assert rates[-1] == pytest.approx(RECIPE.final_learning_rate)
    assert np.all(np.diff(rates) <= 0)


def test_validation_without_crops_is_no_number():
    assert np.isnan(validation_dice(start_model(RECIPE), [], RECIPE))


def test_a_state_of_another_network_is_refused():
    state = get_state(start_model(RECIPE))
    state.popitem()
    with pytest.raises(ValueError, match="state must hold"):
        set_state(start_model(RECIPE), state)


@pytest.mark.parametrize(
    ("cards", "threads", "drawing", "ahead"),
    [([], 64, 1, 2), (["card"], 1, 1, 2), (["card"], 8, 7, 14), (["card"], 64, 15, 30)],
)
def test_patches_are_drawn_by_the_threads_given(monkeypatch, cards, threads, drawing, ahead):
    monkeypatch.setattr(train_module, "list_cards", lambda: cards)
    assert train_module.feeding_threads(threads) == drawing
    with train_module.BatchFeed(CROPS, replace(RECIPE, steps=200), 0, drawing) as feed:
        feed.next()
        assert feed.step == ahead
    assert train_module.BatchFeed(CROPS, RECIPE, 0, 64).ahead == 32


def test_training_computes_float32_in_full(monkeypatch):
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(True)
    start_model(RECIPE)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
