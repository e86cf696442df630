"""Every operation of a plan in PyTorch: the fall-back, and what the kernels are compared with.

Sums are float32; float64 where the buffers are, which shows what a plan computes without rounding.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.engines.kernels.memory import Framed
from compress.engines.kernels.packing import classes, padded
from compress.engines.kernels.plan import Conv, Pool, Slice, Upsample
from compress.models.ddnet import SLOPE


def conv(
    op: Conv, buffers: Mapping[str, Framed], tensors: Mapping[str, Tensor], image: Tensor
) -> None:
    """Compute a convolution and its LeakyReLU, and what follows before it is stored.

    Args:
        op: the operation.
        buffers: by name.
        tensors: of the plan.
        image: (N, 1, H, W) float32, for a residual.
    """
    x = read(buffers[op.source.buffer], op.source)
    y = unit(x, tensors, op.name, SLOPE if op.activate else 1.0)
    if op.then:
        y = unit(y, tensors, op.then, SLOPE if op.then_activate else 1.0)
    _write(buffers[op.target.buffer], op.target, y + image if op.residual else y)


def pool(op: Pool, buffers: Mapping[str, Framed]) -> None:
    """Max-pool."""
    x = read(buffers[op.source.buffer], op.source)
    _write(buffers[op.target.buffer], op.target, F.max_pool2d(x, 3, stride=2, padding=1))


def upsample(op: Upsample, buffers: Mapping[str, Framed]) -> None:
    """Bilinear x2."""
    x, target = read(buffers[op.source.buffer], op.source), buffers[op.target.buffer]
    size = (target.height, target.width)
    y = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    _write(target, op.target, y)


def unit(x: Tensor, tensors: Mapping[str, Tensor], name: str, slope: float) -> Tensor:
    """(N, in, H, W) -> (N, out, H, W): a convolution by its name, with bias and LeakyReLU."""
    weight, table = tensors[f"{name}.weight"].to(x), tensors[f"{name}.bias"].to(x)
    if f"{name}.steps" in tensors:
        return F.leaky_relu(_int8(x, weight, tensors, name) + table.view(-1, 1, 1), slope)
    pad = weight.shape[-1] // 2
    rows, columns = (classes(side, pad, x.device) for side in x.shape[2:])
    bias = table[rows][:, columns].permute(2, 0, 1)  # (out, H, W)
    return F.leaky_relu(F.conv2d(x, weight, padding=pad) + bias, slope)


def _int8(x: Tensor, weight: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A convolution in INT8: whole numbers times whole numbers, times the steps."""
    scale, shift = tensors[f"{name}.affine"].to(x).unbind(1)
    whole = (x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).round().clamp(-128, 127)
    y = F.conv2d(whole, weight, padding=weight.shape[-1] // 2)
    return y * tensors[f"{name}.steps"].to(x).view(-1, 1, 1)


def read(buffer: Framed, at: Slice) -> Tensor:
    """(N, C, H, W), the true channels.

    By slices, because a CUDA graph takes no index from the host.
    """
    parts, start = [], at.start
    for one in at.slots:
        parts.append(buffer.nchw(start, one))
        start += padded(one)
    x = torch.cat(parts, dim=1)
    return x if x.dtype == torch.float64 else x.float()


def _write(buffer: Framed, at: Slice, y: Tensor) -> None:
    target = buffer.nchw(at.start, at.channels)
    target.zero_()  # channels that only fill up are read with weights of zero: no NaN may lie there
    target[:, : y.shape[1]] = y.to(target.dtype)
