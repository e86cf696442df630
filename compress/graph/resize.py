"""A network rebuilt with other numbers of channels."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def resize(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the layers of `net`, in place, the shapes that `tensors` have, and channel counts."""
    for path, tensor in tensors.items():
        layer, _, attribute = path.rpartition(".")
        module = net.get_submodule(layer)
        current = getattr(module, attribute)
        if current.shape == tensor.shape:
            continue
        fresh = torch.empty_like(tensor)
        is_parameter = isinstance(current, nn.Parameter)
        setattr(module, attribute, nn.Parameter(fresh) if is_parameter else fresh)
        if attribute == "weight":
            _count(module, tensor.shape)


def _count(module: nn.Module, shape: torch.Size) -> None:
    """Make the layer's own record of its channel counts agree with its weight."""
    if isinstance(module, nn.ConvTranspose2d):
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = shape[0]
