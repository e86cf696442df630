"""Weights in the order in which threads of a warp hold them for tensor cores.

A fragment of mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16"): thread 4 g + t holds four
pairs of the 16 x 16 matrix, at rows g, g + 8, g, g + 8 and columns 2 t, 2 t, 2 t + 8, 2 t + 8. Rows
are output channels, columns input channels.

Of a 2:4 matrix of 16 x 32, mma.sp takes the 16 x 16 values that are kept, as such a fragment, and
for each group of four columns the places of its two values, four bits, eight groups a row:

    thread 4 g + 2 s        groups 0 .. 3 of row g | of row g + 8    s: which of two products that
    thread 4 g + 2 s + 1    groups 4 .. 7 of row g | of row g + 8    share one word the bits are of

In INT8 a fragment of mma.m16n8k32 has four words of four values for each thread, of the same rows
and of columns 4 t .. 4 t + 3, and those 16 behind them. Of a 2:4 matrix of 16 x 64, mma.sp.m16n8k64
takes the 16 x 32 values that are kept as such a fragment, and a word of metadata from every thread,
eight groups of one row:

    thread 4 g + 2 h        groups 8 h .. 8 h + 7 of row g
    thread 4 g + 2 h + 1    the same of row g + 8
"""

import torch
from torch import Tensor

from compress.engines.kernels.cuda.products import Kind, products

