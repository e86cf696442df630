"""Channels chosen by what they are worth for what they cost, over the whole network.

A channel that goes saves its price: the share of the budget (MACs, parameters or channels) that the
network loses with it. Channels with the lowest worth for their price go first, which is the greedy
solution of the knapsack problem (Dantzig, Operations Research 5, 1957; for pruning under a budget
Shen et al., "Structural pruning via latency-saliency knapsack", NeurIPS 2022). A normal
distribution is fitted to the logarithms of worth / price of all channels of the network and its low
tail is cut. Rounding leaves a rest of the budget, which is filled with the best channels that go.

Where a channel's price depends on how many there are, as milliseconds do, channels come in the
order of their worth, and those that cost nothing belong to those before them that do: worth over
price is taken along the upper convex hull of worth over cost, which is the greedy solution again
(Sinha and Zoltners, Operations Research 27, 1979).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from compress.graph.groups import Group
from compress.pruning import selection
from compress.pruning.ledger import Ledger, Share
from compress.pruning.selection import Ranked, Removed, Selection, Unreachable

TIE = 1e-9
"""By how much the logarithms of channels that go together differ, so that the best one is first."""
LEAST = 1e-12
"""Worth, as a share of the largest, that a channel is given at least: a logarithm is taken."""


def prices(found: Sequence[Group], ledger: Ledger, target: Share) -> dict[str, float]:
    """Share of the target that one channel of each group costs in the whole network, by group."""
    whole = {group.name: group.width for group in found}
    return {
        group.name: ledger.removed({**whole, group.name: group.width - 1})[target]
        for group in found
    }


def curve_prices(found: Sequence[Group], ledger: Ledger, target: Share) -> dict[str, list[float]]:
    """Share of the target that the first, second, ... channel of each group costs, by group.

    The other groups are whole. The first channel counts as dear as the second: one always stays.
    """
    prices: dict[str, list[float]] = {}
    for group in found:
        gone = ledger.alone(group, target)
        steps = [max(0.0, less - more) for less, more in pairwise(gone)]
        prices[group.name] = [steps[0] if steps else 0.0, *steps]
    return prices


def ranked_on_curves(
    groups: Sequence[Ranked], prices: Mapping[str, Sequence[float]]
) -> tuple[Ranked, ...]:
    """As `ranked`, with a price for the first, second, ... channel of each group.

    Args:
        groups: with the worth of every channel as `scores`, at least 0.
        prices: by group name, at least 0; of the best channel first.
    """
    worths = [one.scores for one in groups if one.scores is not None]
    floor = LEAST * float(torch.cat(worths).max()) or LEAST
    pairs = zip(groups, worths, strict=True)
    logs = [_hull_logs(worth.clamp_min(floor), prices[group.name]) for group, worth in pairs]
    parts = torch.split(selection.zscores(torch.cat(logs)), [len(one) for one in logs])
    return tuple(replace(group, rank=z) for group, z in zip(groups, parts, strict=True))


def _hull_logs(worth: Tensor, prices: Sequence[float]) -> Tensor:
    """(C,) logarithms of worth / price along the hull; the best of a segment is a bit above."""
    order = torch.argsort(worth, descending=True, stable=True).tolist()
    segments: list[tuple[float, float, int]] = []
    for channel, price in zip(order, prices, strict=True):
        one = float(worth[channel]), max(price, 0.0), 1
        while segments and one[0] * segments[-1][1] > segments[-1][0] * one[1]:
            last = segments.pop()
            one = last[0] + one[0], last[1] + one[1], last[2] + one[2]
        segments.append(one)
    values = [
        math.log(total / max(price, LEAST)) - place * TIE
        for total, price, count in segments
        for place in range(count)
    ]
    logs = torch.empty(len(order), dtype=torch.float64)
    logs[order] = torch.cummin(torch.tensor(values, dtype=torch.float64), 0).values
    return logs


def ranked(groups: Sequence[Ranked], price: Mapping[str, float]) -> tuple[Ranked, ...]:
    """The groups, ranked by the logarithm of worth / price in the network's normal distribution.

    Args:
        groups: with the worth of every channel as `scores`, at least 0.
        price: by group name; a channel that costs nothing counts as nearly free.
    """
    worths = [one.scores for one in groups if one.scores is not None]
    floor = LEAST * float(torch.cat(worths).max()) or LEAST
    logs = [
        (worth.clamp_min(floor) / max(price[group.name], LEAST)).log()
        for group, worth in zip(groups, worths, strict=True)
    ]
    parts = torch.split(selection.zscores(torch.cat(logs)), [len(one) for one in logs])
    return tuple(replace(group, rank=z) for group, z in zip(groups, parts, strict=True))


def solve(
    groups: Sequence[Ranked],
    found: Sequence[Group],
    amount: float,
    align: int,
    removed: Removed,
) -> tuple[tuple[Ranked, ...], Selection]:
    """The threshold that removes the amount, and the rest of the budget filled up.

    Args:
        groups: ranked by worth for price.
        found: the same groups in the network.
        amount: share to remove, in (0, 1).
        align: see `selection.keep`.
        removed: see `selection.solve`.

    Returns:
        The groups, those that stay whole for the sake of rounding fixed, and what stays of them.

    Raises:
        Unreachable: even the highest threshold removes less.
    """
    *careful, last = _held(groups, found, align)
    for held in careful:
        with suppress(Unreachable):
            picked = selection.solve(held, amount, align, removed)
            return held, filled(held, picked, amount, align, removed)
    picked = selection.solve(last, amount, align, removed)
    return last, filled(last, picked, amount, align, removed)


def filled(
    groups: Sequence[Ranked], picked: Selection, amount: float, align: int, removed: Removed
) -> Selection:
    """The selection with the best channels put back, `align` at a time, as the amount allows."""
    order = {g.name: torch.argsort(g.rank, descending=True, stable=True).tolist() for g in groups}
    counts = {name: len(kept) for name, kept in picked.kept.items()}
    free = [group for group in groups if not group.fixed]
    while best := max(_steps(free, order, counts, amount, align, removed), default=None):
        _, name, then = best
        counts[name] = then
    kept = {name: tuple(sorted(order[name][:count])) for name, count in counts.items()}
    return Selection(picked.threshold, kept, removed(counts))


def _steps(
    free: Sequence[Ranked],
    order: Mapping[str, list[int]],
    counts: Mapping[str, int],
    amount: float,
    align: int,
    removed: Removed,
) -> Iterator[tuple[float, str, int]]:
    """Mean rank, group and count of each next step that leaves the amount removed."""
    for group in free:
        now, then = counts[group.name], min(counts[group.name] + align, group.width)
        if then > now and removed({**counts, group.name: then}) >= amount:
            yield float(group.rank[order[group.name][now:then]].mean()), group.name, then


def _held(
    groups: Sequence[Ranked], found: Sequence[Group], align: int
) -> Iterator[tuple[Ranked, ...]]:
    """The groups with fewer and fewer of them held whole.

    First all that rounding would halve at the first cut, then those of them that several layers
    read, as a trunk and a stem are by skip connections, then none.
    """
    halved = {g.name for g in groups if 0 < (g.width - 1) // align * align <= g.width / 2}
    halved = halved if align > 1 else set()
    shared = {g.name for g in found if len({part.module for part in g.consumers}) > 1}
    choices: tuple[set[str], ...] = (halved, halved & shared, set())
    for names in choices:
        yield tuple(_whole(group, align) if group.name in names else group for group in groups)


def _whole(group: Ranked, align: int) -> Ranked:
    return replace(group, fixed=group.fixed or f"rounding to {align} would halve it")
