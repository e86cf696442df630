"""The slices beside each slice of a series, for networks that see them, too.

Slices are put in order by their position in the patient, never by name or number. Where one is
missing, or was refused, the last slice before the gap is repeated, as at both ends of the series.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from compress.base.around import around, volumes
from compress.dicom import Reason
from compress.dicom.headers import Header

USABLE = (None, Reason.OTHER_SHARD, Reason.UNWRITABLE)
"""Reasons that say nothing against the pixels of a slice."""


def windows(headers: Sequence[Header], neighbours: int) -> dict[str, tuple[str, ...]]:
    """The slices i-k to i+k around each slice i of a series, by names of files.

    Args:
        headers: of all files.
        neighbours: k, at least 1.

    Returns:
        For each image whose place in its series is known: 2 * k + 1 names, its own in the middle.
    """
    found: dict[str, tuple[str, ...]] = {}
    lost = any(header.failed for header in headers)
    for own in _series(headers).values():
        for part in _parts(own, lost=lost):
            names = [header.name for header in part]
            found |= {name: around(names, k, neighbours) for k, name in enumerate(names)}
    return found


def _series(headers: Sequence[Header]) -> Mapping[Hashable, Sequence[Header]]:
    """Images with a known place by series, directions and sides."""
    groups: dict[Hashable, list[Header]] = defaultdict(list)
    for header in headers:
        if header.reason in USABLE and header.plane is not None and header.frames == 1:
            key = (header.series, header.plane.axes, header.rows, header.columns)
            groups[key].append(header)
    return groups


def _parts(own: Sequence[Header], *, lost: bool) -> list[list[Header]]:
    """The images of a series in order, split at gaps; none where two are at the same place.

    Args:
        own: the images.
        lost: whether files were refused, of which nobody knows the place; then what is left does
            not tell the usual distance.
    """
    planes = [header.plane for header in own if header.plane is not None]
    step = planes[0].step or (planes[0].thickness if lost else None)
    try:
        parts = volumes([plane.height for plane in planes], step)
    except ValueError:
        return []
    return [[own[index] for index in part] for part in parts]
