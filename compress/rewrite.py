"""Exact rewrites of a network's graph: other modules, same function, same names.

Every rewrite is known to checkpoints by its name in `REWRITES` and is applied again on loading.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn


def deconv_to_conv(net: nn.Module) -> nn.Module:
    """A copy of `net` in which every stride-1 ConvTranspose2d is the equal Conv2d.

    y[o] = sum over taps of w[i, o, k-1-tap] x[i] is a correlation with the kernel transposed in its
    channels and flipped in space, at padding dilation * (k - 1) - p. ModelOpt, ASP and TensorRT
    know 2:4 sparsity for Conv2d only. Left alone: other strides, groups, output padding, and
    padding larger than dilation * (k - 1).
    """
    net = copy.deepcopy(net)
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.ConvTranspose2d) and _is_plain(module):
            net.set_submodule(name, _as_conv(module))
    return net


REWRITES: Mapping[str, Callable[[nn.Module], nn.Module]] = {"deconv_to_conv": deconv_to_conv}


def _padding(module: nn.ConvTranspose2d) -> tuple[int, ...]:
    assert not isinstance(module.padding, str)  # ConvTranspose2d takes numbers only
    sizes = zip(module.kernel_size, module.dilation, module.padding, strict=True)
    return tuple(d * (k - 1) - p for k, d, p in sizes)


def _is_plain(module: nn.ConvTranspose2d) -> bool:
    return (
        set(module.stride) == {1}
        and set(module.output_padding) == {0}
        and module.groups == 1
        and min(_padding(module)) >= 0
    )


def _as_conv(module: nn.ConvTranspose2d) -> nn.Conv2d:
    conv = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,  # type: ignore[arg-type]
        padding=_padding(module),  # type: ignore[arg-type]
        dilation=module.dilation,  # type: ignore[arg-type]
        bias=module.bias is not None,
        device=module.weight.device,
        dtype=module.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(module.weight.transpose(0, 1).flip(2, 3))
        if module.bias is not None and conv.bias is not None:
            conv.bias.copy_(module.bias)
    return conv.train(module.training)
