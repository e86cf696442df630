"""Max-pool 3x3 / 2 and bilinear x2, from a slice of one buffer into a slice of another."""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

EIGHT = tl.constexpr(8)
"""Channels that a thread moves at once: 16 bytes."""


@triton.jit
def place(height, width, total, C: tl.constexpr, BLOCK: tl.constexpr):
    """(slice, row, column, first of eight channels) of each piece here, and which of them exist."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c, pixel = at % (C // EIGHT) * EIGHT, at // (C // EIGHT)
    x, line = pixel % width, pixel // width
    return (line // height).to(tl.int64), line % height, x, c, at < total


@triton.jit
def pieces(start):
    """Offsets of the eight channels from `start` on, which is where they are aligned."""
    return tl.multiple_of(start, EIGHT)[:, None] + tl.arange(0, EIGHT)[None, :]


@triton.jit(do_not_specialize=["H", "W", "high", "wide", "total"])
def pool_kernel(
    x, y, H, W, high, wide, total, x_slice, x_row, y_slice, y_row,
    X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Largest of 3x3, stride 2, padding 1 that no maximum sees.

    x is the first value of an (N, H, W) image with X values a pixel, of which C are read; y that of
    the (N, high, wide) result with Y values a pixel; `total` counts the pieces of eight channels in
    y. x_slice and x_row are the values from slice to slice and from row to row of x; likewise y.
    C, X, Y and all that is added to them are multiples of eight.
    """
    n, row, column, c, known = place(high, wide, total, C, BLOCK)
    best = tl.full((BLOCK, EIGHT), float("-inf"), tl.float32)
    for tap in tl.static_range(9):
        yy, xx = row * 2 + tap // 3 - 1, column * 2 + tap % 3 - 1
        real = known & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        at = tl.multiple_of(n * x_slice + yy * x_row + xx * X + c, EIGHT)
        value = tl.load(x + pieces(at), mask=real[:, None], other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    at = tl.multiple_of(n * y_slice + row * y_row + column * Y + c, EIGHT)
    tl.store(y + pieces(at), best.to(y.dtype.element_ty), mask=known[:, None])


@triton.jit(do_not_specialize=["H", "W", "high", "wide", "total"])
def upsample_kernel(
    x, y, H, W, high, wide, total, x_slice, x_row, y_slice, y_row, ratio_y, ratio_x,
    X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Bilinear, corners on corners ("align_corners"); arguments as `pool_kernel`.

    ratio_y = (H - 1) / (high - 1) is the rows of x per row of y; ratio_x that of columns.
    """
    n, row, column, c, known = place(high, wide, total, C, BLOCK)
    exact_y, exact_x = row * ratio_y, column * ratio_x
    top = tl.minimum(exact_y.to(tl.int32), H - 1)
    left = tl.minimum(exact_x.to(tl.int32), W - 1)
    down, right = tl.minimum(top + 1, H - 1), tl.minimum(left + 1, W - 1)
    part_y, part_x = (exact_y - top)[:, None], (exact_x - left)[:, None]
    start, some = n * x_slice + c, known[:, None]
    above = tl.multiple_of(start + top * x_row, EIGHT)
    below = tl.multiple_of(start + down * x_row, EIGHT)
    left, right = tl.multiple_of(left * X, EIGHT), tl.multiple_of(right * X, EIGHT)
    a = tl.load(x + pieces(above + left), mask=some, other=0.0).to(tl.float32)
    b = tl.load(x + pieces(above + right), mask=some, other=0.0).to(tl.float32)
    p = tl.load(x + pieces(below + left), mask=some, other=0.0).to(tl.float32)
    q = tl.load(x + pieces(below + right), mask=some, other=0.0).to(tl.float32)
    upper, lower = a + (b - a) * part_x, p + (q - p) * part_x
    at = tl.multiple_of(n * y_slice + row * y_row + column * Y + c, EIGHT)
    mixed = (upper + (lower - upper) * part_y).to(y.dtype.element_ty)
    tl.store(y + pieces(at), mixed, mask=some)
