"""Whether pixel values are HU, and what they look like where they are not.

npy and TIFF files do not say their unit, and every unit trains: the numbers come out wrong in
silence. HU of CT span hundreds of units, and air, at -1000, is in nearly every slice.

A single slice is refused where there is no doubt. A patch from the middle of a patient may hold no
air; so the rest is asked of all slices of one dose together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.base.errors import UsageError
from compress.data import Image

Values = NDArray[Any]
AIR = -200
"""HU below which there is air or lung, and no other tissue."""
ENOUGH = 1e-3
"""Share of the pixels that must be air; a few of another unit may be that low by padding."""
OUTLIERS = 0.005
"""Share of the highest and of the lowest pixels that a look at the range leaves out."""
FEW = 16.0
"""Values that stay within this are no HU."""
BONE = (700, 1500)
"""HU of bone, and what soft tissue becomes in HU + 1024."""
MUCH_BONE = 0.15
"""More of the pixels than are bone in any slice; soft tissue is more than that."""
WHOLE = 128 * 128
"""Pixels of what is a slice and no patch."""
SHIFTED = "they look like HU + 1024, as unsigned files hold them; subtract it"
AIRLESS = "if they are patches of HU without air, add some slices that hold air"
LOOKS = (
    (-0.5, 1.5, "they look like HU, or a window of them, scaled to 0..1; scale them back"),
    (-1.5, 1.5, "they look normalised, such as HU / 1000 or a window scaled to -1..1; undo that"),
    (-FEW, FEW, "they look normalised, such as HU / 1000 or to mean 0 and deviation 1; undo that"),
    (0.0, 255.0, "they look like 8-bit grey values of a window; HU cannot be had from them"),
    (800.0, 4500.0, SHIFTED),
    (20_000.0, 65_535.0, "they look like HU + 32768 without ImageJ's calibration; subtract it"),
    (0.0, 800.0, AIRLESS),
    (0.0, 4500.0, SHIFTED),
    (0.0, 65_535.0, "they look like 16-bit grey values; HU cannot be had without their scale"),
)
"""Lowest value, highest value -> what is in between; the first that fits."""


def check(values: Values) -> None:
    """Raise where one slice is in another unit beyond doubt.

    Args:
        values: (H, W) finite, as the file gives them.

    Raises:
        ValueError: the reason, and the unit that it looks like.
    """
    # Without abs, of which the lowest whole number of a type has none.
    few = np.count_nonzero((values > FEW) | (values < -FEW)) <= 2 * _cut(values)
    shifted = values.size >= WHOLE and _shifted([values])
    if few or shifted or _filled(values):
        low, high = _range(values)
        if low < high:  # a blank slice is of any unit
            raise ValueError(_reason(low, high, shifted=shifted))


def check_all(images: Sequence[Image], folder: Path) -> None:
    """Raise where the slices of one dose, together, are in another unit.

    Args:
        images: each (H, W) int16 HU, what is below -1024 raised to it.
        folder: where they come from, for the sentence.

    Raises:
        UsageError: the reason, and the unit that it looks like.
    """
    count = sum(image.size for image in images)
    air = sum(int(np.count_nonzero(image < AIR)) for image in images)
    shifted = _shifted(images)
    span = int(max(image.max() for image in images)) - int(min(image.min() for image in images))
    if air >= ENOUGH * count and not shifted and span > FEW:
        return
    ranges = [_range(image) for image in images]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    raise UsageError(f"{folder} is not usable: {_reason(low, high, shifted=shifted)}")


def _cut(values: Values) -> int:
    """How many of the highest, and of the lowest, pixels may be outliers; one of ten or more."""
    return max(int(OUTLIERS * values.size), int(values.size >= 10))


def _range(values: Values) -> tuple[float, float]:
    """Lowest and highest value without outliers."""
    cut = _cut(values)
    flat = np.partition(values, (cut, values.size - 1 - cut), axis=None)
    return float(flat[cut]), float(flat[-1 - cut])


def _shifted(images: Sequence[Values]) -> bool:
    """Whether soft tissue is where bone should be, and nothing but padding is as low as air."""
    count = sum(image.size for image in images)
    bone = sum(int(np.count_nonzero((image >= BONE[0]) & (image <= BONE[1]))) for image in images)
    if bone < MUCH_BONE * count:
        return False
    air = sum(np.count_nonzero((image < AIR) & (image > image.min())) for image in images)
    return bool(air < ENOUGH * count)


def _filled(values: Values) -> bool:
    """Whether both ends of a scale of grey values are full, as clipping to a window leaves them."""
    low, high = float(values.min()), float(values.max())
    ends = int(np.count_nonzero((values == low) | (values == high)))
    return low == 0 and high in (255, 65535) and ends > OUTLIERS * values.size


def _reason(low: float, high: float, *, shifted: bool) -> str:
    fits = (words for least, most, words in LOOKS if least <= low and high <= most)
    looks = SHIFTED if shifted else next(fits, AIRLESS)
    return (
        f"its values are not HU: they lie between {low:.4g} and {high:.4g}, while CT in HU spans "
        f"hundreds of units and holds air below {AIR}; {looks}"
    )
