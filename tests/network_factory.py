"""Networks of random weights; no deep-learning library is needed."""

import numpy as np

from hipqct.network import weight_shapes


def random_weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of trained size: kernels that keep the variance, vectors near where training starts."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith("/kernel"):
            inputs = min(shape[3], shape[4]) * np.prod(shape[:3])
            weights[name] = rng.normal(0, np.sqrt(2 / inputs), shape).astype(np.float32)
        elif name.endswith(("/gamma", "/moving_variance")):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            weights[name] = rng.normal(0, 0.1, shape).astype(np.float32)
    return weights
