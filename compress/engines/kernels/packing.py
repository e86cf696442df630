"""Weights as the kernels read them.

BatchNorm before a padded convolution is folded exactly: its scale goes into the weights, its shift
into the bias. Outside of the image the convolution reads what is zero behind BatchNorm, and so is
something else before it. With that in the frame of the buffer, one bias by channel serves all
pixels. Where float16 cannot hold it, the frame is zero and the bias depends on how many rows and
columns of taps are missing: a small table.

A convolution becomes a matrix product in which one row is a *group* of neighbouring output pixels
and not one pixel. Its window, (gy + k - 1) x (gx + k - 1) input pixels, is read once for all of
them, and the matrix has their channels side by side: wide enough for tensor cores where a layer has
16 output channels only. The price is multiplications by zero: a share of
1 - k^2 / ((gy + k - 1) (gx + k - 1)) of the matrix is empty.
"""

import torch
from torch import Tensor, nn

from compress.quantization.quantisers import Integers

ALIGN = 8
"""Channels in memory are padded to a multiple of this: 16 bytes of float16, the widest load."""
DOT = 16
"""Smallest side of a matrix that tensor cores take through Triton."""
SHIFT = 0.28125
"""What is subtracted from an image before it is rounded to float16, which is the finer the nearer a
value is to zero: -202 HU, and from -932 to 529 HU the error is 0.18 HU at most. Unshifted it was
0.7 HU in bone, and 0.36 in soft tissue."""
FAR = 8.0
"""Standard deviations from the mean up to which a border is stored as float16: about as far as the
values go that a layer reads anyway, and are rounded as that."""


