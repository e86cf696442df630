"""Noise power spectrum (NPS): how strong noise is at each spatial frequency, its texture.

    NPS(u, v) = dx dy / (Nx Ny) * sum_k |DFT(I_k - mean(I))|^2 / (K - 1)

I_k are K noise realisations of one region; the deviations from their mean hold no anatomy, so no
polynomial is fitted and subtracted. K - 1 makes up for the mean that was estimated. The integral
of the NPS over all frequencies is the variance (Parseval). After ICRU Report 87 (2012), and Samei
et al., AAPM TG-233, Medical Physics 46(11), 2019, which gives mean and peak frequency, too.

Frequencies are in 1/mm, the NPS is in HU^2 mm^2, arrays are float64 in the order of numpy.fft.
"""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
BIN = 0.025
"""Width of a bin of the radial NPS, 1/mm: about one step of a region of 64 pixels of 0.63 mm."""


def power(realisations: NDArray[np.floating], spacing: float) -> Doubles:
    """The NPS of one region.

    Args:
        realisations: (K, H, W) in HU, K at least 2.
        spacing: side of a pixel in mm.

    Returns:
        (H, W) in HU^2 mm^2, zero frequency first.

    Raises:
        ValueError: there is one realisation only.
    """
    count, height, width = realisations.shape
    if count < 2:
        raise ValueError(f"a noise power spectrum needs 2 realisations or more, got {count}")
    values = realisations.astype(np.float64)
    spectra = np.abs(np.fft.fft2(values - values.mean(0))) ** 2
    found: Doubles = spectra.sum(0) * (spacing**2 / (height * width * (count - 1)))
    return found


def frequencies(shape: tuple[int, int], spacing: float) -> Doubles:
    """Distance of every frequency from zero, (H, W) in 1/mm."""
    rows, columns = (np.fft.fftfreq(side, spacing) for side in shape)
    distance: Doubles = np.hypot(rows[:, None], columns[None])
    return distance


class Radial:
    """Means over rings of frequency, gathered from regions of any size and spacing.

    Args:
        reach: the highest frequency, 1/mm; no region may have its Nyquist frequency below it.
    """

    def __init__(self, reach: float) -> None:
        self._bins = max(2, int(reach / BIN))
        self._sum, self._count = np.zeros(self._bins), np.zeros(self._bins)

    def add(self, spectrum: Doubles, spacing: float) -> None:
        """A spectrum, (H, W), of pixels of `spacing` mm."""
        place = (frequencies(spectrum.shape, spacing) / BIN).astype(int).ravel()
        inside = place < self._bins
        weights = spectrum.ravel()[inside]
        self._sum += np.bincount(place[inside], weights, self._bins)
        self._count += np.bincount(place[inside], minlength=self._bins)

    def curve(self) -> tuple[Doubles, Doubles]:
        """Middle of each ring in 1/mm and the mean over it; rings without a value are left out."""
        known = self._count > 0
        middle: Doubles = (np.arange(self._bins, dtype=np.float64) + 0.5) * BIN
        return middle[known], np.asarray(self._sum[known] / self._count[known], np.float64)


def mean_frequency(frequency: Doubles, curve: Doubles) -> float:
    """TG-233's f_av = sum(f NPS(f)) / sum(NPS(f)) of a radial NPS, 1/mm; NaN without noise."""
    total = curve.sum()
    return float((frequency * curve).sum() / total) if total > 0 else float("nan")


def peak_frequency(frequency: Doubles, curve: Doubles) -> float:
    """TG-233's f_peak: where the radial NPS is highest, 1/mm."""
    return float(frequency[int(np.argmax(curve))])
