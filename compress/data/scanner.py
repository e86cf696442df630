"""The scanner of simulated low dose: a fan beam and a flat equidistant detector.

Geometry, formulas and names follow Kak and Slaney, Principles of Computerized Tomographic Imaging
(1988), section 3.4.2. The source turns once about the centre of the image. In view k the angle of
the source is b = 2 pi k / views; with x along the columns and y along the rows, in mm from the
image's centre, it stands at source_centre * (cos b, sin b), and detector positions count along
(-sin b, cos b). Lengths are in mm.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FanBeam:
    """A scanner: one full turn, flat detector centred on the ray through the centre."""

    source_centre: float = 595.0
    """Distance from the source to the centre of rotation, mm."""
    source_detector: float = 1085.6
    """Distance from the source to the detector, mm."""
    detectors: int = 736
    """Number of detector elements."""
    pitch: float = 1.2858
    """Distance between neighbouring elements on the detector, mm."""
    views: int = 720
    """Views in one turn of 360 degrees."""

    @classmethod
    def parallel(cls, *, views: int = 720) -> Self:
        """A scanner whose rays are parallel, its elements as wide at the centre as the fan's.

        The source is 1,000 km away: no ray is off by more than 1e-6 of a pixel.
        """
        fan = cls()
        far = 1e9
        return cls(source_centre=far, source_detector=far, pitch=fan.virtual_pitch, views=views)

    @property
    def virtual_pitch(self) -> float:
        """Distance between neighbouring elements, scaled to the centre of rotation, mm."""
        return self.pitch * self.source_centre / self.source_detector

    def positions(self) -> Doubles:
        """Places of the elements on the virtual detector through the centre, mm, (detectors,)."""
        return (np.arange(float(self.detectors)) - (self.detectors - 1) / 2) * self.virtual_pitch

    def angles(self) -> Doubles:
        """Angle of the source in each view, radian, (views,)."""
        return np.arange(float(self.views)) * (2 * math.pi / self.views)


def check(shape: tuple[int, ...], spacing: float, fan: FanBeam) -> None:
    """Refuse an image of this shape, pixels of `spacing` mm, that reaches as far as the source.

    Raises:
        ValueError: it does.
    """
    reach = math.hypot(*shape) / 2 * spacing
    if not reach < fan.source_centre:
        raise ValueError(
            f"the image's corners lie {reach:.0f} mm from its centre, "
            f"the source only {fan.source_centre:.0f} mm"
        )


def filtered(sinogram: Array, fan: FanBeam) -> Array:
    """Cosine weight and ramp filter of each view, per mm (the ramp: Kak and Slaney, eq. 61)."""
    size = 1 << (2 * fan.detectors - 1).bit_length()  # no wrap-around
    n = np.fft.fftfreq(size, 1 / size).astype(int)
    odd = n % 2 != 0
    ramp = np.zeros(size)
    ramp[0] = 1 / 4
    ramp[odd] = -1 / (math.pi * n[odd]) ** 2
    response = np.fft.rfft(ramp).real / fan.virtual_pitch
    weight = np.cos(np.arctan(fan.positions() / fan.source_centre))
    spectrum = np.fft.rfft(sinogram * weight, size) * response
    return np.fft.irfft(spectrum, size)[:, : fan.detectors].astype(np.float32)
