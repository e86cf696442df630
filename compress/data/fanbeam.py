"""Fan-beam projection and filtered back-projection on the CPU, for a flat equidistant detector.

Geometry and names are those of `scanner`, formulas those of Kak and Slaney, Principles of
Computerized Tomographic Imaging (1988), section 3.4.2.

Lengths are in mm, attenuation is in 1/mm, line integrals have no unit. Every ray and every pixel
is summed up by one thread in a fixed order: the results do not depend on the number of threads.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from numba import njit, prange

from compress.data.scanner import Array, Doubles, FanBeam, check, filtered

Kernel = Callable[..., Any]


def project(image: Array, spacing: float, fan: FanBeam) -> Array:
    """Line integrals through an image (Joseph, IEEE Transactions on Medical Imaging 1(3), 1982).

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
    image = np.ascontiguousarray(image, np.float32)
    sinogram = np.empty((fan.views, fan.detectors), np.float32)
    radius = fan.source_centre / spacing
    _project(image, image.T.copy(), radius, fan.positions() / spacing, fan.angles(), sinogram)
    return sinogram * np.float32(spacing)


def reconstruct(sinogram: Array, shape: tuple[int, int], spacing: float, fan: FanBeam) -> Array:
    """Filtered back-projection with the Ram-Lak filter; linear in the sinogram.

    Args:
        sinogram: line integrals without unit, (views, detectors).
        shape: height and width of the image in pixels.
        spacing: side of a pixel in mm.
        fan: the scanner that made the sinogram.

    Returns:
        Attenuation in 1/mm, float32, (H, W). Beyond the fan it is not defined.

    Raises:
        ValueError: the sinogram is not of this scanner, or the image reaches as far as the source.
    """
    check(shape, spacing, fan)
    if sinogram.shape != (fan.views, fan.detectors):
        raise ValueError(f"sinogram must be {fan.views} x {fan.detectors}, got {sinogram.shape}")
    image = np.empty(shape, np.float32)
    scale = math.pi / fan.views  # half the step of the source's angle: a full turn sees all twice
    pitch, radius = fan.virtual_pitch / spacing, fan.source_centre / spacing
    _back_project(filtered(sinogram, fan) * np.float32(scale), radius, pitch, fan.angles(), image)
    return image


def reconstruct_many(
    sinograms: Array, shape: tuple[int, int], spacing: float, fan: FanBeam
) -> Array:
    """`reconstruct` of several sinograms, several times as fast: rays are found once for all.

    Args:
        sinograms: line integrals without unit, (K, views, detectors).
        shape: see `reconstruct`.
        spacing: see `reconstruct`.
        fan: see `reconstruct`.

    Returns:
        Attenuation in 1/mm, float32, (K, H, W), each as `reconstruct` gives it but for rounding.

    Raises:
        ValueError: as `reconstruct`.
    """
    check(shape, spacing, fan)
    if sinograms.shape[1:] != (fan.views, fan.detectors):
        expected = f"{fan.views} x {fan.detectors}"
        raise ValueError(f"sinograms must be {expected}, got {sinograms.shape[1:]}")
    scale = np.float32(math.pi / fan.views)
    rows = np.stack([filtered(one, fan) * scale for one in sinograms], axis=2)
    images = np.empty((*shape, len(sinograms)), np.float32)
    pitch, radius = fan.virtual_pitch / spacing, fan.source_centre / spacing
    _back_project_many(np.ascontiguousarray(rows), radius, pitch, fan.angles(), images)
    return np.ascontiguousarray(images.transpose(2, 0, 1))


def _compiled(*, parallel: bool = False) -> Callable[[Kernel], Kernel]:
    """Compile by numba, and keep the machine code where a folder for it can be written."""

    def decorate(kernel: Kernel) -> Kernel:
        try:
            made = njit(kernel, cache=True, parallel=parallel)
        except RuntimeError:  # neither this package's folder nor the user's can be written
            made = njit(kernel, parallel=parallel)
        return _threads_kept(made) if parallel else made

    return decorate


