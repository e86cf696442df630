"""SSIM and MS-SSIM of pairs of images, for measuring and for training.

SSIM:    Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004: Gaussian 11x11, sigma 1.5.
MS-SSIM: Wang, Simoncelli, Bovik, Asilomar 2003: five scales, each half the side of the one before.

The code is ours and not torchmetrics', because training needs the same MS-SSIM with separable
filters and finite gradients (`losses.py`) and one formula is better than two; the tests hold it
equal to torchmetrics, and SSIM to scikit-image where the window lies inside the image.

At the borders SSIM's Gaussian sees the mirrored image. Shapes: N slices, H and W their sides.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS, SIGMA = 5, 1.5
"""Half width and standard deviation of SSIM's Gaussian, in pixels."""
K1, K2 = 0.01, 0.03
"""SSIM's stabilising constants, as shares of the data range."""
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""MS-SSIM's exponents from the finest scale to the coarsest."""
SSIM_SIDE = 2 * RADIUS + 1
"""Smallest side in pixels (11) that holds the Gaussian."""
MS_SSIM_SIDE = SSIM_SIDE * 2 ** (len(SCALES) - 1)
"""Smallest side in pixels (176) whose coarsest scale still holds the Gaussian."""


def ssim(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Structural similarity, mean over all pixels: (N, 1, H, W) twice, values >= 0 -> (N,)."""
    return _similarity(a, b, data_range)[0].mean((1, 2, 3))


def similarity_map(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """SSIM of every pixel, borders mirrored: (N, 1, H, W) twice, values >= 0 -> (N, 1, H, W)."""
    return _similarity(a, b, data_range)[0]


def ms_ssim(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Multi-scale structural similarity: (N, 1, H, W) twice, values >= 0 -> (N,).

    As torchmetrics' with normalize="relu": a negative term counts as zero. H and W are at least
    176. Differentiable; the gradient of a term that is not positive is zero. Nothing waits for the
    device, so that training steps with it can be captured as CUDA graphs.
    """
    value = torch.ones_like(a[:, 0, 0, 0])
    for scale, exponent in enumerate(SCALES):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        similarity, contrast = _similarity(a, b, data_range)
        inside = contrast[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
        term = (similarity if scale == len(SCALES) - 1 else inside).mean((1, 2, 3))
        # pow has an infinite slope at zero, and infinity times relu's zero would be NaN.
        power = term.clamp(min=torch.finfo(term.dtype).tiny) ** exponent
        value = value * torch.where(term > 0, power, torch.zeros_like(power))
    return value


def _similarity(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """The maps of SSIM and of its contrast-structure term, both (N, 1, H, W)."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_a, mean_b, aa, bb, ab = _local_means(a, b, a * a, b * b, a * b)
    variances = (aa - mean_a**2).clamp(min=0) + (bb - mean_b**2).clamp(min=0)
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * contrast, contrast


def _local_means(*maps: Tensor) -> tuple[Tensor, ...]:
    """Gaussian means around every pixel, borders mirrored: (N, 1, H, W) each, in and out.

    A depthwise convolution, because CUDA computes those in full float32: TF32, which ordinary ones
    may use, rounds squares and squared means so much that their difference drowns. torch.compile
    gets sums of shifted maps instead, which it makes one kernel of with all that surrounds them.
    """
    if torch.compiler.is_compiling():
        padded = [F.pad(one, (RADIUS,) * 4, mode="reflect") for one in maps]
        return tuple(_smoothed(_smoothed(one, 3), 2) for one in padded)
    offset = torch.arange(-RADIUS, RADIUS + 1, dtype=maps[0].dtype, device=maps[0].device)
    weights = torch.exp(-((offset / SIGMA) ** 2) / 2)
    kernel = (weights / weights.sum()).expand(len(maps), 1, 1, -1)
    together = F.pad(torch.cat(maps, dim=1), (RADIUS,) * 4, mode="reflect").contiguous()
    rows = F.conv2d(together, kernel, groups=len(maps))
    return torch.split(F.conv2d(rows, kernel.transpose(2, 3), groups=len(maps)), 1, 1)


def _smoothed(x: Tensor, dim: int) -> Tensor:
    y: Tensor = _Smooth.apply(x, dim)  # type: ignore[no-untyped-call]
    return y


class _Smooth(torch.autograd.Function):
    """Gaussian means along `dim`, 2 or 3, of (N, 1, H, W), where the Gaussian lies inside.

    The gradient is of the same form, as the Gaussian is symmetric, and so compiles as well.
    """

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return _shifts(x, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        beyond = (2 * RADIUS,) * 2
        return _shifts(F.pad(grad, (0, 0, *beyond) if ctx.dim == 2 else beyond), ctx.dim), None


def _shifts(x: Tensor, dim: int) -> Tensor:
    """The Gaussian sum along `dim`, which becomes shorter by 2 `RADIUS`."""
    weights = [math.exp(-((offset / SIGMA) ** 2) / 2) for offset in range(-RADIUS, RADIUS + 1)]
    side, total = x.shape[dim] - 2 * RADIUS, math.fsum(weights)
    parts = [x.narrow(dim, k, side) * (w / total) for k, w in enumerate(weights)]
    # In two halves, because the compiler stores a sum as soon as it reads more than eight values:
    # thus it stores the whole one, and does not repeat its end for every value of the next pass.
    return sum(parts[1:RADIUS], parts[0]) + sum(parts[RADIUS + 1 :], parts[RADIUS])
