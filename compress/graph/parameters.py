"""Which parameter or buffer of a network a tensor is, and how its dimensions are arranged."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Whole:
    """Finds the parameter or buffer that a tensor is, whatever its dimensions are called.

    Args:
        state: parameters and buffers by name, those that a checkpoint stores.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state: dict[tuple[int, int], tuple[str, Tensor]] = {}
        for name, tensor in state.items():
            if tensor.numel():
                place = tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())
                self._state.setdefault(place, (name, tensor))

    def find(self, tensor: Tensor | None) -> tuple[str, tuple[int | None, ...]] | None:
        """Name, and which of its dimensions each of `tensor` is; None for any other tensor.

        A dimension of size 1 that was added to it is None.
        """
        if tensor is None or tensor.layout is not torch.strided or not tensor.numel():
            return None
        place = tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())
        if place not in self._state:
            return None
        name, whole = self._state[place]
        if whole.numel() != tensor.numel():
            return None
        if whole.shape == tensor.shape and whole.stride() == tensor.stride():
            return name, tuple(range(whole.dim()))
        dims = _matched(tensor, whole)
        return None if dims is None else (name, dims)


def _matched(tensor: Tensor, whole: Tensor) -> tuple[int | None, ...] | None:
    """The dimension of `whole` for each of `tensor` that is larger than 1."""
    sides = {
        (size, step): dim
        for dim, (size, step) in enumerate(zip(whole.shape, whole.stride(), strict=True))
        if size > 1
    }
    short = [dim for dim, size in enumerate(whole.shape) if size == 1]
    same = tensor.dim() == whole.dim()
    dims: list[int | None] = []
    for size, step in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 1:
            dims.append(short.pop() if same and short else None)
        elif (size, step) in sides:
            dims.append(sides.pop((size, step)))
        else:
            return None
    return None if sides else tuple(dims)
