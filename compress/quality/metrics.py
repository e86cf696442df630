"""Image quality of CT slices in HU, per slice and in float64: RMSE, PSNR, SSIM, MS-SSIM.

Before anything is measured both images are clipped to a window and shifted to start at zero, so a
value's data range is the window's width and the luminance term of SSIM sees no negative numbers.
All pixels count.

Shapes: N slices, H and W their sides.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from compress.base.hu import HU_MAX, HU_MIN
from compress.base.words import listed
from compress.quality.ssim import MS_SSIM_SIDE, RADIUS, ms_ssim, ssim


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


METRICS: Mapping[str, Metric] = {
    "psnr": Metric("PSNR", "dB", 2, psnr),
    "ssim": Metric("SSIM", "", 4, ssim),
    "rmse_hu": Metric("RMSE", "HU", 2, lambda a, b, _width: rmse(a, b)),
    "ms_ssim": Metric("MS-SSIM", "", 4, ms_ssim, windowed=False, smallest=MS_SSIM_SIDE),
}
"""Every metric by its name in facts; the report, sweep.csv and `compress evaluate` read this table.

Two short tables choose from it: sweep.md (sweep/tables.py) and the patients of report.md
(PATIENT_METRICS in reporting/page.py). Runs measured before a metric was added go without it.
"""


def _float64(image: ArrayLike | Tensor) -> Tensor:
    # torch.tensor copies, so a read-only (memory-mapped) array will do.
    return image.double() if isinstance(image, Tensor) else torch.tensor(image).double()
