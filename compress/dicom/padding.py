"""Which pixels are padding. Arrays are (H, W): one frame."""

import math

import numpy as np

from compress.base.hu import HU_MAX, HU_MIN
from compress.dicom.rescale import Mask, Scale, Stored

AIR = -900.0
"""Padding that ends the scale and lies at or below this HU is a floor: what lies still lower is
padding, too. Lossy coding moves padded pixels a little, so equality alone would miss them."""
PATCH = 16
"""Pixels of the smallest area outside the body that is padding where its value is one that tissue
has, too: noise puts the same value side by side only a few times."""


def padded(stored: Stored, scale: Scale, frame: int) -> Mask:
    """Where one frame, (H, W), holds padding (PS3.3 section C.7.5.1.1.2).

    A value that tissue can have, such as 0 in signed HU, is padding only where it fills an area
    outside the body; a range of such values is never.
    """
    mask = declared(stored, scale)
    if floor := floor_of(scale, frame):
        low, high = scale.padding or scale.ends
        mask |= (stored < high) if floor > 0 else (stored > low)
        return mask
    if scale.padding is None or scale.padding[0] != scale.padding[1]:
        return np.zeros(stored.shape, bool)
    return _outside(mask)


def declared(stored: Stored, scale: Scale) -> Mask:
    """Where one frame, (H, W), has a value that its header declares to be padding."""
    if scale.padding is None:
        return np.zeros(stored.shape, bool)
    low, high = scale.padding
    mask: Mask = (stored >= low) & (stored <= high)
    return mask


def _outside(mask: Mask) -> Mask:
    """The areas of at least PATCH pixels that reach the border, by their sides."""
    if not mask.any():
        return mask
    from scipy.ndimage import label

    areas, _ = label(mask)
    border = np.concatenate((areas[0], areas[-1], areas[:, 0], areas[:, -1]))
    large = np.bincount(areas.ravel()) >= PATCH
    large[0] = False
    reaching = np.zeros_like(large)
    reaching[border] = True
    found: Mask = (large & reaching)[areas]
    return found


def floor_of(scale: Scale, frame: int) -> int:
    """Whether padding ends the scale of one frame, below air.

    1 where it is the low end of the stored values, -1 where the high end (negative slope), 0 where
    it is a value like others, or there is none.
    """
    if scale.padding is None:
        return 0
    slope, intercept = float(scale.slope[frame]), float(scale.intercept[frame])
    low, high = scale.padding if slope > 0 else scale.padding[::-1]
    last = low <= scale.ends[0] if slope > 0 else low >= scale.ends[1]
    ends = last or low * slope + intercept <= HU_MIN
    return int(math.copysign(1, slope)) if ends and high * slope + intercept <= AIR else 0


def among_tissue(scale: Scale) -> bool:
    """Whether the declared padding lies, in some frame, between values that a network gives."""
    if scale.padding is None:
        return False
    for frame, (slope, intercept) in enumerate(zip(scale.slope, scale.intercept, strict=True)):
        low, high = sorted(value * slope + intercept for value in scale.padding)
        if not floor_of(scale, frame) and low <= HU_MAX and high >= HU_MIN:
            return True
    return False
