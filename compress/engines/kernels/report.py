"""What an engine says of its layers: kernel, dense or 2:4, microseconds, floor.

The floor of a layer is the larger of two times: its bytes read and written once in float16, and its
arithmetic, at what an H100 reaches.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from compress.engines.kernels.cuda import launch
from compress.engines.kernels.cuda.moves import Move
from compress.engines.kernels.cuda.products import SPARSE
from compress.engines.kernels.cuda.window import Window
from compress.engines.kernels.memory import Framed
from compress.engines.kernels.plan import Chain, Conv, Pool, Upsample
from compress.engines.kernels.route import Layer, Single, Unit
from compress.engines.kernels.session import Cut, Session
from compress.engines.records import Built
from compress.sparsity.records import EngineColumns

if TYPE_CHECKING:
    from compress.engines.kernels.choose import Found

BYTES_A_SECOND, FLOPS = 3e12, 800e12
"""Memory, and dense float16 tensor cores, which are half as fast as INT8 ones."""


def facts(session: Session, found: "Found") -> Built:
    """For the sidecar of an engine, and `compress inspect`.

    Returns:
        kernels: by layer {kernel, sparse, us, floor_us}, microseconds a slice; of two layers in one
            kernel the first has the time of both, and the second's kernel says with whom;
        seconds: by layer, of a batch;
        eligible, picked: layers with 2:4 weights that a sparse kernel could compute, and that one
            does;
        sparsity: how many of each.
    """
    kernels, seconds = dict[str, EngineColumns](), dict[str, float]()
    for unit, cut, ms in found.units:
        rows = list(_rows(session, unit, cut, ms))
        kernels |= dict(rows)
        if ms < math.inf:  # else the time for measuring was up
            seconds |= {name: ms / 1e3 if at == 0 else 0.0 for at, (name, _) in enumerate(rows)}
    channels = launch.channels_of(session.plan)
    served = [op for op in session.plan.convs() if op.sparse and launch.task(op, None, channels)]
    eligible = [_layer(op.name) for op in served]
    picked = [name for name, row in kernels.items() if row["sparse"]]
    return {
        "kernels": kernels,
        "seconds": seconds,
        "eligible": eligible,
        "picked": picked,
        "sparsity": {"eligible": len(eligible), "picked": len(picked)},
    }


def _rows(
    session: Session, unit: Unit, cut: Cut | None, ms: float
) -> Iterator[tuple[str, EngineColumns]]:
    """What is said of each layer of a unit; time and floor belong to the first one."""
    convs = [op for op in parts(unit) if isinstance(op, Conv)]
    sparse = isinstance(cut, Window) and cut.kind in SPARSE
    names = [(op.name, sparse and op.size > 1) for op in convs]
    names += [(op.then, False) for op in convs if op.then]
    floor = sum(floor_us(session, op) for op in parts(unit))
    for at, (name, is_sparse) in enumerate(names):
        said = kernel(unit, cut) if at == 0 else f"in that of {names[0][0]}"
        yield (
            _layer(name),
            {
                "kernel": said,
                "sparse": is_sparse,
                "us": 1e3 * ms / len(session.image) if at == 0 and ms < math.inf else None,
                "floor_us": floor if at == 0 else None,
            },
        )


def _layer(name: str) -> str:
    """A unit's name in the network -> its convolution's."""
    return f"{name}.conv"


def kernel(unit: Unit, cut: Cut | None) -> str:
    """What computes a unit, in words."""
    if isinstance(cut, Move):
        return "CUDA"
    if not isinstance(cut, Window):
        return "PyTorch" if isinstance(unit, Conv) and unit.plain else "Triton"
    words = {
        "mma.sp": "mma.sp (2:4)", "wgmma.sp": "wgmma.sp (2:4)", "stem": "mma",
        "int8": "mma (INT8)", "int8.sp": "mma.sp (INT8, 2:4)",
    }  # fmt: skip
    layer = unit if isinstance(unit, Layer) else None
    mixed = "bilinear x2 + " if layer and isinstance(layer.first, Upsample) else ""
    pooled = " + max-pool" if layer and layer.pool else ""
    return f"CUDA, {mixed}{words.get(cut.kind, cut.kind)}{pooled}"


def parts(unit: Unit) -> list[Single]:
    """The operations of a unit."""
    return [unit.first, unit.second] if isinstance(unit, Chain | Layer) else [unit]


def floor_us(session: Session, op: Single) -> float:
    """The least time of an operation for one slice, in microseconds on an H100."""
    moved, flops = work(op, session.buffers[op.source.buffer], session.buffers[op.target.buffer])
    rate = 2 * FLOPS if isinstance(op, Conv) and op.int8 else FLOPS
    return max(moved / BYTES_A_SECOND, flops / rate) * 1e6


def work(op: Single, x: Framed, y: Framed) -> tuple[int, int]:
    """Bytes and floating-point operations of an operation, for one slice, at true widths."""
    inside, out = sum(op.source.slots), sum(op.target.slots)
    read, written = x.height * x.width, y.height * y.width
    moved = 2 * (inside * read + out * written)
    if isinstance(op, Pool | Upsample):
        return moved, 0
    flops = 2 * read * op.size**2 * inside * op.out
    return moved, flops + (2 * read * op.out * out if op.then else 0)
