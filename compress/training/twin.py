"""A network's twin for torch.compile: the same parameters, in modules that it compiles well.

At batch 1 a convolution with one output channel has a gradient of shape (1, 1, H, W), for which
channels-last and contiguous are the same strides. torch 2.11 then expects another layout than the
one that cuDNN gives, and refuses the whole network. With eight output channels, seven of them zero
and cut off, nothing is left to be guessed; tensor cores fill up to eight anyway. A stride-1
deconvolution is computed as the convolution that it equals, as in rewrite.py.

Bilinear enlarging scatters its gradient with atomic additions, which take longer than many
convolutions; the twin gathers it. The counters of the BatchNorms, a kernel each, are added to at
once.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.graph.rewrite import equal_padding, is_plain

WIDTH = 8
"""Output channels that a convolution is widened to."""


def compilable(net: nn.Module) -> nn.Module:
    """The twin of `net`, with its very parameters, buffers and hooks: training it trains `net`."""
    twin = _shared(net, {})
    seen: list[Tensor] = []
    for module in twin.modules():
        if type(module) is nn.Conv2d and _is_narrow(module):
            module.__class__ = _Conv
        elif type(module) is nn.ConvTranspose2d and is_plain(module):
            module.__class__ = _Deconv
        elif type(module) is nn.Upsample and _doubles(module):
            module.__class__ = _Upsample
        elif type(module) is nn.BatchNorm2d and _is_usual(module):
            module.__class__ = _Norm
            module.seen = seen  # type: ignore[assignment]  # a plain attribute
    return _Counted(twin, seen)


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


def _doubles(module: nn.Upsample) -> bool:
    how = (module.mode, module.align_corners, module.size, bool(module.recompute_scale_factor))
    return how == ("bilinear", True, None, False) and module.scale_factor in (2.0, (2.0, 2.0))


def _is_usual(norm: nn.BatchNorm2d) -> bool:
    # Without a momentum the counter weights the statistics and must be read where they are.
    kept = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    usual = norm.track_running_stats and norm.momentum is not None
    return usual and all(buffer is not None for buffer in kept)


class _Counted(nn.Module):
    """The twin, which adds to the counters of all BatchNorms that were used.

    Args:
        net: what is computed.
        seen: where its BatchNorms leave their counters, () int64.
    """

    def __init__(self, net: nn.Module, seen: list[Tensor]) -> None:
        super().__init__()
        self.net, self.seen = net, seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()  # a pass that failed may have left some
        y: Tensor = self.net(x)
        if self.seen:
            torch._foreach_add_(self.seen, 1)
        # Empty again, or the next pass would begin otherwise than this one and be compiled anew.
        self.seen.clear()
        return y


class _Norm(nn.BatchNorm2d):
    """With a momentum and all statistics; leaves its counter to be added to with the others'."""

    momentum: float
    num_batches_tracked: Tensor
    seen: list[Tensor]

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if self.training:
            self._count()
        kept, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(x, *kept, *affine, self.training, self.momentum, self.eps)

    def _count(self) -> None:
        counter = self.num_batches_tracked
        if any(counter is other for other in self.seen):
            counter.add_(1)  # used twice in one pass; together each tensor may stand once
        else:
            self.seen.append(counter)


class _Upsample(nn.Upsample):
    """Bilinear x2 with aligned corners, whose gradient is gathered."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Double.apply(x)  # type: ignore[no-untyped-call]
        return y


class _Double(torch.autograd.Function):
    """Bilinear x2 with aligned corners: (N, C, H, W) -> (N, C, 2H, 2W)."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))  # sums, as torch's own
        return _halved(_halved(wide, 3), 2).to(ctx.dtype)


def _halved(grad: Tensor, dim: int) -> Tensor:
    """What flows back along `dim`, 2 or 3, of (N, C, H, W): that side is halved.

    Output j lies at j (n - 1) / (2n - 1) between inputs, so input i reaches outputs 2i - 1 to
    2i + 2 and no others, output 2i + k with weight 1 - |k (n - 1) - i| / (2n - 1).
    """
    side = grad.shape[dim] // 2
    shape = (-1, 1) if dim == 2 else (-1,)
    place = torch.arange(side, dtype=grad.dtype, device=grad.device).view(shape)
    padded = F.pad(grad, (0, 0, 1, 1) if dim == 2 else (1, 1))  # outputs -1 and 2n: nothing
    total = torch.zeros_like(place)
    for k in range(-1, 3):
        part = padded.narrow(dim, k + 1, 2 * side - 1)
        part = part[:, :, ::2] if dim == 2 else part[..., ::2]  # outputs 2i + k
        total = total + (1 - (k * (side - 1) - place).abs() / (2 * side - 1)) * part
    return total


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
