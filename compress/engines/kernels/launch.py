"""From an operation, its buffers and a tiling to a kernel's arguments.

Each function prepares everything once and returns a call without arguments.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from compress.engines.kernels.memory import Framed
from compress.engines.kernels.packing import diagonal, grouped, padded, power, row_length, spread
from compress.engines.kernels.plan import Chain, Conv, Pool, Slice, Upsample
from compress.engines.kernels.tiling import Tiling
from compress.models.ddnet import SLOPE

Buffers = Mapping[str, Framed]
Tensors = Mapping[str, Tensor]
Call = Callable[[], object]
BLOCK = 256
"""Pieces of eight values in a program that only moves."""
SMALL = ((1 << 13, 64), (1 << 17, 128))
"""So many pieces at most -> those in a program that upsamples: few large programs would leave most
of a GPU idle. On an H100 1.8 us instead of 2.0 at 64x64, 2.1 instead of 2.3 at 128x128."""


def conv(
    op: Conv, buffers: Buffers, tensors: Tensors, image: Tensor, cut: Tiling,
) -> Call:  # fmt: skip
    """A convolution; arguments as `plain.conv` has them, and how it is cut."""
    from compress.engines.kernels.conv import conv_kernel

    x, y = buffers[op.source.buffer], buffers[op.target.buffer]
    pad, inside = op.size // 2, op.source.channels
    out = op.target.channels if not op.then else padded(op.out)
    weight = spread(tensors[f"{op.name}.weight"], op.source.positions, inside, out)
    matrix = grouped(weight, cut.gy, cut.gx, cut.bk).to(x.whole.dtype).contiguous()
    w2, bias2 = _second(op, tensors, out, cut, matrix)
    row = row_length(inside, op.size, cut.gx)
    grid, tiles = _grid(x, cut)
    return functools.partial(
        conv_kernel[grid],
        x.at(pad, op.source.start), matrix, _table(tensors, op.name, out), w2, bias2,
        y.at(0, op.target.start), image,
        x.height, x.width, *tiles, *x.strides[:2], *y.strides[:2], x.width,
        X=x.strides[2], Y=y.strides[2], C=inside, ROW=row, K=(cut.gy + 2 * pad) * row, PAD=pad,
        TABLE=op.table, GY=cut.gy, GX=cut.gx, BY=cut.by, BX=cut.bx, BK=cut.bk,
        NP=matrix.shape[1], CO=out, ACT=op.activate, THEN=bool(op.then), CO2=op.target.channels,
        NP2=w2.shape[1], ACT2=op.then_activate, RESIDUAL=op.residual, SLOPE=SLOPE, COPY=cut.copy,
        num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip


def chain(op: Chain, buffers: Buffers, tensors: Tensors, cut: Tiling) -> Call:
    """A convolution or max-pool, and the 1x1 behind it, in one kernel."""
    from compress.engines.kernels.chain import chain_kernel

    first, second = op.first, op.second
    if isinstance(first, Pool):
        return _pool_chain(first, second, buffers, tensors, cut)
    x, y = buffers[first.source.buffer], buffers[first.target.buffer]
    z = buffers[second.target.buffer]
    pad, inside, out = first.size // 2, first.source.channels, first.target.channels
    old, out2 = second.source.channels - out, second.target.channels
    weight = spread(tensors[f"{first.name}.weight"], first.source.positions, inside, out)
    matrix = grouped(weight, cut.gy, cut.gx, cut.bk).to(x.whole.dtype).contiguous()
    behind = spread(tensors[f"{second.name}.weight"], second.source.positions, old + out, out2)
    block = min(cut.bk, power(cut.gy * cut.gx * old))
    before = grouped(behind[:, :old], cut.gy, cut.gx, block).to(matrix).contiguous()
    new = diagonal(behind[:, old:], cut.gy * cut.gx, matrix.shape[1]).to(matrix).contiguous()
    row = row_length(inside, first.size, cut.gx)
    grid, tiles = _grid(x, cut)
    return functools.partial(
        chain_kernel[grid],
        x.at(pad, first.source.start), matrix, _table(tensors, first.name, out),
        y.at(0, first.target.start), y.at(0), before, new,
        _table(tensors, second.name, out2)[0, 0].contiguous(), z.at(0, second.target.start),
        x.height, x.width, *tiles, *x.strides[:2], *y.strides[:2], *z.strides[:2],
        X=x.strides[2], Y=y.strides[2], Z=z.strides[2], C=inside, ROW=row,
        K=(cut.gy + 2 * pad) * row, PAD=pad, TABLE=first.table, OLD=old, OLD_BK=block,
        GY=cut.gy, GX=cut.gx, BY=cut.by, BX=cut.bx, BK=cut.bk, NP=matrix.shape[1], CO=out,
        NP2=new.shape[1], CO2=out2, ACT=first.activate, ACT2=second.activate, SLOPE=SLOPE,
        COPY=cut.copy, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip


def _pool_chain(first: Pool, second: Conv, buffers: Buffers, tensors: Tensors, cut: Tiling) -> Call:
    from compress.engines.kernels.chain import pool_chain_kernel

    x, y, z = (buffers[one.buffer] for one in (first.source, first.target, second.target))
    inside, out = first.source.channels, second.target.channels
    weight = spread(tensors[f"{second.name}.weight"], second.source.positions, inside, out)
    matrix = diagonal(weight, 1, power(inside)).to(x.whole.dtype).contiguous()
    grid, tiles = _grid(y, replace(cut, gy=1, gx=1))
    return functools.partial(
        pool_chain_kernel[grid],
        x.at(0, first.source.start), y.at(0, first.target.start), matrix,
        _table(tensors, second.name, out)[0, 0].contiguous(), z.at(0, second.target.start),
        x.height, x.width, y.height, y.width, *tiles,
        *x.strides[:2], *y.strides[:2], *z.strides[:2],
        X=x.strides[2], Y=y.strides[2], Z=z.strides[2], C=inside, CP=power(inside),
        BY=cut.by, BX=cut.bx, NP=matrix.shape[1], CO=out, ACT=second.activate, SLOPE=SLOPE,
        num_warps=cut.warps,
    )  # fmt: skip


def pool(op: Pool, buffers: Buffers) -> Call:
    """Max-pool."""
    from compress.engines.kernels.moves import pool_kernel

    return _move(pool_kernel, buffers, op.source, op.target, BLOCK)


def upsample(op: Upsample, buffers: Buffers) -> Call:
    """Bilinear x2."""
    from compress.engines.kernels.moves import upsample_kernel

    x, y = buffers[op.source.buffer], buffers[op.target.buffer]
    ratio_y = (x.height - 1) / max(y.height - 1, 1)
    ratio_x = (x.width - 1) / max(y.width - 1, 1)
    block = next((some for most, some in SMALL if _pieces(y, op.target) <= most), BLOCK)
    return _move(upsample_kernel, buffers, op.source, op.target, block, ratio_y, ratio_x)


def _pieces(y: Framed, target: Slice) -> int:
    return len(y.whole) * y.height * y.width * target.channels // 8


def _move(
    kernel: object, buffers: Buffers, source: Slice, target: Slice, block: int, *more: float
) -> Call:
    x, y = buffers[source.buffer], buffers[target.buffer]
    total = _pieces(y, target)
    return functools.partial(
        kernel[(-(-total // block),)],  # type: ignore[index]
        x.at(0, source.start), y.at(0, target.start),
        x.height, x.width, y.height, y.width, total, *x.strides[:2], *y.strides[:2], *more,
        X=x.strides[2], Y=y.strides[2], C=target.channels, BLOCK=block,
    )  # fmt: skip


def _grid(x: Framed, cut: Tiling) -> tuple[tuple[int], tuple[int, int]]:
    """Programs of a cut, and tiles in a column and in a row of a slice."""
    tiles = -(-x.height // (cut.gy * cut.by)), -(-x.width // (cut.gx * cut.bx))
    return (len(x.whole) * tiles[0] * tiles[1],), tiles


def _table(tensors: Tensors, name: str, out: int) -> Tensor:
    """Bias by border class and channel in memory, float32."""
    table = tensors[f"{name}.bias"].float()
    return torch.nn.functional.pad(table, (0, out - table.shape[2])).contiguous()


def _second(
    op: Conv, tensors: Tensors, out: int, cut: Tiling, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """Matrix and bias of the 1x1 that follows; where there is none, what has the right types."""
    if not op.then:
        return matrix, _table(tensors, op.name, out)
    positions = list(range(op.out))
    weight = spread(tensors[f"{op.then}.weight"], positions, out, op.target.channels)
    w2 = diagonal(weight, cut.gy * cut.gx, matrix.shape[1])
    bias = _table(tensors, op.then, op.target.channels)[0, 0].contiguous()
    return w2.to(matrix).contiguous(), bias
