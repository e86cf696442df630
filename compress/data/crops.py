"""Which parts of the slices to train with, drawn at random."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from compress.base.errors import UsageError
from compress.data import Pairs
from compress.data.mixing import Mix, draw

Span = tuple[int, int, int]
"""First pixel, direction (1, or -1 for mirrored) and length along one axis."""


class Crop(NamedTuple):
    """A part of one slice: the index of its image, and what of its rows and of its columns."""

    image: int
    rows: Span
    columns: Span
    mix: Mix = ()
    """Which low-dose versions are mixed; empty where there is one."""
    transposed: bool = False
    """Whether rows and columns change places, after all else."""


def draws(
    pairs: Pairs,
    *,
    count: int,
    batch: int,
    crop: int | None,
    seed: tuple[int, ...],
    transposes: bool = False,
) -> Iterator[list[Crop]]:
    """Random crops, mirrored at random in both directions; the same ones for the same seed.

    Where slices have several low-dose versions, each crop says how to mix them, see `mixing`.

    Args:
        pairs: where to draw from, with replacement.
        count: number of batches.
        batch: crops in a batch.
        crop: side of the square crops in pixels; None takes whole slices.
        seed: of all draws.
        transposes: whether every second crop, at random, is transposed.

    Returns:
        The crops of one batch after another; pixels are a loader's affair, see `loaders`.

    Raises:
        UsageError: there are no slices, a crop is larger than a slice, whole slices differ in
            size, or they are to be transposed and are not square.
    """
    height, width = sides(pairs, crop)
    if transposes and height != width:
        raise UsageError(f"transposes needs square crops, the slices are {height} x {width}")
    generator = np.random.default_rng(seed)
    return (_drawn(pairs, batch, crop, transposes, generator) for _ in range(count))


def _drawn(
    pairs: Pairs, batch: int, crop: int | None, transposes: bool, generator: np.random.Generator
) -> list[Crop]:
    crops = []
    for index in generator.integers(len(pairs.full), size=batch).tolist():
        rows, columns = (
            _span(length, crop or length, generator) for length in pairs.full[index].shape
        )
        mix = draw(pairs.versions, generator)
        turned = transposes and generator.random() < 0.5
        crops.append(Crop(index, rows, columns, mix, turned))
    return crops


def _span(length: int, side: int, generator: np.random.Generator) -> Span:
    """`side` neighbouring pixels of `length`, in random order of the two."""
    start = int(generator.integers(length - side + 1))
    return (start, 1, side) if generator.random() < 0.5 else (start + side - 1, -1, side)


def sides(pairs: Pairs, crop: int | None) -> tuple[int, int]:
    """Height and width in pixels of the crops (None: whole slices) that can be drawn.

    Raises:
        UsageError: there are no slices, a crop is larger than a slice, or whole slices differ
            in size.
    """
    if not pairs.full:
        raise UsageError("there are no slices to train with")
    for name, image in zip(pairs.names, pairs.full, strict=True):
        height, width = image.shape
        if crop is None and image.shape != pairs.full[0].shape:
            first = "{} x {}".format(*pairs.full[0].shape)
            raise UsageError(
                f"slice {name} has {height} x {width} pixels and slice {pairs.names[0]} {first}; "
                "give a crop, whole slices fit into one batch only if they are of one size"
            )
        if crop is not None and crop > min(height, width):
            raise UsageError(
                f"a crop of {crop} x {crop} pixels does not fit into slice {name} "
                f"with {height} x {width}; choose a smaller crop"
            )
    height, width = pairs.full[0].shape
    return (height, width) if crop is None else (crop, crop)
