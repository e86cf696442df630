"""The module that an engine is compiled from."""

import copy

import torch
from torch import Tensor, nn

from compress.base.tensors import cast
from compress.engines.precision import ARITHMETIC, Precision
from compress.graph.rewrite import deconv_to_conv, fold_batchnorm
from compress.graph.slices import Slices, neighbours
from compress.models.ddnet import DDnet
from compress.quantization import quantisers


class Subject(Slices):
    """A network with half precision inside and float32 at its borders.

    A network with a global residual, y = x + f(x), has only f computed in half precision: the sum
    is float32, because in [0.25, 0.5) float16 is spaced by 0.7 HU and the input would be rounded
    to that.

    Args:
        net: a network of slices, float32 in network range. A `DDnet` with `residual` is known
            to be x + body(x); of a class with another `forward` nothing is assumed, whatever its
            attributes.
        precision: of the arithmetic inside.
    """

    def __init__(self, net: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.dtype = getattr(torch, ARITHMETIC[precision].dtype)
        is_half = self.dtype == torch.float16
        other = quantisers.half(net) if is_half else cast(copy.deepcopy(net), self.dtype)
        self.net = other.eval().requires_grad_(False)
        self.residual = is_residual(net)
        self.neighbours = neighbours(net)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float32 in network range -> (N, 1, H, W) of the same type."""
        inside = x.to(self.dtype)
        if self.residual:
            assert isinstance(self.net, DDnet)
            return x + self.net.body(inside).to(torch.float32)
        y: Tensor = self.net(inside)
        return y.to(torch.float32)


def is_residual(net: nn.Module) -> bool:
    """Whether a network is known to compute x + body(x)."""
    # A class derived from DDnet may compute anything.
    return isinstance(net, DDnet) and type(net).forward is DDnet.forward and net.residual


def prepared(net: nn.Module, precision: Precision, *, as_conv: bool) -> tuple[Subject, int]:
    """The subject of a network with its BatchNorm layers folded where that is exact.

    Of a quantised network none is folded: ranges are those of weights and inputs as they are.

    Args:
        net: see `Subject`.
        precision: see `Subject`.
        as_conv: whether stride-1 deconvolutions are compiled as the convolutions they equal.

    Returns:
        The subject, and how many BatchNorm layers were folded.
    """
    net = deconv_to_conv(net) if as_conv else net
    folded, names = (net, ()) if quantisers.quantised(net) else fold_batchnorm(net)
    return Subject(folded, precision), len(names)
