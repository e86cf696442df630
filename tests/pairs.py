"""Small data sets for tests: smooth slices and their noisy partners."""

import numpy as np

from compress.data import Data, Pairs


def pairs(count: int, side: int, seed: int, patient: str) -> Pairs:
    """Slices of a few smooth blobs between -1000 and 1000 HU, with noise of 60 HU added."""
    generator = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, side)
    low, full = [], []
    for _ in range(count):
        x, y, r = (*generator.uniform(-0.5, 0.5, 2), generator.uniform(0.2, 0.6))
        blob = np.exp(-((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2) / r**2)
        clean = (-1000 + 1500 * blob).astype(np.int16)
        noisy = clean + generator.normal(0, 60, clean.shape)
        full.append(clean)
        low.append(noisy.clip(-1024, 1900).astype(np.int16))
    names = tuple(f"{patient}-{index:03d}" for index in range(count))
    return Pairs(low=tuple(low), full=tuple(full), names=names, patients=(patient,) * count)


def data(side: int = 64, train: int = 3, test: int = 2) -> Data:
    """Two patients: one to train on, one held out."""
    return Data(
        train=pairs(train, side, 1, "A"),
        test=pairs(test, side, 2, "B"),
        source="test",
        fingerprint=f"test-{side}-{train}-{test}",
        notices=(),
    )
