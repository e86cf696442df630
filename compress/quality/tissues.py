"""Bias and variance over noise realisations, pixel by pixel and by tissue.

    bias(x) = mean_k I_k(x) - full(x),   variance(x) = sum_k (I_k(x) - mean(x))^2 / (K - 1)

The mean squared error of a network is bias^2 + variance; PSNR shows only their sum. The squared
bias over a tissue has variance / K taken out, which the mean of K realisations still holds.
Bias-variance decomposition: Geman, Bienenstock and Doursat, Neural Computation 4(1), 1992.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.quality.nps import Doubles

TISSUES: Mapping[str, tuple[float, float]] = {
    "lung": (-950.0, -600.0),
    "fat": (-140.0, -40.0),
    "soft tissue": (0.0, 100.0),
    "bone": (250.0, 1900.0),
}
"""Range of HU at full dose that counts as a tissue."""


class Moments(NamedTuple):
    """Of K realisations, each (H, W) in HU."""

    bias: Doubles
    variance: Doubles
    """In HU^2."""
    realisations: int
    """K."""


def moments(realisations: NDArray[np.floating], full: NDArray[np.number[Any]]) -> Moments:
    """Bias and variance maps.

    Args:
        realisations: (K, H, W) in HU, K at least 2.
        full: (H, W) in HU, what they should be.
    """
    mean = realisations.mean(axis=0, dtype=np.float64)
    deviations = realisations - mean
    variance = (deviations**2).sum(axis=0) / (len(realisations) - 1)
    return Moments(mean - full, variance, len(realisations))


def masks(full: NDArray[np.number[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Where each tissue is, (H, W), without its outermost pixels, which two tissues share."""
    from scipy import ndimage

    found = {}
    for name, (low, high) in TISSUES.items():
        inside = (full >= low) & (full <= high)
        found[name] = np.asarray(ndimage.binary_erosion(inside, np.ones((3, 3))), bool)
    return found


class Tissue:
    """Bias and variance of one tissue, gathered over slices."""

    def __init__(self) -> None:
        self.pixels = 0
        self._bias = self._squared = self._variance = 0.0

    def add(self, found: Moments, mask: NDArray[np.bool_]) -> None:
        """The pixels of one slice."""
        bias, variance = found.bias[mask], found.variance[mask]
        self.pixels += int(mask.sum())
        self._bias += float(bias.sum())
        self._squared += float((bias**2 - variance / found.realisations).sum())
        self._variance += float(variance.sum())

    @property
    def bias(self) -> float:
        """Mean bias in HU: an offset; NaN without a pixel."""
        return self._bias / self.pixels if self.pixels else math.nan

    @property
    def bias_rms(self) -> float:
        """Root mean square of the bias in HU: offsets and lost detail."""
        return math.sqrt(max(self._squared / self.pixels, 0)) if self.pixels else math.nan

    @property
    def sd(self) -> float:
        """Noise: root of the mean variance, HU."""
        return math.sqrt(self._variance / self.pixels) if self.pixels else math.nan
