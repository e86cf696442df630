"""What a network costs: parameters, multiply-accumulates (MACs), bytes.

MACs count convolutions (and linear layers) for one slice. A convolution does one
multiply-accumulate per weight and grid position. The grid is the smaller of its input and output,
so a stride-1 deconvolution and the convolution that it is rewritten to have the same number.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
SLICE = (512, 512)
"""Height and width of the slice that MACs are stated for."""


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer as it stands in a network."""

    name: str
    kind: str
    """Class name: Conv2d, ConvTranspose2d or Linear."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    positions: int
    """Grid positions at which each weight is used once, for one slice."""
    macs: int


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


def check_shape(net: nn.Module, size: tuple[int, int] = SLICE, device: str = "meta") -> None:
    """Pass where a network takes one (1, 1, H, W) slice and gives that shape.

    Args:
        net: in any mode, on any device.
        size: H and W.
        device: where it is tried; the meta device takes no time, and no network whose way depends
            on values.

    Raises:
        UsageError: it does not; says what came out, or why nothing did.
    """
    shadow = _copy(net, device)
    want, name = (1, 1, *size), type(net).__name__
    try:
        with torch.no_grad():
            found = tuple(shadow(torch.zeros(want, device=device)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"{name} takes no slice of shape {want}: {why[0]}") from error
    if found != want:
        raise UsageError(
            f"{name} gives {found} for a slice of shape {want}; it must give that shape"
        )


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


def _copy(net: nn.Module, device: str) -> nn.Module:
    return copy.deepcopy(net).to(device, torch.float32).eval()


def layers(net: nn.Module, size: tuple[int, int] = SLICE) -> dict[str, Layer]:
    """Every convolution and linear layer with its MACs for one (1, 1, H, W) slice.

    Runs on the meta device: no arithmetic, no memory. A layer used twice counts twice.

    Args:
        net: a network of (N, 1, H, W).
        size: H and W.
    """
    found: dict[str, Layer] = {}
    shadow = _copy(net, "meta")

    def seen(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        grids = (math.prod(t.shape[2:]) for t in (inputs[0], output))
        positions = min(grids) + (found[name].positions if name in found else 0)
        kind = type(module).__name__
        macs = positions * weight.numel()
        found[name] = Layer(name, kind, tuple(weight.shape), positions, macs)

    for name, module in shadow.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            module.register_forward_hook(lambda m, i, o, name=name: seen(name, m, i, o))
    with torch.no_grad():
        shadow(torch.empty(1, 1, *size, device="meta"))
    return found


def cost(net: nn.Module, size: tuple[int, int] = SLICE) -> Cost:
    """Parameters, MACs for one slice of `size`, convolution weights, those not zero, and bytes."""
    weights = [m.weight for m in convolutions(net).values()]
    return Cost(
        params=sum(p.numel() for p in net.parameters()),
        macs=sum(layer.macs for layer in layers(net, size).values()),
        conv_weights=sum(w.numel() for w in weights),
        nonzero_weights=sum(int(torch.count_nonzero(w)) for w in weights),
        bytes=sum(t.numel() * t.element_size() for t in net.state_dict().values()),
    )
