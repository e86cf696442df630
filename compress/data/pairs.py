"""Slices of low and full dose, paired."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.base.around import around
from compress.base.errors import UsageError
from compress.base.words import listed

if TYPE_CHECKING:
    from compress.data.lowdose import Exposure

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
    around: tuple[tuple[Image, ...], ...] = ()
    """For each low-dose slice the slices i-k to i+k of its volume, itself in the middle; empty
    where the network sees the slice alone."""
    spacings: tuple[float | None, ...] = ()
    """Side of a pixel in mm, one per slice; None, or empty, where it is not known."""
    exposure: "Exposure | None" = None
    """How the low dose was simulated; None where it was not."""

    bank: tuple[tuple[Image, ...], ...] = ()
    """For each slice its low-dose versions, `low` the first of them, not clipped, to be mixed;
    empty where there is one of each."""

    def inputs(self) -> tuple[tuple[Image, ...], ...]:
        """What the network sees of each slice: itself, or `around`."""
        return self.around or tuple((image,) for image in self.low)

    @property
    def channels(self) -> int:
        """How many slices the network sees of each."""
        return len(self.around[0]) if self.around else 1

    @property
    def versions(self) -> int:
        """How many low-dose images there are of each slice."""
        return len(self.bank[0]) if self.bank else 1


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


def digests(pairs: Pairs) -> tuple[str | None, ...]:
    """What tells each full-dose slice from others: 16 hexadecimal digits of a SHA-256.

    It is of the pixels alone, so that a slice is known under another name, too; None for a slice
    of one value, such as air, which is like any other.
    """
    return tuple(
        None
        if image.min() == image.max()
        else hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:16]
        for image in pairs.full
    )


def from_arrays(low: ArrayLike, full: ArrayLike, neighbours: int) -> Pairs:
    """Arrays as slices, each of a patient of its own.

    Args:
        low: (N, H, W) HU, a volume in order where a network sees neighbours.
        full: the same shape and unit.
        neighbours: slices on each side that the network sees, too.

    Raises:
        UsageError: they are no (N, H, W) of one shape, or not all numbers and finite.
    """
    images = [_whole(numbers(low, "low")), _whole(numbers(full, "full"))]
    if images[0].shape != images[1].shape or images[0].ndim != 3:
        shapes = listed(str(image.shape) for image in images)
        raise UsageError(f"low and full must be (N, H, W) of one shape, got {shapes}")
    names = tuple(f"slice {index}" for index in range(len(images[0])))
    volume = tuple(images[0])
    windows = tuple(around(volume, k, neighbours) for k in range(len(volume)) if neighbours)
    return Pairs(low=volume, full=tuple(images[1]), names=names, patients=names, around=windows)


def numbers(image: ArrayLike, name: str) -> NDArray[np.float32]:
    """Values of slices in HU, of any shape and number type, as float32 without gaps in memory.

    Raises:
        UsageError: there is none, or not all are real numbers and finite; begins with `name`.
    """
    try:
        array = np.asarray(image)
    except ValueError as error:  # rows of different lengths
        raise UsageError(f"{name} is no array: {error}") from error
    if array.dtype.kind not in "buif":
        raise UsageError(f"{name} must be numbers in HU, got {array.dtype}")
    if not array.size:
        raise UsageError(f"{name} holds no pixel: its shape is {array.shape}")
    values = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(values).all():
        raise UsageError(f"{name} holds values that are not finite; outside a scan give -1000")
    return values


def _whole(hu: NDArray[np.float32]) -> Image:
    """HU as whole ones; what int16 cannot hold becomes its nearest value."""
    limits = np.iinfo(np.int16)
    image: Image = np.rint(hu).clip(limits.min, limits.max).astype(np.int16)
    return image
