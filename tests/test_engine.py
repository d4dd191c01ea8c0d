"""The choice of the device, never in silence."""

import subprocess
import sys

import pytest

from hipqct import engine
from hipqct.engine import select_device
from hipqct.errors import ModelError


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
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not engine.gpu_is_visible()


def test_segmentation_on_the_cpu_never_loads_tensorflow():
    code = (
        "import sys, hipqct.steps.segmentation, hipqct.engine, hipqct.vnet_openvino\n"
        "hipqct.engine.select_device('cpu')\n"
        "raise SystemExit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
