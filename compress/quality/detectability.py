"""Detectability d' of a disc at a known place, by two model observers, with bootstrap intervals.

NPWE, non-prewhitening with an eye filter: the template is the mean signal seen twice through the
eye. d' = w's / sqrt(w'Kw), w = E^2 s. Burgess, Journal of the Optical Society of America A 11(4),
1994, whose eye filter E(f) = f^1.3 exp(-b f^2) peaks at 4 cycles a degree; TG-233 uses the same
observer. Distance 500 mm, life size.

CHO, channelised Hotelling: d'^2 = s'K^-1 s in Laguerre-Gauss channels. Gallas and Barrett, Journal
of the Optical Society of America A 20(9), 2003.

s is the mean difference between images with and without the disc, K the covariance over noise
realisations. Both classes have the same noise, so the difference counts as known and
(nu - p - 1) / nu takes the bias out of d'^2, for nu degrees of freedom and p channels (1 for
NPWE): Wunderlich and Noo, IEEE Transactions on Medical Imaging 28(8), 2009.

Shapes: M places of one task, K realisations, C channels. Decision values of places are pooled.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.quality.nps import Doubles, frequencies

CHANNELS = 5
"""Laguerre-Gauss channels."""
WIDTH = 2.5
"""Width of the channels' Gaussian in radii of the disc."""
PER_DEGREE = 500.0 * math.tan(math.radians(1.0))
"""Millimetres that a degree of the field of view covers at 500 mm."""
PEAK = 4.0
"""Cycles a degree where the eye filter is highest."""
ENOUGH = 20
"""Degrees of freedom without which no d' is given: places times realisations less one."""
LEVEL = 0.95
"""Of the intervals."""


class Interval(NamedTuple):
    """An estimate with the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


class Outputs(NamedTuple):
    """What an observer's channels give for one task; C is 1 for NPWE."""

    absent: Doubles
    """(M, K, C) without the disc."""
    present: Doubles
    """(M, K, C) with it, under the same noise."""


def eye_filter(shape: tuple[int, int], spacing: float) -> Doubles:
    """Burgess' E at the frequencies of an image, (H, W), at most 1."""
    f = frequencies(shape, spacing) * PER_DEGREE
    b = 1.3 / (2 * PEAK**2)
    found: Doubles = f**1.3 * np.exp(-b * f**2) / (PEAK**1.3 * math.exp(-b * PEAK**2))
    return found


def npwe(signal: Doubles, spacing: float) -> Doubles:
    """The template of NPWE, E^2 s, (H, W), for a signal (H, W) in HU."""
    eye = eye_filter(signal.shape, spacing)
    template: Doubles = np.fft.ifft2(np.fft.fft2(signal) * eye**2).real
    return template


def laguerre_gauss(side: int, width: float, count: int = CHANNELS) -> Doubles:
    """Channels u_p(r) = sqrt(2) / a exp(-pi r^2 / a^2) L_p(2 pi r^2 / a^2), orthonormal.

    Args:
        side: of the square in pixels, whose middle they are around.
        width: a in pixels.
        count: number of channels, L_0 first.

    Returns:
        (count, side, side).
    """
    grid = np.arange(side) + 0.5 - side / 2
    squared = grid[:, None] ** 2 + grid[None] ** 2
    x = 2 * math.pi * squared / width**2
    polynomials = [np.ones_like(x), 1 - x]
    for n in range(1, count - 1):
        polynomials.append(((2 * n + 1 - x) * polynomials[n] - n * polynomials[n - 1]) / (n + 1))
    scale = math.sqrt(2) / width * np.exp(-x / 2)
    return np.stack([scale * polynomial for polynomial in polynomials[:count]])


def outputs(images: NDArray[np.floating], channels: Doubles) -> Doubles:
    """Products of images, (K, H, W), with channels, (C, H, W) -> (K, C)."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    found: Doubles = flat @ channels.reshape(len(channels), -1).T
    return found


def dprime(seen: Outputs) -> float:
    """The d' of one task; 0 where nothing is left of the signal.

    Raises:
        ValueError: there are fewer than `ENOUGH` degrees of freedom.
    """
    return _dprime(seen.absent, seen.present, 1.0)


def _dprime(absent: Doubles, present: Doubles, scale: float) -> float:
    """`scale` multiplies the covariance, which a bootstrap sample gives too small."""
    places, count, channels = absent.shape
    freedom = places * (count - 1)
    if freedom < ENOUGH:
        raise ValueError(f"{places} places with {count} realisations each are too few for d'")
    covariance = np.zeros((channels, channels))
    for values in (absent, present):
        deviations = (values - values.mean(1, keepdims=True)).reshape(-1, channels)
        covariance += scale * deviations.T @ deviations / (2 * freedom)
    signal = (present - absent).mean((0, 1))
    if not np.any(signal):
        return 0.0
    squared = float(signal @ np.linalg.pinv(covariance, hermitian=True) @ signal)
    return math.sqrt(max(squared, 0.0) * (freedom - channels - 1) / freedom)


def resamples(
    slices: Sequence[int], count: int, times: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Which realisations each bootstrap sample takes.

    Args:
        slices: slice of each place; places of one slice share their noise, so they share draws.
        count: realisations K.
        times: bootstrap samples.
        draw: generator of the draws.

    Returns:
        (times, M, K).
    """
    of_slice = {one: draw.integers(count, size=(times, count)) for one in dict.fromkeys(slices)}
    return np.stack([of_slice[one] for one in slices], axis=1)


def bootstrap(seen: Outputs, drawn: NDArray[np.int64]) -> Doubles:
    """The d' of every bootstrap sample, (times,); Efron and Tibshirani, 1993.

    The same draws for two networks pair them: their ratio is known better than either.
    """
    count = drawn.shape[2]
    found = []
    for picks in drawn:
        absent, present = (np.take_along_axis(v, picks[:, :, None], 1) for v in seen)
        found.append(_dprime(absent, present, count / (count - 1)))
    return np.array(found)


def interval(value: float, samples: Doubles) -> Interval:
    """`value` with the interval of its bootstrap samples, both positive.

    Samples repeat realisations, so a Hotelling observer fits them better than new ones and their
    d' is too high: their quantiles are taken over their median, which leaves the spread.
    """
    ends = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    middle = float(np.median(samples))
    low, high = ends / middle * value if middle > 0 else ends
    return Interval(value, float(low), float(high))