def ceil(value: int, multiple: int) -> int:
    """`value` rounded up to a multiple."""
    return -(-value // multiple) * multiple


def power(value: int) -> int:
    """`value` rounded up to a power of two, at least `DOT`."""
    return max(DOT, 1 << (value - 1).bit_length())


def folded(norm: nn.Module, conv: nn.Conv2d, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """A convolution with the BatchNorm before it folded in, exact at borders.

    Args:
        norm: BatchNorm2d in eval mode, or anything else for none.
        conv: stride 1, k x k, padding p = (k - 1) / 2.
        offset: what lies in memory is the input less this.

    Returns:
        Weights (out, in, k, k), and the bias (P, P, out) by the number of missing taps, see
        `missing`, P = (p + 1)^2; both float64.
    """
    weight = conv.weight.detach().double()
    bias = torch.zeros(weight.shape[0], dtype=torch.float64, device=weight.device)
    if conv.bias is not None:
        bias = conv.bias.detach().double()
    shift = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    scale = torch.ones_like(shift)
    if isinstance(norm, nn.BatchNorm2d):
        scale, shift = _affine(norm)
    shift = shift + scale * offset
    taps = torch.einsum("oikl,i->okl", weight, shift)
    seen = present(weight.shape[-1]).to(taps)
    table = torch.einsum("yk,xl,okl->yxo", seen, seen, taps) + bias
    return weight * scale[None, :, None, None], table


def rounded(norm: nn.Module, conv: nn.Conv2d, found: Integers) -> dict[str, Tensor]:
    """A convolution in INT8, and the BatchNorm before it, which stays before the rounding.

    Args:
        norm: as for `folded`.
        conv: likewise.
        found: its weights and steps.

    Returns:
        By name, float64: weight (out, in, k, k) whole numbers; bias (1, 1, out); steps (out,), what
        a sum of products of whole numbers is multiplied by; affine (in, 2): scale and shift of
        an input in units of its step, before it is rounded to a whole number in -128 .. 127.
    """
    weight = found.weight.double()
    bias = weight.new_zeros(1, 1, len(weight))
    if conv.bias is not None:
        bias += conv.bias.detach().double()
    scale, shift = weight.new_ones(weight.shape[1]), weight.new_zeros(weight.shape[1])
    if isinstance(norm, nn.BatchNorm2d):
        scale, shift = _affine(norm)
    return {
        "weight": weight,
        "bias": bias,
        "steps": found.steps.double() * found.step,
        "affine": torch.stack([scale, shift], dim=1) / found.step,
    }


def border(norm: nn.Module, conv: nn.Conv2d, offset: float = 0.0) -> Tensor | None:
    """What each channel must hold outside of the image, so that BatchNorm turns it into zero.

    Args:
        norm: as for `folded`.
        conv: likewise.
        offset: likewise.

    Returns:
        (in,) float64; None where there is no such value, or it is too far away for float16.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        return conv.weight.new_full((conv.in_channels,), -offset, dtype=torch.float64)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale, shift = _affine(norm)
    mean, deviation = norm.running_mean.double(), (norm.running_var.double() + norm.eps).sqrt()
    dead = (scale == 0) & (shift == 0)
    values = torch.where(dead, mean, -shift / scale)
    near = (values - mean).abs() <= FAR * deviation
    return values - offset if bool((near & (values.abs() < 6e4)).all()) else None


def present(size: int) -> Tensor:
    """Which of `size` taps in a row lie inside, (P, size) of 0 and 1, by border class.

    The class of a pixel with `a` taps outside before it and `b` behind it is a (p + 1) + b.
    """
    pad = (size - 1) // 2
    tap = torch.arange(size)
    rows = [(tap >= a) & (tap < size - b) for a in range(pad + 1) for b in range(pad + 1)]
    return torch.stack(rows)


def classes(side: int, pad: int, device: torch.device) -> Tensor:
    """The border class of each of `side` pixels in a row, see `present`."""
    at = torch.arange(side, device=device)
    return (pad - at).clamp(min=0) * (pad + 1) + (at + pad - (side - 1)).clamp(min=0)


def spread(weight: Tensor, positions: list[int], inside: int, out: int) -> Tensor:
    """Weights for the channels as they lie in memory: (out, in, k, k) -> (out', in', k, k).

    Args:
        weight: weights by true channel.
        positions: where each true input channel lies.
        inside: input channels in memory.
        out: output channels in memory.
    """
    wide = weight.new_zeros(out, inside, *weight.shape[2:])
    wide[: weight.shape[0], positions] = weight
    return wide


def padded(channels: int) -> int:
    """Channels in memory for `channels` true ones."""
    return ceil(channels, ALIGN)


def positions(slots: tuple[int, ...]) -> list[int]:
    """Where the true channels of parts lie in memory, each part padded by itself."""
    found, start = list[int](), 0
    for one in slots:
        found += range(start, start + one)
        start += padded(one)
    return found


def row_length(channels: int, size: int, gx: int) -> int:
    """Values in one row of a group's window, padded so that every row begins on 16 bytes."""
    return ceil((gx + size - 1) * channels, ALIGN)


def grouped(weight: Tensor, gy: int, gx: int, block: int) -> Tensor:
    """The matrix of a convolution by groups of gy x gx output pixels.

    Args:
        weight: (out, in, k, k) by channel in memory.
        gy: height of a group.
        gx: width of a group.
        block: the matrix' height is padded to a multiple of this.

    Returns:
        (K, N): K = rows of the window x `row_length`, N = gy gx out padded to a power of two.
    """
    out, inside, size, _ = weight.shape
    high, row = gy + size - 1, row_length(inside, size, gx)
    matrix = weight.new_zeros(high, row, gy, gx, out)
    taps = weight.permute(2, 3, 1, 0)  # (k, k, in, out)
    for dy in range(gy):
        for dx in range(gx):
            part = taps.reshape(size, size * inside, out)
            start = dx * inside
            matrix[dy : dy + size, start : start + size * inside, dy, dx] = part
    flat = matrix.reshape(high * row, gy * gx * out)
    wide = weight.new_zeros(ceil(high * row, block), power(flat.shape[1]))
    wide[: flat.shape[0], : flat.shape[1]] = flat
    return wide


def diagonal(weight: Tensor, pixels: int, height: int) -> Tensor:
    """The matrix of a 1x1 convolution that is applied to each of `pixels` pixels of a group.

    Args:
        weight: (out, in, 1, 1) by channel in memory.
        pixels: pixels of a group.
        height: rows of the matrix; at least pixels * in.
    """
    out, inside = weight.shape[:2]
    wide = weight.new_zeros(height, power(pixels * out))
    for pixel in range(pixels):
        rows, columns = pixel * inside, pixel * out
        wide[rows : rows + inside, columns : columns + out] = weight[:, :, 0, 0].T
    return wide


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in eval mode, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.detach().double() if norm.affine else shift
