"""Max-pool and upsampling in CUDA C++: how they are cut, and a call."""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.memory import Framed
from compress.engines.kernels.plan import Pool, Upsample

THREADS = 256
STRIPS = (1, 2, 4, 8, 16, 32)
"""Heights of strips to be measured."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One cut: a block computes `strip` rows."""

    strip: int
    """Rows of the result."""


class Arguments(ctypes.Structure):
    """As in moves.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "y")),
        *((name, ctypes.c_longlong) for name in ("x_slice", "y_slice")),
        *((name, ctypes.c_int) for name in ("x_row", "y_row", "height", "width", "high", "wide")),
        ("strip", ctypes.c_int),
        *((name, ctypes.c_float) for name in ("ratio_y", "ratio_x")),
    ]


def source(op: Pool | Upsample, buffers: Mapping[str, Framed]) -> compiler.Source:
    """The kernel of an operation; strips of all heights are one kernel."""
    x, y = buffers[op.source.buffer], buffers[op.target.buffer]
    values = {"POOL": int(isinstance(op, Pool)), "CHANNELS": op.target.channels}
    values |= {"X": x.strides[2], "Y": y.strides[2]}
    return compiler.Source("moves.cu", "move", tuple(values.items()))


def ratios(x: Framed, y: Framed) -> dict[str, float]:
    """Rows and columns of x for each of y, corners on corners."""
    return {
        "ratio_y": (x.height - 1) / max(y.height - 1, 1),
        "ratio_x": (x.width - 1) / max(y.width - 1, 1),
    }


def call(op: Pool | Upsample, buffers: Mapping[str, Framed], cut: Move) -> Callable[[], None]:
    """A max-pool or an upsampling as a call without arguments.

    Raises:
        compiler.Failed: the kernel does not compile.
    """
    x, y = buffers[op.source.buffer], buffers[op.target.buffer]
    first, last = x.at(0, op.source.start), y.at(0, op.target.start)
    arguments = Arguments(
        x=first.data_ptr(), y=last.data_ptr(), x_slice=x.strides[0], y_slice=y.strides[0],
        x_row=x.strides[1], y_row=y.strides[1], height=x.height, width=x.width, high=y.height,
        wide=y.width, strip=cut.strip, **ratios(x, y),
    )  # fmt: skip
    kernel = compiler.loaded(source(op, buffers), THREADS, 0, x.whole.device)
    across = -(-y.width * op.target.channels // 8 // THREADS)
    blocks = len(y.whole) * across * -(-y.height // cut.strip)
    return kernel.call(blocks, arguments, (first, last))
