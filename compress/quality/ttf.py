"""Task transfer function (TTF): sharpness for a disc of a given contrast, and what is left of it.

    TTF(f) = H(f) / H(0),    H(f) = Re sum(Y X*) / sum(|X|^2)    over the ring |(u, v)| = f

X is the Fourier transform of the disc as it was inserted, Y of the mean difference between images
with it and without it, both with the same noise. For a linear system H is its transfer function.
A network's sharpness depends on contrast and noise, so there is a TTF for each contrast: Richard
et al., Medical Physics 39(7), 2012; Samei et al., AAPM TG-233, Medical Physics 46(11), 2019.
TG-233 differentiates the disc's radial edge profile, because the object of a scan is known by its
edge only; here the inserted disc is known, so the least-squares estimate of a transfer function
(Bendat and Piersol, Random Data, 4th edition, 2010, chapter 6) needs no derivative.

Lengths are in pixels where nothing else is said, frequencies in 1/mm.
"""

import numpy as np
from numpy.typing import NDArray

from compress.quality.nps import BIN, Doubles, frequencies

FINE = 8
"""Points along each side of a pixel by which its share inside a disc is counted."""


def disc(side: int, radius: float) -> Doubles:
    """Share of each pixel that a disc in the middle of a square covers.

    Args:
        side: of the square in pixels; an even side has its middle between pixels.
        radius: of the disc in pixels.

    Returns:
        (side, side) in [0, 1].
    """
    grid = (np.arange(side * FINE) + 0.5) / FINE - side / 2
    inside = np.hypot(grid[:, None], grid[None]) <= radius
    share: Doubles = inside.reshape(side, FINE, side, FINE).mean(axis=(1, 3))
    return share


class Transfer:
    """A TTF gathered from discs of one contrast at several places.

    Args:
        reach: the highest frequency, 1/mm.
    """

    def __init__(self, reach: float) -> None:
        self._bins = max(2, int(reach / BIN))
        self._cross, self._own, self._moment = (np.zeros(self._bins) for _ in range(3))
        self._zero = np.zeros(2)

    def add(self, response: Doubles, shape: Doubles, spacing: float) -> None:
        """One place.

        Args:
            response: mean difference with and without the disc over the contrast, (H, W).
            shape: the disc as inserted, (H, W) in [0, 1].
            spacing: side of a pixel in mm.
        """
        x, y = np.fft.fft2(shape), np.fft.fft2(response)
        distance = frequencies(shape.shape, spacing)
        place = (distance / BIN).astype(int).ravel()
        inside = place < self._bins
        cross, own = (y * x.conj()).real, np.abs(x) ** 2
        for total, values in (
            (self._cross, cross), (self._own, own), (self._moment, own * distance),
        ):  # fmt: skip
            total += np.bincount(place[inside], values.ravel()[inside], self._bins)
        self._zero += (float(cross[0, 0]), float(own[0, 0]))

    def curve(self) -> tuple[Doubles, Doubles]:
        """Frequencies in 1/mm, zero first, and the TTF there, 1 at zero."""
        known = self._own > 0
        own = self._own[known]
        found = np.concatenate([[self._zero[0] / self._zero[1]], self._cross[known] / own])
        return np.concatenate([[0.0], self._moment[known] / own]), found / found[0]


def f50(frequency: Doubles, curve: Doubles) -> float | None:
    """Where a TTF first falls below a half, 1/mm, linear between points; None where it does not."""
    below = np.nonzero(curve < 0.5)[0]
    if not len(below):
        return None
    k = int(below[0])
    share = (curve[k - 1] - 0.5) / (curve[k - 1] - curve[k])
    return float(frequency[k - 1] + share * (frequency[k] - frequency[k - 1]))


def contrast(response: Doubles, shape: Doubles) -> float:
    """Mean of a response where the disc fills the pixel: the share of the contrast that is left."""
    return float(response[shape >= 1].mean()) if (shape >= 1).any() else float("nan")


def noise(absent: NDArray[np.floating], shape: Doubles) -> float:
    """Standard deviation over realisations, (K, H, W), root mean square over the disc's pixels."""
    variance = absent.astype(np.float64).var(axis=0, ddof=1)
    return float(np.sqrt((variance * shape).sum() / shape.sum()))
