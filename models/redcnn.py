"""RED-CNN: a residual encoder-decoder of ten 5x5 convolutions for low-dose CT.

Paper: Chen, Zhang, Kalra et al., "Low-dose CT with a residual encoder-decoder convolutional neural
network", IEEE TMI 36(12), 2017. Five convolutions, five deconvolutions, no padding, three
shortcuts by addition, ReLU.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

DEPTH = 5


class RedCNN(nn.Module):
    """RED-CNN; with the defaults 1,848,865 parameters.

    Args:
        channels: output channels of every layer but the last (96 in the paper).
        widths: the channel table: output channels by name of a layer (`encoder.0`, `decoder.3`),
            for those that differ from `channels`. Layers joined by a shortcut must agree:
            encoder.1 with decoder.2, and encoder.3 with decoder.0.

    Raises:
        ValueError: a name in `widths` is no layer of RED-CNN, or widths disagree at a shortcut.
    """

    def __init__(self, *, channels: int = 96, widths: Mapping[str, int] | None = None) -> None:
        super().__init__()
        table = {f"{half}.{i}": channels for half in ("encoder", "decoder") for i in range(DEPTH)}
        table["decoder.4"] = 1
        if unknown := set(widths or {}) - set(table):
            raise ValueError(f"RED-CNN has no layer {min(unknown)!r}")
        table |= dict(widths or {})
        for one, other in (("encoder.1", "decoder.2"), ("encoder.3", "decoder.0")):
            if table[one] != table[other]:
                raise ValueError(f"{one} and {other} are added and must be equally wide")
        sizes = [1, *table.values()]  # encoder.0 .. encoder.4, decoder.0 .. decoder.4
        pairs = list(pairwise(sizes))
        self.encoder = nn.ModuleList(nn.Conv2d(i, o, 5) for i, o in pairs[:DEPTH])
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(i, o, 5) for i, o in pairs[DEPTH:])

    def forward(self, x: Tensor) -> Tensor:
        """Enhance slices: (N, 1, H, W) in network range -> (N, 1, H, W); H, W at least 21."""
        shortcuts = []
        y = x
        for index, conv in enumerate(self.encoder):
            if index % 2 == 0:
                shortcuts.append(y)  # the input and the outputs of encoder.1 and encoder.3
            y = torch.relu(conv(y))  # (N, C, H - 4(index+1), W - 4(index+1))
        for index, deconv in enumerate(self.decoder):
            y = deconv(y)
            if index % 2 == 0:
                y = y + shortcuts.pop()
            y = torch.relu(y)
        return y
