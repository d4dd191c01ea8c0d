"""Keras' backends are interchangeable: equal outputs, equal steps, and weights that pass between them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CODE = """
import sys
import keras
import numpy as np
from hipqct.engine import keras_engine
from hipqct.network import PAPER, weight_shapes
from hipqct.train import Recipe, start_model
from hipqct.vnet import get_weights, set_weights

network = PAPER | {"filters": (4, 6), "encoder_convolutions": (1, 2), "decoder_convolutions": (1,)}
network |= {"batch_norm": True, "dropout": 0.0}
rng = np.random.default_rng(0)
weights = {}
for name, shape in weight_shapes(network).items():
    values = rng.normal(0, 0.2, shape)
    weights[name] = np.abs(values) + 0.5 if "variance" in name or "gamma" in name else values
model = start_model(Recipe(network=network, learning_rate=1e-3), weights)
ct = rng.random((2, 16, 16, 8, 1)).astype(np.float32)
truth = (ct > 0.6).astype(np.float32)
out = {"before": np.asarray(model.predict_on_batch(ct))}
engine = keras_engine(network, weights, 1)
assert engine.name == keras.backend.backend()
out["engine"] = engine.predict_windows(ct[..., 0])[..., None]
losses = []
for _ in range(2):
    model.reset_metrics()
    losses.append(float(model.train_on_batch(ct, truth)[0]))
out |= {"losses": losses, "after": np.asarray(model.predict_on_batch(ct))}
out |= {name.replace("/", "|"): values for name, values in get_weights(model).items()}
if len(sys.argv) > 2:
    with np.load(sys.argv[2]) as file:
        given = {name.replace("|", "/"): file[name] for name in file.files if "|" in name}
    set_weights(model, given, network)
    out["of_given"] = np.asarray(model.predict_on_batch(ct))
np.savez(sys.argv[1], **out)
"""


def run(backend: str, out_path, *arguments) -> dict:
    """Two steps of training in a process of its own."""
    environment = os.environ | {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": "2", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", CODE, str(out_path), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out_path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def reference_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tensorflow") / "out.npz"
    run("tensorflow", path)
    return path


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_outputs_and_steps_are_equal_and_weights_pass_between_backends(tmp_path, reference_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install {backend}")
    found = run(backend, tmp_path / "out.npz", reference_path)
    with np.load(reference_path) as reference:
        np.testing.assert_allclose(found["before"], reference["before"], atol=1e-5)
        np.testing.assert_allclose(found["engine"], reference["before"], atol=1e-5)
        np.testing.assert_allclose(found["losses"], reference["losses"], rtol=1e-4)
        for name in reference.files:
            np.testing.assert_allclose(found[name], reference[name], atol=2e-4, err_msg=name)
        np.testing.assert_allclose(found["of_given"], reference["after"], atol=1e-5)
        assert not np.allclose(reference["after"], reference["before"], atol=1e-3)


SIXTEEN_BITS = """
from dataclasses import replace
import keras
from training_factory import RECIPE, train

model, rows, _ = train(replace(RECIPE, precision="mixed_bfloat16", seed=2))
assert rows[-1]["validation_dice"] > 0.6
assert model.get_layer("down1_conv0").compute_dtype == "bfloat16"
assert model.get_layer("probability").compute_dtype == model.output.dtype == "float32"
assert {weight.dtype for weight in model.weights} == {"float32"}
assert keras.config.dtype_policy().name == "float32"
"""


def run_with_test_train(backend: str, code: str) -> None:
    """Run code that imports from test_train in a process of its own."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install {backend}")
    environment = os.environ | {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_torch_learns_in_sixteen_bits_and_keeps_weights_in_thirty_two():
    run_with_test_train("torch", SIXTEEN_BITS)


NO_SUBNORMALS = """
import keras
from training_factory import RECIPE
from hipqct.train import start_model

start_model(RECIPE)
tiny = keras.ops.full((2**20,), 1e-30)
assert not keras.ops.any(tiny * 1e-9)  # in all threads
assert keras.ops.all(tiny > 0)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_subnormal_numbers_take_no_time_in_training(backend):
    run_with_test_train(backend, NO_SUBNORMALS)


RESTART = """
from dataclasses import replace
import numpy as np
from hipqct.train import get_state, set_state, start_model, train_vnet
from training_factory import CROPS, RECIPE, TIMED

recipe = replace(RECIPE, steps=6, steps_per_epoch=2)
assert recipe.network["dropout"] > 0
model = start_model(recipe)

def train(first_step):
    rows, states = [], {}
    def on_epoch(step, row):
        rows.append({name: value for name, value in row.items() if name not in TIMED})
        states[step] = get_state(model)
    train_vnet(model, CROPS[:3], {}, recipe, on_epoch, first_step)
    return rows, states

rows, states = train(0)
set_state(model, states[4])
later, again = train(4)
assert later == rows[-1:], (later, rows[-1])
for name, values in states[6].items():
    np.testing.assert_array_equal(again[6][name], values)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_restart_changes_nothing_on_any_backend(backend):
    run_with_test_train(backend, RESTART)
