"""The V-Net for CPUs: the same network as `hipqct.vnet`, built straight as an OpenVINO graph.

No conversion step, no cached copy that could go stale, no TensorFlow to import: a job starts in about a
second. Batch normalisation is folded into the kernels. `tests/test_vnet.py` holds it equal to Keras.
"""

import numpy as np
import openvino as ov
import openvino.opset13 as op

from hipqct.network import NORM_EPSILON, NORM_VECTORS, check_weights

FORWARD = (4, 3, 0, 1, 2)  # kernel (kx, ky, kz, in, out) -> (out, in, kx, ky, kz), transposed ones alike


def build_graph(config: dict, weights: dict[str, np.ndarray]) -> ov.Model:
    """The network as a graph from ``(batch, 1, x, y, z)`` to the same shape, float32.

    Raises:
        ModelError: the weights are not those of the network in ``config``.
    """
    check_weights(weights, config)

    def kernel_and_bias(conv, norm):
        kernel = weights[f"{conv}/kernel"].astype(np.float32).transpose(FORWARD)
        bias = weights[f"{conv}/bias"].astype(np.float32)
        if config["batch_norm"] and norm:
            gamma, beta, mean, variance = (weights[f"{norm}/{v}"].astype(np.float32) for v in NORM_VECTORS)
            scale = gamma / np.sqrt(variance + NORM_EPSILON)
            axis = 1 if conv.endswith("_transpose") else 0  # where the output channels are
            kernel = kernel * scale.reshape([-1 if a == axis else 1 for a in range(5)])
            bias = (bias - mean) * scale + beta
        return op.constant(np.ascontiguousarray(kernel)), op.constant(bias.reshape(1, -1, 1, 1, 1))

    def convolve(x, conv, norm):
        kernel, bias = kernel_and_bias(conv, norm)
        zeros, ones = [0, 0, 0], [1, 1, 1]
        return op.add(op.convolution(x, kernel, ones, zeros, zeros, ones, auto_pad="same_upper"), bias)

    def transpose(x, conv, norm):
        kernel, bias = kernel_and_bias(conv, norm)
        begin = (
            config["kernel"] - 2
        ) // 2  # as TensorFlow pads "same": twice the size, the odd one at the end
        end = config["kernel"] - 2 - begin
        x = op.convolution_backprop_data(x, kernel, [2] * 3, pads_begin=[begin] * 3, pads_end=[end] * 3)
        return op.add(x, bias)

    def convolve_all(x, repeats, prefix):
        for i in range(repeats):
            x = op.relu(convolve(x, f"{prefix}_conv{i}", f"{prefix}_norm{i}"))
        return x

    x = inputs = op.parameter([-1, 1, -1, -1, -1], np.float32, name="ct")
    skips = []
    for level, repeats in enumerate(config["encoder_convolutions"]):
        if level:
            x = op.max_pool(x, [2, 2, 2], [1, 1, 1], [0, 0, 0], [0, 0, 0], [2, 2, 2]).output(0)
        x = convolve_all(x, repeats, f"down{level}")
        skips.append(x)
    for level, repeats in zip(reversed(range(len(skips) - 1)), config["decoder_convolutions"], strict=True):
        x = op.relu(transpose(x, f"up{level}_transpose", f"up{level}_norm"))
        x = convolve_all(op.concat([skips[level], x], 1), repeats, f"up{level}")
    return ov.Model([op.sigmoid(convolve(x, "probability", None))], [inputs], "vnet")


def compile_graph(graph: ov.Model, threads: int) -> ov.CompiledModel:
    """Compile for the CPU in full float32, on ``threads`` threads."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return ov.Core().compile_model(graph, "CPU", options)
