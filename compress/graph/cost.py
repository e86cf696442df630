"""What a network costs: parameters, multiply-accumulates (MACs), bytes.

MACs count convolutions (and linear layers) for one slice. A convolution does one
multiply-accumulate per weight and grid position. The grid is the smaller of its input and output,
so a stride-1 deconvolution and the convolution that it is rewritten to have the same number.
"""

import contextlib
import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compress.base.errors import UsageError
from compress.base.reasons import reason
from compress.graph.slices import Neighbouring, channels, neighbours

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
SLICE = (512, 512)
"""Height and width of the slice that MACs are stated for, where the network takes it."""
SIDES = (64, 128, 256, 512, 96, 192, 384, 32, 160, 224, 320, 448)
"""Sides of slices that are tried, in this order, where any would do."""
MOST = 3
"""Neighbours on each side up to which a network that does not fit is tried, for the sentence."""
FAKE = "fake"
DEVICES = ("meta", FAKE, "cpu")
"""Where a network is tried: without arithmetic, on the CPU without arithmetic where its code makes
tensors there, and with arithmetic where its way depends on values."""


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


def check_shape(
    net: nn.Module, size: tuple[int, int] | None = None, device: str | None = None
) -> None:
    """Pass where a network takes a slice, with the neighbours that it sees, and gives its shape.

    Args:
        net: in any mode, on any device.
        size: H and W; None: 512 x 512, or any of `SIDES`.
        device: where it is tried; None: on the meta device, which takes no time, and on the CPU
            where its way depends on values.

    Raises:
        UsageError: it does not; says what came out, or why nothing did.
    """
    if size is not None:
        with contextlib.suppress(UsageError):
            return _check_shape(net, size, device)
    else:
        tries = [(SLICE[0], known) for known in DEVICES[:2]] + [(side, None) for side in SIDES]
        if any(_takes(net, side, known) for side, known in tries):
            return
    try:
        _check_shape(net, size or SLICE, device or "cpu")  # says best what is wrong
    except UsageError as error:
        hint = _sees(net) if size is None else ""
        raise UsageError(f"{error}{hint}") from error


def _check_shape(net: nn.Module, size: tuple[int, int], device: str | None) -> None:
    given, want, name = (1, channels(net), *size), (1, 1, *size), _name(net)
    what = "slice" if given == want else f"{given[1]} neighbouring slices"
    try:
        found = _shape(net, given, device)
    except UsageError:
        raise
    except Exception as error:  # the network's own code may raise anything
        no = "no slice" if given == want else f"no {what}"
        raise UsageError(f"{name} takes {no} of shape {given}: {reason(error)}") from error
    if found != want:
        must = "that shape" if given == want else str(want)
        a = "a slice" if given == want else what
        raise UsageError(f"{name} gives {found} for {a} of shape {given}; it must give {must}")


def _name(net: nn.Module) -> str:
    return type(net.net if isinstance(net, Neighbouring) else net).__name__


def _sees(net: nn.Module) -> str:
    """How many slices a network takes in place of those it is given, as the end of a sentence."""
    for beside in range(MOST + 1):
        with contextlib.suppress(Exception):  # whatever the network's code raises
            given = (1, 2 * beside + 1, *SLICE)
            if beside != neighbours(net) and _shape(net, given, "meta") == (1, 1, *SLICE):
                takes = "one slice: write" if not beside else f"{given[1]} slices: write"
                return f"; it takes {takes} data: {{neighbours: {beside}}}"
    return ""


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


def check_training(net: nn.Module, size: tuple[int, int]) -> None:
    """Pass where two steps of training can be computed, on the CPU and a copy.

    Raises:
        UsageError: they cannot; says why.
    """
    net = _copy(net, "cpu").train().requires_grad_(True)
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            for _ in range(2):
                net(torch.rand(2, channels(net), *size)).square().mean().backward()
    except Exception as error:
        name = type(net).__name__
        raise UsageError(f"{name} cannot be trained: {reason(error)}") from error


