"""From an operation, its buffers and a cut to a call of a kernel in CUDA C++."""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compress.engines.kernels.cuda import compiler, fragments, moves
from compress.engines.kernels.cuda.products import SPARSE, Kind
from compress.engines.kernels.cuda.window import Task, Window, shared
from compress.engines.kernels.memory import Framed
from compress.engines.kernels.packing import padded, spread
from compress.engines.kernels.plan import OUTPUT, Conv, Plan, Pool, Slice, Upsample
from compress.engines.kernels.served import INSIDE, OUT, SIDES
from compress.models.ddnet import SLOPE

Buffers = Mapping[str, Framed]
Tensors = Mapping[str, Tensor]
POINTERS = (
    "x", "y", "weights", "metadata", "bias", "bottleneck_weights", "bottleneck_bias",
    "bottleneck_border", "then_weights", "then_bias", "image",
)  # fmt: skip
WIDTHS = {(side, inside) for side in SIDES for inside in INSIDE} | {(7, 1)}
"""Side of the convolution and input channels in memory, of those that there are kernels for."""
NUMBERS = ("x_row", "y_row", "height", "width", "strip")
UPSAMPLED = (8, 16, 32)
"""Channels in memory that a kernel can upsample."""


class Arguments(ctypes.Structure):
    """As in arguments.cuh; a kernel takes no more of it than it has there."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_longlong) for name in ("x_slice", "y_slice")),
        *((name, ctypes.c_int) for name in NUMBERS),
        ("low", ctypes.c_void_p),
        ("low_slice", ctypes.c_longlong),
        *((name, ctypes.c_int) for name in ("low_row", "low_height", "low_width")),
        *((name, ctypes.c_float) for name in ("ratio_y", "ratio_x")),
        ("pooled", ctypes.c_void_p),
        ("pooled_slice", ctypes.c_longlong),
        ("pooled_row", ctypes.c_int),
        ("steps", ctypes.c_void_p),
        ("affine", ctypes.c_void_p),
    ]


def task(
    op: Conv, before: Conv | Upsample | None, channels: Callable[[str], int],
    pool: Pool | None = None,
) -> Task | None:  # fmt: skip
    """What a kernel has to compute; None where there is none for it.

    Args:
        op: the convolution: a 5x5, a 3x3 or the 7x7 of the stem.
        before: the 1x1 or the upsampling whose outputs it reads, to be computed with it.
        channels: of a buffer by its name, those of a pixel in memory.
        pool: the max-pool of its results, to be computed with it.
    """
    if op.table or op.plain or not op.activate:
        return None
    out, then = _outputs(op)
    if (op.size, op.source.channels) not in WIDTHS or then not in (0, 1, 16):
        return None
    if out not in OUT or (op.size == 7 and (out, then) != (16, 0)):
        return None
    if isinstance(before, Conv) and (then or not _served(before)):
        return None
    if pool is not None and op.size != 7:
        return None
    if isinstance(before, Upsample) and not _mixed(before, op):
        return None
    low = before if isinstance(before, Upsample) else None
    return Task(
        side=op.size, inside=op.source.channels, out=out, then=then, then_activate=op.then_activate,
        bottleneck=before.source.channels if isinstance(before, Conv) else 0,
        upsampled=low.target.channels if low else 0, low=channels(low.source.buffer) if low else 0,
        residual=op.residual, x=channels(_read(op, before).buffer), y=channels(op.target.buffer),
        pool=channels(pool.target.buffer) if pool else 0, int8=op.int8,
    )  # fmt: skip


def channels_of(plan: Plan) -> Callable[[str], int]:
    """Channels of a pixel by buffer, for `task`."""
    return lambda name: plan.buffers[name].channels if name != OUTPUT else 1


class Packed:
    """Weights of a convolution, and of the 1x1 before and behind it, as kernels read them.

    Args:
        op: the convolution.
        before: what makes its input; an upsampling has no weights.
        tensors: of the plan.
    """

    def __init__(self, op: Conv, before: Conv | Upsample | None, tensors: Tensors) -> None:
        self.op, self.tensors = op, tensors
        self.before = before if isinstance(before, Conv) else None
        self._made: dict[Kind, dict[str, Tensor]] = {}

    def of(self, kind: Kind, about: Task) -> dict[str, Tensor]:
        """Arguments by name; put in order once."""
        if kind not in self._made:
            self._made[kind] = {
                **_window(self.op, about, self.tensors, kind),
                **(_bottleneck(self.before, self.op, self.tensors, kind) if self.before else {}),
                **(_then(self.op, about, self.tensors, kind) if about.then else {}),
            }
        return self._made[kind]


def call(
    op: Conv, before: Conv | Upsample | None, buffers: Buffers, tensors: Tensors, image: Tensor,
    cut: Window, packed: Packed | None = None, pool: Pool | None = None,
) -> Callable[[], None]:  # fmt: skip
    """A 5x5, perhaps with the 1x1 or the upsampling before it, as a call without arguments.

    Args:
        op: the 5x5.
        before: what makes its input in the same kernel, or None.
        buffers: by name.
        tensors: of the plan.
        image: (N, 1, H, W) float32, for a residual.
        cut: how it is cut.
        packed: its weights, where several cuts are tried.
        pool: the max-pool of the stem's results in the same kernel, or None.

    Raises:
        compiler.Failed: the kernel does not compile or does not fit this GPU.
    """
    about = task(op, before, lambda name: buffers[name].strides[2], pool)
    if about is None:
        raise compiler.Failed(f"{op.name}: no such kernel")
    source = _read(op, before)
    x, y = buffers[source.buffer], buffers[op.target.buffer]
    made = compiler.source(about, cut)
    kernel = compiler.loaded(made, cut.threads, shared(about, cut), image.device)
    given = {
        **(packed or Packed(op, before, tensors)).of(cut.kind, about),
        "x": x.at(0, source.start),
        "y": y.at(0, op.target.start),
        "image": image,
    }
    numbers = {}
    if isinstance(before, Upsample):
        low = buffers[before.source.buffer]
        given["low"], numbers = low.at(0, before.source.start), _low(low, x)
    if pool:
        z = buffers[pool.target.buffer]
        given["pooled"] = z.at(0, pool.target.start)
        numbers = {"pooled_slice": z.strides[0], "pooled_row": z.strides[1]}
    arguments = Arguments(
        **{name: one.data_ptr() for name, one in given.items()}, **numbers,
        x_slice=x.strides[0], y_slice=y.strides[0], x_row=x.strides[1], y_row=y.strides[1],
        height=x.height, width=x.width, strip=cut.strip,
    )  # fmt: skip
    across, down = -(-x.width // cut.tile(about)), -(-x.height // (cut.strip * cut.strips))
    return kernel.call(len(x.whole) * across * down, arguments, given)


def _read(op: Conv, before: Conv | Upsample | None) -> Slice:
    """What lies in memory: behind an upsampling, the other channels and the frame."""
    return before.source if isinstance(before, Conv) else op.source


def _low(low: Framed, x: Framed) -> dict[str, float]:
    """What a kernel is told of the buffer that it upsamples."""
    return {
        "low_slice": low.strides[0], "low_row": low.strides[1], "low_height": low.height,
        "low_width": low.width, **moves.ratios(low, x),
    }  # fmt: skip


def _outputs(op: Conv) -> tuple[int, int]:
    """Channels in memory of the convolution, and of the 1x1 behind it."""
    if not op.then:
        return op.target.channels, 0
    return padded(op.out), op.target.channels


def _served(before: Conv) -> bool:
    wide = before.source.channels % 16 == 0 and before.source.channels <= 80
    return before.size == 1 and wide and before.activate and not before.plain and not before.then


def _mixed(before: Upsample, op: Conv) -> bool:
    """Whether a convolution can compute an upsampling of its first channels."""
    first = before.target.buffer == op.source.buffer and before.target.start == op.source.start
    channels = before.target.channels
    return first and op.size in (3, 5) and channels in UPSAMPLED and channels < op.source.channels


def _window(op: Conv, about: Task, tensors: Tensors, kind: Kind) -> dict[str, Tensor]:
    if op.int8:
        return _window_int8(op, about, tensors, kind)
    weight = _half(tensors[f"{op.name}.weight"], op.source.positions, about.inside, about.out)
    bias = _bias(tensors, op.name, about.out)
    if kind in SPARSE:
        wgmma = kind == "wgmma.sp"
        order = fragments.window_wgmma_sparse if wgmma else fragments.window_mma_sparse
        values, words = order(weight)
        return {"weights": _on(values, bias), "metadata": _on(words, bias), "bias": bias}
    orders = {"wgmma": fragments.window_wgmma, "stem": fragments.stem}
    made = orders.get(kind, fragments.window_mma)
    return {"weights": _on(made(weight), bias), "bias": bias}


def _window_int8(op: Conv, about: Task, tensors: Tensors, kind: Kind) -> dict[str, Tensor]:
    whole = tensors[f"{op.name}.weight"].cpu()
    weight = spread(whole, op.source.positions, about.inside, about.out).to(torch.int8)
    bias, steps = _bias(tensors, op.name, about.out), tensors[f"{op.name}.steps"].float()
    affine = bias.new_zeros(about.inside, 2)
    affine[op.source.positions] = _affine(op, tensors).to(affine)
    values, *words = fragments.window_int8(weight, kind)
    return {
        "weights": _on(values, bias),
        **({"metadata": _on(words[0], bias)} if words else {}),
        "bias": bias,
        "steps": torch.nn.functional.pad(steps, (0, about.out - len(steps))).contiguous(),
        # of each piece of eight channels the first two, then of each the next two, ...
        "affine": torch.unflatten(affine, 0, (-1, 4, 2)).transpose(0, 1).contiguous(),
    }


def _affine(op: Conv, tensors: Tensors) -> Tensor:
    """Scale and shift (in, 2) that take an input from -128 .. 127 steps to 0 .. 1."""
    scale, shift = tensors[f"{op.name}.affine"].double().unbind(1)
    return torch.stack([scale / 255, (shift + 128) / 255], dim=1)


def _bottleneck(before: Conv, op: Conv, tensors: Tensors, kind: Kind) -> dict[str, Tensor]:
    inside, out = before.source.channels, op.source.channels
    weight = _half(tensors[f"{before.name}.weight"], before.source.positions, inside, out)
    bias = _bias(tensors, before.name, out)
    if op.int8:
        made = fragments.bottleneck_mma(weight[:, :, 0, 0], fours=out > 16)
        scale, shift = _affine(op, tensors).unbind(1)
        leaky = torch.stack([(1 + SLOPE) / 2 * scale, (1 - SLOPE) / 2 * scale, shift], 1)
        affine = bias.new_zeros(out, 4)
        affine[op.source.positions, :3] = leaky.to(bias)
        return {
            "bottleneck_weights": _on(made, bias), "bottleneck_bias": bias, "affine": affine,
        }  # fmt: skip
    border = bias.new_zeros(out, dtype=torch.float16)
    border[op.source.positions] = tensors[f"{op.name}.border"].to(border)
    wgmma = kind == "wgmma"
    order = fragments.bottleneck_wgmma if wgmma else fragments.bottleneck_mma
    return {
        "bottleneck_weights": _on(order(weight[:, :, 0, 0]), bias),
        "bottleneck_bias": bias,
        "bottleneck_border": border,
    }


def _then(op: Conv, about: Task, tensors: Tensors, kind: Kind) -> dict[str, Tensor]:
    weight = tensors[f"{op.then}.weight"]
    wide = _half(weight, list(range(weight.shape[1])), about.out, about.then)[:, :, 0, 0]
    bias = _bias(tensors, op.then, about.then)
    made = fragments.then_wgmma if kind in ("wgmma", "wgmma.sp") else fragments.then_mma
    return {"then_weights": _on(made(wide), bias), "then_bias": bias}


def _half(weight: Tensor, positions: list[int], inside: int, out: int) -> Tensor:
    """Weights for the channels in memory, float16 on the CPU, where they are put in order."""
    return spread(weight.cpu(), positions, inside, out).half()


def _bias(tensors: Tensors, name: str, out: int) -> Tensor:
    bias = tensors[f"{name}.bias"][0, 0].float()
    return torch.nn.functional.pad(bias, (0, out - len(bias))).contiguous()


def _on(made: Tensor, like: Tensor) -> Any:
    return made.to(like.device)
