"""How a convolution is cut into programs; which other cuts are worth trying."""

from dataclasses import dataclass, replace

from compress.engines.kernels.packing import power, row_length

ACCUMULATORS = 128 * 128
"""Largest number of float32 sums that one program holds: half of its registers at 8 warps."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """One cut. A program computes by x bx groups of gy x gx pixels, all output channels."""

    gy: int = 1
    """Rows of a group of pixels that share a window."""
    gx: int = 1
    """Columns of a group."""
    by: int = 4
    """Rows of groups in a program; a power of two."""
    bx: int = 16
    """Columns of groups in a program; a power of two, by * bx at least 16."""
    bk: int = 64
    """Products summed in one step; a power of two from 16 on."""
    warps: int = 4
    """Warps of a program."""
    stages: int = 3
    """Steps whose loads are under way at once; at least 2: at 1 Triton 3.6 computes something else
    where the last step is masked."""
    copy: int = 8
    """Values in one copy: 8 are 16 bytes, which some versions of Triton take past the L1 cache
    whatever they are told; 4 go through it."""


def default(size: int, inside: int, out: int, side: int, batch: int = 16) -> Tiling:
    """A cut that will do without measuring; what an H100 found fastest, or near to it.

    Args:
        size: k of the k x k convolution.
        inside: input channels in memory.
        out: output channels in memory.
        side: height of the image in pixels.
        batch: slices at once.
    """
    if inside == 1:  # the stem: eight pixels at once make a window of two aligned loads a row
        return Tiling(gy=1, gx=8, by=8, bx=8, bk=64)
    if size == 1:
        return Tiling(by=4, bx=16, bk=min(64, power(inside)))
    cuts = [
        Tiling(gy=gy, gx=gx, by=by, bx=bx) for gy, gx in _groups(inside, out) for by, bx in _SIDES
    ]
    cut = next((one for one in cuts if _programs(one, side, batch) >= PROGRAMS), cuts[-1])
    return replace(cut, bk=64 if row_length(inside, size, cut.gx) % 64 == 0 else 32)


def _groups(inside: int, out: int) -> list[tuple[int, int]]:
    """Groups of a 5x5 or 3x3, the preferred one first; few input channels want smaller ones."""
    wide = [(2, 4)] if inside >= 32 else []
    return [(gy, gx) for gy, gx in [*wide, (2, 2), (1, 1)] if gy * gx * out <= 128 or gy * gx == 1]


def _programs(cut: Tiling, side: int, batch: int) -> int:
    return batch * -(-side // (cut.gy * cut.by)) * -(-side // (cut.gx * cut.bx))


def variations(step: int, best: Tiling, size: int, out: int) -> list[Tiling]:
    """Cuts to measure in the given step of a search, each step starting from the best so far.

    First the group of pixels, then the tile and its warps, then the length of a step, how many are
    under way and how they are copied: a dozen measurements, where the grid of all would take
    hundreds.

    Args:
        step: 0, 1 or 2.
        best: the fastest cut so far.
        size: k of the convolution.
        out: output channels in memory.
    """
    if step == 0:
        found = [replace(best, gy=gy, gx=gx) for gy, gx in _GROUPS[size]]
    elif step == 1:
        found = [replace(best, by=by, bx=bx, warps=warps) for by, bx, warps in _TILES]
    else:
        found = [replace(best, bk=bk, stages=stages, copy=copy) for bk, stages, copy in _STEPS]
    return [one for one in found if one != best and _fits(one, out)]


def _fits(cut: Tiling, out: int) -> bool:
    sums = cut.by * cut.bx * power(cut.gy * cut.gx * out)
    return sums <= ACCUMULATORS and sums <= 128 * 32 * cut.warps


_SIDES = [(8, 16), (8, 8), (4, 8)]
"""Groups in a program, in a column and in a row, that `default` chooses from."""
PROGRAMS = 128
"""About as many programs as an H100 has multiprocessors: fewer leave some of them idle."""
_GROUPS = {
    1: [(1, 1)],
    3: [(1, 1), (1, 2), (2, 2), (1, 4), (2, 4)],
    5: [(1, 1), (1, 2), (2, 2), (1, 4), (2, 4)],
    7: [(1, 8), (2, 8), (1, 16)],
}
_TILES = [
    (8, 16, 4),
    (8, 16, 8),
    (4, 16, 4),
    (4, 32, 4),
    (16, 16, 8),
    (8, 8, 4),
    (4, 8, 4),
    (4, 4, 4),
    (4, 8, 2),
    (4, 4, 2),
]
_STEPS = [
    (64, 3, 4),
    (64, 2, 8),
    (64, 4, 8),
    (128, 2, 8),
    (128, 3, 4),
    (32, 4, 8),
    (128, 4, 8),
    (256, 2, 8),
]
