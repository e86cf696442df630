"""A network tried out: which slices it takes, what shape it gives, whether it can be trained."""

import contextlib
import copy

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compress.base.errors import UsageError
from compress.base.reasons import place, quiet, reason
from compress.base.tensors import cast
from compress.graph import fitness
from compress.graph.slices import Neighbouring, channels, neighbours

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
        hint = _other_numbers(net)
        raise UsageError(
            f"{name} takes {no} of shape {given}: {reason(error)}{place(error)}{hint}"
        ) from error
    if found != want:
        must = "that shape" if given == want else str(want)
        a = "a slice" if given == want else what
        raise UsageError(f"{name} gives {found} for {a} of shape {given}; it must give {must}")


def _name(net: nn.Module) -> str:
    return type(net.net if isinstance(net, Neighbouring) else net).__name__


def _other_numbers(net: nn.Module) -> str:
    """That weights are no float32 numbers, as the end of a sentence."""
    for name, tensor in net.named_parameters():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            return f" ({name} is {kind}, and all steps compute with float32 weights)"
    return ""


def _sees(net: nn.Module) -> str:
    """How many slices a network takes in place of those it is given, as the end of a sentence."""
    for beside in range(MOST + 1):
        with contextlib.suppress(Exception):  # whatever the network's code raises
            given = (1, 2 * beside + 1, *SLICE)
            if beside != neighbours(net) and _shape(net, given, "meta") == (1, 1, *SLICE):
                takes = "one slice: write" if not beside else f"{given[1]} slices: write"
                return f"; it takes {takes} data: {{neighbours: {beside}}}"
    return ""


def check_training(net: nn.Module, size: tuple[int, int]) -> None:
    """Pass where two steps of training can be computed, on the CPU and a copy.

    Raises:
        UsageError: they cannot; says why.
    """
    net = copied(net, "cpu").train()
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            for _ in range(2):
                out = _image(net, net(torch.rand(2, channels(net), *size)), " in training")
                out.square().mean().backward()  # type: ignore[no-untyped-call]
    except UsageError:
        raise
    except Exception as error:
        name = type(net).__name__
        raise UsageError(f"{name} cannot be trained: {reason(error)}{place(error)}") from error


def check_batch(net: nn.Module, batch: int, size: tuple[int, int]) -> None:
    """Pass where norms have values to train on in a batch of slices; nothing is computed.

    Raises:
        UsageError: a norm would see a single value of a channel, of which there is no variance.
    """
    for device in DEVICES[:2]:
        shadow = copied(net, device).train()
        try:
            _run(shadow, (batch, channels(net), *size), device)
        except ValueError as error:  # of PyTorch's norms
            if "Expected more than 1" in str(error):
                much = f"batch {batch} of {size[0]} x {size[1]} pixels is too little"
                raise UsageError(f"{much} to train {_name(net)}: {reason(error)}") from error
        except Exception:  # whatever the network's code raises, others say
            continue
        return


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
        return output_shape(copied(net, device or "meta"), given, device or "meta")
    except Exception as error:
        if device is not None or "meta" not in str(error).lower():
            raise
    with contextlib.suppress(Exception):  # what values decide has to be computed
        return output_shape(copied(net, FAKE), given, FAKE)
    return output_shape(copied(net, "cpu"), given, "cpu")


def output_shape(shadow: nn.Module, given: tuple[int, ...], device: str) -> tuple[int, ...]:
    """The shape that a network on one of `DEVICES`, see `copied`, gives for another.

    Raises:
        UsageError: it gives no tensor, or changes what it is given.
        Exception: whatever the network's own code raises.
    """
    out, changed = _run(shadow, given, device)
    if changed:
        raise UsageError(
            f"{_name(shadow)} changes the slice that it is given, in place; write x = x - a for "
            "x -= a, or begin with x = x.clone()"
        )
    return tuple(_image(shadow, out).shape)


def _run(shadow: nn.Module, given: tuple[int, ...], device: str) -> tuple[object, bool]:
    """What a network on one of `DEVICES` gives for zeros, and whether it changed those."""
    fake = device == FAKE
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext()
    with torch.no_grad(), mode, quiet():
        x = torch.zeros(given, device=_place(device))
        before = x._version
        out = shadow(x)
        return out, x._version > before


def _image(net: nn.Module, out: object, when: str = "") -> Tensor:
    if not isinstance(out, Tensor):
        raise UsageError(
            f"{_name(net)} gives a {type(out).__name__}, not a tensor{when}; take a class whose "
            "forward gives the image alone"
        )
    return out


def copied(net: nn.Module, device: str) -> nn.Module:
    """A copy in float32 and eval mode on one of `DEVICES`.

    Raises:
        UsageError: it cannot be copied, or is of a kind that no step can handle.
    """
    fitness.check(net)
    shadow = cast(duplicate(net).to(_place(device)), torch.float32)
    if shadow.eval() is None:
        raise UsageError(f"{_name(net)}: {fitness.NO_SELF}")
    return shadow


def duplicate(net: nn.Module) -> nn.Module:
    """A copy that shares nothing with the network.

    Raises:
        UsageError: PyTorch cannot copy it.
    """
    try:
        return copy.deepcopy(net)
    except RuntimeError as error:
        raise UsageError(
            f"{type(net).__name__} cannot be copied ({reason(error)}); in place of "
            "torch.nn.utils.weight_norm take torch.nn.utils.parametrizations.weight_norm"
        ) from error


def _place(device: str) -> str:
    return "cpu" if device == FAKE else device
