"""Image quality of CT slices in HU, per slice and in float64: RMSE, PSNR, SSIM, MS-SSIM.

Before anything is measured both images are clipped to a window and shifted to start at zero, so a
value's data range is the window's width and the luminance term of SSIM sees no negative numbers.
All pixels count: at the borders SSIM's Gaussian sees the mirrored image.

SSIM:    Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004: Gaussian 11x11, sigma 1.5.
MS-SSIM: Wang, Simoncelli, Bovik, Asilomar 2003: five scales, each half the side of the one before.

The code is ours and not torchmetrics', because training needs the same MS-SSIM with separable
filters and finite gradients (`losses.py`) and one formula is better than two; the tests hold it
equal to torchmetrics, and SSIM to scikit-image where the window lies inside the image.

Shapes: N slices, H and W their sides.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from compress.base.hu import HU_MAX, HU_MIN
from compress.base.words import listed

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


@dataclass(frozen=True)
class Window:
    """A range of HU; what lies outside is clipped to its ends."""

    low: float
    high: float
    label: str = ""

    @property
    def width(self) -> float:
        """HU from end to end: the data range of what is measured in the window."""
        return self.high - self.low

    def apply(self, hu: Tensor) -> Tensor:
        """HU -> HU above the window's low end, in [0, width]."""
        return hu.clamp(self.low, self.high) - self.low


WINDOWS: Mapping[str, Window] = {
    "": Window(HU_MIN, HU_MAX),
    "_lung": Window(-1350.0, 150.0, "lung window"),  # level -600, width 1500
    "_mediastinum": Window(-150.0, 250.0, "mediastinal window"),  # level 50, width 400
}
"""Suffix of a metric's name -> where it is measured; without suffix the network range (2924 HU)."""


def measure(image: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> dict[str, float | None]:
    """All metrics of one slice against its reference.

    Args:
        image: (H, W) in HU, any dtype.
        reference: the same shape and unit.

    Returns:
        The value of every column of `columns`, by its key. None stands for an infinite PSNR
        (equal images) and for MS-SSIM where a side is shorter than 176 pixels.

    Raises:
        ValueError: the shapes differ, are no (H, W), or a side is shorter than 11 pixels.
    """
    pair = [_float64(x) for x in (image, reference)]
    shape = pair[0].shape
    if pair[1].shape != shape or len(shape) != 2 or min(shape) <= 2 * RADIUS:
        shapes = listed(str(tuple(x.shape)) for x in pair)
        raise ValueError(f"expected two (H, W) slices of one shape from 11x11 on, got {shapes}")
    values: dict[str, float | None] = {}
    for column in columns():
        metric, window = METRICS[column.metric], WINDOWS[column.window]
        value = math.inf
        if min(shape) >= metric.smallest:
            a, b = (window.apply(x)[None, None] for x in pair)
            value = float(metric.compute(a, b, window.width))
        values[column.key] = value if math.isfinite(value) else None  # JSON has no infinity
    return values


class Metric(NamedTuple):
    """One way to compare a slice with its reference."""

    label: str
    unit: str
    """Empty for a number without one."""
    digits: int
    """Decimals in tables."""
    compute: Callable[[Tensor, Tensor, float], Tensor]
    """Two (N, 1, H, W) in a window, >= 0, and the window's width -> (N,)."""
    windowed: bool = True
    """Whether it is measured in every window, or in the full range only."""
    smallest: int = 2 * RADIUS + 1
    """The smallest side in pixels that it is defined for."""


class Column(NamedTuple):
    """A metric in a window: one number of a slice."""

    key: str
    """What `measure` calls it."""
    metric: str
    window: str
    label: str
    digits: int


def columns() -> tuple[Column, ...]:
    """What `measure` gives, window by window; metrics of the full range only come last."""
    pairs = [(name, window) for window in WINDOWS for name, m in METRICS.items() if m.windowed]
    pairs += [(name, "") for name, metric in METRICS.items() if not metric.windowed]
    return tuple(_column(name, window) for name, window in pairs)


def _column(name: str, window: str) -> Column:
    metric = METRICS[name]
    parts = (metric.label, WINDOWS[window].label, metric.unit)
    return Column(name + window, name, window, ", ".join(filter(None, parts)), metric.digits)


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root of the mean squared difference: (N, 1, H, W) twice -> (N,), in the images' unit."""
    return (a - b).square().mean((1, 2, 3)).sqrt()


def psnr(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio in dB, 20 log10(range / RMSE): (N, 1, H, W) twice -> (N,)."""
    return 20 * torch.log10(data_range / rmse(a, b))


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


METRICS: Mapping[str, Metric] = {
    "psnr": Metric("PSNR", "dB", 2, psnr),
    "ssim": Metric("SSIM", "", 4, ssim),
    "rmse_hu": Metric("RMSE", "HU", 2, lambda a, b, _width: rmse(a, b)),
    "ms_ssim": Metric("MS-SSIM", "", 4, ms_ssim, windowed=False, smallest=MS_SSIM_SIDE),
}
"""Every metric by its name in facts; the report, sweep.csv and `compress evaluate` read this table.

Two short tables choose from it: sweep.md (sweep/rows.py) and the patients of report.md
(PATIENT_METRICS in reporting/page.py). Runs measured before a metric was added go without it.
"""


def _float64(image: ArrayLike | Tensor) -> Tensor:
    # torch.tensor copies, so a read-only (memory-mapped) array will do.
    return image.double() if isinstance(image, Tensor) else torch.tensor(image).double()


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
