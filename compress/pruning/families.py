"""Layers that differ in their channel counts alone, and the counts at which they are measured.

A family is a layer without its channel counts: kind, kernel, stride and so on, and the height and
width of what it reads.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from compress.graph import cost
from compress.graph.kernels import smaller_padding
from compress.graph.layout import order

MOST_COUNTS = 64
"""Counts of one side of a family that are measured at most."""
MOST = 400
"""Shapes that are measured at most; fewer counts of each family where there would be more."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A layer without its channel counts."""

    kind: str
    """Conv2d, ConvTranspose2d or Linear."""
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    each: tuple[int, int] = (0, 0)
    """Input and output channels of one of several groups; zeros where there is one group."""
    grid: tuple[int, int]
    """Height and width of what it reads; rows and 1 for a linear layer."""

    @classmethod
    def of(cls, module: nn.Module, grid: tuple[int, int]) -> "Family":
        """The family of a layer that reads a grid."""
        if isinstance(module, nn.Linear):
            return cls(kind="Linear", grid=grid)
        assert isinstance(module, cost.CONVOLUTIONS)
        groups = module.groups
        return cls(
            kind="ConvTranspose2d" if isinstance(module, nn.ConvTranspose2d) else "Conv2d",
            kernel=module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            output_padding=module.output_padding if isinstance(module, nn.ConvTranspose2d) else (),
            each=(module.in_channels // groups, module.out_channels // groups)
            if groups > 1
            else (0, 0),
            grid=grid,
        )

    def without(self, rings: int) -> "Family":
        """The same with kernels that have lost rings, see `graph/kernels.py`."""
        kernel = tuple(side - 2 * rings for side in self.kernel)
        padding = smaller_padding(self.padding, self.dilation, self.kernel, kernel)
        return replace(self, kernel=kernel, padding=padding)

    @property
    def name(self) -> str:
        """All of it in one line, as a table names it."""
        parts = [self.kind]
        if self.kind != "Linear":
            values = {k: v for k, v in asdict(self).items() if k not in ("kind", "grid", "each")}
            parts += [f"{key} {_by(value)}" for key, value in values.items() if value != ()]
        if any(self.each):
            parts.append(f"groups of {_by(self.each)}")
        return f"{' '.join(parts)} on {_by(self.grid)}"

    def layer(self, ins: int, outs: int) -> nn.Module:
        """A layer of this family with random weights.

        Args:
            ins: input channels; as `counts` has them.
            outs: output channels.
        """
        if self.kind == "Linear":
            return nn.Linear(ins, outs)
        groups = 1
        if any(self.each):
            groups = -(-outs // self.each[self.kind == "Conv2d"])
            ins, outs = (groups * one for one in self.each)
        given: dict[str, Any] = {"kernel_size": self.kernel, "stride": self.stride}
        given |= {"padding": self.padding, "dilation": self.dilation}
        if self.kind == "ConvTranspose2d":
            given["output_padding"] = self.output_padding
            return nn.ConvTranspose2d(ins, outs, groups=groups, **given)
        return nn.Conv2d(ins, outs, groups=groups, **given)

    def read(self, layer: nn.Module) -> tuple[int, ...]:
        """The shape of what a layer of this family reads, one slice."""
        if isinstance(layer, nn.Linear):
            return self.grid[0], layer.in_features
        assert isinstance(layer, cost.CONVOLUTIONS)
        return 1, layer.in_channels, *self.grid

    def counts(self, shape: Sequence[int]) -> tuple[int, int]:
        """Input and output channels of a layer by the shape of its weight.

        With several groups the outputs decide (those of a deconvolution's input side): 0 inputs.
        """
        if any(self.each):
            return 0, shape[0]
        out, into = order(transposed=self.kind == "ConvTranspose2d")
        return shape[into], shape[out]


def timed(net: nn.Module, size: tuple[int, int]) -> list[cost.Call]:
    """The uses of layers that have a family: linear ones and convolutions of two dimensions."""
    kinds = (*cost.CONVOLUTIONS, nn.Linear)
    uses = cost.counted(net, size).calls
    return [one for one in uses if isinstance(net.get_submodule(one.name), kinds)]


def _by(value: str | Sequence[int]) -> str:
    return value if isinstance(value, str) else "x".join(map(str, value))


@dataclass(frozen=True, kw_only=True)
class Knots:
    """Channel counts at which a family is measured."""

    ins: tuple[int, ...]
    """Input channels, ascending."""
    outs: tuple[int, ...]
    """Output channels, ascending."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A layer to be timed."""

    family: Family
    ins: int
    """Input channels; 0 where there are several groups."""
    outs: int
    """Output channels."""

    @property
    def name(self) -> str:
        """All of it in one line."""
        return f"{self.family.name}: {self.ins} to {self.outs} channels"


def wanted(
    nets: Iterable[nn.Module], size: tuple[int, int], step: int, most: int = MOST
) -> dict[Family, Knots]:
    """What has to be measured so that the networks and all that is pruned of them can be timed.

    Args:
        nets: networks.
        size: height and width of a slice.
        step: kept counts are multiples of it.
        most: shapes at most.

    Returns:
        By family, the costliest first; multiples of `step` up to the largest count, and the counts
        that the networks have.
    """
    macs: dict[Family, int] = defaultdict(int)
    counts: dict[Family, set[tuple[int, int]]] = defaultdict(set)
    for net in nets:
        for one in timed(net, size):
            family = Family.of(net.get_submodule(one.name), one.grid)
            macs[family] += one.positions * math.prod(one.shape)
            counts[family].add(family.counts(one.shape))
    order = sorted(counts, key=lambda family: (-macs[family], family.name))
    for each in range(MOST_COUNTS, 1, -1):
        found = {family: _knots(counts[family], step, each) for family in order}
        if sum(len(one.ins) * len(one.outs) for one in found.values()) <= most:
            break
    return found


def _knots(counts: Iterable[tuple[int, int]], step: int, most: int) -> Knots:
    ins, outs = (_side(side, step, most) for side in zip(*counts, strict=True))
    return Knots(ins=ins, outs=outs)


def _side(counts: Sequence[int], step: int, most: int) -> tuple[int, ...]:
    """Counts of one side, `most` of them at most, at least the ends."""
    every = sorted({*counts, *range(step, max(counts) + 1, step)})
    if len(every) <= most:
        return tuple(every)
    last = len(every) - 1
    return tuple(every[round(k * last / (most - 1))] for k in range(most))
