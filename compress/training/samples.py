"""A few training crops for what measures a network without training it: Taylor, BatchNorm."""

from collections.abc import Iterator

import torch
from torch import Tensor

from compress.data import Pairs
from compress.data.crops import draws, sides
from compress.data.loaders import Choice, build

BATCH = 4
"""Crops that go through the network at once."""
SIDE = 256
"""Side of a crop in pixels, where the slices are that large; a multiple of 16, as DDnet wants."""


def samples(
    pairs: Pairs, count: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches of random crops; the same ones for the same seed.

    Args:
        pairs: training slices.
        count: number of batches.
        seed: of the draws.
        device: where the tensors shall lie.

    Returns:
        Low and full dose, each (BATCH, 1, side, side) float32 in [0, 1].

    Raises:
        UsageError: there are no slices.
    """
    smallest = min((min(image.shape) for image in pairs.full), default=SIDE)
    side = min(SIDE, smallest // 16 * 16 or smallest)
    drawn = draws(pairs, count=count, batch=BATCH, crop=side, seed=(seed, count))
    loader = build(Choice("host", ""), pairs, sides(pairs, side), device)
    return map(loader.decode, loader.batches(drawn))
