"""Slices of low and full dose, paired."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.int16]
"""A slice: (H, W) int16 HU; rows run to the patient's back, columns to the patient's left."""


@dataclass(frozen=True)
class Pairs:
    """Full-dose slices with their low-dose partners, in a fixed order."""

    low: tuple[Image, ...]
    full: tuple[Image, ...]
    names: tuple[str, ...]
    """One per slice, unique."""
    patients: tuple[str, ...]
    """Whose slice it is."""


@dataclass(frozen=True)
class Data:
    """What a run trains and measures with."""

    train: Pairs
    test: Pairs
    source: str
    """The source used: phantom, too, where the demo set could not be had."""
    fingerprint: str
    """SHA-256 over names, patients, shapes and pixels, in hexadecimal."""
    notices: tuple[str, ...] = ()
    """What a reader of the results must know."""
