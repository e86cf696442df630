"""What layers read when a network runs, unfolded to the columns that their weights multiply."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.graph.cost import given

CHUNK = 1 << 24
"""Numbers of an unfolded input that are in memory at once."""


class _Reached(Exception):
    """The layer whose inputs were asked for has them all."""


def uses(net: nn.Module, names: Iterable[str], x: Tensor) -> dict[str, int]:
    """How often each of these layers runs, in the order in which they first do."""
    counts: dict[str, int] = {}

    def count(name: str, *_: object) -> None:
        counts[name] = counts.get(name, 0) + 1

    handles = [
        net.get_submodule(name).register_forward_pre_hook(partial(count, name)) for name in names
    ]
    with torch.no_grad():
        net(x[:1])
    for handle in handles:
        handle.remove()
    return counts


def seen(net: nn.Module, name: str, x: Tensor, uses: int) -> list[Tensor]:
    """What a layer reads when the network runs on `x`, which ends there."""
    seen: list[Tensor] = []

    def reading(_: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        seen.append(given(inputs, named).detach())
        if len(seen) == uses:
            raise _Reached

    handle = net.get_submodule(name).register_forward_pre_hook(reading, with_kwargs=True)
    try:
        with torch.no_grad(), suppress(_Reached):
            net(x)
    finally:
        handle.remove()
    return seen


def columns(module: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """(n, places) parts of a layer's unfolded input, with a row of ones where it has a bias."""
    if isinstance(module, nn.Linear):
        parts: Iterable[Tensor] = [x.flatten(0, -2).T]
    else:
        parts = _unfolded(module, x)
    for part in parts:
        ones = part.new_ones(int(module.bias is not None), part.shape[1])
        yield torch.cat((part, ones))


def _unfolded(module: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """(taps * in, places) of a convolution's input, a few rows of one slice at a time."""
    assert isinstance(module, nn.Conv2d)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    (high, wide), (step, across) = module.kernel_size, module.stride
    spacing = module.dilation
    reach = spacing[0] * (high - 1) + 1
    places = (x.shape[2] - reach) // step + 1
    rows = max(1, CHUNK // (x.shape[1] * high * wide * x.shape[3]))
    for one in torch.split(x, 1):
        for first in range(0, places, rows):
            last = min(first + rows, places) - 1
            strip = one[:, :, first * step : last * step + reach]
            columns = F.unfold(strip, (high, wide), spacing, 0, (step, across))[0]
            split = columns.reshape(x.shape[1], high * wide, -1)
            yield split.transpose(0, 1).flatten(0, 1)
