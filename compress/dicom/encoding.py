"""Enhanced HU back to stored values: the gate after the network, rounding, clipping, copying."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.base.hu import HU_MAX, HU_MIN
from compress.dicom import Reason, Refused, rescale
from compress.dicom.padding import floor_of
from compress.dicom.reading import Image
from compress.dicom.rescale import HU, Stored

TOO_FAR = 300.0
"""Mean change in HU, over the pixels that a network may change, that no denoising makes."""


def to_stored(image: Image, enhanced: Sequence[HU], too_far: float = TOO_FAR) -> tuple[Stored, int]:
    """Stored values of all frames, (F, H, W), and how many were clipped to the stored bits.

    Args:
        image: the source; its padding and what lies outside the network's range is copied.
        enhanced: what the network gave for each frame, (H, W) in HU.
        too_far: mean change in HU from which on the output is refused.

    Raises:
        Refused: NOT_FINITE, SHAPE or OUTPUT_RANGE.
    """
    result, clipped = image.stored.copy(), 0
    if len(enhanced) != len(result):
        raise Refused(Reason.SHAPE)
    for frame, hu in enumerate(enhanced):
        _check(image, frame, hu, too_far)
        free = ~image.kept[frame]
        values = rescale.to_stored(hu, image.scale, frame)
        inside = values.clip(*_ends(image, frame))
        clipped += int(np.count_nonzero((inside != values) & free))
        _avoid_padding(image, frame, inside)
        np.copyto(result[frame], inside, where=free, casting="unsafe")
    return result, clipped


def _check(image: Image, frame: int, hu: HU, too_far: float) -> None:
    """The gate after the network."""
    if hu.shape != image.stored.shape[1:]:
        raise Refused(Reason.SHAPE)
    if image.kept[frame].all():  # all of it is copied
        return
    if not np.isfinite(hu).all():
        raise Refused(Reason.NOT_FINITE)
    change = np.abs(hu - image.hu(frame)).mean(where=~image.kept[frame])
    if change > too_far or hu.min() < HU_MIN - 1 or hu.max() > HU_MAX + 1:
        raise Refused(Reason.OUTPUT_RANGE)


def _ends(image: Image, frame: int) -> tuple[int, int]:
    """Lowest and highest stored value that an enhanced pixel may get.

    Where padding is the end of the scale it is left out: tissue never turns into padding.
    """
    low, high = rescale.limits(image.dataset)
    floor = floor_of(image.scale, frame)
    if floor and image.scale.padding:
        below, above = image.scale.padding
        low, high = (max(low, above + 1), high) if floor > 0 else (low, min(high, below - 1))
    return low, high


def _avoid_padding(image: Image, frame: int, values: NDArray[np.float64]) -> None:
    """Keep tissue off a padding value that lies between those of tissue: on the source's side."""
    if not image.padding or floor_of(image.scale, frame):
        return
    (value, last), source = image.scale.padding or (0, 0), image.stored[frame]
    turned = (values == value) & (source != value) & (value == last)
    values[turned] += np.where(source[turned] > value, 1, -1)
