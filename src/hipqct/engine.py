"""What runs the network: OpenVINO on the CPU, Keras on a GPU (TensorFlow, or what KERAS_BACKEND names)."""

import logging
import os
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
        name: the library that computes, ``openvino`` or Keras' backend (``tensorflow``, ``torch``, ``jax``).
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


def keras_backend() -> str:
    """What Keras computes with: what KERAS_BACKEND names, TensorFlow where it names nothing."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX: memory as needed, not all at once
    import keras

    return keras.backend.backend()


def list_cards() -> list[str]:
    """Names of the GPUs that Keras' backend can compute on."""
    backend = keras_backend()
    if backend == "torch":
        import torch

        if not torch.cuda.is_available():  # a card without a driver that torch can use may be counted
            return []
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if backend == "jax":
        import jax

        return [card.device_kind for card in jax.devices() if card.platform == "gpu"]
    from tensorflow import config

    cards = config.list_physical_devices("GPU")
    return [config.experimental.get_device_details(card).get("device_name", card.name) for card in cards]


def select_device(device: str) -> str:
    """Decide between ``cpu`` and ``gpu`` for a wish of ``auto``, ``cpu`` or ``gpu``; never in silence.

    ``auto`` takes a visible NVIDIA card, else the CPU.

    Raises:
        ModelError: a GPU is asked for, or its device files are there, but Keras' backend cannot use it.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device must be auto, cpu or gpu, got {device!r}")
    if device == "cpu" or (device == "auto" and not gpu_is_visible()):
        log.info("Device: CPU (asked for: %s)", device)
        return "cpu"
    cards = list_cards()
    if not cards:
        found = "the GPU of this machine cannot be used by" if gpu_is_visible() else "no GPU can be seen by"
        raise ModelError(
            f"segment/device is '{device}' but {found} {keras_backend()}: install hipqct[gpu] and a fitting "
            "driver, or set segment/device to cpu."
        )
    log.info("Device: GPU %s (asked for: %s)", cards[0], device)
    return "gpu"


def load_engine(config: dict, weights: dict[str, np.ndarray], device: str, threads: int) -> Engine:
    """Make the network ready: Keras on a GPU, OpenVINO on the CPU (same outputs, several times faster).

    Args:
        config: the plan's ``network``; weights: as `hipqct.network.weight_shapes` names them.
        device: ``auto``, ``cpu`` or ``gpu``, see `select_device`.
        threads: CPU threads to use.

    Raises:
        ModelError: no such device, or weights of another network.
    """
    make = openvino_engine if select_device(device) == "cpu" else keras_engine
    engine = make(config, weights, threads)
    log.info("Engine: %s on %s, %d threads", engine.name, engine.device, threads)
    return engine


def openvino_engine(config: dict, weights: dict[str, np.ndarray], threads: int) -> Engine:
    """The network on the CPU by OpenVINO, one window at a time."""
    from hipqct.vnet_openvino import build_graph, compile_graph

    compiled = compile_graph(build_graph(config, weights), threads)

    def predict_windows(windows):
        return compiled(windows[:, None])[0][:, 0]

    return Engine("openvino", "cpu", 1, predict_windows)


def prepare_backend() -> None:
    """Let Keras' backend compute float32 in full (no TensorFloat-32) and take a GPU's memory as it needs it.

    On a CPU subnormal numbers count as 0. Gradients of a trained network are full of them, and processors
    take many times longer over each; TensorFlow and JAX leave them out unasked. For training and inference
    alike; it comes before a network is made, since threads that torch has started keep their mode.
    """
    backend = keras_backend()
    if backend == "torch":
        import torch

        torch.set_flush_denormal(True)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    else:
        import tensorflow as tf

        for card in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(card, True)
        tf.config.experimental.enable_tensor_float_32_execution(False)


def keras_engine(config: dict, weights: dict[str, np.ndarray], threads: int) -> Engine:
    """The network by Keras, on the GPU where there is one, in full float32."""
    backend, cards = keras_backend(), list_cards()
    prepare_backend()
    prepare = {"tensorflow": _prepare_tensorflow, "torch": _prepare_torch, "jax": _prepare_jax}[backend]
    prepare_model = prepare(threads)
    from hipqct.vnet import build_vnet, set_weights

    model = build_vnet(config)
    set_weights(model, weights, config)
    compute, batch = prepare_model(model), GPU_BATCH if cards else 1
    predict_windows = Batches(compute, batch, compiles=backend == "jax")
    return Engine(backend, f"gpu ({cards[0]})" if cards else "cpu", batch, predict_windows)


class Batches:
    """Windows computed in batches; halved, for good, where a GPU's memory does not hold one.

    Args:
        compute: maps ``(n, x, y, z, 1)`` to probabilities of that shape.
        batch: how many windows at once at most.
        compiles: whether ``compute`` is compiled for every shape anew: a batch that is not full is then
            filled up, unless it is a single window of a shape that no full batch has had.
    """

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray], batch: int, compiles: bool = False):
        self.compute, self.batch, self.compiles = compute, batch, compiles
        self.filled = set()

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Probabilities of windows ``(n, x, y, z)``.

        Raises:
            ModelError: the GPU's memory does not hold a single one.
        """
        while True:
            starts = range(0, len(windows), self.batch)
            try:
                return np.concatenate([self._predict(windows[i : i + self.batch]) for i in starts])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            size = " x ".join(map(str, windows.shape[1:]))
            half = self._count(windows[: self.batch]) // 2
            if not half:
                raise ModelError(
                    f"the GPU's memory does not hold one window of {size} voxels: let one job at a time use "
                    "the card (docs/inference.md, Several GPUs), or set segment/device to cpu."
                )
            self.batch = half
            log.warning("The GPU's memory is full: %d windows of %s at once from now on", self.batch, size)

    def _predict(self, windows: np.ndarray) -> np.ndarray:
        missing = self._count(windows) - len(windows)
        if self.compiles and len(windows) > 1:
            self.filled.add(windows.shape[1:])
        whole = np.pad(windows, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else windows
        return self.compute(whole[..., None])[: len(windows), ..., 0]

    def _count(self, windows: np.ndarray) -> int:
        """How many windows are computed for these at once."""
        fill = self.compiles and (len(windows) > 1 or windows.shape[1:] in self.filled)
        return self.batch if fill else len(windows)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of TensorFlow, torch or JAX says that a GPU's memory is full."""
    named = type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError")
    return named or "RESOURCE_EXHAUSTED" in str(error)


def _prepare_tensorflow(threads: int) -> Callable:
    """Settings that must come before the network is made; then what makes a function of a network."""
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:  # TensorFlow takes this only before its first operation in a process
            log.warning("TensorFlow is already running and keeps its own number of threads")

    def prepare_model(model):
        signature = [tf.TensorSpec((None, None, None, None, 1), tf.float32)]
        function = tf.function(lambda windows: model(windows, training=False), input_signature=signature)
        return lambda windows: function(windows).numpy()

    return prepare_model


def _prepare_torch(threads: int) -> Callable:
    import torch

    torch.set_num_threads(threads)

    def prepare_model(model):
        def compute(windows):
            with torch.inference_mode():
                return model(windows, training=False).cpu().numpy()

        return compute

    return prepare_model


def _prepare_jax(threads: int) -> Callable:
    import jax

    def prepare_model(model):
        parts = (model.trainable_variables, model.non_trainable_variables)
        state = [[variable.value for variable in part] for part in parts]

        @jax.jit
        def run(trained, kept, windows):
            return model.stateless_call(trained, kept, windows, training=False)[0]

        return lambda windows: np.asarray(run(*state, windows))

    return prepare_model
