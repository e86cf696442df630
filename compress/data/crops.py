"""Slices as tensors in network range: random crops to train with."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from compress.data import Image, Pairs
from compress.data.hu import to_network
from compress.errors import UsageError


def batches(
    pairs: Pairs,
    *,
    count: int,
    batch: int,
    crop: int | None,
    seed: tuple[int, ...],
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops, mirrored at random in both directions; the same ones for the same seed.

    Args:
        pairs: where to draw from, with replacement.
        count: number of batches.
        batch: crops in a batch.
        crop: side of the square crops in pixels; None takes whole slices.
        seed: of all draws.
        device: where the tensors shall lie.

    Returns:
        Low and full dose, each (batch, 1, h, w) float32 in [0, 1].

    Raises:
        UsageError: there are no slices, a crop is larger than a slice, or whole slices differ
            in size.
    """
    _check(pairs, crop)
    return _draw(pairs, count, batch, crop, np.random.default_rng(seed), device)


def slices(pairs: Pairs, device: torch.device) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Name, patient, low and full dose, each (1, 1, H, W) float32 in [0, 1], in order."""
    for name, patient, low, full in zip(
        pairs.names, pairs.patients, pairs.low, pairs.full, strict=True
    ):
        yield name, patient, _tensor([low], device), _tensor([full], device)


def _draw(
    pairs: Pairs,
    count: int,
    batch: int,
    crop: int | None,
    generator: np.random.Generator,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(count):
        low, full = [], []
        for index in generator.integers(len(pairs.full), size=batch):
            window = _window(pairs.full[index].shape, crop, generator)
            low.append(pairs.low[index][window])
            full.append(pairs.full[index][window])
        yield _tensor(low, device), _tensor(full, device)


def _window(
    shape: tuple[int, ...], crop: int | None, generator: np.random.Generator
) -> tuple[slice, ...]:
    """A random part of an image, as one slice object per axis; reversed ones mirror."""
    window = []
    for length in shape:
        side = crop or length
        start = int(generator.integers(length - side + 1))
        if generator.random() < 0.5:
            window.append(slice(start, start + side))
        else:
            window.append(slice(start + side - 1, start - 1 if start else None, -1))
    return tuple(window)


def _tensor(images: list[Image], device: torch.device) -> Tensor:
    """Images of one size, (H, W) HU -> (N, 1, H, W) in network range."""
    return to_network(torch.from_numpy(np.stack(images)[:, None]).to(device))


def _check(pairs: Pairs, crop: int | None) -> None:
    if not pairs.full:
        raise UsageError("there are no slices to train with")
    for name, image in zip(pairs.names, pairs.full, strict=True):
        height, width = image.shape
        if crop is None and image.shape != pairs.full[0].shape:
            first = "{} x {}".format(*pairs.full[0].shape)
            raise UsageError(
                f"slice {name} has {height} x {width} pixels and slice {pairs.names[0]} {first}; "
                "give a crop, whole slices fit into one batch only if they are of one size"
            )
        if crop is not None and crop > min(height, width):
            raise UsageError(
                f"a crop of {crop} x {crop} pixels does not fit into slice {name} "
                f"with {height} x {width}; choose a smaller crop"
            )
