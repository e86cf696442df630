"""The projector and the reconstruction of `fanbeam`, in torch: the same sums, for the GPU.

Formulas and units are those of `fanbeam`, geometry that of `scanner`; results differ from those of
`fanbeam` by the order in which float32 is summed up. Views are worked on in parts, so that a part's
rays fit into memory.
"""

import math

import numpy as np
import torch
from torch import Tensor

from compress.data.scanner import Array, Doubles, FanBeam, check, filtered

ELEMENTS = 1 << 25
"""Most samples at once: 128 MiB for each of the handful of arrays that a part takes."""


class TorchScanner:
    """`lowdose.Scanner` on a device.

    Args:
        device: where the sums are done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def project(self, image: Array, spacing: float, fan: FanBeam) -> Array:
        """Line integrals through an image, as `fanbeam.project`.

        Args:
            image: attenuation in 1/mm, (H, W); zero outside.
            spacing: side of a pixel in mm.
            fan: the scanner.

        Returns:
            Sinogram without unit, float32, (views, detectors).

        Raises:
            ValueError: the image reaches as far as the source.
        """
        check(image.shape, spacing, fan)
        pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(self.device)
        positions = self._double(fan.positions() / spacing)
        step = max(1, ELEMENTS // (fan.detectors * max(image.shape)))
        parts = [
            _project(pixels, fan.source_centre / spacing, positions, *self._turn(angles))
            for angles in np.array_split(fan.angles(), -(-fan.views // step))
        ]
        sinogram: Array = torch.cat(parts).cpu().numpy() * np.float32(spacing)
        return sinogram

    def reconstruct(
        self, sinogram: Array, shape: tuple[int, int], spacing: float, fan: FanBeam
    ) -> Array:
        """Filtered back-projection, as `fanbeam.reconstruct`.

        Args:
            sinogram: line integrals without unit, (views, detectors).
            shape: height and width of the image in pixels.
            spacing: side of a pixel in mm.
            fan: the scanner that made the sinogram.

        Returns:
            Attenuation in 1/mm, float32, (H, W).

        Raises:
            ValueError: the sinogram is not of this scanner, or the image is too large.
        """
        check(shape, spacing, fan)
        if sinogram.shape != (fan.views, fan.detectors):
            expected = f"{fan.views} x {fan.detectors}"
            raise ValueError(f"sinogram must be {expected}, got {sinogram.shape}")
        rows = torch.from_numpy(filtered(sinogram, fan)).to(self.device)
        pitch, radius = fan.virtual_pitch / spacing, fan.source_centre / spacing
        image = torch.zeros(shape, device=self.device)
        count = -(-fan.views // max(1, ELEMENTS // (shape[0] * shape[1])))
        angles = np.array_split(fan.angles(), count)
        for part, own in zip(torch.tensor_split(rows, count), angles, strict=True):
            image += _back_project(part, radius, pitch, *self._turn(own), shape)
        result: Array = (image * (math.pi / fan.views)).cpu().numpy()
        return result

    def _turn(self, angles: Doubles) -> tuple[Tensor, Tensor]:
        """Cosine and sine of V angles, each (V,), from the same library as numba's."""
        cos = np.array([math.cos(angle) for angle in angles])
        sin = np.array([math.sin(angle) for angle in angles])
        return self._double(cos), self._double(sin)

    def _double(self, values: Doubles) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def _project(image: Tensor, radius: float, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Line integrals in pixels, (V, D), for V angles and D positions; lengths in pixels."""
    height, width = image.shape
    cos, sin = cos[:, None], sin[:, None]  # (V, 1)
    x, y = radius * cos + (width - 1) / 2, radius * sin + (height - 1) / 2
    dx, dy = -radius * cos - positions * sin, -radius * sin + positions * cos  # (V, D)
    x, y = x.expand_as(dx), y.expand_as(dx)
    flat = dx.abs() > dy.abs()
    result = torch.empty(dx.shape, device=image.device)
    result[flat] = _lines(image, x[flat], y[flat], dx[flat], dy[flat])
    steep = ~flat
    result[steep] = _lines(image.T, y[steep], x[steep], dy[steep], dx[steep])
    return result


def _lines(image: Tensor, along: Tensor, across: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Joseph's sums along R rays, (R,): interpolated between rows at every column."""
    height, width = image.shape
    slope = dy / dx
    start = across - along * slope  # in float64: the source may be far away
    columns = torch.arange(width, device=image.device)
    place = start[:, None] + columns * slope[:, None]  # (R, W)
    row = place.floor()
    part = (place - row).float()
    row = row.clamp(-2, height).long()
    padded = torch.nn.functional.pad(image, (0, 0, 2, 2))  # zero outside
    below, above = padded[row + 2, columns], padded[row + 3, columns]
    # The same types as numba's, and the sum in float64: a projection that differs in its last
    # digit can make the generator of its noise draw another number of times.
    total = ((1 - part.double()) * below + part * above).sum(1)
    return (total * (1 + slope * slope).sqrt()).float()


def _back_project(
    rows: Tensor, radius: float, pitch: float, cos: Tensor, sin: Tensor, shape: tuple[int, int]
) -> Tensor:
    """The sum of filtered / U^2 over V views, (H, W); lengths in pixels."""
    height, width = shape
    detectors = rows.shape[1]
    y = torch.arange(height, device=rows.device, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=rows.device, dtype=torch.float64) - (width - 1) / 2
    cos, sin = cos[:, None, None], sin[:, None, None]  # (V, 1, 1)
    near = radius / (radius - x * cos - y * sin)  # (V, H, W), 1 / U
    place = (y * cos - x * sin) * near / pitch + (detectors - 1) / 2
    left = place.floor()
    part = (place - left).float()
    inside = (left >= 0) & (left < detectors - 1)
    index = left.clamp(0, detectors - 2).long().flatten(1)  # (V, H * W)
    low, high = rows.gather(1, index), rows.gather(1, index + 1)
    value = (1 - part) * low.view_as(part) + part * high.view_as(part)
    return (torch.where(inside, value, 0) * (near * near).float()).sum(0)
