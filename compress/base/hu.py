"""Hounsfield units and the range that networks work in: the one owner of that map.

HU in [HU_MIN, HU_MAX] map linearly onto [0, 1]. HU_MIN is the lowest value of a 12-bit CT image
(air is -1000); HU_MAX - HU_MIN = 2924 is the data range of ldct-benchmark (Eulig et al., Medical
Physics 51(12), 2024), so that figures computed with DATA_RANGE compare with published ones.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the processes that read DICOM need the numbers and no torch
    from torch import Tensor

HU_MIN = -1024.0
HU_MAX = 1900.0
DATA_RANGE = HU_MAX - HU_MIN
"""Width of the network range in HU; the data range of PSNR and SSIM."""


def to_network(hu: "Tensor") -> "Tensor":
    """HU of any shape and number type, clipped to [HU_MIN, HU_MAX] -> float32 in [0, 1]."""
    return (hu.float().clamp(HU_MIN, HU_MAX) - HU_MIN) / DATA_RANGE


def to_hu(x: "Tensor") -> "Tensor":
    """Network range of any shape -> HU in float32; the inverse of `to_network` on its range."""
    return x.float() * DATA_RANGE + HU_MIN


def enhanced_hu(y: "Tensor") -> "Tensor":
    """What a network gave, of any shape -> HU in float32, clipped to [HU_MIN, HU_MAX].

    Where it is not finite the result is NaN: clipping would make white of infinity.
    """
    return to_hu(y.clamp(0, 1).where(y.isfinite(), float("nan")))
