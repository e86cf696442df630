"""Places in a slice where discs are inserted and noise is measured: the evenest soft tissue."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.quality.tissues import TISSUES

PATCH = 64
"""Side in pixels of the region around a place; a quarter of the slice where that is less."""
MOST = 8
"""Places in a slice."""
Site = tuple[int, int]
"""Row and column of the first pixel behind the middle of a region."""


def patch(shape: tuple[int, ...]) -> int:
    """Side of the regions of a slice in pixels; even."""
    return min(PATCH, min(shape) // 4) // 2 * 2


def places(full: NDArray[np.number[Any]], most: int = MOST) -> list[Site]:
    """Middles of regions of soft tissue, the evenest first, three quarters of a region apart.

    Args:
        full: (H, W) in HU.
        most: at most so many.

    Returns:
        Places whose regions lie inside the slice; empty where there is no soft tissue.
    """
    from scipy import ndimage

    side = patch(full.shape)
    near = max(side // 2, 1)  # what matters is the surroundings of the disc
    values = ndimage.gaussian_filter(full.astype(np.float64), 1.5)  # anatomy, not noise
    mean = ndimage.uniform_filter(values, near)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(values**2, near) - mean**2, 0))
    low, high = TISSUES["soft tissue"]
    spread[(mean < low) | (mean > high)] = np.inf
    edge = side // 2
    for border in (spread[:edge], spread[-edge + 1 :], spread[:, :edge], spread[:, -edge + 1 :]):
        border[:] = np.inf
    return [*_evenest(spread, most, side * 3 // 4)]


def _evenest(spread: NDArray[np.float64], most: int, apart: int) -> Iterator[Site]:
    for _ in range(most):
        row, column = (int(k) for k in np.unravel_index(np.argmin(spread), spread.shape))
        if not np.isfinite(spread[row, column]):
            return
        yield row, column
        rows, columns = (slice(max(k - apart + 1, 0), k + apart) for k in (row, column))
        spread[rows, columns] = np.inf


def region(images: NDArray[np.floating], site: Site, side: int) -> NDArray[np.floating]:
    """A view of (..., H, W) around a place: (..., side, side)."""
    row, column = (k - side // 2 for k in site)
    return images[..., row : row + side, column : column + side]
