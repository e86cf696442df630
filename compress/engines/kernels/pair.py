"""A dense layer in one kernel: 1x1 bottleneck, LeakyReLU, 5x5 growth, LeakyReLU.

The bottleneck's output, the widest tensor of DDnet, never goes to memory: it is computed again for
each position of a group's window, in registers, as attention kernels do between their products.
That costs (gy + 4) (gx + 4) / (gy gx) times the arithmetic of the 1x1, and saves writing its output
and reading it through the cache 25 / (gy gx) times and more. session.py takes it where it measured
faster than two kernels.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

from compress.engines.kernels.conv import add_bias, group_origin, leaky, store
from compress.engines.kernels.overlap import gdc_launch_dependents, gdc_wait


# Tiles differ from size to size; one kernel shall serve all of them.
@triton.jit(do_not_specialize=["tiles_y", "tiles_x"])
def pair_kernel(
    x, w1, bias1, w2, table, y,
    H, W, tiles_y, tiles_x, x_slice, x_row, y_slice, y_row,
    X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, B: tl.constexpr,
    PAD: tl.constexpr, GY: tl.constexpr, GX: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr,
    NP: tl.constexpr, CO: tl.constexpr, SLOPE: tl.constexpr,
    COPY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile, cut as in conv.py.

    What is not said by its name:

        x: first element of the window of the first group of the first slice; X values a pixel, of
            which the first C are read.
        w1: (CP, B) weights of the 1x1, rows from C on zero.
        bias1: (B,) float32.
        w2: (positions * B, NP) of packing.grouped, for B input channels.
        table: (P, P, CO) float32, bias of the 5x5 by border class.
        y: where the first pixel's first channel goes; Y values a pixel.
        H: rows of an image.
        W: columns of an image.
        tiles_y: tiles in a column of the image.
        tiles_x: tiles in a row of it.
        x_slice: values from slice to slice in x; x_row from row to row; likewise y.
    """
    if EARLY:
        gdc_launch_dependents()
    n, tile_y, tile_x, oy, ox = group_origin(H, W, tiles_y, tiles_x, GY, GX, BY, BX)
    known = (oy < H) & (ox < W)
    window = tl.multiple_of(tl.where(known, oy * x_row + ox * X, 0), [COPY])
    x += n * x_slice
    column = tl.arange(0, NP)
    c = tl.arange(0, CP)
    hidden = tl.arange(0, B)
    first = tl.load(w1 + c[:, None] * B + hidden[None, :])
    offset = tl.load(bias1 + hidden)[None, :]
    acc = tl.zeros((BY * BX, NP), dtype=tl.float32)
    if EARLY:
        gdc_wait()
    for position in range((GY + 2 * PAD) * (GX + 2 * PAD)):
        r = position // (GX + 2 * PAD)
        j = position % (GX + 2 * PAD)
        pixel = tl.multiple_of(window + r * x_row + j * X, [COPY])
        at = x + pixel[:, None] + c[None, :]
        a = tl.load(at, mask=c[None, :] < C, other=0.0, cache_modifier=".ca")
        h = tl.dot(a, first, input_precision="ieee") + offset
        yy, xx = oy + r - PAD, ox + j - PAD
        within = (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        # The 5x5 pads with zeros, not with what the 1x1 makes of zeros.
        h = tl.where(within[:, None], leaky(h, SLOPE), 0.0).to(w2.dtype.element_ty)
        second = tl.load(w2 + (position * B + hidden)[:, None] * NP + column[None, :])
        acc = tl.dot(h, second, acc, input_precision="ieee")
    acc = add_bias(acc, table, tile_y, tile_x, oy, ox, H, W,
                   PAD, GY, GX, BY, BX, NP, CO)  # fmt: skip
    store(leaky(acc, SLOPE), table, y, table, n, oy, ox, H, W, y_slice, y_row, 0,
          Y, GY, GX, NP, CO, False, False, False, SLOPE)  # fmt: skip
