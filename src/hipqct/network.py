"""The V-Net's shape as plain numbers: presets, and what its weights are called and how large they are.

No deep-learning library is needed here, so that a weights file can be checked and run without Keras.
"""

import numpy as np

from hipqct.errors import ModelError

# arXiv 2006.05513. Its Figure 3 with the layer sizes was not available to us: filters and convolutions are
# inferred from "8.6 million parameters" (8,601,409 here). Its dropout "probability 0.8" is read as the
# keep probability of TensorFlow 1, a rate of 0.2.
PAPER = {
    "filters": (32, 64, 128, 256),
    "encoder_convolutions": (1, 2, 3, 3),
    "decoder_convolutions": (2, 2, 2),
    "kernel": 3,
    "batch_norm": False,
    "dropout": 0.2,
}
# The same shape with half and with a quarter of the filters: they train on two CPU cores.
MEDIUM = PAPER | {"filters": (16, 32, 64, 128), "batch_norm": True}
COMPACT = PAPER | {"filters": (8, 16, 32, 64), "batch_norm": True}
PRESETS = {"compact": COMPACT, "medium": MEDIUM, "paper": PAPER}

SIDES = ("left", "both")  # what a network knows: left hips (right ones are mirrored for it), or both

NORM_EPSILON = 1e-3  # Keras' default, part of what the weights mean
NORM_VECTORS = ("gamma", "beta", "moving_mean", "moving_variance")

# What layers may compute in while training, and on which of Keras' backends. On TensorFlow's CPU kernels
# mixed_bfloat16 learnt next to nothing; on JAX it has not been tried on a real network.
PRECISIONS = {"float32": ("tensorflow", "torch", "jax"), "mixed_bfloat16": ("torch",)}


def check_precision(precision: str, backend: str) -> None:
    """Refuse to train in a precision that a backend was not shown to learn in.

    Raises:
        ModelError: names the backends that take it.
    """
    if precision not in PRECISIONS or backend not in PRECISIONS[precision]:
        taken = "; ".join(f"{name} on {', '.join(backends)}" for name, backends in PRECISIONS.items())
        raise ModelError(f"Precision {precision} is not for the backend {backend}: choose {taken}.")


def turn_to(known: str, side: str) -> slice:
    """The slice along x that shows a hip as a network knows it, or gives it back: mirrored or as it is.

    Args:
        known: one of `SIDES`; side: the hip's, ``left`` or ``right``.
    """
    return slice(None, None, 1 if known in ("both", side) else -1)


