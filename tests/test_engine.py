"""The choice of the device, never in silence."""

from types import SimpleNamespace

import numpy as np
import pytest

from hipqct import engine, smk
from hipqct.engine import select_device
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
