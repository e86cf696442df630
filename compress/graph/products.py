"""Products of values that no layer computes: attention, weights that code multiplies by itself."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ATTENTION = "_scaled_dot_product"
"""What the names of PyTorch's fused kernels of attention begin with."""


@dataclass(frozen=True)
class Product:
    """A matrix product, or a convolution by a tensor that is no layer's weight, for one slice."""

    sizes: tuple[int, ...]
    """Their product is the number of multiply-accumulates."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return math.prod(self.sizes)


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the products that run while no layer does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Product] = []
        self._layers = 0

    def enter(self, *_: Any) -> None:
        """A layer begins to run: its work is counted by its weight."""
        self._layers += 1

    def leave(self) -> None:
        """A layer has run."""
        self._layers -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, and note the products in it."""
        out = func(*args, **(kwargs or {}))
        if not self._layers:
            first = out[0] if isinstance(out, tuple | list) and out else out
            self.found += [Product(sizes) for sizes in _sizes(func.overloadpacket, args, first)]
        return out


def _sizes(packet: Any, args: tuple[Any, ...], out: Any) -> list[tuple[int, ...]]:
    """The sizes of the products that an operator computes."""
    if packet in (aten.mm, aten.bmm, aten.mv):
        return [(*args[0].shape, *args[1].shape[args[0].dim() - 1 :])]
    if packet in (aten.addmm, aten.baddbmm, aten.addmv):
        return [(*args[1].shape, *args[2].shape[args[1].dim() - 1 :])]
    if packet in (aten.convolution, aten._convolution):
        return [(*args[1].shape, positions(args[0], out) * len(out))]
    if packet.__name__.startswith(ATTENTION):
        query, key, value = args[:3]
        rows = query.shape[:-1]
        return [(*rows, query.shape[-1], key.shape[-2]), (*rows, key.shape[-2], value.shape[-1])]
    return []


def positions(read: Tensor, made: Tensor) -> int:
    """Grid positions at which a convolution uses each weight once: those of the smaller side."""
    return min(math.prod(one.shape[2:]) for one in (read, made))


@contextlib.contextmanager
def layer_by_layer() -> Iterator[None]:
    """Have PyTorch's transformer layers run their parts, not one kernel for all of them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
