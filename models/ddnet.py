"""DDnet: a DenseNet encoder and a deconvolution decoder that enhance CT slices.

Paper: Zhang, Liang, Dong, Xie, Cao, "A sparse-view CT reconstruction method based on combination
of DenseNet and deconvolution", IEEE TMI 37(6), 2018. The form here is the one that the public
2dnet and 2D-DECT projects train and publish weights for: BatchNorm before every convolution,
LeakyReLU after it, no global residual.

Shapes: N slices, C channels, H and W the sides of a slice, multiples of 16.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = 4
"""Resolutions below the input, each with one dense block, one transition and one decoder."""
LAYERS = 4
"""Dense layers in a block."""
KERNELS = (5,) * (STAGES + 1)
"""Sides of the kernels of growth and wide convolutions by resolution, the input's first."""
SLOPE = 0.01
"""Negative slope of every LeakyReLU (torch's default, as published)."""


class Unit(nn.Module):
    """BatchNorm, convolution, LeakyReLU: the one building block of DDnet, 45 times.

    Args:
        conv: a stride-1 convolution or transposed convolution that keeps H and W.
        activate: False leaves the LeakyReLU out.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, activate: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(conv.in_channels)
        self.conv = conv
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H, W)."""
        y: Tensor = self.conv(self.norm(x))
        return F.leaky_relu(y, SLOPE) if self.activate else y


