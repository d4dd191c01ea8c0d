"""The V-Net of `hipqct.vnet` in plain torch: the benchmarks' peer, trained or with our weights."""

import torch
from torch import nn

from hipqct.network import fold_norms, weight_shapes


class TorchVNet(nn.Module):
    """Same filters, kernels, normalisation and dropout.

    Args:
        config: the network, as in `hipqct.network.PRESETS`.
        padding: of the transposed convolutions. With 1 they give twice the size at once, the faster way; with
            0 one voxel more, which is cut off at the far end: what Keras' weights are for.
    """

    def __init__(self, config: dict, padding: int = 1):
        super().__init__()
        filters, norm = config["filters"], config["batch_norm"]
        sizes = zip([1, *filters[:-1]], filters, config["encoder_convolutions"], strict=True)
        self.down = nn.ModuleList(_convolve(*size, norm) for size in sizes)
        self.up, self.activate, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for channels, repeats in zip(filters[-2::-1], config["decoder_convolutions"], strict=True):
            self.up.append(nn.ConvTranspose3d(2 * channels, channels, 3, 2, padding, padding))
            self.activate.append(_activate(channels, norm))
            self.merge.append(_convolve(2 * channels, channels, repeats, norm))
        self.dropout, self.last = nn.Dropout(config["dropout"]), nn.Conv3d(filters[0], 1, 1)

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool3d(x, 2) if level else x)
            skips.append(x)
        for up, activate, merge, skip in zip(self.up, self.activate, self.merge, skips[-2::-1], strict=True):
            i, j, k = skip.shape[2:]
            x = merge(torch.cat([skip, activate(up(x)[:, :, :i, :j, :k])], 1))
        return torch.sigmoid(self.last(self.dropout(x)))

    def convolutions(self) -> list[nn.Module]:
        """In the order of `hipqct.network.weight_shapes`."""
        blocks = [*self.down]
        for up, merge in zip(self.up, self.merge, strict=True):
            blocks += [[up], merge]
        blocks.append([self.last])
        return [layer for block in blocks for layer in block if hasattr(layer, "kernel_size")]


def _activate(channels: int, norm: bool) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm3d(channels), nn.ReLU()) if norm else nn.Sequential(nn.ReLU())


def _convolve(inputs: int, channels: int, repeats: int, norm: bool) -> nn.Sequential:
    layers = []
    for i in range(repeats):
        layers += [nn.Conv3d(channels if i else inputs, channels, 3, padding=1), *_activate(channels, norm)]
    return nn.Sequential(*layers)


def load_torch_vnet(config: dict, weights: dict) -> TorchVNet:
    """The network with a model's weights, for inference: batch normalisation goes into the kernels.

    Args:
        config, weights: the plan's ``network`` and the weights by name, as `hipqct.io.models.read_model` has
            them.
    """
    config, weights = fold_norms(config, weights)
    network = TorchVNet(config, padding=0).eval()
    names = [name.removesuffix("/kernel") for name in weight_shapes(config) if name.endswith("/kernel")]
    with torch.no_grad():
        for layer, name in zip(network.convolutions(), names, strict=True):
            layer.weight.copy_(torch.from_numpy(weights[f"{name}/kernel"]).permute(4, 3, 0, 1, 2))
            layer.bias.copy_(torch.from_numpy(weights[f"{name}/bias"]))
    return network
