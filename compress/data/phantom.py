"""Procedural slices that look like a chest: ellipses with soft edges and tissue texture.

For tests, and where the demo set cannot be downloaded. No patient, and no evidence about real CT.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.base.around import around
from compress.data import DataOptions, Pairs
from compress.data.lowdose import Exposure, Slice, generator, simulate
from compress.data.realisations import bank

FIELD = 360.0
"""Side of a slice in mm."""
TRAIN, TEST = "P1", "P2"
"""What stands for the patients."""

Array = NDArray[np.float64]


def load(options: DataOptions, seed: int) -> tuple[Pairs, Pairs]:
    """Training and held-out phantoms with simulated low dose."""
    train = _patient(TRAIN, options.train_slices or 24, options, seed, options.realisations)
    return train, _patient(TEST, options.test_slices or 6, options, seed)


def _patient(who: str, count: int, options: DataOptions, seed: int, versions: int = 1) -> Pairs:
    """A volume of phantoms; where a network sees neighbours, each anatomy is a few slices thick."""
    beside = options.neighbours
    thick = 2 * beside + 1
    size = options.image_size
    slices = [chest(who, k, size, seed, k // thick if beside else None) for k in range(count)]
    windows = {one.name: around(slices, k, beside) for k, one in enumerate(slices) if beside}
    exposure = Exposure.of(options)
    low = bank(slices, exposure, seed, versions, None)
    return replace(simulate(slices, exposure, seed, None, windows), bank=low)


def chest(patient: str, index: int, size: int, seed: int, anatomy: int | None = None) -> Slice:
    """A slice of `size` x `size` pixels, FIELD mm wide, that depends on the arguments alone.

    Slices of one `anatomy` differ in their texture only; None: an anatomy of its own.
    """
    name = f"{patient}-{index:03d}"
    draw = generator(seed, f"phantom {name}")
    if anatomy is not None:
        draw = generator(seed, f"anatomy {patient}-{anatomy:03d}")
    canvas = _Canvas(size)
    _paint_body(canvas, draw)
    _paint_lungs(canvas, draw)
    _paint_bones(canvas, draw)
    if anatomy is not None:
        draw = generator(seed, f"texture {name}")
    hu = canvas.hu + (canvas.hu > -950) * _texture(size, draw)
    image = np.rint(hu.clip(-1024, 1900)).astype(np.int16)
    return Slice(name=name, patient=patient, spacing=FIELD / size, image=image)


class _Canvas:
    """A square of air, (size, size) HU; places and lengths are shares of half its side."""

    def __init__(self, size: int) -> None:
        self.hu: Array = np.full((size, size), -1000.0)
        self.grid = (np.arange(size) - (size - 1) / 2) / (size / 2)

    def ellipse(self, x: float, y: float, a: float, b: float, hu: float, turn: float = 0.0) -> None:
        """Paint an ellipse of half axes `a` and `b`, turned by `turn` rad, edge a pixel wide."""
        reach = max(a, b) + 4 / len(self.grid)
        rows = slice(*np.searchsorted(self.grid, (y - reach, y + reach)))
        columns = slice(*np.searchsorted(self.grid, (x - reach, x + reach)))
        dx, dy = self.grid[columns][None] - x, self.grid[rows][:, None] - y
        u = (dx * math.cos(turn) + dy * math.sin(turn)) / a
        v = (dy * math.cos(turn) - dx * math.sin(turn)) / b
        inside = (1 - np.hypot(u, v)) * min(a, b) * len(self.grid) / 2 + 0.5
        part = inside.clip(0, 1)
        self.hu[rows, columns] += part * (hu - self.hu[rows, columns])


def _paint_body(canvas: _Canvas, draw: np.random.Generator) -> None:
    """Fat, muscle, heart with its chambers, the great vessels."""
    a, b = draw.uniform(0.84, 0.93), draw.uniform(0.6, 0.7)
    canvas.ellipse(0, 0, a, b, -95)
    canvas.ellipse(0, 0.01, a * 0.94, b * 0.92, 50)
    for x, y, radius, contrast in (
        (0.12, -0.15, 0.2, 45), (0.06, -0.2, 0.09, 150), (0.19, -0.1, 0.09, 170),
        (0.12, 0.26, 0.055, 180), (-0.05, -0.3, 0.05, 120),
    ):  # fmt: skip
        dx, dy = draw.normal(0, 0.015, 2)
        canvas.ellipse(x + dx, y + dy, radius, radius * 0.9, contrast * draw.uniform(0.7, 1.3))


def _paint_lungs(canvas: _Canvas, draw: np.random.Generator) -> None:
    """Two lungs with vessels and, at times, a nodule; heart and vessels remain between them."""
    for side in (-1, 1):
        x, y = side * draw.uniform(0.48, 0.53), draw.uniform(-0.05, 0.05)
        a, b = draw.uniform(0.22, 0.27), draw.uniform(0.38, 0.44)
        canvas.ellipse(x, y, a, b, draw.uniform(-880, -820), side * 0.15)
        sizes = 0.004 + 0.02 * draw.random(40) ** 3
        for radius in (*sizes, draw.choice([0, 0.03]) + 0.005):
            angle, distance = draw.uniform(0, 2 * math.pi), 0.85 * math.sqrt(draw.random())
            place = (x + a * distance * math.cos(angle), y + b * distance * math.sin(angle))
            long = radius * draw.uniform(1, 3)
            canvas.ellipse(*place, long, radius, draw.uniform(-20, 60), draw.uniform(0, math.pi))
    canvas.ellipse(0, 0.02, 0.05, 0.055, -990)  # trachea


def _paint_bones(canvas: _Canvas, draw: np.random.Generator) -> None:
    """Spine with its canal, sternum and ribs: dense shells around marrow."""
    bones = [(0.0, 0.4, 0.13, 0.11, 0.0), (0.0, -0.52, 0.12, 0.03, 0.0)]
    for angle in np.linspace(0, 2 * math.pi, 14, endpoint=False) + draw.uniform(0, 0.4):
        x, y = 0.8 * math.cos(angle), 0.53 * math.sin(angle)
        if abs(x) > 0.2:
            along = math.atan2(0.53 * math.cos(angle), -0.8 * math.sin(angle))
            bones.append((x, y, draw.uniform(0.05, 0.1), 0.025, along))
    for x, y, a, b, turn in bones:
        canvas.ellipse(x, y, a, b, draw.uniform(500, 900), turn)
        canvas.ellipse(x, y, a - 0.012, b - 0.012, draw.uniform(120, 260), turn)
    canvas.ellipse(0, 0.56, 0.05, 0.045, 650)
    canvas.ellipse(0, 0.555, 0.035, 0.03, 20)


def _texture(size: int, draw: np.random.Generator) -> Array:
    """Smooth random variation of tissue, 12 HU standard deviation, 8 mm wide, (size, size)."""
    frequency = np.fft.fftfreq(size, FIELD / size)  # 1/mm
    smooth = np.exp(-((8 * frequency[:, None]) ** 2) - (8 * frequency[None]) ** 2)
    field: Array = np.fft.ifft2(np.fft.fft2(draw.standard_normal((size, size))) * smooth).real
    field *= 12 / field.std()
    return field
