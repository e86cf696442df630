"""Tensors as the bytes of a safetensors file: the one place where they are written."""

from collections.abc import Mapping

from safetensors import torch as safetensors
from torch import Tensor


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
