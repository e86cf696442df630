"""What a network costs: parameters, multiply-accumulates (MACs), bytes.

MACs count convolutions, linear layers and products of values, as in attention, for one slice. A
convolution does one multiply-accumulate per weight and grid position. The grid is the smaller of
its input and output, so a stride-1 deconvolution and the convolution that it is rewritten to have
the same number. Sums, norms, softmax, resizing and Fourier transforms count nothing.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph import fitness
from compress.graph.products import Counting, Product, layer_by_layer, positions
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
class Counted:
    """What a network computes for one slice, in the order of the run."""

    calls: tuple[Call, ...]
    products: tuple[Product, ...]
    """Of values with each other, outside of layers."""
    size: tuple[int, int]
    """H and W of the slice."""
    device: str
    """Where it was counted, one of `trial.DEVICES`."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all."""
        own = sum(one.positions * math.prod(one.shape) for one in self.calls)
        return own + sum(one.macs for one in self.products)


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

    A layer used twice counts twice. Arguments and errors as `counted`.
    """
    return by_layer(counted(net, size))


def by_layer(what: Counted) -> dict[str, Layer]:
    """The layers among what a network computes."""
    found: dict[str, Layer] = {}
    for one in what.calls:
        positions = one.positions + (found[one.name].positions if one.name in found else 0)
        macs = positions * math.prod(one.shape)
        found[one.name] = Layer(one.name, one.kind, one.shape, positions, macs)
    return found


def counted(net: nn.Module, size: tuple[int, int] | None = None, *, often: bool = False) -> Counted:
    """Every use of a layer, and every product of values outside of them, for a slice.

    Runs on the meta device where the network does: no arithmetic, no memory.

    Args:
        net: a network of slices.
        size: H and W; None: 512 x 512, or the first of `SIDES` for a network that does not take
            that.
        often: without a size, the first of `SIDES`, too, for a network whose way depends on
            values, so that it has to be computed: for who counts `again` and compares.

    Raises:
        UsageError: it takes none.
    """
    for device in DEVICES[:2] if often and not size else DEVICES:
        with contextlib.suppress(Exception):  # whatever the network's code raises
            return _counted(net, size or SLICE, device, exact=size is None)
    if size is None:
        return counted(net, slice_size(net))
    check_shape(net, size)
    raise UsageError(f"{type(net).__name__} does not do the same twice")


def again(net: nn.Module, way: Counted) -> Counted:
    """As `counted`, of a network much like another, only for the slice and in the way of that.

    Raises:
        Exception: whatever the network's code raises.
    """
    return _counted(net, way.size, way.device, exact=False)


def _counted(net: nn.Module, size: tuple[int, int], device: str, *, exact: bool) -> Counted:
    """As `counted`, on a device; `exact`: only where a slice's shape comes out."""
    found: list[Call] = []
    shadow, counting = copied(net, device), Counting()

    def seen(name: str, module: nn.Module, read: Tensor, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Linear):
            places = output.numel() // output.shape[-1]
            grid = places, 1
        else:
            places = positions(read, output)
            grid = read.shape[-2], read.shape[-1]
        kind = type(module).__name__
        found.append(Call(name, kind, tuple(weight.shape), grid, places))
        counting.leave()

    for name, module in shadow.named_modules():
        for quantiser in QUANTISERS:  # ModelOpt's look at values, which a meta tensor has none of
            if hasattr(module, quantiser):
                getattr(module, quantiser).disable()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            hook = lambda m, i, k, o, name=name: seen(name, m, given(i, k), o)  # noqa: E731
            module.register_forward_pre_hook(counting.enter)
            module.register_forward_hook(hook, with_kwargs=True)
    with counting, layer_by_layer():
        shape = output_shape(shadow, (1, channels(net), *size), device)
    if exact and shape != (1, 1, *size):
        raise ValueError(shape)
    return Counted(tuple(found), tuple(counting.found), size, device)


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
    fitness.check(net)
    weights = [m.weight for m in convolutions(net).values()]
    return Cost(
        params=sum(p.numel() for p in net.parameters()),
        macs=counted(net, size).macs,
        conv_weights=sum(w.numel() for w in weights),
        nonzero_weights=sum(int(torch.count_nonzero(w)) for w in weights),
        bytes=sum(t.numel() * t.element_size() for t in net.state_dict().values()),
    )
