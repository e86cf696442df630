"""Which channels go: scores, the Gaussian threshold, alignment, the solver. Pure functions.

For a convolution, channel c has the vector v_c = (its weights, its bias) and the score
s_c = ||v_c||_2. A normal distribution is fitted to the layer's scores (mean mu, population standard
deviation sigma); z_c = (s_c - mu) / sigma, 0 where sigma = 0. Channels with z_c >= t stay, the low
tail goes. One threshold t serves the whole network. Where an addition couples producers, a member's
z is the mean over them.

Comparators run on the same interface with another `rank`: the common threshold then cuts the same
share of every layer, or, over the whole network, the lowest scores wherever they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Criterion = Literal["gaussian", "l1", "l2", "magnitude", "random", "taylor", "variance"]
Removed = Callable[[Mapping[str, int]], float]
"""Kept counts by group name -> share removed."""


@dataclass(frozen=True)
class Ranked:
    """A group of channels with the numbers that decide which of them stay."""

    name: str
    rank: Tensor
    """(C,) float64; channels with the lowest go first. z for the Gaussian criterion."""
    fixed: str = ""
    """Why all must stay; empty where they may go."""
    mean: float = 0.0
    """Mean of the layer's scores."""
    sigma: float = 0.0
    """Population standard deviation of the layer's scores."""
    least: int = 0
    """Channels that stay whatever the threshold."""
    scores: Tensor | None = None
    """(C,) float64, what `rank` was made of; mean over the producers."""

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.rank)


@dataclass(frozen=True)
class Selection:
    """What stays, by group name, at one threshold."""

    threshold: float
    kept: Mapping[str, tuple[int, ...]]
    removed: float
    """Share of the whole that is gone, in what the solver was asked for."""


class Unreachable(ValueError):
    """No threshold removes as much as was asked; `largest` is the share that can be."""

    def __init__(self, amount: float, largest: float) -> None:
        super().__init__(f"at most {largest:.4f} can be removed, {amount} was asked")
        self.largest = largest


def scores(weight: Tensor, bias: Tensor | None, criterion: Criterion, seed: int = 0) -> Tensor:
    """A score for every output channel of a convolution.

    Args:
        weight: (out, in, kh, kw), output channels first (transpose a deconvolution's).
        bias: (out,), or (n * out,) where n outputs each go together, or None.
        criterion: gaussian and magnitude: L2 norm of weights and bias; l1 and l2: norm of the
            weights alone (l1: Li et al., ICLR 2017; the study's structured mode); random: uniform
            draws. taylor needs data, see `taylor.worth`, and variance the whole network, see
            `variance.worth`.
        seed: for random.

    Returns:
        (out,) float64, at least 0.

    Raises:
        ValueError: the criterion is taylor or variance.
    """
    if criterion == "taylor":
        raise ValueError("taylor scores come from data, not from weights alone")
    if criterion == "variance":
        raise ValueError("variance scores come from the whole network, not from one layer")
    flat = weight.detach().double().flatten(1)  # (out, in * kh * kw)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(len(flat), generator=generator, dtype=torch.float64)
    if criterion == "l1":
        return flat.abs().sum(1)
    if bias is not None and criterion != "l2":
        flat = torch.cat((flat, bias.detach().double().view(len(flat), -1)), dim=1)
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norms


def fit(values: Tensor) -> tuple[Tensor, Tensor]:
    """The normal distribution of (C,) scores: mean and population standard deviation, float64."""
    values = values.double()
    return values.mean(), values.std(correction=0)


def zscores(values: Tensor) -> Tensor:
    """(C,) scores -> (C,) float64 distances from their mean in population standard deviations."""
    values = values.double()
    mean, sigma = fit(values)
    # Equal scores have a rounding error for a deviation; they must not become large z.
    if sigma <= 1e-12 * values.abs().max():
        return torch.zeros_like(values)
    return (values - mean) / sigma


def score_at(threshold: float, group: Ranked) -> float:
    """The score of a group's channel whose z is `threshold`: where charts draw the cut."""
    return group.mean + group.sigma * threshold


def quantiles(values: Tensor, turn: float = 0.5) -> Tensor:
    """(C,) scores -> (C,) float64 share of the layer's channels below each, in (0, 1).

    A common threshold on these cuts the same share of every layer.

    Args:
        values: scores; ties go by index, the higher index first.
        turn: in (0, 1), the layer's turn among layers of equal width, so that they are cut one
            after another and the solver can stop between them.
    """
    order = torch.argsort(values.double().flip(0), stable=True)
    rank = torch.empty(len(values), dtype=torch.float64)
    rank[order] = torch.arange(len(values), dtype=torch.float64)
    return (rank.flip(0) + turn) / len(values)


def keep(rank: Tensor, threshold: float, align: int, least: int = 0) -> tuple[int, ...]:
    """Indices of the channels that stay: rank >= threshold, then up to a multiple of `align`.

    The count is rounded up (channels come back by rank, ties by lower index), to at least
    min(max(align, least), C) and at most C, so that 2:4 kernels and tensor cores find the widths
    they need.

    Args:
        rank: (C,).
        threshold: channels below it go.
        align: at least 1.
        least: channels that stay at least, at least 0.
    """
    width = len(rank)
    count = max(int((rank >= threshold).sum()), least, 1)
    count = min(-(-count // align) * align, width)
    best = torch.argsort(rank, descending=True, stable=True)[:count]
    return tuple(sorted(best.tolist()))


def select(groups: Sequence[Ranked], threshold: float, align: int) -> dict[str, tuple[int, ...]]:
    """The channels that stay in every group at one threshold."""
    return {
        g.name: tuple(range(g.width)) if g.fixed else keep(g.rank, threshold, align, g.least)
        for g in groups
    }


def solve(
    groups: Sequence[Ranked],
    amount: float,
    align: int,
    removed: Removed,
) -> Selection:
    """The lowest threshold that removes at least `amount` after alignment: the least overshoot.

    Args:
        groups: what can be cut.
        amount: share to remove, in (0, 1).
        align: see `keep`.
        removed: kept counts by group name -> share removed; must not fall when counts fall.

    Raises:
        Unreachable: even the highest threshold removes less.
    """
    free = [g.rank for g in groups if not g.fixed]
    ranks = torch.unique(torch.cat(free)).tolist() if free else [0.0]
    # Thresholds at which something changes, ascending; at the last one nothing is above it.
    steps = [*ranks, math.nextafter(ranks[-1], math.inf)]

    def at(threshold: float) -> Selection:
        kept = select(groups, threshold, align)
        share = removed({name: len(channels) for name, channels in kept.items()})
        return Selection(threshold, kept, share)

    last = at(steps[-1])
    if last.removed < amount:
        raise Unreachable(amount, last.removed)
    low, high = 0, len(steps) - 1  # steps[high] removes enough
    while low < high:
        middle = (low + high) // 2
        if at(steps[middle]).removed >= amount:
            high = middle
        else:
            low = middle + 1
    return at(steps[high])
