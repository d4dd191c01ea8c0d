"""What runs the network: OpenVINO on the CPU, TensorFlow on a GPU."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hipqct.errors import ModelError

log = logging.getLogger(__name__)

GPU_BATCH = 4  # windows at once: 4 of 192x192x32 through the full network fit into 8 GB
NVIDIA_DEVICE_FILES = "nvidia[0-9]*"  # below /dev
HIDDEN_GPUS = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that hide every GPU


@dataclass(frozen=True)
class Engine:
    """A network ready to run.

    Args:
        name: the library that computes, ``tensorflow`` or ``openvino``.
        device: ``cpu``, or ``gpu`` with the card's name.
        batch: how many windows to compute at once.
        predict_windows: maps normalised windows ``(n, x, y, z)`` to probabilities of the same shape, float32.
    """

    name: str
    device: str
    batch: int
    predict_windows: Callable[[np.ndarray], np.ndarray]


def gpu_is_visible() -> bool:
    """Whether this process may see an NVIDIA card, judged without loading any library."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in HIDDEN_GPUS:
        return False
    return any(Path("/dev").glob(NVIDIA_DEVICE_FILES))


def select_device(device: str) -> str:
    """Decide between ``cpu`` and ``gpu`` for a wish of ``auto``, ``cpu`` or ``gpu``; never in silence.

    ``auto`` takes a visible NVIDIA card, else the CPU. On the GPU, memory is then taken as needed
    (memory growth), not all at once.

    Raises:
        ModelError: a GPU is asked for, or its device files are there, but TensorFlow cannot use it.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device must be auto, cpu or gpu, got {device!r}")
    if device == "cpu" or (device == "auto" and not gpu_is_visible()):
        log.info("Device: CPU (asked for: %s)", device)
        return "cpu"
    cards = _import_tensorflow().config.list_physical_devices("GPU")
    if not cards:
        found = "the GPU of this machine cannot be used by" if gpu_is_visible() else "no GPU can be seen by"
        raise ModelError(
            f"segment/device is '{device}' but {found} TensorFlow: install hipqct[gpu] and a fitting driver, "
            "or set segment/device to cpu."
        )
    for card in cards:
        _import_tensorflow().config.experimental.set_memory_growth(card, True)
    log.info("Device: GPU %s (asked for: %s)", cards[0].name, device)
    return "gpu"


def load_engine(config: dict, weights: dict[str, np.ndarray], device: str, threads: int) -> Engine:
    """Make the network ready: TensorFlow on a GPU, OpenVINO on the CPU (same outputs, several times faster).

    Args:
        config: the plan's ``network``; weights: as `hipqct.network.weight_shapes` names them.
        device: ``auto``, ``cpu`` or ``gpu``, see `select_device`.
        threads: CPU threads to use.

    Raises:
        ModelError: no such device, or weights of another network.
    """
    chosen = select_device(device)
    engine = (
        openvino_engine(config, weights, threads)
        if chosen == "cpu"
        else tensorflow_engine(config, weights, threads)
    )
    log.info("Engine: %s on %s, %d threads", engine.name, engine.device, threads)
    return engine


def openvino_engine(config: dict, weights: dict[str, np.ndarray], threads: int) -> Engine:
    """The network on the CPU by OpenVINO, one window at a time."""
    from hipqct.vnet_openvino import build_graph, compile_graph

    compiled = compile_graph(build_graph(config, weights), threads)

    def predict_windows(windows):
        return compiled(windows[:, None])[0][:, 0]

    return Engine("openvino", "cpu", 1, predict_windows)


def tensorflow_engine(config: dict, weights: dict[str, np.ndarray], threads: int) -> Engine:
    """The network by Keras on TensorFlow, on the GPU where there is one, else on the CPU."""
    tf = _import_tensorflow()
    import keras

    from hipqct.vnet import build_vnet, set_weights

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ModelError(
            f"Keras runs on '{backend}' where segmentation needs 'tensorflow': unset KERAS_BACKEND."
        )
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:  # TensorFlow takes this only before its first operation in a process
            log.warning("TensorFlow is already running and keeps its own number of threads")
    tf.config.experimental.enable_tensor_float_32_execution(False)  # full float32 on every card
    model = build_vnet(config)
    set_weights(model, weights, config)
    signature = [tf.TensorSpec((None, None, None, None, 1), tf.float32)]
    function = tf.function(lambda windows: model(windows, training=False), input_signature=signature)

    def predict_windows(windows):
        return function(windows[..., None]).numpy()[..., 0]

    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        return Engine("tensorflow", "cpu", 1, predict_windows)
    card = tf.config.experimental.get_device_details(cards[0]).get("device_name", cards[0].name)
    return Engine("tensorflow", f"gpu ({card})", GPU_BATCH, predict_windows)


def _import_tensorflow():
    """TensorFlow, quiet, and Keras told to use it if Keras is not yet loaded."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow

    return tensorflow
