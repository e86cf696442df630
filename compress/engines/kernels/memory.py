"""Buffers of a plan: NHWC with a frame around each slice.

The frame is the padding of the convolution that reads the buffer, so loads need no masks. It is
written once, when the buffer is made; operations write inside only. packing.py says what it holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.engines.kernels.packing import ceil

TOP, LEFT = 4, 4
"""Rows and columns of the frame before the image: at least 3, the padding of the 7x7."""
IMAGE_LEFT = 11
"""The same for the image, where windows begin 3 pixels earlier and must begin on 16 bytes."""
BOTTOM, RIGHT = 12, 16
"""Behind the image: padding and the part of a last group of pixels that hangs over."""


@dataclass(frozen=True)
class Framed:
    """A buffer."""

    whole: Tensor
    """(N, rows, columns, C) with the frame, contiguous."""
    top: int
    """Rows of the frame before the image."""
    left: int
    """Columns of the frame before the image."""
    height: int
    """Rows of the image."""
    width: int
    """Columns of the image."""

    @property
    def inside(self) -> Tensor:
        """The image, (N, H, W, C), a view."""
        rows = slice(self.top, self.top + self.height)
        return self.whole[:, rows, self.left : self.left + self.width]

    def nchw(self, start: int, channels: int) -> Tensor:
        """Channels start .. start + channels of the image as (N, C, H, W), a view."""
        return self.inside[..., start : start + channels].permute(0, 3, 1, 2)

    def at(self, pad: int, start: int = 0) -> Tensor:
        """A view whose first element is `pad` rows and columns before the image's first pixel."""
        return self.whole[:, self.top - pad :, self.left - pad :, start:]

    @property
    def strides(self) -> tuple[int, int, int]:
        """Values from slice to slice, row to row and column to column."""
        n, y, x, _ = self.whole.stride()
        return n, y, x


def framed(
    batch: int,
    height: int,
    width: int,
    channels: int,
    *,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
    border: Tensor | None = None,
    poison: bool = False,
) -> Framed:
    """A new buffer.

    Args:
        batch: N.
        height: H.
        width: W.
        channels: C; 1 for the image that the network reads.
        dtype: of its values.
        device: where it lies.
        border: (C,) what the frame holds; zeros by default.
        poison: fill the image with NaN, so that a value which nobody wrote is seen.
    """
    left = IMAGE_LEFT if channels == 1 else LEFT
    columns = ceil(left + width + RIGHT, 16)
    shape = (batch, TOP + height + BOTTOM, columns, channels)
    made = Framed(torch.zeros(shape, dtype=dtype, device=device), TOP, left, height, width)
    if border is not None:
        made.whole.copy_(border)
    made.inside.fill_(float("nan") if poison else 0.0)
    return made
