"""Weights in float16 whose errors cancel: what one is rounded by, those behind it make up for.

A layer that reads channels which vary together gives small differences of large products. Rounded
to nearest, each of its weights errs by itself, and the sum can be whole HU in dark or bright
places. Here a row of weights is rounded one by one, and each error goes into the weights behind it
in the proportion that changes the outputs least on calibration slices: the optimal brain surgeon
(Hassibi, Stork, NeurIPS 1993), column by column as in GPTQ (Frantar et al., ICLR 2023,
arXiv:2210.17323). The bias, which stays float32, comes last. Phantoms with noise are the slices, so
nobody has to bring any.
"""

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.base.hu import to_network
from compress.data import phantom
from compress.engines.kernels import plain
from compress.engines.kernels.plan import Conv, Plan
from compress.engines.kernels.session import Session
from compress.models.ddnet import SLOPE
from compress.sparsity.reconstruction import errors, inverse_factor

SIDE = 256
"""Of a phantom, pixels; 16 at the lowest level of a DDnet, where a 5x5 has 12 x 12 places."""
NOISE = (0.002, 0.01, 0.02, 0.04)
"""Standard deviation of the noise of each phantom, network range: 6 to 117 HU."""
DAMPING = 1e-4
"""See `inverse_factor`."""
MANY, STEP = 64, 3
"""On sides above MANY pixels every STEP-th place counts, an odd number: the rows and columns of an
upsampled image differ by turns."""


def in_half(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plan's tensors with weights that float16 holds as they are.

    Args:
        plan: of a DDnet.
        tensors: its own, float64, on any device.

    Returns:
        Likewise; weights (out, in, k, k) that are zero stay zero, biases have taken what the
        rounding would shift outputs by. Layers that PyTorch computes or that are in INT8 are as
        they were.
    """
    found, device = dict(tensors), next(iter(tensors.values())).device
    session = Session(plan, tensors, (len(NOISE), SIDE, SIDE), kernels=False, dtype=torch.float64)
    session.image.copy_(slices())
    session.enter()
    for unit, call in zip(session.units, session.calls, strict=True):
        if isinstance(unit, Conv) and not (unit.plain or unit.int8):
            x = plain.read(session.buffers[unit.source.buffer], unit.source)
            found |= _fitted(unit.name, tensors, x)
            if unit.then:
                y = plain.unit(x, tensors, unit.name, SLOPE if unit.activate else 1.0)
                found |= _fitted(unit.then, tensors, y)
        call()
    return {name: one.to(device) for name, one in found.items()}


@functools.cache
def slices() -> Tensor:
    """Calibration slices, (len(NOISE), 1, SIDE, SIDE) float64 in network range; always the same."""
    draw = torch.Generator().manual_seed(0)
    images = [torch.from_numpy(phantom.chest("P1", k, SIDE, 0).image) for k in range(len(NOISE))]
    clean = to_network(torch.stack(images)).double()
    noise = torch.randn(clean.shape, generator=draw, dtype=torch.float64)
    noisy = clean + noise * torch.tensor(NOISE, dtype=torch.float64)[:, None, None]
    return noisy.clamp(min=0)[:, None]


def _fitted(name: str, tensors: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Weight and bias of a unit that reads `x`, (N, in, H, W) float64."""
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    square = _second_moment(x, weight.shape[-1])
    if not square.isfinite().all():  # what such a network gives nobody can use either
        return {}
    rows, shift = rounded(weight.flatten(1), square)
    return {f"{name}.weight": rows.view_as(weight), f"{name}.bias": bias + shift}


def _second_moment(x: Tensor, size: int) -> Tensor:
    """(n + 1, n + 1) mean of z z^T, z what a k x k kernel sees at a place and a 1 for the bias."""
    step = STEP if min(x.shape[2:]) > MANY else 1
    seen = F.unfold(x, size, stride=step).movedim(1, 2).flatten(0, 1)
    seen = torch.cat((seen, seen.new_ones(len(seen), 1)), dim=1)
    return seen.T @ seen / len(seen)


def rounded(rows: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of weights in float16 that change the outputs no more than those rounded to nearest.

    Args:
        rows: (out, n) float64, below float16's largest number.
        square: (n + 1, n + 1) float64, the mean of z z^T over inputs z that end with a 1.

    Returns:
        (out, n) float64 values that float16 holds, zero where `rows` is, and (out,) what the bias
        is to be raised by. Each row is the better one on `square` of two: rounded one weight after
        another, or each to nearest.
    """
    wide = F.pad(rows, (0, 1))
    nearest = F.pad(_half(rows), (0, 1))
    found, factor = wide.clone(), inverse_factor(square, DAMPING)
    for column in range(rows.shape[1]):
        kept = torch.where(rows[:, column] == 0, 0.0, _half(found[:, column]))
        error = (found[:, column] - kept) / factor[column, column]
        found[:, column:] -= error[:, None] * factor[column, column:]
        found[:, column] = kept
    worse = errors(found - wide, square) > errors(nearest - wide, square)
    chosen = torch.where(worse[:, None], nearest, found)
    return chosen[:, :-1], chosen[:, -1]


def _half(values: Tensor) -> Tensor:
    return values.half().to(values.dtype)