def slice_size(net: nn.Module) -> tuple[int, int]:
    """Height and width of a slice that a network takes, the first of `SIDES` that it does.

    Raises:
        UsageError: it takes none of them.
    """
    for side in SIDES:
        if _takes(net, side):
            return side, side
    try:
        check_shape(net, (SIDES[0], SIDES[0]))  # says why
    except UsageError as error:
        raise UsageError(f"{error}{_sees(net)}") from error
    raise UsageError(f"{type(net).__name__} does not do the same twice")


def _takes(net: nn.Module, side: int, device: str | None = None) -> bool:
    try:
        _check_shape(net, (side, side), device)
    except UsageError:
        return False
    return True


def _shape(net: nn.Module, given: tuple[int, ...], device: str | None) -> tuple[int, ...]:
    """The shape that a network gives for another; on the CPU where the meta device cannot tell."""
    try:
        return _run(_copy(net, device or "meta"), given, device or "meta")
    except Exception as error:
        if device is not None or "meta" not in str(error).lower():
            raise
    with contextlib.suppress(Exception):  # what values decide has to be computed
        return _run(_copy(net, FAKE), given, FAKE)
    return _run(_copy(net, "cpu"), given, "cpu")


def _run(shadow: nn.Module, given: tuple[int, ...], device: str) -> tuple[int, ...]:
    fake = device == FAKE
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext()
    with torch.no_grad(), mode:
        out = shadow(torch.zeros(given, device=_place(device)))
    if not isinstance(out, Tensor):
        raise TypeError(f"it gives a {type(out).__name__}, not a tensor")
    return tuple(out.shape)


def _copy(net: nn.Module, device: str) -> nn.Module:
    try:
        return copy.deepcopy(net).to(_place(device), torch.float32).eval()
    except RuntimeError as error:
        raise UsageError(
            f"{type(net).__name__} cannot be copied ({reason(error)}); in place of "
            "torch.nn.utils.weight_norm take torch.nn.utils.parametrizations.weight_norm"
        ) from error


def _place(device: str) -> str:
    return "cpu" if device == FAKE else device


def layers(net: nn.Module, size: tuple[int, int] | None = None) -> dict[str, Layer]:
    """Every convolution and linear layer with its MACs for one slice of H x W.

    Runs on the meta device where the network does: no arithmetic, no memory. A layer used twice
    counts twice.

    Args:
        net: a network of slices.
        size: H and W; None: 512 x 512, or the first of `SIDES` for a network that does not take
            that, or whose way depends on values: it would have to be computed.

    Raises:
        UsageError: it takes none.
    """
    for device in DEVICES if size else DEVICES[:2]:
        with contextlib.suppress(Exception):  # whatever the network's code raises
            return _layers(net, size or SLICE, device, exact=size is None)
    if size is None:
        return layers(net, slice_size(net))
    check_shape(net, size)
    raise UsageError(f"{type(net).__name__} does not do the same twice")


def _layers(net: nn.Module, size: tuple[int, int], device: str, *, exact: bool) -> dict[str, Layer]:
    """As `layers`, on a device; `exact`: only where a slice's shape comes out."""
    found: dict[str, Layer] = {}
    shadow = _copy(net, device)

    def seen(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Linear):
            grids = [output.numel() // output.shape[-1]]
        else:
            grids = [math.prod(t.shape[2:]) for t in (inputs[0], output)]
        positions = min(grids) + (found[name].positions if name in found else 0)
        kind = type(module).__name__
        macs = positions * weight.numel()
        found[name] = Layer(name, kind, tuple(weight.shape), positions, macs)

    for name, module in shadow.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            module.register_forward_hook(lambda m, i, o, name=name: seen(name, m, i, o))
    shape = _run(shadow, (1, channels(net), *size), device)
    if exact and shape != (1, 1, *size):
        raise ValueError(shape)
    return found


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