def _threads_kept(kernel: Kernel) -> Kernel:
    """Undo what numba does when it starts threads: OpenMP, torch's too, on every core."""

    @wraps(kernel)
    def run(*arguments: Any) -> None:
        threads = torch.get_num_threads()
        try:
            kernel(*arguments)
        finally:
            torch.set_num_threads(threads)

    return run


@_compiled()
def _line(
    image: Array, along: float, across: float, step_along: float, step_across: float
) -> float:
    """Integral of `image` along a ray, in pixels, interpolated between rows at every column.

    The ray passes row index `across` at column index `along`; the image is zero outside.
    """
    height, width = image.shape
    slope = step_across / step_along
    start = across - along * slope
    total = 0.0
    for column in range(width):
        place = start + column * slope
        row = math.floor(place)
        part = np.float32(place - row)
        if 0 <= row < height:
            total += (1 - part) * image[row, column]
        if 0 <= row + 1 < height:
            total += part * image[row + 1, column]
    return total * math.sqrt(1 + slope * slope)


@_compiled(parallel=True)
def _project(
    image: Array,
    turned: Array,
    radius: float,
    positions: Doubles,
    angles: Doubles,
    sinogram: Array,
) -> None:
    """Fill in all line integrals; lengths in pixels, `turned` is the image's transpose."""
    height, width = image.shape
    for view in prange(len(angles)):
        cos, sin = math.cos(angles[view]), math.sin(angles[view])
        x = radius * cos + (width - 1) / 2
        y = radius * sin + (height - 1) / 2
        for k in range(len(positions)):
            dx = -radius * cos - positions[k] * sin
            dy = -radius * sin + positions[k] * cos
            if abs(dx) > abs(dy):
                sinogram[view, k] = _line(image, x, y, dx, dy)
            else:
                sinogram[view, k] = _line(turned, y, x, dy, dx)


@_compiled(parallel=True)
def _back_project(
    filtered: Array, radius: float, pitch: float, angles: Doubles, image: Array
) -> None:
    """Fill in the sum of filtered / U^2 over the views; lengths in pixels.

    U is the pixel's distance from the source along the central ray, as a share of `radius`.
    """
    height, width = image.shape
    views, detectors = filtered.shape
    for row in prange(height):
        total = np.zeros(width, np.float32)
        y = row - (height - 1) / 2
        for view in range(views):
            cos, sin = math.cos(angles[view]), math.sin(angles[view])
            for column in range(width):
                x = column - (width - 1) / 2
                near = radius / (radius - x * cos - y * sin)  # 1 / U
                place = (y * cos - x * sin) * near / pitch + (detectors - 1) / 2
                left = math.floor(place)
                if 0 <= left < detectors - 1:
                    part = np.float32(place - left)
                    value = (1 - part) * filtered[view, left] + part * filtered[view, left + 1]
                    total[column] += np.float32(near * near) * value
        image[row] = total


@_compiled(parallel=True)
def _back_project_many(
    filtered: Array, radius: float, pitch: float, angles: Doubles, images: Array
) -> None:
    """`_back_project` of (views, detectors, K) to (H, W, K), all in float32, which is faster."""
    height, width, count = images.shape
    views, detectors, _ = filtered.shape
    for row in prange(height):
        total = np.zeros((width, count), np.float32)
        y = row - (height - 1) / 2
        for view in range(views):
            cos, sin = math.cos(angles[view]), math.sin(angles[view])
            for column in range(width):
                x = column - (width - 1) / 2
                near = radius / (radius - x * cos - y * sin)  # 1 / U
                place = (y * cos - x * sin) * near / pitch + (detectors - 1) / 2
                left = math.floor(place)
                if 0 <= left < detectors - 1:
                    part = np.float32(place - left)
                    rest, weight = np.float32(1 - part), np.float32(near * near)
                    for k in range(count):
                        value = rest * filtered[view, left, k] + part * filtered[view, left + 1, k]
                        total[column, k] += weight * value
        images[row] = total