def weight_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, as ``layer/weight``, in the order of the layers.

    Kernels are stored as Keras does: ``(kx, ky, kz, in, out)``, transposed ones ``(kx, ky, kz, out, in)``.

    Args:
        config: keys as in `PAPER`; ``filters`` and ``encoder_convolutions`` count from the finest level
            down, ``decoder_convolutions`` from the coarsest level up.

    Raises:
        ValueError: the three lists do not fit each other.
    """
    filters, cube = tuple(config["filters"]), (config["kernel"],) * 3
    down, up = config["encoder_convolutions"], config["decoder_convolutions"]
    if not len(filters) == len(down) == len(up) + 1:
        raise ValueError(
            f"encoder_convolutions must be as many as filters and decoder_convolutions one less, "
            f"got {len(down)} and {len(up)} for {len(filters)} filters"
        )
    shapes = {}

    def add(conv, norm, kernel, channels):
        shapes[f"{conv}/kernel"], shapes[f"{conv}/bias"] = kernel, (channels,)
        if config["batch_norm"] and norm:
            shapes.update({f"{norm}/{vector}": (channels,) for vector in NORM_VECTORS})

    def add_convolutions(prefix, entering, channels, repeats):
        for i in range(repeats):
            kernel = (*cube, channels if i else entering, channels)
            add(f"{prefix}_conv{i}", f"{prefix}_norm{i}", kernel, channels)

    for level, (channels, repeats) in enumerate(zip(filters, down, strict=True)):
        add_convolutions(f"down{level}", filters[level - 1] if level else 1, channels, repeats)
    for level, repeats in zip(reversed(range(len(up))), up, strict=True):
        channels = filters[level]
        add(f"up{level}_transpose", f"up{level}_norm", (*cube, channels, filters[level + 1]), channels)
        add_convolutions(f"up{level}", 2 * channels, channels, repeats)
    add("probability", None, (1, 1, 1, filters[0], 1), 1)
    return shapes


def check_weights(weights: dict[str, np.ndarray], config: dict) -> None:
    """Refuse weights that are not exactly those of this network.

    Raises:
        ModelError: names the first weight that is missing, unknown or of another shape.
    """
    shapes = weight_shapes(config)
    for name in [*shapes, *weights]:
        if name not in weights:
            raise ModelError(f"The weights lack '{name}' of plan.json's network: they are of another model.")
        if name not in shapes:
            raise ModelError(f"The weights hold '{name}', which the network in plan.json does not have.")
        if tuple(weights[name].shape) != shapes[name]:
            raise ModelError(
                f"The weight '{name}' has shape {tuple(weights[name].shape)} where plan.json's network has "
                f"{shapes[name]}: weights and plan are of different models."
            )


def fold_norms(config: dict, weights: dict[str, np.ndarray]) -> tuple[dict, dict[str, np.ndarray]]:
    """The same function without batch normalisation: each one's statistics go into the convolution before it.

    Returns:
        The network's config with ``batch_norm`` false, and its weights, float32; both are equal to what was
        given for a network that has none.

    Raises:
        ModelError: the weights are not those of the network in ``config``.
    """
    check_weights(weights, config)
    weights = {name: np.asarray(weight, np.float32) for name, weight in weights.items()}
    if not config["batch_norm"]:
        return dict(config), weights
    folded_config = {**config, "batch_norm": False}
    folded = {name: weights[name] for name in weight_shapes(folded_config)}
    for conv in {name.split("/")[0] for name in folded} - {"probability"}:
        norm = conv.replace("_conv", "_norm").replace("_transpose", "_norm")
        gamma, beta, mean, variance = (weights[f"{norm}/{vector}"] for vector in NORM_VECTORS)
        scale = gamma / np.sqrt(variance + NORM_EPSILON)
        # A transposed kernel holds its output channels last but one.
        along = (-1, 1) if conv.endswith("_transpose") else (-1,)
        folded[f"{conv}/kernel"] = folded[f"{conv}/kernel"] * scale.reshape(along)
        folded[f"{conv}/bias"] = (folded[f"{conv}/bias"] - mean) * scale + beta
    return folded_config, folded


def widen_filters(
    config: dict, weights: dict[str, np.ndarray], filters: tuple[int, ...], seed: int = 0
) -> tuple[dict, dict[str, np.ndarray]]:
    """The same function in a network of more filters, for a training that is to go on with a larger one.

    The filters that are there compute what they did: nothing new enters them. The new ones begin at random
    (He et al. 2015, arXiv 1502.01852), fed by all channels, so that they can learn from the first step on.
    Chen et al. 2016 (Net2Net, arXiv 1511.05641) split filters instead.

    Args:
        filters: of each level, from the finest down.

    Returns:
        The network's config with these filters, and its weights, float32.

    Raises:
        ModelError: the weights are not those of the network in ``config``, or a level would lose filters.
    """
    check_weights(weights, config)
    narrow = tuple(config["filters"])
    if len(filters) != len(narrow) or any(new < old for new, old in zip(filters, narrow, strict=True)):
        raise ModelError(
            f"A model of {narrow} filters cannot go on as one of {tuple(filters)}: choose a network with the "
            "same levels and no fewer filters."
        )
    rng = np.random.default_rng(seed)
    wide_config = {**config, "filters": tuple(filters)}
    widened = {}
    for name, shape in weight_shapes(wide_config).items():
        weight = np.asarray(weights[name], np.float32)
        if not name.endswith("/kernel"):
            start = np.ones if name.endswith(("/gamma", "/moving_variance")) else np.zeros
            widened[name] = start(shape, np.float32)
            widened[name][: len(weight)] = weight
            continue
        # Seen with input channels last but one; transposed kernels are stored the other way round.
        swap = name.endswith("_transpose/kernel")
        weight, shape = (weight.swapaxes(3, 4), (*shape[:3], *shape[:2:-1])) if swap else (weight, shape)
        (old_in, old_out), inputs = weight.shape[3:], shape[3]
        entering = np.arange(old_in)
        if name.startswith("up") and name.endswith("_conv0/kernel"):  # skipped channels come first
            entering[old_in // 2 :] += (inputs - old_in) // 2
        wide = rng.normal(0, np.sqrt(2 / (np.prod(shape[:3]) * inputs)), shape).astype(np.float32)
        wide[..., :old_out] = 0
        wide[..., entering, :old_out] = weight
        widened[name] = wide.swapaxes(3, 4) if swap else wide
    return wide_config, widened
