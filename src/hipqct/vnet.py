"""The V-Net of Zhao et al. (arXiv 2006.05513) in Keras, on one screen.

Three max-pool levels down, three transposed convolutions up, concatenated skips, dropout before the
sigmoid. The layer sizes are inferred: see `hipqct.network`.
"""

import keras
import numpy as np
from keras import layers

from hipqct.network import NORM_EPSILON, check_weights, weight_shapes

NORM_MOMENTUM = 0.97  # batches are few but large patches: some thirty steps of memory


def build_vnet(config: dict, seed: int = 0) -> keras.Model:
    """Build the network for input ``(batch, x, y, z, 1)``; x, y and z may be any multiples of 8.

    Args:
        config: as `hipqct.network.PAPER`, whose keys are explained at `hipqct.network.weight_shapes`.
            ``dropout`` is the share of features dropped.
        seed: of what is dropped. Without one, Keras on torch draws from torch's own generator, whose state is
            in no variable: a training that goes on would drop other features than one that never stopped.

    Returns:
        A model whose output ``(batch, x, y, z, 1)`` is the probability of femur, float32. With the paper's
        sizes it has 8,601,409 parameters, with batch normalisation 8,605,377 trainable ones.
    """
    weight_shapes(config)  # refuses lists that do not fit each other
    filters, kernel = config["filters"], config["kernel"]
    # Keras on torch copies a layer's input and output twice if its channels are last; torch itself takes
    # channels that are first by name and last in memory, as a transposed view has them. TensorFlow's
    # convolutions on a CPU take them last only.
    first = keras.backend.backend() == "torch"
    axis = 1 if first else -1
    order = {"data_format": "channels_first" if first else "channels_last"}
    same = order | {"padding": "same"}

    def activate(x, norm):
        if config["batch_norm"]:
            x = layers.BatchNormalization(axis, momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON, name=norm)(x)
        return layers.ReLU()(x)

    def convolve(x, channels, repeats, prefix):
        for i in range(repeats):
            x = layers.Conv3D(channels, kernel, name=f"{prefix}_conv{i}", **same)(x)
            x = activate(x, f"{prefix}_norm{i}")
        return x

    x = inputs = keras.Input((None, None, None, 1), name="ct")
    x = layers.Permute((4, 1, 2, 3), name="channels_first")(x) if first else x
    skips = []
    for level, (channels, repeats) in enumerate(zip(filters, config["encoder_convolutions"], strict=True)):
        x = layers.MaxPooling3D(2, name=f"down{level}_pool", **order)(x) if level else x
        x = convolve(x, channels, repeats, f"down{level}")
        skips.append(x)
    for level, repeats in zip(reversed(range(len(filters) - 1)), config["decoder_convolutions"], strict=True):
        channels, name = filters[level], f"up{level}"
        x = layers.Conv3DTranspose(channels, kernel, 2, name=f"{name}_transpose", **same)(x)
        x = activate(x, f"{name}_norm")
        x = layers.Concatenate(axis, name=f"{name}_skip")([skips[level], x])
        x = convolve(x, channels, repeats, name)
    x = layers.Dropout(config["dropout"], seed=seed, name="dropout")(x)
    x = layers.Conv3D(1, 1, activation="sigmoid", dtype="float32", name="probability", **same)(x)
    outputs = layers.Permute((2, 3, 4, 1), dtype="float32", name="channels_last")(x) if first else x
    return keras.Model(inputs, outputs, name="vnet")


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Every weight of the model by its name in `hipqct.network.weight_shapes`, float32."""
    return {weight.path: keras.ops.convert_to_numpy(weight).astype(np.float32) for weight in model.weights}


def set_weights(model: keras.Model, weights: dict[str, np.ndarray], config: dict) -> None:
    """Put weights into a model built with ``config``; ModelError when they are another network's."""
    check_weights(weights, config)
    for weight in model.weights:
        weight.assign(np.asarray(weights[weight.path], np.float32))