_LANE = torch.arange(32)
_ROWS = (_LANE // 4)[:, None] + torch.tensor([0, 8, 0, 8])
_COLUMNS = 2 * (_LANE % 4)[:, None] + torch.tensor([0, 0, 8, 8])
_CHANNELS = torch.tensor([*range(0, 16, 2), *range(1, 16, 2)])
"""Row of a product -> its channel: rows g and g + 8 are neighbours in memory."""


def dense(matrices: Tensor) -> Tensor:
    """Fragments of (..., 16, 16) matrices: (..., 32, 4, 2)."""
    pairs = torch.stack([_COLUMNS, _COLUMNS + 1], -1)
    return matrices[..., _ROWS[..., None], pairs]


def sparse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Fragments (..., 32, 4, 2) of 2:4 matrices (..., 16, 32), and the bits of each row, int64.

    Raises:
        ValueError: more than two of four columns hold something.
    """
    values, bits = kept(matrices)
    return dense(values), (bits << 4 * torch.arange(8)).sum(-1)


def kept(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """What 2:4 matrices (..., 16, K) keep, (..., 16, K / 2), and four bits of each group of four.

    Raises:
        ValueError: more than two of four columns hold something.
    """
    groups = torch.unflatten(matrices, -1, (-1, 4))
    if bool(((groups != 0).sum(-1) > 2).any()):
        raise ValueError("the weight is not 2:4")
    places = (
        (groups != 0).byte().argsort(dim=-1, descending=True, stable=True)[..., :2].sort(-1).values
    )
    return groups.gather(-1, places).flatten(-2), places[..., 0] | places[..., 1] << 2


def metadata(rows: Tensor) -> Tensor:
    """Words of pairs of products, (words, 32) int32, from the rows' bits (2 words, 16)."""
    upper, lower = rows[:, :8], rows[:, 8:]
    first = upper & 0xFFFF | (lower & 0xFFFF) << 16
    second = upper >> 16 | lower >> 16 << 16
    both = torch.unflatten(torch.stack([first, second], -1), 0, (-1, 2))  # (words, s, g, which)
    return _int32(both.permute(0, 2, 1, 3).flatten(1))


def window_mma(weight: Tensor) -> Tensor:
    """Weights (out, in, k, k) for window_mma.cu, dense: fragments by dx, step of 16, dy, 16 out."""
    return dense(_by_tap(weight, 16)).contiguous()


def window_mma_sparse(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same of 2:4 weights by steps of 32 channels, 16 by pairs of taps; and their metadata.

    Raises:
        ValueError: the weight is not 2:4.
    """
    if weight.shape[1] == 16:
        return _paired(weight)
    values, rows = sparse(_by_tap(weight, 32))
    by_dx = rows.flatten(1, 3)  # (dx, products, 16)
    even = torch.nn.functional.pad(by_dx, (0, 0, 0, by_dx.shape[1] % 2))
    return values.contiguous(), metadata(even.flatten(0, 1))


def dense_int8(matrices: Tensor) -> Tensor:
    """Fragments of (..., 16, 32) matrices of int8: (..., 32, 4, 4)."""
    columns = 4 * (_LANE % 4)[:, None] + torch.tensor([0, 0, 16, 16])
    return matrices[..., _ROWS[..., None], columns[..., None] + torch.arange(4)]


def window_int8(weight: Tensor, kind: Kind) -> tuple[Tensor, ...]:
    """Weights (out, in, k, k) int8 for window_int8.cu; of 2:4 weights their metadata, too.

    Fragments lie by shift, step, dy, 16 out; those of the last column of taps behind them.

    Raises:
        ValueError: the kind is for 2:4 weights, and these are not.
    """
    matrices = _int8_products(weight, kind)
    if kind == "int8":
        return (dense_int8(matrices).contiguous(),)
    values, bits = kept(matrices)
    words = torch.unflatten(bits, -1, (2, 8)) << 4 * torch.arange(8)  # (..., row, half, group)
    by_thread = torch.unflatten(words.sum(-1), -2, (2, 8)).permute(0, 2, 3, 1)  # (.., g, half, r)
    return dense_int8(values).contiguous(), _int32(by_thread.flatten(1))


def _int8_products(weight: Tensor, kind: Kind) -> Tensor:
    """The matrices (products, 16, K) of a convolution, in order; see `window.products`."""
    side, inside = weight.shape[-1], weight.shape[1]
    shared = products(side, inside, kind)
    parts = torch.unflatten(weight, 0, (-1, 16))[:, _CHANNELS]  # (16 out, 16, in, dy, dx)
    none = torch.zeros_like(parts[..., 0, 0])

    def tap(dy: int, dx: int) -> Tensor:
        return parts[..., dy, dx] if dy in range(side) and dx in range(side) else none

    found = list[Tensor]()
    for across in range(shared.across):
        row = range(across * shared.taps, (across + 1) * shared.taps)
        for step in range(shared.steps):
            channels = slice(step * shared.k, (step + 1) * shared.k)
            for dy in range(side):
                found += torch.cat([tap(dy, dx) for dx in row], -1)[..., channels]
    for down in range(shared.down):
        last = min((down + 1) * shared.taps - 1, side - 1)
        first = down * shared.taps  # before that, other products have them
        column = range(last - shared.taps + 1, last + 1)
        found += torch.cat([tap(dy, side - 1) if dy >= first else none for dy in column], -1)
    return torch.stack(found)


def stem(weight: Tensor) -> Tensor:
    """Weights (16, 1, 7, 7) for stem.cu: rows 0 1 | 2 3 | 4 5 | 1 2 | 3 4 | 5 6 of eight taps each.

    Both halves of the channels lie as the halves of a fragment's rows do.
    """
    taps = torch.nn.functional.pad(weight[_column_channels(16), 0], (0, 1))  # (16, 7, 8)
    pairs = torch.stack([taps[:, row : row + 2].flatten(1) for row in (0, 2, 4, 1, 3, 5)])
    return dense(pairs).contiguous()


def bottleneck_mma(weight: Tensor, fours: bool = False) -> Tensor:
    """Weights (out, in) of the 1x1 before it: fragments by 16 out, step of 16.

    Args:
        weight: for each channel in memory.
        fours: whether rows g and g + 8 of two products are four neighbours, and not two of one.
    """
    parts = torch.unflatten(weight, 0, (-1, 16))[:, _CHANNELS]
    if fours:
        rows = torch.arange(16)
        pairs = 4 * (rows % 8) + rows // 8  # of the first product; 2 more are the second's
        parts = torch.unflatten(weight, 0, (-1, 32))[:, torch.stack([pairs, pairs + 2])].flatten(
            0, 1
        )
    return dense(torch.unflatten(parts, -1, (-1, 16)).transpose(1, 2)).contiguous()


def then_mma(weight: Tensor) -> Tensor:
    """Weights (1 or 16, in) of the 1x1 behind it: fragments by step of 16, in the sums' order.

    One output channel is no product of matrices: float32 (in,).
    """
    if len(weight) == 1:
        return weight[0].float().contiguous()
    parts = torch.unflatten(weight[_CHANNELS], 1, (-1, 16))[..., _CHANNELS]
    return dense(parts.transpose(0, 1)).contiguous()


def window_wgmma(weight: Tensor) -> Tensor:
    """Weights (out, in, k, k) for window_wgmma.cu: [dx][step][half of 16][out dy + column][8]."""
    columns = weight[_column_channels(len(weight))]
    parts = torch.unflatten(columns, 1, (-1, 2, 8))  # (column, step, half, 8, dy, dx)
    return parts.permute(5, 1, 2, 4, 0, 3).contiguous()


def window_wgmma_sparse(weight: Tensor) -> tuple[Tensor, Tensor]:
    """2:4 weights (32, in, k, k) for window_wgmma_sparse.cu, and their metadata.

    Weights lie as [dx][step of 32][half][dy][out][8] with zeros above the first dy and below the
    last one. Metadata are words of each thread of a warpgroup, by pairs of products: of the input
    row's place among k + 1, dx, and the step.

    Raises:
        ValueError: the weight is not 2:4.
    """
    channels = torch.cat([_CHANNELS, 16 + _CHANNELS])
    wide = torch.nn.functional.pad(weight[channels], (0, 0, 1, 1))  # (out, in, dy, dx)
    parts = torch.unflatten(wide, 1, (-1, 32)).permute(4, 1, 3, 0, 2)  # (dx, step, dy, out, 32)
    values, bits = kept(parts)
    rows = (bits << 4 * torch.arange(8)).sum(-1)  # (dx, step, dy, out)
    both = torch.cat([rows[:, :, :-1], rows[:, :, 1:]], -1)  # what an input row adds to: 64 rows
    products = torch.unflatten(both.permute(2, 0, 1, 3).flatten(0, 2), -1, (4, 16))
    even = torch.nn.functional.pad(products, (0, 0, 0, 0, 0, len(products) % 2))
    words = torch.stack([metadata(even[:, warp]) for warp in range(4)], 1)
    halves = torch.unflatten(values, -1, (2, 8)).permute(0, 1, 4, 2, 3, 5)
    return halves.contiguous(), words.contiguous()


def bottleneck_wgmma(weight: Tensor) -> Tensor:
    """Weights (out, in) of the 1x1 before it: [step][half of 16][out][8]."""
    return torch.unflatten(weight, 1, (-1, 2, 8)).permute(1, 2, 0, 3).contiguous()


def then_wgmma(weight: Tensor) -> Tensor:
    """Weights (1 or 16, in) of the 1x1 behind it: [step][8 columns][half][thread][2]."""
    ordered = weight[:, _column_channels(weight.shape[1])]
    inside = torch.unflatten(ordered, 1, (-1, 2, 4, 2))
    if len(weight) == 1:
        columns = _first(inside, 8)[None]
    else:
        n = torch.arange(8)
        columns = torch.stack([inside[4 * (n // 2) + 2 * block + n % 2] for block in (0, 1)])
    # (block, column g, step, half, t, 2) -> (step, block, half, g, t, 2)
    return columns.permute(2, 0, 3, 1, 4, 5).contiguous()


def _by_tap(weight: Tensor, k: int) -> Tensor:
    """(out, in, k, k) -> (dx, step of k, dy, 16 out, 16, k)."""
    parts = torch.unflatten(torch.unflatten(weight, 0, (-1, 16))[:, _CHANNELS], 2, (-1, k))
    return parts.permute(5, 2, 4, 0, 1, 3)


def _paired(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two taps of 16 channels are one product, for odd k.

    Of each dy the dx 0|1, 2|3, ...; then, of the last dx, the dy 0|1, 2|3, ..., -|k - 1.
    """
    taps, k = weight[_CHANNELS], weight.shape[-1]
    even = range(0, k - 1, 2)
    pairs = [(taps[..., dy, dx], taps[..., dy, dx + 1]) for dy in range(k) for dx in even]
    last = taps[..., k - 1]
    pairs += [(last[..., dy], last[..., dy + 1]) for dy in even]
    pairs += [(torch.zeros_like(last[..., 0]), last[..., k - 1])]
    values, rows = sparse(torch.stack([torch.cat(pair, -1) for pair in pairs]))
    whole = torch.nn.functional.pad(rows, (0, 0, 0, len(rows) % 2))
    return values.contiguous(), metadata(whole)


def _column_channels(out: int) -> Tensor:
    """Column of a wgmma -> its channel: a thread's columns are neighbours in memory."""
    j = torch.arange(out)
    return out // 4 * (j % 8 // 2) + j // 8 * 2 + j % 2


def _first(rows: Tensor, count: int) -> Tensor:
    """One row, and zeros behind it."""
    wide = rows.new_zeros(count, *rows.shape[1:])
    wide[0] = rows[0]
    return wide


def _int32(words: Tensor) -> Tensor:
    """The low 32 bits."""
    return (words - (words >> 31 & 1) * 2**32).to(torch.int32).contiguous()
