"""A network's twin for torch.compile: the same parameters, in modules whose layouts it can tell.

At batch 1 a convolution with one output channel has a gradient of shape (1, 1, H, W), for which
channels-last and contiguous are the same strides. torch 2.11 then expects another layout than the
one that cuDNN gives, and refuses the whole network. With eight output channels, seven of them zero
and cut off, nothing is left to be guessed; tensor cores fill up to eight anyway. A stride-1
deconvolution is computed as the convolution that it equals, as in rewrite.py.
"""

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from compress.rewrite import equal_padding, is_plain

WIDTH = 8
"""Output channels that a convolution is widened to."""


def compilable(net: nn.Module) -> nn.Module:
    """The twin of `net`, with its very parameters, buffers and hooks: training it trains `net`."""
    twin = _shared(net, {})
    for module in twin.modules():
        if type(module) is nn.Conv2d and _is_narrow(module):
            module.__class__ = _Conv
        elif type(module) is nn.ConvTranspose2d and is_plain(module):
            module.__class__ = _Deconv
    return twin


def _shared(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """A copy of the modules that refers to the same tensors; one module stays one."""
    if module not in made:
        twin = made[module] = copy.copy(module)  # its dictionaries are those of `module`
        twin._modules = {
            name: child and _shared(child, made) for name, child in module._modules.items()
        }
    return made[module]


def _is_narrow(conv: nn.Conv2d) -> bool:
    return conv.out_channels == 1 and conv.groups == 1 and conv.padding_mode == "zeros"


class _Conv(nn.Conv2d):
    """With one output channel, computed with `WIDTH`."""

    def forward(self, x: Tensor) -> Tensor:
        return _wide(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class _Deconv(nn.ConvTranspose2d):
    """At stride 1, computed as a convolution."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight = self.weight.transpose(0, 1).flip(2, 3)
        return _wide(x, weight, self.bias, 1, equal_padding(self), self.dilation)


def _wide(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    if len(weight) > 1:
        return F.conv2d(x, weight, bias, *geometry)
    more = WIDTH - len(weight)
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more))
    bias = None if bias is None else F.pad(bias, (0, more))
    return F.conv2d(x, weight, bias, *geometry)[:, :1]
