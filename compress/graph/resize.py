"""A network rebuilt with other numbers of channels, and with smaller kernels."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.graph import layout
from compress.graph.kernels import set_sides


def resize(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the layers of `net`, in place, the shapes that `tensors` have, and channel counts.

    A smaller kernel is the middle of the one before, and is padded by so much less.

    Raises:
        ValueError: a kernel is not the middle of the one before.
    """
    state = net.state_dict(keep_vars=True)
    owners: dict[int, list[str]] = {}
    for path, tensor in state.items():
        owners.setdefault(id(tensor), []).append(path)
    for path, tensor in tensors.items():
        current = _attribute(net, path)
        if current.shape == tensor.shape:
            continue
        fresh: Tensor = torch.empty_like(tensor)
        if isinstance(current, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=current.requires_grad)
        for name in owners.get(id(current), [path]):
            layer, _, attribute = name.rpartition(".")
            module = net.get_submodule(layer)
            setattr(module, attribute, fresh)
            _count(module, attribute, tensor.shape)


def _attribute(net: nn.Module, path: str) -> Tensor:
    layer, _, attribute = path.rpartition(".")
    found: Tensor = getattr(net.get_submodule(layer), attribute)
    return found


def _count(module: nn.Module, attribute: str, shape: torch.Size) -> None:
    """Make the layer's own record of its channel counts agree with its tensors."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = shape[0]
    elif attribute != "weight":
        return
    elif isinstance(module, nn.modules.conv._ConvNd):
        set_sides(module, tuple(shape[2:]))
        transposed = layout.transposed(module)
        if 1 < module.groups == module.in_channels:  # depthwise: a filter for each channel
            per = module.out_channels // module.groups
            groups = shape[0] if transposed else shape[0] // per
            module.groups, module.in_channels, module.out_channels = groups, groups, groups * per
            return
        out, into = layout.order(transposed=transposed)
        module.in_channels = shape[into] * (1 if transposed else module.groups)
        module.out_channels = shape[out] * (module.groups if transposed else 1)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
