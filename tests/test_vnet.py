"""The network: its size, its weights' names, and that both engines compute the same."""

import numpy as np
import pytest
from network_factory import random_weights

from hipqct.errors import ModelError
from hipqct.network import COMPACT, PAPER, check_weights, fold_norms, weight_shapes, widen_filters

TINY = PAPER | {"filters": (2, 3, 4, 5)}


def count(weights) -> int:
    return sum(int(np.prod(w.shape)) for w in weights)


def test_paper_network_has_its_8_6_million_parameters():
    from hipqct.vnet import build_vnet

    assert build_vnet(PAPER).count_params() == 8_601_409
    assert sum(np.prod(shape) for shape in weight_shapes(PAPER).values()) == 8_601_409


def test_batch_norm_adds_two_trainable_vectors_per_layer():
    from hipqct.vnet import build_vnet

    model = build_vnet(PAPER | {"batch_norm": True})
    assert count(model.trainable_weights) == 8_605_377


@pytest.mark.parametrize("config", [TINY, TINY | {"batch_norm": True}, COMPACT])
def test_names_and_shapes_of_weights_are_those_of_keras(config):
    from hipqct.vnet import build_vnet, get_weights

    found = {name: weight.shape for name, weight in get_weights(build_vnet(config)).items()}
    assert found == weight_shapes(config)


@pytest.mark.parametrize("config", [TINY, TINY | {"batch_norm": True, "kernel": 5}])
def test_openvino_and_tensorflow_compute_the_same_on_any_size(config):
    from hipqct.engine import keras_engine, openvino_engine

    weights = random_weights(config)
    first, second = keras_engine(config, weights, 1), openvino_engine(config, weights, 1)
    for shape in ((2, 16, 24, 8), (1, 32, 32, 16)):
        windows = np.random.default_rng(1).random(shape, dtype=np.float32)
        a, b = first.predict_windows(windows), second.predict_windows(windows)
        assert a.shape == b.shape == shape
        assert a.std() > 0.01
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_folded_batch_normalisation_computes_the_same(kernel):
    from hipqct.engine import keras_engine

    config = TINY | {"batch_norm": True, "kernel": kernel}
    weights = random_weights(config)
    folded_config, folded = fold_norms(config, weights)
    assert folded_config == config | {"batch_norm": False}
    assert {name: weight.shape for name, weight in folded.items()} == weight_shapes(folded_config)
    windows = np.random.default_rng(1).random((2, 16, 24, 8), dtype=np.float32)
    first, second = (
        keras_engine(c, w, 1).predict_windows(windows)
        for c, w in ((config, weights), (folded_config, folded))
    )
    np.testing.assert_allclose(second, first, atol=2e-6)
    again_config, again = fold_norms(folded_config, folded)
    assert again_config == folded_config
    assert all(np.array_equal(again[name], folded[name]) for name in folded)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_widened_network_computes_the_same_and_its_new_filters_can_learn(batch_norm):
    from hipqct.engine import keras_engine

    config = TINY | {"batch_norm": batch_norm}
    weights = random_weights(config)
    wide_config, wide = widen_filters(config, weights, (4, 5, 4, 9), seed=3)
    assert {name: weight.shape for name, weight in wide.items()} == weight_shapes(wide_config)
    windows = np.random.default_rng(1).random((2, 16, 24, 8), dtype=np.float32)
    first, second = (
        keras_engine(c, w, 1).predict_windows(windows) for c, w in ((config, weights), (wide_config, wide))
    )
    np.testing.assert_allclose(second, first, atol=2e-6)
    opened = wide | {"probability/kernel": np.ones((1, 1, 1, 4, 1), np.float32)}  # lets new filters through
    silent = opened | {"up0_conv1/kernel": opened["up0_conv1/kernel"] * np.repeat([1, 0], 2)}
    louder, less = (keras_engine(wide_config, w, 1).predict_windows(windows) for w in (opened, silent))
    assert np.abs(louder - less).max() > 0.01
    again = widen_filters(config, weights, (4, 5, 4, 9), seed=3)[1]
    other = widen_filters(config, weights, (4, 5, 4, 9), seed=4)[1]
    assert all(np.array_equal(again[name], wide[name]) for name in wide)
    assert not np.array_equal(other["down0_conv0/kernel"], wide["down0_conv0/kernel"])


@pytest.mark.parametrize("filters", [(2, 3, 4), (2, 3, 3, 5)])
def test_a_network_is_not_narrowed(filters):
    with pytest.raises(ModelError, match=r"A model of \(2, 3, 4, 5\) filters cannot go on as one of"):
        widen_filters(TINY, random_weights(TINY), filters)


def test_output_is_a_probability_at_full_resolution():
    from hipqct.vnet import build_vnet

    output = build_vnet(TINY)(np.random.default_rng(0).normal(size=(1, 16, 8, 24, 1)).astype(np.float32))
    assert tuple(output.shape) == (1, 16, 8, 24, 1)
    assert 0 <= float(np.min(output)) <= float(np.max(output)) <= 1


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one less, got 4 and 3 for 3 filters"):
        weight_shapes(PAPER | {"filters": (2, 4, 8)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("down1_conv0/bias"), "lack 'down1_conv0/bias'"),
        (lambda w: w.update(extra=np.zeros(3)), "hold 'extra'"),
        (
            lambda w: w.update({"probability/kernel": np.zeros((1, 1, 1, 9, 1))}),
            "shape .*1, 1, 1, 9, 1.*where",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(change, message):
    weights = random_weights(TINY)
    change(weights)
    with pytest.raises(ModelError, match=message):
        check_weights(weights, TINY)
