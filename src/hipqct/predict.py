"""From a CT crop to the probability of femur: sliding windows, and the engines that run the network."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hipqct.errors import ModelError
from hipqct.metrics import dice

log = logging.getLogger(__name__)

GPU_BATCH = 4  # windows at once: 4 of 192x192x32 through the full network fit into 8 GB
STRIDE = 8  # three halvings: the network takes multiples of 8 along every axis
WHOLE = "whole"
BLENDS, ENDS = ("uniform", "gaussian"), ("as-is", "reflect")
LEAST_WEIGHT = 1e-3  # of a window's outermost slices under a Gaussian; they may lie in no other window
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


def normalise(ct: np.ndarray, normalisation: dict) -> np.ndarray:
    """HU to the network's input: clipped to ``clip_hu`` (low, high), then scaled to 0..1, float32."""
    low, high = normalisation["clip_hu"]
    return (np.clip(ct.astype(np.float32), low, high) - low) / np.float32(high - low)


def window_starts(slices: int, window: int, step: int) -> list[int]:
    """First slices of windows every ``step`` slices; the last window always ends with the last slice."""
    if step < 1 or slices < window:
        raise ValueError(f"step must be at least 1 and slices at least {window}, got {step} and {slices}")
    last = slices - window
    return [*range(0, last, step), last]


def window_weights(slices: int, blend: str) -> np.ndarray:
    """What each slice of a window counts in the mean: ``uniform`` 1, or ``gaussian`` about its middle.

    The Gaussian's standard deviation is an eighth of the window, as in nnU-Net.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend must be one of {BLENDS}, got {blend!r}")
    if blend == "uniform":
        return np.ones(slices, np.float32)
    away = (np.arange(slices) - (slices - 1) / 2) / (slices / 8)
    return np.maximum(np.exp(-0.5 * away**2), LEAST_WEIGHT).astype(np.float32)


def predict_probability(
    engine: Engine,
    ct: np.ndarray,
    plan: dict,
    step: int | str,
    blend: str = "uniform",
    ends: str = "as-is",
) -> np.ndarray:
    """Probability of femur for every voxel: the weighted mean over all windows along z that hold it.

    A crop smaller than the window along z, or not divisible by 8 in plane, is padded by repeating its edge
    (bone that leaves the scan goes on) and the result is cut back.

    Args:
        ct: HU, shape ``(x, y, z)``, a left hip on the plan's spacing.
        plan: the model's ``window`` (its last number is the slices per window) and ``normalisation``.
        step: slices between windows, 1 is the paper's; or ``whole``: one pass over the whole stack.
        blend: see `window_weights`; the paper's mean is ``uniform``.
        ends: ``as-is``, where the outermost slices lie in one window only; ``reflect``: the stack is first
            continued by its mirror image, so that they lie in as many windows as those in the middle.

    Returns:
        float32, the shape of ``ct``.
    """
    if ends not in ENDS:
        raise ValueError(f"ends must be one of {ENDS}, got {ends!r}")
    slices = plan["window"][2]
    if step == WHOLE:
        slices, step = _multiple_of_stride(max(ct.shape[2], slices)), 1
    wanted = [*map(_multiple_of_stride, ct.shape[:2]), max(ct.shape[2], slices)]
    before = [(w - n) // 2 for w, n in zip(wanted, ct.shape, strict=True)]
    widths = [(b, w - n - b) for b, w, n in zip(before, wanted, ct.shape, strict=True)]
    padded = np.pad(normalise(ct, plan["normalisation"]), widths, mode="edge")
    if ends == "reflect" and padded.shape[2] > slices:
        margin = min(slices, padded.shape[2]) - 1
        padded = np.pad(padded, ((0, 0), (0, 0), (margin, margin)), mode="reflect")
        before[2] += margin

    weights = window_weights(slices, blend)
    total, votes = np.zeros(padded.shape, np.float32), np.zeros(padded.shape[2], np.float32)
    starts = window_starts(padded.shape[2], slices, step)
    for first in range(0, len(starts), engine.batch):
        chunk = starts[first : first + engine.batch]
        windows = np.stack([padded[:, :, z : z + slices] for z in chunk])
        for z, probability in zip(chunk, engine.predict_windows(windows), strict=True):
            total[:, :, z : z + slices] += weights * probability
            votes[z : z + slices] += weights
    inside = tuple(slice(b, b + n) for b, n in zip(before, ct.shape, strict=True))
    return (total / votes)[inside]


def combine_models(maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Mean probability of several models, and how much they disagree.

    Returns:
        The mean, float32; the standard deviation between the models in every voxel (ddof 0; None for one
        model); and ``models_dice_min``: the lowest Dice of one model's mask (probability 0.5) with the
        mean's, empty for one model or where no model sees a femur.
    """
    mean = np.mean(maps, axis=0, dtype=np.float32)
    if len(maps) == 1:
        return mean, None, {}
    spread, wanted, masks = np.std(maps, axis=0), mean >= 0.5, [one >= 0.5 for one in maps]
    if not all(wanted.any() or mask.any() for mask in masks):
        return mean, spread, {}
    return mean, spread, {"models_dice_min": min(dice(wanted, mask) for mask in masks)}


def _multiple_of_stride(voxels: int) -> int:
    return -(-voxels // STRIDE) * STRIDE


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
