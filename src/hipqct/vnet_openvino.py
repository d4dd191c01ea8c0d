"""The V-Net for CPUs: the same network as `hipqct.vnet`, built straight as an OpenVINO graph.

No conversion step, no cached copy that could go stale, no TensorFlow to import: a job starts in about a
second. Batch normalisation is folded into the kernels. `tests/test_vnet.py` holds it equal to Keras.
"""

import numpy as np
import openvino as ov
import openvino.opset13 as op

from hipqct.network import fold_norms

FORWARD = (4, 3, 0, 1, 2)  # kernel (kx, ky, kz, in, out) -> (out, in, kx, ky, kz), transposed ones alike


def build_graph(config: dict, weights: dict[str, np.ndarray]) -> ov.Model:
    """The network as a graph from ``(batch, 1, x, y, z)`` to the same shape, float32.

    Raises:
        ModelError: the weights are not those of the network in ``config``.
    """
    config, weights = fold_norms(config, weights)

    def kernel_and_bias(conv):
        kernel = np.ascontiguousarray(weights[f"{conv}/kernel"].transpose(FORWARD))
        return op.constant(kernel), op.constant(weights[f"{conv}/bias"].reshape(1, -1, 1, 1, 1))

    def convolve(x, conv):
        kernel, bias = kernel_and_bias(conv)
        zeros, ones = [0, 0, 0], [1, 1, 1]
        return op.add(op.convolution(x, kernel, ones, zeros, zeros, ones, auto_pad="same_upper"), bias)

    def transpose(x, conv):
        kernel, bias = kernel_and_bias(conv)
        # As TensorFlow pads "same": twice the size, the odd one at the end.
        begin = (config["kernel"] - 2) // 2
        end = config["kernel"] - 2 - begin
        x = op.convolution_backprop_data(x, kernel, [2] * 3, pads_begin=[begin] * 3, pads_end=[end] * 3)
        return op.add(x, bias)

    def convolve_all(x, repeats, prefix):
        for i in range(repeats):
            x = op.relu(convolve(x, f"{prefix}_conv{i}"))
        return x

    x = inputs = op.parameter([-1, 1, -1, -1, -1], np.float32, name="ct")
    skips = []
    for level, repeats in enumerate(config["encoder_convolutions"]):
        if level:
            x = op.max_pool(x, [2, 2, 2], [1, 1, 1], [0, 0, 0], [0, 0, 0], [2, 2, 2]).output(0)
        x = convolve_all(x, repeats, f"down{level}")
        skips.append(x)
    for level, repeats in zip(reversed(range(len(skips) - 1)), config["decoder_convolutions"], strict=True):
        x = op.relu(transpose(x, f"up{level}_transpose"))
        x = convolve_all(op.concat([skips[level], x], 1), repeats, f"up{level}")
    return ov.Model([op.sigmoid(convolve(x, "probability"))], [inputs], "vnet")


def compile_graph(graph: ov.Model, threads: int) -> ov.CompiledModel:
    """Compile for the CPU in full float32, on ``threads`` threads.

    They are not pinned to cores: every process would choose the same ones, and jobs side by side share them.
    """
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    options["ENABLE_CPU_PINNING"] = False
    return ov.Core().compile_model(graph, "CPU", options)
