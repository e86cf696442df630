"""Tensors of networks: their numbers and memory order, and, here only, their bytes in a file."""

from collections.abc import Mapping

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

COMPLEX = {torch.float64: torch.complex128}
"""Complex numbers beside real ones; beside all smaller ones complex64, which kernels know."""


def number(net: nn.Module) -> torch.dtype:
    """The numbers of a network's first parameter that is real; float32 where it has none."""
    real = (p.dtype for p in net.parameters() if p.is_floating_point())
    return next(real, torch.float32)


def cast(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`net` with its parameters and buffers of such numbers, in place; complex ones stay complex.

    PyTorch's own `net.to(dtype)` drops the imaginary parts.
    """

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(COMPLEX.get(dtype, torch.complex64))
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    net._apply(converted)  # type: ignore[no-untyped-call]
    return net


def channels_last(net: nn.Module) -> nn.Module:
    """`net` with its tensors of four dimensions in the memory order that tensor cores like.

    In place. PyTorch's own `net.to(memory_format=...)` raises where one has five dimensions.
    """

    def ordered(tensor: Tensor) -> Tensor:
        return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    net._apply(ordered)  # type: ignore[no-untyped-call]
    return net


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file.

    Args:
        tensors: any of them, views such as a transpose included; a file holds no strides, so each
            is written in the order of its shape, and one that has two names is written twice.
        metadata: of the file's header.
    """
    places: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if place in places else value
        places.add(place)
    return safetensors.save(plain, None if metadata is None else dict(metadata))
