"""The slices around each slice of a folder, for networks that see neighbouring slices.

DICOM images are ordered by their position, other files by the last number in their name, or by the
name where there is none. A volume is what one patient has in one folder.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path, PurePosixPath

from compress.base.around import around, volumes
from compress.base.errors import UsageError
from compress.data.images import READERS
from compress.data.pairs import Image

log = logging.getLogger(__name__)

Key = tuple[Hashable, ...]


def windows(
    names: Sequence[str],
    patients: Sequence[str],
    files: Sequence[Path],
    images: Sequence[Image],
    neighbours: int,
) -> tuple[tuple[Image, ...], ...]:
    """The low-dose slices i-k to i+k around each slice i of a folder.

    Where slices are missing in a volume, the last one before the gap is repeated.

    Args:
        names: of the pairs.
        patients: whose they are.
        files: of the low dose.
        images: the low dose.
        neighbours: k; 0 gives nothing.

    Raises:
        UsageError: the order of the slices cannot be told; names one.
    """
    if not neighbours:
        return ()
    found: list[tuple[Image, ...]] = [()] * len(names)
    gaps = 0
    for own, step, heights in _grouped(names, patients, files, images):
        try:
            parts = volumes(heights, step)
        except ValueError as error:
            first = files[own[0]]
            raise UsageError(f"data.neighbours: {error} in the volume of {first}") from error
        gaps += len(parts) - 1
        for part in parts:
            for place in range(len(part)):
                beside = around(part, place, neighbours)
                found[own[part[place]]] = tuple(images[own[index]] for index in beside)
    if gaps:
        log.warning("slices are missing at %d places; the last one before is repeated", gaps)
    return tuple(found)


Grouped = tuple[list[int], float | None, list[float]]
"""Indices of a volume's slices, the usual distance of two, the height of each."""


def _grouped(
    names: Sequence[str], patients: Sequence[str], files: Sequence[Path], images: Sequence[Image]
) -> list[Grouped]:
    groups: dict[Key, Grouped] = defaultdict(lambda: ([], None, []))
    steps: dict[Key, float | None] = {}
    key: Key
    height: float | None
    for index, (name, patient, file) in enumerate(zip(names, patients, files, strict=True)):
        about = (patient, str(PurePosixPath(name).parent), images[index].shape)
        if file.suffix.lower() in READERS:
            key, height, step = (*about, _named(name)), _number(name), None
        else:
            axes, height, step = _placed(file)
            key = (*about, axes)
        groups[key][0].append(index)
        groups[key][2].append(float(len(groups[key][2])) if height is None else height)
        steps[key] = step
    return [(own, steps[key], heights) for key, (own, _, heights) in groups.items()]


def _named(name: str) -> str:
    """What of a name is the same for all slices of a volume."""
    return (
        re.sub(r"\d+(?=\D*$)", "#", PurePosixPath(name).stem) if _number(name) is not None else ""
    )


def _number(name: str) -> float | None:
    """The last number in the name of a file; None where there is none."""
    numbers = re.findall(r"\d+", PurePosixPath(name).stem)
    return float(numbers[-1]) if numbers else None


def _placed(file: Path) -> tuple[Hashable, float, float | None]:
    """The directions of an image's rows and columns, its height and the usual distance in mm."""
    from compress.dicom.position import read

    place = read(file)
    if not place.known:
        raise UsageError(f"data.neighbours: {file} does not say where it is in the patient")
    assert place.axes is not None  # see `known`
    axes = tuple(place.axes.round(2).ravel().tolist())
    return axes, place.height(), place.step
