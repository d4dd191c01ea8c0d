"""The choice of the device, never in silence."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hipqct import engine, smk
from hipqct.engine import Batches, select_device
from hipqct.errors import ModelError
from hipqct.network import COMPACT, weight_shapes
from hipqct.vnet_openvino import build_graph, compile_graph


def test_gpu_on_a_machine_without_one_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ModelError, match=r"no GPU can be seen by tensorflow: .* set segment/device to cpu"):
        select_device("gpu")


def test_auto_takes_the_cpu_where_no_gpu_is_visible(monkeypatch, caplog):
    monkeypatch.setattr(engine, "gpu_is_visible", lambda: False)
    with caplog.at_level("INFO"):
        assert select_device("auto") == "cpu"
    assert "Device: CPU" in caplog.text


def test_auto_never_falls_back_from_a_gpu_that_tensorflow_cannot_use(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(engine, "gpu_is_visible", lambda: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(ModelError, match="GPU of this machine cannot be used by tensorflow"):
        select_device("auto")


def test_unknown_device_is_a_programming_error():
    with pytest.raises(ValueError, match="auto, cpu or gpu"):
        select_device("tpu")


def test_hidden_cards_are_not_visible(monkeypatch):
    monkeypatch.setattr(engine, "NVIDIA_DEVICE_FILES", "null")  # of which every machine has one
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert engine.gpu_is_visible()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not engine.gpu_is_visible()


@pytest.mark.parametrize(
    ("device", "visible", "local", "asks"),
    [
        ("auto", False, True, False),
        ("auto", True, True, True),
        ("auto", False, False, True),
        ("cpu", True, False, False),
        ("gpu", False, True, True),
    ],
)
def test_jobs_ask_for_a_gpu_only_where_there_may_be_one(monkeypatch, device, visible, local, asks):
    monkeypatch.setattr(smk, "gpu_is_visible", lambda: visible)
    assert smk.may_use_gpu(device, SimpleNamespace(local_exec=local)) is asks


def test_a_job_without_a_gpu_of_its_own_takes_none():
    assert smk.granted_device("auto", 0) == "cpu"
    assert smk.granted_device("auto", 1) == "auto"
    assert smk.granted_device("gpu", 0) == "gpu"  # an error where it cannot be had


def test_jobs_side_by_side_are_not_pinned_to_the_same_cores():
    shapes = weight_shapes(COMPACT)
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    compiled = compile_graph(build_graph(COMPACT, weights), 1)
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def fake_torch(available: bool) -> SimpleNamespace:
    switches = SimpleNamespace(allow_tf32=True)
    cuda = SimpleNamespace(
        is_available=lambda: available, device_count=lambda: 1, get_device_name=lambda i: f"card {i}"
    )
    backends = SimpleNamespace(cudnn=switches, cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True)))
    modes = []
    return SimpleNamespace(cuda=cuda, backends=backends, set_flush_denormal=modes.append, modes=modes)


@pytest.mark.parametrize(("available", "cards"), [(True, ["card 0"]), (False, [])])
def test_a_card_that_torch_counts_and_cannot_use_is_none(monkeypatch, available, cards):
    monkeypatch.setattr(engine, "keras_backend", lambda: "torch")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(available))
    assert engine.list_cards() == cards


def test_float32_is_float32_on_every_backend(monkeypatch):
    import jax
    import tensorflow as tf

    torch = fake_torch(True)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(engine, "keras_backend", lambda: "torch")
    engine.prepare_backend()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.modes == [True]
    asked = {}
    monkeypatch.setattr(engine, "keras_backend", lambda: "jax")
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    engine.prepare_backend()
    assert asked == {"jax_default_matmul_precision": "highest"}
    monkeypatch.setattr(engine, "keras_backend", lambda: "tensorflow")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["card"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", asked.__setitem__)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    engine.prepare_backend()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert asked["card"] is True  # memory as needed


def test_batches_are_filled_up_only_where_that_saves_a_compilation():
    shapes = []

    def compute(windows):
        shapes.append(windows.shape[:2])
        return windows + 1

    predict = Batches(compute, 4, compiles=True)
    for count, pixels in ((1, 24), (3, 16), (1, 16), (4, 16), (1, 24)):
        found = predict(np.zeros((count, pixels, 16, 8), np.float32))
        assert found.shape == (count, pixels, 16, 8) and (found == 1).all()
    assert shapes == [(1, 24), (4, 16), (4, 16), (4, 16), (1, 24)]


@pytest.mark.parametrize("name", ["OutOfMemoryError", "XlaRuntimeError"])
def test_batches_are_halved_where_memory_is_short(name, caplog):
    error, shapes = type(name, (RuntimeError,), {}), []

    def compute(windows):
        shapes.append(len(windows))
        if len(windows) > most:
            raise error("RESOURCE_EXHAUSTED: out of memory")
        return windows + windows.shape[0]

    most, predict = 2, Batches(compute, 4)
    windows = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((8, 8, 8), np.float32)
    np.testing.assert_array_equal(predict(windows)[:, 0, 0, 0] // 1, [1, 2, 3])
    assert (shapes, predict.batch) == ([3, 1, 1, 1], 1)
    assert "memory is full: 1 windows of 8 x 8 x 8" in caplog.text
    most = 0
    with pytest.raises(ModelError, match="does not hold one window of 8 x 8 x 8 voxels: let one job"):
        predict(windows)


def test_a_batch_that_was_filled_up_is_halved_to_what_fits():
    """On JAX one window more is computed as a full batch, which may not fit where one does."""
    most, shapes = 4, []

    def compute(windows):
        shapes.append(len(windows))
        if len(windows) > most:
            raise type("XlaRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED")
        return windows

    predict, windows = Batches(compute, 4, compiles=True), np.ones((4, 8, 8, 8), np.float32)
    predict(windows)
    most = 1
    np.testing.assert_array_equal(predict(windows[:1]), windows[:1])
    assert (shapes, predict.batch) == ([4, 4, 2, 1], 1)
    most = 0
    for _ in range(2):
        with pytest.raises(ModelError, match="does not hold one window"):
            predict(windows[:1])


def test_other_errors_are_told_as_they_are():
    def compute(windows):
        raise RuntimeError("cuDNN is broken")

    with pytest.raises(RuntimeError, match="cuDNN is broken"):
        Batches(compute, 4)(np.zeros((4, 8, 8, 8), np.float32))