class DenseLayer(nn.Module):
    """1x1 bottleneck, then 5x5 growth; the input is kept in front of the output."""

    def __init__(self, channels: int, bottleneck: int, growth: int, kernel: int = 5) -> None:
        super().__init__()
        self.bottleneck = Unit(nn.Conv2d(channels, bottleneck, 1))
        self.growth = Unit(nn.Conv2d(bottleneck, growth, kernel, padding=kernel // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + growth, H, W)."""
        return torch.cat((x, self.growth(self.bottleneck(x))), dim=1)


class Decoder(nn.Module):
    """Bilinear x2, concatenation with the skip, 5x5 and 1x1 deconvolution."""

    def __init__(
        self, channels: int, wide: int, narrow: int, kernel: int = 5, *, activate: bool = True
    ) -> None:
        super().__init__()
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)
        self.wide = Unit(nn.ConvTranspose2d(channels, wide, kernel, padding=kernel // 2))
        self.narrow = Unit(nn.ConvTranspose2d(wide, narrow, 1), activate=activate)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, H, W) and the skip (N, S, 2H, 2W) -> (N, narrow, 2H, 2W)."""
        y: Tensor = self.narrow(self.wide(torch.cat((self.enlarge(x), skip), dim=1)))
        return y


class DDnet(nn.Module):
    """DDnet; with the defaults 566,451 parameters and 19,086,442,496 MACs for one 512x512 slice.

    Args:
        residual: y = x + f(x) with no LeakyReLU after the last layer, which starts at zero, so
            that training starts from the identity. Same parameters and MACs. False as published.
        trunk: output channels of the stem, of every growth and transition convolution and of the
            decoders' 1x1 deconvolutions.
        bottleneck: output channels of the dense layers' 1x1 convolutions.
        decoder: output channels of the decoders' 5x5 deconvolutions.
        widths: the channel table: output channels by name of a convolution, as in `widths()`,
            for those that differ from the three numbers above. A pruned DDnet is built from it.
        kernels: sides of the 5x5 kernels by resolution, odd: at the slice's own, at half of it, and
            so on down to a sixteenth. [3, 3, 5, 5, 5] takes 51 % of the MACs, [3, 3, 3, 3, 3] 60 %;
            channels and what they read and write stay.

    Raises:
        ValueError: a name in `widths` is no convolution of DDnet, a width is below 1, or `kernels`
            are not five odd sides.
    """

    def __init__(
        self,
        *,
        residual: bool = False,
        trunk: int = 16,
        bottleneck: int = 64,
        decoder: int = 32,
        widths: Mapping[str, int] | None = None,
        kernels: tuple[int, ...] = KERNELS,
    ) -> None:
        super().__init__()
        if len(kernels) != len(KERNELS) or any(side < 1 or side % 2 == 0 for side in kernels):
            raise ValueError(f"kernels must be {len(KERNELS)} odd sides, got {list(kernels)}")
        table = _table(trunk, bottleneck, decoder) | dict(widths or {})
        _check(table, _table(trunk, bottleneck, decoder))
        self.residual = residual
        self.stem = Unit(nn.Conv2d(1, table["stem.conv"], 7, padding=3))
        skips = [table["stem.conv"]]  # widths of the stem and of each transition
        blocks, transitions, decoders = [], [], []
        for stage in range(STAGES):
            layers, channels = [], skips[-1]
            for layer in range(LAYERS):
                path = f"blocks.{stage}.{layer}"
                growth = table[f"{path}.growth.conv"]
                bottle = table[f"{path}.bottleneck.conv"]
                layers.append(DenseLayer(channels, bottle, growth, kernels[stage + 1]))
                channels += growth
            blocks.append(nn.Sequential(*layers))
            skips.append(table[f"transitions.{stage}.conv"])
            transitions.append(Unit(nn.Conv2d(channels, skips[-1], 1)))
        below = skips.pop()
        for stage in range(STAGES):
            path, last = f"decoders.{stage}", stage == STAGES - 1
            wide, narrow = table[f"{path}.wide.conv"], table[f"{path}.narrow.conv"]
            kernel, activate = kernels[STAGES - 1 - stage], not (last and residual)
            decoders.append(Decoder(below + skips.pop(), wide, narrow, kernel, activate=activate))
            below = narrow
        self.blocks = nn.ModuleList(blocks)
        self.transitions = nn.ModuleList(transitions)
        self.decoders = nn.ModuleList(decoders)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        if residual:
            nn.init.zeros_(decoders[-1].narrow.conv.weight)
            nn.init.zeros_(decoders[-1].narrow.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Enhance slices: (N, 1, H, W) in network range -> (N, 1, H, W); H, W multiples of 16."""
        return x + self.body(x) if self.residual else self.body(x)

    def body(self, x: Tensor) -> Tensor:
        """The network without the global residual: (N, 1, H, W) -> (N, 1, H, W)."""
        x = self.stem(x)  # (N, trunk, H, W)
        skips = [x]
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            x = transition(block(self.pool(x)))  # (N, trunk, H/2, W/2), halved again each time
            skips.append(x)
        x = skips.pop()
        for decoder in self.decoders:
            x = decoder(x, skips.pop())  # (N, trunk, 2H', 2W'); the last one (N, 1, H, W)
        return x


def widths(net: DDnet) -> dict[str, int]:
    """The channel table of `net`: output channels of its 45 convolutions by module name."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return {name: m.out_channels for name, m in net.named_modules() if isinstance(m, kinds)}


def from_2dnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under 2dnet's key names -> under the names of `DDnet` (widths as published).

    Args:
        state: 315 tensors, `conv1.weight`, `dnet1.conv1_0.weight`, `batch_norm1_0` and so on.

    Raises:
        KeyError: an entry that DDnet needs is missing.
    """
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    renamed: dict[str, Tensor] = {}
    for unit, conv, batch in _names_2dnet():
        renamed |= {f"{unit}.conv.{key}": state[f"{conv}.{key}"] for key in ("weight", "bias")}
        renamed |= {f"{unit}.norm.{key}": state[f"{batch}.{key}"] for key in norm}
    return renamed


def _names_2dnet() -> Iterator[tuple[str, str, str]]:
    """(our unit, 2dnet's convolution, 2dnet's BatchNorm) for all 45 units."""
    yield "stem", "conv1", "batch1"
    for stage in range(STAGES):
        theirs = f"dnet{stage + 1}"
        for layer in range(LAYERS):
            ours = f"blocks.{stage}.{layer}"
            yield f"{ours}.bottleneck", f"{theirs}.conv1_{layer}", f"{theirs}.batch_norm1_{layer}"
            yield f"{ours}.growth", f"{theirs}.conv2_{layer}", f"{theirs}.batch_norm2_{layer}"
        yield f"transitions.{stage}", f"conv{stage + 2}", f"batch{stage + 2}"
        yield f"decoders.{stage}.wide", f"convT{2 * stage + 1}", f"batch{2 * stage + 6}"
        yield f"decoders.{stage}.narrow", f"convT{2 * stage + 2}", f"batch{2 * stage + 7}"


def _table(trunk: int, bottleneck: int, decoder: int) -> dict[str, int]:
    table = {"stem.conv": trunk}
    for stage in range(STAGES):
        for layer in range(LAYERS):
            table[f"blocks.{stage}.{layer}.bottleneck.conv"] = bottleneck
            table[f"blocks.{stage}.{layer}.growth.conv"] = trunk
        table[f"transitions.{stage}.conv"] = trunk
        table[f"decoders.{stage}.wide.conv"] = decoder
        table[f"decoders.{stage}.narrow.conv"] = trunk if stage < STAGES - 1 else 1
    return table


def _check(table: Mapping[str, int], known: Mapping[str, int]) -> None:
    for name, width in table.items():
        if name not in known:
            raise ValueError(f"DDnet has no convolution {name!r}")
        if width < 1:
            raise ValueError(f"{name} needs at least 1 output channel, got {width}")
