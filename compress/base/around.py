"""Slices out of a volume: those around one, evenly spread ones, and where some are missing."""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")
GAP = 1.5
"""Distance between two slices, in the usual distance, from which slices are missing between."""
SAME = 0.1
"""Distance below which two slices are at the same place."""


def around(volume: Sequence[T], place: int, neighbours: int) -> tuple[T, ...]:
    """The slice at `place` with its neighbours on both sides, in the order of the volume.

    Beyond an end of the volume the last slice there is repeated.

    Args:
        volume: slices in order, or what stands for them.
        place: index of the slice in the middle.
        neighbours: how many on each side.

    Returns:
        2 * neighbours + 1 entries.
    """
    last = len(volume) - 1
    places = range(place - neighbours, place + neighbours + 1)
    return tuple(volume[min(max(index, 0), last)] for index in places)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` items, each from the middle of one of as many equal parts, in order.

    >>> spread("abcdefghi", 3), spread("ab", 3)
    (['b', 'e', 'h'], ['a', 'b'])
    """
    count = min(count, len(items))
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]


def volumes(heights: Sequence[float], step: float | None = None) -> list[list[int]]:
    """Slices in order of their heights, in several parts where some are missing between.

    Args:
        heights: of each slice, along the normal of its plane, in any unit and order.
        step: the usual distance; None: the median of those found.

    Returns:
        Indices of slices, lowest first, for each part without a gap.

    Raises:
        ValueError: two slices are at the same height.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    steps = [heights[after] - heights[before] for before, after in pairwise(order)]
    if not steps:
        return [order] if order else []
    usual = step or statistics.median(steps)
    if min(steps) <= SAME * usual:
        raise ValueError("two slices are at the same place")
    found = [[order[0]]]
    for distance, index in zip(steps, order[1:], strict=True):
        if distance > GAP * usual:
            found.append([])
        found[-1].append(index)
    return found
