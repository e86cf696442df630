"""Where the plane of a CT image is, told from its header: what slices are put in order by.

Coordinates are those of the patient in mm (PS3.3 section C.7.6.2.1.1).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

Vector = NDArray[np.float64]


class Plane(NamedTuple):
    """The plane of an image."""

    axes: tuple[float, ...]
    """Directions of rows and columns, 6 numbers, rounded: equal for all slices of a volume."""
    height: float
    """Distance in mm from the origin, along the normal."""
    step: float | None
    """Distance in mm between the middles of two slices, where the header has it."""
    thickness: float | None
    """In mm, where the header has it."""


def of(dataset: Dataset) -> Plane | None:
    """The plane of an image; None where its header does not say where it is."""
    position = numbers(said(dataset, "ImagePositionPatient"), 3)
    axes = numbers(said(dataset, "ImageOrientationPatient"), 6)
    if position is None or axes is None:
        return None
    step, thickness = (
        abs(number(said(dataset, name))) or None
        for name in ("SpacingBetweenSlices", "SliceThickness")
    )
    place = height(axes.reshape(2, 3), position)
    return Plane(tuple(axes.round(2).tolist()), place, step, thickness)


def height(axes: Vector, position: Vector) -> float:
    """Distance in mm of a plane from the origin: directions (2, 3), a point of it (3,)."""
    (a, b, c), (d, e, f) = axes.tolist()  # NumPy's product takes ten times as long for so few
    x, y, z = position.tolist()
    return float((b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z)


def said(dataset: Dataset, name: str) -> Any:
    """The value of an attribute; None where it cannot be decoded."""
    try:
        return dataset.get(name)
    except Exception:  # pydicom raises whatever it likes when values are decoded
        return None


def number(value: Any) -> float:
    """A finite number; 0 where it is none."""
    found = numbers([value], 1)
    return 0.0 if found is None else float(found[0])


def numbers(value: Any, count: int) -> Vector | None:
    """Numbers, (count,); None where there are not so many finite ones."""
    try:
        found = np.array(value, np.float64)
    except (TypeError, ValueError):
        return None
    return found if found.shape == (count,) and np.isfinite(found).all() else None
