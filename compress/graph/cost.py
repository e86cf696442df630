"""What a network costs: parameters, multiply-accumulates (MACs), bytes.

MACs count convolutions (and linear layers) for one slice. A convolution does one
multiply-accumulate per weight and grid position. The grid is the smaller of its input and output,
so a stride-1 deconvolution and the convolution that it is rewritten to have the same number.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph.slices import channels
from compress.graph.trial import (
    DEVICES,
    SLICE,
    check_shape,
    copied,
    output_shape,
    slice_size,
)

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
QUANTISERS = ("input_quantizer", "weight_quantizer")
"""Attributes of a layer that rounds to INT8, see `quantization.quantisers`."""


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer as it stands in a network."""

    name: str
    kind: str
    """Class name, such as Conv2d, ConvTranspose2d or Linear."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    positions: int
    """Grid positions at which each weight is used once, for one slice."""
    macs: int


@dataclass(frozen=True)
class Call:
    """One use of a convolution or linear layer, for one slice."""

    name: str
    kind: str
    """As in `Layer`."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    grid: tuple[int, int]
    """Height and width of what it reads; for a linear layer its rows, and 1."""
    positions: int
    """As in `Layer`, of this use."""


@dataclass(frozen=True)
class Cost:
    """Totals of a network; `macs` for one slice, `bytes` of its tensors as stored."""

    params: int
    macs: int
    conv_weights: int
    nonzero_weights: int
    bytes: int


def convolutions(net: nn.Module) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    """The convolutions and deconvolutions of `net` by module name, in the order of definition."""
    return {name: m for name, m in net.named_modules() if isinstance(m, CONVOLUTIONS)}


def compressible(net: nn.Module) -> dict[str, nn.Module]:
    """Convolutions, deconvolutions and linear layers of `net` by module name, in that order."""
    kinds = (*CONVOLUTIONS, nn.Linear)
    return {name: m for name, m in net.named_modules() if isinstance(m, kinds)}


def check_work(net: nn.Module) -> None:
    """Pass where there is something to train and to compress.

    Raises:
        UsageError: no convolution and no linear layer is used, or none has weights to train.
    """
    name = type(net).__name__
    if not sum(layer.macs for layer in layers(net).values()):
        raise UsageError(f"{name} uses no convolution or linear layer: nothing can be compressed")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UsageError(f"{name} has no weights that can be trained: all are frozen")


def layers(net: nn.Module, size: tuple[int, int] | None = None) -> dict[str, Layer]:
    """Every convolution, in any number of dimensions, and linear layer with its MACs for a slice.

    Runs on the meta device where the network does: no arithmetic, no memory. A layer used twice
    counts twice.

    Args:
        net: a network of slices.
        size: H and W; None: 512 x 512, or the first of `SIDES` for a network that does not take
            that, or whose way depends on values: it would have to be computed.

    Raises:
        UsageError: it takes none.
    """
    found: dict[str, Layer] = {}
    for one in calls(net, size):
        positions = one.positions + (found[one.name].positions if one.name in found else 0)
        macs = positions * math.prod(one.shape)
        found[one.name] = Layer(one.name, one.kind, one.shape, positions, macs)
    return found


def calls(net: nn.Module, size: tuple[int, int] | None = None) -> tuple[Call, ...]:
    """Every use of a layer in the order of the run; else as `layers`.

    Raises:
        UsageError: the network takes no slice of `size`.
    """
    for device in DEVICES if size else DEVICES[:2]:
        with contextlib.suppress(Exception):  # whatever the network's code raises
            return _calls(net, size or SLICE, device, exact=size is None)
    if size is None:
        return calls(net, slice_size(net))
    check_shape(net, size)
    raise UsageError(f"{type(net).__name__} does not do the same twice")


def _calls(net: nn.Module, size: tuple[int, int], device: str, *, exact: bool) -> tuple[Call, ...]:
    """As `calls`, on a device; `exact`: only where a slice's shape comes out."""
    found: list[Call] = []
    shadow = copied(net, device)

    def seen(name: str, module: nn.Module, read: Tensor, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Linear):
            positions = output.numel() // output.shape[-1]
            grid = positions, 1
        else:
            positions = min(math.prod(t.shape[2:]) for t in (read, output))
            grid = read.shape[-2], read.shape[-1]
        kind = type(module).__name__
        found.append(Call(name, kind, tuple(weight.shape), grid, positions))

    for name, module in shadow.named_modules():
        for quantiser in QUANTISERS:  # ModelOpt's look at values, which a meta tensor has none of
            if hasattr(module, quantiser):
                getattr(module, quantiser).disable()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            hook = lambda m, i, k, o, name=name: seen(name, m, given(i, k), o)  # noqa: E731
            module.register_forward_hook(hook, with_kwargs=True)
    shape = output_shape(shadow, (1, channels(net), *size), device)
    if exact and shape != (1, 1, *size):
        raise ValueError(shape)
    return tuple(found)


def given(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """What a layer reads, as a hook with keyword arguments sees it: `layer(x)`, `layer(input=x)`.

    Args:
        inputs: of the call, by place.
        named: of the call, by name.
    """
    read: Tensor = inputs[0] if inputs else named["input"]
    return read


def cost(net: nn.Module, size: tuple[int, int] | None = None) -> Cost:
    """Parameters, MACs for one slice of `size`, convolution weights, those not zero, and bytes."""
    weights = [m.weight for m in convolutions(net).values()]
    return Cost(
        params=sum(p.numel() for p in net.parameters()),
        macs=sum(layer.macs for layer in layers(net, size).values()),
        conv_weights=sum(w.numel() for w in weights),
        nonzero_weights=sum(int(torch.count_nonzero(w)) for w in weights),
        bytes=sum(t.numel() * t.element_size() for t in net.state_dict().values()),
    )
