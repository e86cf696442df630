"""Where a CT image is in its patient, told from the header alone: what makes two images partners.

Coordinates are those of the patient in mm (PS3.3 section C.7.6.2.1.1).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from compress.dicom.parsing import silent
from compress.dicom.plane import Vector, height, number, numbers, said

TAGS = [
    "PatientID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "Rows", "Columns", "SpacingBetweenSlices",
]  # fmt: skip
THICKNESS = 1.0
"""Slice thickness in mm where the header has none."""
CLOSE = 0.25
"""How far partners may be apart along the patient, as a share of the slice thickness."""


@dataclass(frozen=True)
class Place:
    """What a header says of where its image is; None, 0 or empty where it says nothing."""

    patient: str
    """PatientID: to tell patients apart, never to be shown."""
    position: Vector | None
    """(3,) mm: the middle of the first pixel."""
    axes: Vector | None
    """(2, 3): directions of rows and columns."""
    spacing: Vector | None
    """(2,) mm: between rows, between columns."""
    size: tuple[int, int]
    """Rows and columns."""
    thickness: float | None
    """In mm."""
    step: float | None = None
    """Distance in mm between the middles of two slices."""

    @property
    def known(self) -> bool:
        """Whether images can be told apart by it."""
        return self.position is not None and self.axes is not None

    def height(self) -> float:
        """Distance in mm of the image's plane from the origin; only where `known`."""
        assert self.axes is not None  # see `known`
        assert self.position is not None
        return height(self.axes, self.position)


def read(path: Path) -> Place:
    """The place of the DICOM image in a file; what cannot be read counts as not said."""
    with silent():
        try:
            found: Dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        except Exception:  # pydicom raises whatever it likes; reading the pixels says what is wrong
            found = Dataset()
        values = {name: said(found, name) for name in TAGS}
    axes, thickness = (
        numbers(values["ImageOrientationPatient"], 6),
        number(values["SliceThickness"]),
    )
    return Place(
        patient=str(values["PatientID"] or "").strip(),
        position=numbers(values["ImagePositionPatient"], 3),
        axes=None if axes is None else axes.reshape(2, 3),
        spacing=numbers(values["PixelSpacing"], 2),
        size=(int(number(values["Rows"])), int(number(values["Columns"]))),
        thickness=thickness if thickness > 0 else None,
        step=abs(number(values["SpacingBetweenSlices"])) or None,
    )


def misfit(one: Place, other: Place) -> str:
    """Why two images are not of the same slice, as the end of a sentence; empty where they may be.

    What one of the headers does not say is not compared.
    """
    if one.patient and other.patient and one.patient != other.patient:
        return "they are of different patients"
    if all((*one.size, *other.size)) and one.size != other.size:
        return f"{_times(one.size)} and {_times(other.size)} pixels"
    if _differ(one.spacing, other.spacing, 1e-3):
        return f"pixels of {_times(one.spacing)} mm and of {_times(other.spacing)} mm"
    if one.thickness and other.thickness and abs(one.thickness / other.thickness - 1) > 0.1:
        return f"slices of {one.thickness:g} mm and of {other.thickness:g} mm"
    if _differ(one.axes, other.axes, 1e-2):
        return "their rows and columns have other directions"
    return _apart(one, other)


def tolerance(place: Place) -> float:
    """How far from a slice its partner may be along the patient, in mm."""
    return CLOSE * (place.thickness or THICKNESS)


def _apart(one: Place, other: Place) -> str:
    if one.position is None or other.position is None:
        return ""
    offset = one.position - other.position
    normal = np.cross(*one.axes) if one.axes is not None else np.array([0.0, 0.0, 1.0])
    along = abs(float(normal @ offset))
    across = float(np.linalg.norm(offset - (normal @ offset) * normal))
    pixel = 1.0 if one.spacing is None else float(one.spacing.max())
    if along <= tolerance(one) and across <= pixel / 2:
        return ""
    return f"they are {float(np.linalg.norm(offset)):.4g} mm apart"


def _differ(one: Vector | None, other: Vector | None, limit: float) -> bool:
    return one is not None and other is not None and bool(np.abs(one - other).max() > limit)


def _times(values: tuple[int, int] | Vector | None) -> str:
    return " x ".join(f"{value:.4g}" for value in (() if values is None else values))
