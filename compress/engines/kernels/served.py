"""Which convolutions the kernels compute, and what is said of the others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.engines.kernels.packing import padded

SIZES = (1, 3, 5, 7)
"""Sides of the convolutions that the kernels compute."""
SIDES, INSIDE, OUT = (3, 5), (16, 32, 64), (16, 32)
"""Of those in CUDA C++, the only ones in INT8: side, channels in memory that are read, written."""
LEAST_3X3 = 16
"""Channels of a 3x3 in memory, at least: measuring 8 made a GPU fail, see docs/fused.md."""
FEW = f"3x3 from or to fewer than {LEAST_3X3} channels has no kernel"
SHOWN = 3
"""Layers that a refusal names."""


def unserved(weight: Tensor, stored: int) -> str:
    """Why no kernel computes a convolution; empty where one does.

    Args:
        weight: (out, in, k, k), folded or whole numbers.
        stored: channels in memory that it stores.
    """
    size = weight.shape[-1]
    if size not in SIZES:
        return f"{size}x{size} is not among the kernels' {SIZES}"
    few = min(padded(one) for one in (*weight.shape[:2], stored if stored > 1 else LEAST_3X3))
    if size == 3 and few < LEAST_3X3:
        return FEW
    largest = float(weight.abs().max())
    if not largest < torch.finfo(torch.float16).max:
        return f"a folded weight is {largest:.3g}, beyond float16"
    return ""


def int8(size: int, inside: int, out: int, behind: int) -> bool:
    """Whether there is a kernel in INT8 for a convolution with LeakyReLU.

    Args:
        size: its side.
        inside: channels in memory that it reads.
        out: those that it computes.
        behind: those of the 1x1 behind it; 0 for none.
    """
    return size in SIDES and inside in INSIDE and out in OUT and behind in (0, 1, 16)


def refusal(names: Sequence[str]) -> str:
    """Why these layers cannot be INT8 in an engine, and what to do."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"fused: {', '.join(names[:SHOWN])}{more} cannot be INT8, only 5x5 and 3x3 from 16, 32 or "
        "64 to 16 or 32 channels can: quantise those alone, for instance with quantize: "
        '{only: ["*.growth.conv", "*.wide.conv"]}'
    )
