"""Convolution, k = 1, 3, 5, 7, stride 1, by groups of pixels; a 1x1 convolution may follow inside.

One program computes by x bx groups of gy x gx pixels of one slice. Their windows are rows of a
matrix that is never stored: element (group, k) lies at the group's window plus an offset that
follows from k alone. Rows of windows overlap; the overlap is served by the L1 cache, which is what
a halo tile in shared memory would do. packing.py says why groups, and how borders stay exact.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

EARLY = tl.constexpr(64 * 64)
"""Weights of a 1x1 behind a convolution that are read before the convolution's products: where a
GPU has few programs, nothing else hides the wait. More take registers that the products want."""


@triton.jit
def leaky(x, SLOPE: tl.constexpr):
    """LeakyReLU."""
    return tl.where(x > 0, x, x * SLOPE)


@triton.jit
def group_origin(H, W, tiles_y, tiles_x, GY: tl.constexpr, GX: tl.constexpr, BY: tl.constexpr,
                 BX: tl.constexpr):  # fmt: skip
    """Slice, and the first row and column of each group of this program; of its tile, too."""
    tile = tl.program_id(0)
    n = tile // (tiles_y * tiles_x)
    tile_y = (tile // tiles_x) % tiles_y * (BY * GY)
    tile_x = tile % tiles_x * (BX * GX)
    m = tl.arange(0, BY * BX)
    return n.to(tl.int64), tile_y, tile_x, tile_y + m // BX * GY, tile_x + m % BX * GX


@triton.jit
def products(
    x, w, window, x_row, X: tl.constexpr, C: tl.constexpr, ROW: tl.constexpr, K: tl.constexpr,
    COPY: tl.constexpr, M: tl.constexpr, BK: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """Windows times weights, (M, NP) float32; arguments as in `conv_kernel`."""
    column = tl.arange(0, NP)
    acc = tl.zeros((M, NP), dtype=tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        within = k % ROW
        # Where a buffer holds nothing but the channels read, a row of a window is one piece.
        at = within if X == C else within // C * X + within % C
        at = tl.max_contiguous(tl.multiple_of(at + k // ROW * x_row, [COPY]), [COPY])
        if K % BK == 0:
            a = tl.load(x + window[:, None] + at[None, :], cache_modifier=".ca")
        else:
            a = tl.load(x + window[:, None] + at[None, :], mask=k[None, :] < K, other=0.0,
                        cache_modifier=".ca")  # fmt: skip
        b = tl.load(w + k[:, None] * NP + column[None, :])
        acc = tl.dot(a, b, acc, input_precision="ieee")
    return acc


@triton.jit
def group_bias(bias, GY: tl.constexpr, GX: tl.constexpr, NP: tl.constexpr, CO: tl.constexpr):
    """A bias by channel, (CO,) or what a table begins with, for all pixels of a group: (NP,).

    To be called before the products, see `EARLY`.
    """
    column = tl.arange(0, NP)
    return tl.load(bias + column % CO, mask=column // CO < GY * GX, other=0.0)


@triton.jit
def add_border_bias(
    acc, usual, table, tile_y, tile_x, oy, ox, H, W, PAD: tl.constexpr, GY: tl.constexpr,
    GX: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr, NP: tl.constexpr, CO: tl.constexpr,
):  # fmt: skip
    """Add to each value, (groups, NP), the bias that belongs to its pixel's border class."""
    inner = (tile_y >= PAD) & (tile_x >= PAD)
    inner = inner & (tile_y + BY * GY + PAD <= H) & (tile_x + BX * GX + PAD <= W)
    if inner:  # most tiles: class 0 everywhere, one vector
        acc += usual[None, :]
    else:
        column = tl.arange(0, NP)
        pixel, co = column // CO, column % CO
        yy = oy[:, None] + (pixel // GX)[None, :]
        xx = ox[:, None] + (pixel % GX)[None, :]
        cy = tl.maximum(PAD - yy, 0) * (PAD + 1) + tl.maximum(yy + PAD - (H - 1), 0)
        cx = tl.maximum(PAD - xx, 0) * (PAD + 1) + tl.maximum(xx + PAD - (W - 1), 0)
        at = (cy * ((PAD + 1) * (PAD + 1)) + cx) * CO + co[None, :]
        seen = (pixel < GY * GX)[None, :] & (yy < H) & (xx < W)
        acc += tl.load(table + at, mask=seen, other=0.0)
    return acc


# Tiles differ from size to size; one kernel shall serve all of them. W stays: that it is a multiple
# of 16 makes the loads of the image wide.
@triton.jit(do_not_specialize=["H", "tiles_y", "tiles_x"])
def conv_kernel(
    x, w, table, w2, bias2, y, image,
    H, W, tiles_y, tiles_x, x_slice, x_row, y_slice, y_row, image_row,
    X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, ROW: tl.constexpr, K: tl.constexpr,
    PAD: tl.constexpr, TABLE: tl.constexpr, GY: tl.constexpr, GX: tl.constexpr,
    BY: tl.constexpr, BX: tl.constexpr, BK: tl.constexpr, NP: tl.constexpr, CO: tl.constexpr,
    ACT: tl.constexpr, THEN: tl.constexpr, CO2: tl.constexpr, NP2: tl.constexpr,
    ACT2: tl.constexpr, RESIDUAL: tl.constexpr, SLOPE: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """One tile: sums, bias, LeakyReLU, perhaps 1x1 + bias + LeakyReLU, store.

    What is not said by its name:

        x: first element of the window of the first group of the first slice; X values a pixel.
        w: (K padded to BK, NP) of packing.grouped.
        table: (P, P, CO) float32, bias by border class; without TABLE only the first one is read.
        w2: (NP, NP2) of packing.diagonal; unused unless THEN.
        bias2: (CO2,) float32; unused unless THEN.
        y: where the first pixel's first channel goes; Y values a pixel.
        image: float32 slices to be added to what is stored, channel 0; unused unless RESIDUAL.
        H: rows of an image.
        W: columns of an image.
        tiles_y: tiles in a column of the image.
        tiles_x: tiles in a row of it.
        x_slice: values from slice to slice in x; x_row from row to row; likewise y and image.
        X: values a pixel in x; C of them are read: the first ones.
        ROW: values in one row of a window, K in all of them.
        COPY: how many of them can be copied at once; what they begin at is a multiple of it.
    """
    n, tile_y, tile_x, oy, ox = group_origin(H, W, tiles_y, tiles_x, GY, GX, BY, BX)
    # A group outside of the image reads the first one's window and is not stored.
    window = tl.where((oy < H) & (ox < W), oy * x_row + ox * X, 0)
    # The compiler does not see by itself that loads may be as wide as this; it must be told here,
    # where the value is made.
    window = tl.multiple_of(window, [COPY])
    usual = group_bias(table, GY, GX, NP, CO)
    if THEN:
        usual2 = group_bias(bias2, GY, GX, NP2, CO2)
        w2 += tl.arange(0, NP)[:, None] * NP2 + tl.arange(0, NP2)[None, :]
        if NP * NP2 <= EARLY:
            weights = tl.load(w2)
    acc = products(x + n * x_slice, w, window, x_row, X, C, ROW, K, COPY, BY * BX, BK, NP)
    if TABLE:
        acc = add_border_bias(acc, usual, table, tile_y, tile_x, oy, ox, H, W,
                              PAD, GY, GX, BY, BX, NP, CO)  # fmt: skip
    else:
        acc += usual[None, :]
    if ACT:
        acc = leaky(acc, SLOPE)
    if THEN:
        if NP * NP2 > EARLY:
            weights = tl.load(w2)
        acc = tl.dot(acc.to(weights.dtype), weights, input_precision="ieee") + usual2[None, :]
        if ACT2:
            acc = leaky(acc, SLOPE)
        store(acc, y, image, n, oy, ox, H, W, y_slice, y_row, image_row,
              Y, GY, GX, NP2, CO2, RESIDUAL)  # fmt: skip
    else:
        store(acc, y, image, n, oy, ox, H, W, y_slice, y_row, image_row,
              Y, GY, GX, NP, CO, RESIDUAL)  # fmt: skip


@triton.jit
def store(
    acc, y, image, n, oy, ox, H, W, y_slice, y_row, image_row, Y: tl.constexpr,
    GY: tl.constexpr, GX: tl.constexpr, NP: tl.constexpr, CO: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Write the values of groups, (groups, NP), to their pixels."""
    column = tl.arange(0, NP)
    pixel, co = column // CO, column % CO
    yy = oy[:, None] + (pixel // GX)[None, :]
    xx = ox[:, None] + (pixel % GX)[None, :]
    mask = (pixel < GY * GX)[None, :] & (yy < H) & (xx < W)
    if RESIDUAL:
        acc += tl.load(image + n * (H * W) + yy * image_row + xx, mask=mask, other=0.0)
    at = yy * y_row + xx * Y + co[None, :]
    tl.store(y + n * y_slice + at, acc.to(y.dtype.element_ty), mask=mask)
