"""Channels by worth for cost: the rest of the budget is filled, and rounding halves no trunk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Shape, UNet, randomise

from compress.graph.groups import groups
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.pruning import knapsack, selection
from compress.pruning import plan as pruning
from compress.pruning.ledger import Ledger
from compress.pruning.options import PruneOptions
from compress.pruning.selection import Ranked

ranks = st.lists(st.floats(-5, 5), min_size=1, max_size=40).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ranks, min_size=1, max_size=5), st.floats(0.05, 0.9), st.integers(1, 16))
def test_filling_adds_the_best_until_nothing_fits(
    layers: list[torch.Tensor], amount: float, align: int
) -> None:
    named = [Ranked(str(i), rank) for i, rank in enumerate(layers)]
    prices = {group.name: 1 + i for i, group in enumerate(named)}
    total = sum(prices[g.name] * g.width for g in named)

    def removed(counts: dict[str, int]) -> float:
        return 1 - sum(prices[name] * count for name, count in counts.items()) / total

    try:
        picked = selection.solve(named, amount, align, removed)
    except selection.Unreachable:
        return
    filled = knapsack.filled(named, picked, amount, align, removed)
    counts = {name: len(kept) for name, kept in filled.kept.items()}
    assert filled.removed == removed(counts) >= amount
    for group in named:
        assert {*picked.kept[group.name]} <= {*filled.kept[group.name]}
        count = counts[group.name]
        assert count % align == 0 or count == group.width
        more = min(count + align, group.width)
        assert more == count or removed({**counts, group.name: more}) < amount
        gone = {*range(group.width)} - {*filled.kept[group.name]}
        worst = min(float(group.rank[i]) for i in filled.kept[group.name])
        assert all(float(group.rank[i]) <= worst for i in gone)


def test_a_channel_goes_by_worth_for_price() -> None:
    worth = {"dear": [4.0, 8.0], "cheap": [1.0, 2.0]}
    named = [
        Ranked(name, torch.zeros(2), scores=torch.tensor(values).double())
        for name, values in worth.items()
    ]
    ranked = knapsack.ranked(named, {"dear": 0.16, "cheap": 0.02})
    # Worth for price: 25 and 50 against 50 and 100.
    order = [rank for group in ranked for rank in group.rank.tolist()]
    assert order[1] == pytest.approx(order[2])
    assert order[0] < order[1] < order[3]
    assert sum(order) == pytest.approx(0.0, abs=1e-9)  # one normal distribution for both


def test_prices_are_what_the_network_loses_with_a_channel() -> None:
    net = randomise(UNet(Shape((8, 8, 8), True, False, False, False)), 0)
    found = groups(net)
    ledger = Ledger(net, found)
    prices = knapsack.prices(found, ledger, "params")
    whole = sum(p.numel() for p in net.parameters())
    # same: 8 inputs x 9 taps and a bias; read by down (8 outputs x 9) and by last (1 output x 1).
    assert prices["same"] * whole == pytest.approx(8 * 9 + 1 + 8 * 9 + 1)


def ddnet() -> torch.nn.Module:
    torch.manual_seed(0)
    return randomise(deconv_to_conv(DDnet()), 1)


def widths(plan: pruning.Plan) -> dict[str, int]:
    return {name: len(kept) for name, kept in plan.selection.kept.items()}


def test_trunk_and_stem_stay_whole_where_rounding_would_halve_them() -> None:
    net = ddnet()
    trunk = ("stem.conv", "blocks.0.0.growth.conv", "transitions.2.conv")
    usual = pruning.plan(net, PruneOptions(amount=0.75, round_to=8))
    assert [widths(usual)[name] for name in trunk] == [8, 8, 8]
    plan = pruning.plan(net, PruneOptions(amount=0.75, round_to=8, criterion="variance"))
    assert {widths(plan)[g.name] for g in plan.groups if g.width == 16} == {16}
    assert 0.75 <= plan.removed["macs"] < 0.752
    stem = next(group for group in plan.groups if group.name == "stem.conv")
    assert stem.fixed == "rounding to 8 would halve it"


def test_what_the_amount_needs_is_halved_after_all() -> None:
    net = ddnet()
    plan = pruning.plan(net, PruneOptions(amount=0.9, round_to=8, criterion="variance"))
    assert plan.removed["macs"] >= 0.9
    assert min(widths(plan)[g.name] for g in plan.groups if g.width == 16) == 8


@pytest.mark.parametrize("criterion", ["gaussian", "l1", "random"])
def test_any_criterion_can_be_weighed_against_cost(criterion: str) -> None:
    net = randomise(UNet(Shape((16, 24, 16), True, True, False, True)), 2)
    options = PruneOptions(amount=0.4, round_to=4, criterion=criterion, solver="knapsack")
    plan = pruning.plan(net, options)
    prices = knapsack.prices(plan.found, Ledger(net, plan.found), "macs")
    worth = torch.cat([group.scores / prices[group.name] for group in plan.groups])
    ranks = torch.cat([group.rank for group in plan.groups])
    assert torch.equal(worth.argsort(), ranks.argsort())
    assert plan.removed["macs"] >= 0.4


def test_a_threshold_is_in_deviations_of_the_network() -> None:
    net = ddnet()
    options = PruneOptions(threshold=0.0, round_to=1, criterion="variance")
    plan = pruning.plan(net, options)
    ranks = torch.cat([group.rank for group in plan.groups])
    assert float(ranks.mean()) == pytest.approx(0, abs=1e-9)
    assert float(ranks.std(correction=0)) == pytest.approx(1)
    free = [group for group in plan.groups if not group.fixed]
    assert all(widths(plan)[g.name] == max(1, int((g.rank >= 0).sum())) for g in free)
