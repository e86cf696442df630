"""Scores, the normal fit, alignment and the solver, on plain tensors."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.pruning import selection
from compress.pruning.selection import Ranked

ranks = st.lists(st.floats(-5, 5), min_size=1, max_size=80).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)
aligns = st.integers(1, 16)


def test_score_is_the_norm_of_weights_and_bias() -> None:
    weight = torch.tensor([[[[3.0]]], [[[0.0]]]])
    bias = torch.tensor([4.0, -2.0])
    assert selection.scores(weight, bias, "gaussian").tolist() == [5.0, 2.0]
    assert selection.scores(weight, None, "gaussian").tolist() == [3.0, 0.0]
    assert selection.scores(weight, bias, "l1").tolist() == [3.0, 0.0]
    assert selection.scores(weight, bias, "l2").tolist() == [3.0, 0.0]
    assert selection.scores(weight, bias, "magnitude").tolist() == [5.0, 2.0]


def test_random_scores_follow_the_seed() -> None:
    weight = torch.zeros(8, 1, 1, 1)
    one, same, other = (selection.scores(weight, None, "random", seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_z_is_measured_in_population_deviations() -> None:
    z = selection.zscores(torch.tensor([1.0, 3.0]))
    assert z.tolist() == [-1.0, 1.0]
    assert selection.zscores(torch.tensor([0.1] * 7)).tolist() == [0.0] * 7


@given(ranks)
def test_z_has_mean_0_and_deviation_1_or_is_0(values: torch.Tensor) -> None:
    z = selection.zscores(values)
    assert abs(float(z.mean())) < 1e-6
    assert float(z.std(correction=0)) == pytest.approx(1, abs=1e-6) or not z.any()


@given(ranks, st.floats(0.01, 0.99))
def test_quantiles_order_like_scores_and_break_ties_for_the_lower_index(
    values: torch.Tensor, turn: float
) -> None:
    q = selection.quantiles(values, turn)
    assert len(q.unique()) == len(values)
    pairs = sorted(zip(q.tolist(), values.tolist(), range(len(values)), strict=True))
    for (_, a, i), (_, b, j) in pairwise(pairs):
        assert a < b or (a == b and i > j)


@given(ranks, st.floats(-6, 6), aligns)
def test_keep(rank: torch.Tensor, threshold: float, align: int) -> None:
    kept = selection.keep(rank, threshold, align)
    width, above = len(rank), int((rank >= threshold).sum())
    assert list(kept) == sorted(set(kept))
    assert min(align, width) <= len(kept) <= width
    assert len(kept) % align == 0 or len(kept) == width
    assert above <= len(kept) < max(above, 1) + align
    gone = sorted({*range(width)} - {*kept})
    for lost in gone:
        for held in kept:
            assert (rank[held], -held) > (rank[lost], -lost)


@given(ranks, aligns, st.integers(0, 90))
def test_a_floor_holds_and_is_aligned(rank: torch.Tensor, align: int, least: int) -> None:
    kept = selection.keep(rank, math.inf, align, least)
    width = len(rank)
    assert len(kept) == min(-(-max(least, 1) // align) * align, width)


@settings(max_examples=60)
@given(st.lists(ranks, min_size=1, max_size=5), st.floats(0.05, 0.95), aligns)
def test_solver_finds_the_lowest_threshold_that_suffices(
    layers: list[torch.Tensor], amount: float, align: int
) -> None:
    groups = [Ranked(str(i), rank) for i, rank in enumerate(layers)]
    total = sum(g.width for g in groups)

    def removed(counts: dict[str, int]) -> float:
        return 1 - sum(counts.values()) / total

    def at(threshold: float) -> float:
        kept = selection.select(groups, threshold, align)
        return removed({name: len(channels) for name, channels in kept.items()})

    try:
        found = selection.solve(groups, amount, align, removed)
    except selection.Unreachable as error:
        assert error.largest == at(math.inf) < amount
        return
    assert found.removed == at(found.threshold) >= amount
    lower = [v for v in torch.cat(layers).tolist() if v < found.threshold]
    assert not lower or at(max(lower)) < amount


def test_fixed_groups_keep_everything() -> None:
    groups = [Ranked("a", torch.zeros(4), fixed="protected"), Ranked("b", torch.arange(4.0))]
    kept = selection.select(groups, 9.0, 1)
    assert kept == {"a": (0, 1, 2, 3), "b": (3,)}
