"""An operation and the 1x1 behind it in one kernel, where the 1x1 may read more than that.

In a dense block every 5x5, and the max-pool at its start, adds channels to those that are there,
and a 1x1 reads all of them: the next layer's bottleneck, or the transition. For its own pixels a
program has the new channels in registers and reads the old ones as they lie in memory, so nothing
is computed twice; a kernel's start and its reading of the new channels are saved. tune.py takes
it where it measured faster than two kernels.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

from compress.engines.kernels.conv import (
    EARLY,
    add_border_bias,
    group_bias,
    group_origin,
    leaky,
    products,
    store,
)


# One kernel shall serve all sizes, odd ones, too.
@triton.jit(do_not_specialize=["H", "W", "tiles_y", "tiles_x"])
def chain_kernel(
    x, w, table, y, old, w_old, w_new, bias2, z,
    H, W, tiles_y, tiles_x, x_slice, x_row, y_slice, y_row, z_slice, z_row,
    X: tl.constexpr, Y: tl.constexpr, Z: tl.constexpr, C: tl.constexpr, ROW: tl.constexpr,
    K: tl.constexpr, PAD: tl.constexpr, TABLE: tl.constexpr, OLD: tl.constexpr,
    OLD_BK: tl.constexpr, GY: tl.constexpr, GX: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr,
    BK: tl.constexpr, NP: tl.constexpr, CO: tl.constexpr, NP2: tl.constexpr, CO2: tl.constexpr,
    ACT: tl.constexpr, ACT2: tl.constexpr, SLOPE: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """One tile, cut as in conv.py, whose `conv_kernel` explains most arguments.

    What is not said there:

        y: where the new channels go; the old ones lie in the same buffer from `old` on.
        old: first pixel's first channel; OLD channels are read, all of them before `y`.
        w_old: (GY GX OLD padded to OLD_BK, NP2) of packing.grouped.
        w_new: (NP, NP2) of packing.diagonal.
        bias2: (CO2,) float32.
        z: where the first pixel's first channel of the 1x1 goes; Z values a pixel.
    """
    n, tile_y, tile_x, oy, ox = group_origin(H, W, tiles_y, tiles_x, GY, GX, BY, BX)
    known = (oy < H) & (ox < W)
    window = tl.multiple_of(tl.where(known, oy * x_row + ox * X, 0), [COPY])
    pixels = tl.multiple_of(tl.where(known, oy * y_row + ox * Y, 0), [COPY])
    usual, usual2 = group_bias(table, GY, GX, NP, CO), group_bias(bias2, GY, GX, NP2, CO2)
    w_new += tl.arange(0, NP)[:, None] * NP2 + tl.arange(0, NP2)[None, :]
    if NP * NP2 <= EARLY:
        weights = tl.load(w_new)
    acc = products(x + n * x_slice, w, window, x_row, X, C, ROW, K, COPY, BY * BX, BK, NP)
    if TABLE:
        acc = add_border_bias(acc, usual, table, tile_y, tile_x, oy, ox, H, W,
                              PAD, GY, GX, BY, BX, NP, CO)  # fmt: skip
    else:
        acc += usual[None, :]
    if ACT:
        acc = leaky(acc, SLOPE)
    store(acc, y, table, n, oy, ox, H, W, y_slice, y_row, 0, Y, GY, GX, NP, CO, False)
    new = acc.to(w_old.dtype.element_ty)  # as it was stored
    acc = products(old + n * y_slice, w_old, pixels, y_row, Y, OLD, GX * OLD, GY * GX * OLD, COPY,
                   BY * BX, OLD_BK, NP2)  # fmt: skip
    if NP * NP2 > EARLY:
        weights = tl.load(w_new)
    acc = tl.dot(new, weights, acc, input_precision="ieee") + usual2[None, :]
    if ACT2:
        acc = leaky(acc, SLOPE)
    store(acc, z, table, n, oy, ox, H, W, z_slice, z_row, 0, Z, GY, GX, NP2, CO2, False)


@triton.jit(do_not_specialize=["H", "W", "high", "wide", "tiles_y", "tiles_x"])
def pool_chain_kernel(
    x, y, w, bias, z,
    H, W, high, wide, tiles_y, tiles_x, x_slice, x_row, y_slice, y_row, z_slice, z_row,
    X: tl.constexpr, Y: tl.constexpr, Z: tl.constexpr, C: tl.constexpr, CP: tl.constexpr,
    BY: tl.constexpr, BX: tl.constexpr, NP: tl.constexpr, CO: tl.constexpr, ACT: tl.constexpr,
    SLOPE: tl.constexpr,
):  # fmt: skip
    """Max-pool 3x3 / 2 as in moves.py, and a 1x1 of what it gives; by x bx pixels a program.

    x, y and their sides and strides are as in `pool_kernel`; w is (CP, NP), CP = C padded to a
    power of two; bias (CO,) float32; z where the first pixel's first channel of the 1x1 goes.
    """
    n, _, _, row, column = group_origin(high, wide, tiles_y, tiles_x, 1, 1, BY, BX)
    c = tl.arange(0, CP)
    usual = group_bias(bias, 1, 1, NP, CO)
    weights = tl.load(w + c[:, None] * NP + tl.arange(0, NP)[None, :])
    known, real = (row < high) & (column < wide), c < C
    best = tl.full((BY * BX, CP), float("-inf"), tl.float32)
    for tap in tl.static_range(9):
        yy, xx = row * 2 + tap // 3 - 1, column * 2 + tap % 3 - 1
        seen = known & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        at = tl.multiple_of(n * x_slice + yy * x_row + xx * X, 8)
        value = tl.load(x + at[:, None] + c[None, :], mask=seen[:, None] & real[None, :],
                        other=float("-inf")).to(tl.float32)  # fmt: skip
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    here = known[:, None] & real[None, :]
    new = tl.where(here, best, 0.0).to(w.dtype.element_ty)
    at = tl.multiple_of(n * y_slice + row * y_row + column * Y, 8)
    tl.store(y + at[:, None] + c[None, :], new, mask=here)
    acc = tl.dot(new, weights, input_precision="ieee") + usual[None, :]
    if ACT:
        acc = leaky(acc, SLOPE)
    store(acc, z, bias, n, row, column, high, wide, z_slice, z_row, 0, Z, 1, 1, NP, CO, False)
