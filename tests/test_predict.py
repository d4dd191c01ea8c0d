"""Sliding windows, normalisation and the choice of the device."""

import subprocess
import sys

import numpy as np
import pytest

from hipqct import predict
from hipqct.errors import ModelError
from hipqct.predict import (
    Engine,
    combine_models,
    normalise,
    predict_probability,
    select_device,
    window_starts,
    window_weights,
)

PLAN = {"window": [32, 32, 8], "normalisation": {"clip_hu": [-200, 1500]}}


def make_engine(function, batch=3) -> Engine:
    return Engine("test", "cpu", batch, function)


def random_ct(shape) -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 2000, shape, dtype=np.int16)


@pytest.mark.parametrize("slices", [8, 9, 15, 16, 30])
@pytest.mark.parametrize("step", [1, 3, 8])
def test_windows_hold_every_slice_and_end_with_the_last(slices, step):
    starts = window_starts(slices, 8, step)
    assert set().union(*(range(z, z + 8) for z in starts)) == set(range(slices))
    assert starts[-1] == slices - 8
    assert starts == sorted(set(starts))


def test_step_1_takes_the_papers_29_windows_of_60_slices():
    assert len(window_starts(60, 32, 1)) == 29


@pytest.mark.parametrize("step", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", [(32, 32, 21), (32, 32, 8), (32, 32, 3), (30, 17, 11)])
def test_pointwise_model_gives_the_pointwise_result_whatever_the_windows(shape, step):
    ct = random_ct(shape)
    result = predict_probability(make_engine(lambda w: w**2), ct, PLAN, step)
    np.testing.assert_allclose(result, normalise(ct, PLAN["normalisation"]) ** 2, atol=1e-6)
    assert result.dtype == np.float32


def test_each_slice_is_the_mean_over_the_windows_that_hold_it():
    calls = iter(range(100))
    engine = make_engine(lambda w: np.full_like(w, next(calls)), batch=1)
    result = predict_probability(
        engine, random_ct((8, 8, 10)), PLAN, 1
    )  # windows 0, 1, 2 start at slices 0, 1, 2
    np.testing.assert_allclose(result[0, 0], [0, 0.5, 1, 1, 1, 1, 1, 1, 1.5, 2])


def test_a_gaussian_blend_trusts_a_windows_middle():
    engine = make_engine(lambda w: np.broadcast_to(np.abs(np.arange(8) - 3.5), w.shape))
    uniform, gaussian = (
        predict_probability(engine, random_ct((8, 8, 20)), PLAN, 1, blend)
        for blend in ("uniform", "gaussian")
    )
    assert (gaussian[0, 0, 8:12] < uniform[0, 0, 8:12] - 0.5).all()  # far from a window's middle: large
    weights = window_weights(8, "gaussian")
    assert np.array_equal(weights, weights[::-1])
    assert weights[4:] == pytest.approx(np.exp(-0.5 * np.arange(0.5, 4) ** 2), rel=1e-6)  # SD of one slice


def test_one_pass_over_the_whole_stack():
    seen = []
    engine = make_engine(lambda w: seen.append(w.shape) or w)
    ct = random_ct((8, 8, 20))
    result = predict_probability(engine, ct, PLAN, "whole")
    assert seen == [(1, 8, 8, 24)]
    np.testing.assert_allclose(result, normalise(ct, PLAN["normalisation"]), atol=1e-6)


def test_reflected_ends_lie_in_as_many_windows_as_the_middle():
    profile = np.abs(np.arange(8) - 3.5)
    engine = make_engine(lambda w: np.broadcast_to(profile, w.shape))
    result = predict_probability(engine, random_ct((8, 8, 20)), PLAN, 1, ends="reflect")
    np.testing.assert_allclose(result, profile.mean(), atol=1e-6)  # every place in a window once
    as_is = predict_probability(engine, random_ct((8, 8, 20)), PLAN, 1)
    np.testing.assert_allclose(as_is[0, 0, [0, -1]], profile[0])
    np.testing.assert_allclose(as_is[0, 0, 8:12], profile.mean(), atol=1e-6)


def test_windows_are_batched():
    sizes = []
    engine = make_engine(lambda w: sizes.append(len(w)) or w, batch=4)
    predict_probability(engine, random_ct((8, 8, 17)), PLAN, 1)
    assert sizes == [4, 4, 2]


def test_a_thin_stack_is_padded_by_its_own_edge():
    seen = []
    predict_probability(make_engine(lambda w: seen.append(w) or w), random_ct((8, 8, 4)), PLAN, 1)
    window = seen[0][0]
    assert window.shape == (8, 8, 8)
    np.testing.assert_array_equal(window[..., :2], window[..., 2:3].repeat(2, -1))
    np.testing.assert_array_equal(window[..., 6:], window[..., 5:6].repeat(2, -1))


def test_normalisation_clips_and_scales():
    hu = np.array([-1024, -200, 650, 1500, 3000], np.int16)
    np.testing.assert_allclose(normalise(hu, PLAN["normalisation"]), [0, 0, 0.5, 1, 1])


def test_gpu_on_a_machine_without_one_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ModelError, match=r"no GPU can be seen by TensorFlow: .* set segment/device to cpu"):
        select_device("gpu")


def test_auto_takes_the_cpu_where_no_gpu_is_visible(monkeypatch, caplog):
    monkeypatch.setattr(predict, "gpu_is_visible", lambda: False)
    with caplog.at_level("INFO"):
        assert select_device("auto") == "cpu"
    assert "Device: CPU" in caplog.text


def test_auto_never_falls_back_from_a_gpu_that_tensorflow_cannot_use(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(predict, "gpu_is_visible", lambda: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(ModelError, match="GPU of this machine cannot be used by TensorFlow"):
        select_device("auto")


def test_unknown_device_is_a_programming_error():
    with pytest.raises(ValueError, match="auto, cpu or gpu"):
        select_device("tpu")


def test_hidden_cards_are_not_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not predict.gpu_is_visible()


def test_segmentation_on_the_cpu_never_loads_tensorflow():
    code = (
        "import sys, hipqct.steps.segmentation, hipqct.predict, hipqct.vnet_openvino\n"
        "hipqct.predict.select_device('cpu')\n"
        "raise SystemExit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_models_that_agree_and_models_that_do_not():
    first = np.zeros((8, 8, 8), np.float32)
    first[2:6, 2:6, 2:6] = 0.9
    shifted = np.roll(first, 2, axis=0)
    mean, spread, facts = combine_models([first, first])
    np.testing.assert_array_equal(mean, first)
    assert spread.max() == 0
    assert facts == {"models_dice_min": 1.0}
    mean, spread, facts = combine_models([first, first, shifted])
    assert facts["models_dice_min"] == pytest.approx(0.5)
    assert spread.max() == pytest.approx(0.9 * np.sqrt(2) / 3)
    assert combine_models([first])[1:] == (None, {})
    assert combine_models([first * 0, first * 0])[2] == {}
