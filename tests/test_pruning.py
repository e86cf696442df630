"""Pruning real networks: the right share goes, and what is left computes what it should."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Masked, Plain, Shape, UNet, randomise, shapes, strided_unet

from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions, channels
from compress.graph import cost
from compress.graph.groups import groups
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet, widths
from compress.models.redcnn import RedCNN
from compress.pruning import plan as pruning
from compress.pruning import selection
from compress.pruning.options import PruneOptions
from compress.steps.prune import Prune

calm = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
amounts = st.floats(0.1, 0.9)
aligns = st.sampled_from([1, 2, 4, 8, 16])
criteria = st.sampled_from(["gaussian", "l1", "l2", "magnitude", "random"])
scopes = st.sampled_from(["layer", "global"])
floors = st.sampled_from([0.0, 0.25, 0.5])
SMALL = (16, 16)
"""Sides of slices to try plans with, where many are made: the smallest that DDnet takes."""


def equals_masked(net: torch.nn.Module, plan: pruning.Plan, side: int) -> None:
    """The pruned network against the dense one with zeros at the consumers' inputs, in float64."""
    x = torch.rand(1, 1, side, side, dtype=torch.float64)
    small = plan.apply(net)
    masked = Masked(copy.deepcopy(net), groups(net), plan.pruned)
    with torch.no_grad():
        expected, got = masked(x), small(x)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.parametrize(("amount", "align"), [(0.3, 16), (0.6, 16), (0.75, 8), (0.9, 1)])
def test_pruned_ddnet_equals_masked(amount: float, align: int) -> None:
    net = randomise(deconv_to_conv(DDnet(residual=True)), seed=int(10 * amount))
    plan = pruning.plan(net, PruneOptions(amount=amount, round_to=align))
    assert plan.removed["macs"] >= amount
    equals_masked(net, plan, 64)


@pytest.mark.parametrize("amount", [0.2, 0.5, 0.8])
def test_pruned_redcnn_equals_masked(amount: float) -> None:
    net = randomise(deconv_to_conv(RedCNN(channels=32)), seed=3)
    plan = pruning.plan(net, PruneOptions(amount=amount, round_to=4))
    equals_masked(net, plan, 48)


@calm
@given(
    shape=shapes,
    amount=amounts,
    align=aligns,
    criterion=criteria,
    scope=scopes,
    floor=floors,
    seed=st.integers(0, 99),
)
def test_any_network(
    shape: Shape, amount: float, align: int, criterion: str, scope: str, floor: float, seed: int
) -> None:
    net = randomise(UNet(shape), seed)
    before = cost.cost(net)
    options = {"round_to": align, "criterion": criterion, "scope": scope, "min_keep": floor}
    try:
        plan = pruning.plan(
            net, PruneOptions(amount=amount, ignore=("down",), **options), seed=seed
        )
    except UsageError as error:
        assert "cannot be removed" in str(error)
        return
    after = cost.cost(plan.apply(net))
    assert 1 - after.macs / before.macs == pytest.approx(plan.removed["macs"], abs=1e-12)
    assert 1 - after.params / before.params == pytest.approx(plan.removed["params"], abs=1e-12)
    assert plan.removed["macs"] >= amount
    for group in plan.groups:
        kept = len(plan.selection.kept[group.name])
        assert kept == group.width if group.fixed else kept >= min(align, group.width)
        assert kept % align == 0 or kept == group.width
        assert kept >= floor * group.width
    assert len(plan.selection.kept["down"]) == shape.widths[1]
    equals_masked(net, plan, 32)


@calm
@given(shape=shapes, align=aligns, criterion=criteria, scope=scopes, seed=st.integers(0, 99))
def test_overshoot_is_below_one_aligned_group(
    shape: Shape, align: int, criterion: str, scope: str, seed: int
) -> None:
    net = randomise(UNet(shape), seed)
    try:
        plan = pruning.plan(
            net, PruneOptions(amount=0.5, round_to=align, criterion=criterion, scope=scope)
        )
    except UsageError:
        return
    ledger = pruning.Ledger(net, groups(net))
    # The next lower threshold keeps more: fewer than asked for would be gone.
    ranks = torch.cat([g.rank for g in plan.groups if not g.fixed]).unique()
    lower = ranks[ranks < plan.selection.threshold]
    if len(lower):
        kept = selection.select(plan.groups, float(lower[-1]), align)
        counts = {name: len(channels) for name, channels in kept.items()}
        assert ledger.removed(counts)["macs"] < 0.5
        for group in plan.groups:
            more = counts[group.name] - len(plan.selection.kept[group.name])
            # Channels of equal rank go at once; of all others one, so one aligned step at most.
            assert 0 <= more <= align or len(group.rank.unique()) < group.width


@calm
@given(
    shape=shapes, align=aligns, criterion=criteria, seed=st.integers(0, 9),
    pair=st.tuples(amounts, amounts),
)  # fmt: skip
def test_threshold_is_monotone_in_amount(
    shape: Shape, align: int, criterion: str, seed: int, pair: tuple[float, float]
) -> None:
    net = randomise(UNet(shape), seed)
    try:
        low, high = (
            pruning.plan(
                net, PruneOptions(amount=a, round_to=align, criterion=criterion), seed=seed
            )
            for a in sorted(pair)
        )
    except UsageError:
        return
    assert low.selection.threshold <= high.selection.threshold
    for name, kept in high.selection.kept.items():
        assert set(kept) <= set(low.selection.kept[name])


def test_threshold_rises_with_amount() -> None:
    net = deconv_to_conv(DDnet())
    plans = [
        pruning.plan(net, PruneOptions(amount=a, round_to=4)) for a in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    thresholds = [plan.selection.threshold for plan in plans]
    assert thresholds == sorted(thresholds)


def test_sixty_percent_of_macs_at_align_16() -> None:
    net = deconv_to_conv(DDnet())
    plan = pruning.plan(net, PruneOptions(amount=0.62))
    small = plan.apply(net)
    sizes = {n: out for n, (_, out) in channels(small).items()}
    assert set(sizes.values()) == {16, 1}
    assert cost.cost(small).params == 174_051
    # The same class builds the pruned network from its channel table.
    again = deconv_to_conv(DDnet(widths=sizes))
    again.load_state_dict(small.state_dict())
    assert widths(again) == sizes


def test_unreachable_amount_names_the_most_and_a_way() -> None:
    with pytest.raises(
        UsageError, match=r"at round_to 16; the most is 0\.62\d*, and round_to 8 reaches"
    ):
        pruning.plan(deconv_to_conv(DDnet()), PruneOptions(amount=0.75))
    net = Plain(4)
    with pytest.raises(UsageError, match="and no alignment reaches it"):
        pruning.plan(net, PruneOptions(amount=0.999))


def test_every_amount_from_10_to_90_percent_is_reachable_for_ddnet() -> None:
    net = deconv_to_conv(DDnet())
    for of in ("macs", "channels"):
        for tenth in range(1, 10):
            options = PruneOptions(amount=tenth / 10, target=of, round_to=1)
            plan = pruning.plan(net, options, size=SMALL)
            assert plan.removed[of] >= tenth / 10


@pytest.mark.parametrize("of", ["macs", "params", "channels"])
def test_alignment_none_takes_the_largest_that_reaches_the_amount(of: str) -> None:
    net = deconv_to_conv(DDnet())
    found = []
    for tenth in range(1, 10):
        options = PruneOptions(amount=tenth / 10, target=of, round_to=None)
        plan = pruning.plan(net, options, size=SMALL)
        assert plan.removed[of] >= tenth / 10
        coarser = [a for a in pruning.ALIGNMENTS if a > plan.align]
        for align in coarser[-1:]:
            with pytest.raises(UsageError, match="cannot be removed"):
                pruning.plan(net, replace(options, round_to=align), size=SMALL)
        found.append(plan.align)
    assert found[0] == 16
    assert found == sorted(found, reverse=True)


def test_an_amount_of_the_dense_network_counts_what_is_gone() -> None:
    net = deconv_to_conv(DDnet())
    first = pruning.plan(net, PruneOptions(amount=0.4, round_to=4))
    half = first.apply(net)
    ratio = 1 / (1 - first.removed["macs"])
    second = pruning.plan(half, PruneOptions(amount=0.7, round_to=4), base=ratio)
    small = second.apply(half)
    gone = 1 - cost.cost(small).macs / cost.cost(net).macs
    assert 0.7 <= gone < 0.74
    nothing = pruning.plan(half, PruneOptions(amount=0.4, round_to=4), base=ratio)
    assert nothing.removed["macs"] == 0


def test_channels_of_the_dense_network_are_outputs_of_strided_deconvolutions_too() -> None:
    torch.manual_seed(0)
    origin = ModelOptions(import_="networks:strided_unet")
    dense = Model(net=strided_unet().eval(), origin=origin)
    options = {"target": "channels", "round_to": 1, "criterion": "l2"}
    model, first = Prune(amount=0.25, ignore=("down",), **options).plan(dense, 0)
    half = replace(model, net=first.apply(model.net))
    _, second = Prune(amount=0.3, base="dense", **options).plan(half, 0)
    outputs = [sum(out for _, out in channels(net).values()) for net in (
        dense.net, second.apply(half.net)
    )]  # fmt: skip
    assert 0.3 <= 1 - outputs[1] / outputs[0] < 0.32


def test_global_scope_compares_scores_over_the_whole_network() -> None:
    net = randomise(Plain(16), 1)
    with torch.no_grad():
        net.middle.weight.mul_(100)
    kept = {}
    for criterion in ("l2", "gaussian"):
        plan = pruning.plan(
            net, PruneOptions(amount=0.3, round_to=1, criterion=criterion, scope="global")
        )
        kept[criterion] = {n: len(c) for n, c in plan.selection.kept.items()}
        assert kept[criterion]["middle"] == 16
        assert kept[criterion]["first"] < 16
    fair = pruning.plan(net, PruneOptions(amount=0.3, round_to=1, criterion="l2"))
    assert len(fair.selection.kept["middle"]) < 16


def test_taylor_scores_decide() -> None:
    net = randomise(Plain(8), 1)
    scores = {name: torch.arange(8, dtype=torch.float64) for name in ("first", "middle")}
    plan = pruning.plan(
        net,
        PruneOptions(threshold=0.5, round_to=1, criterion="taylor"),
        importance=scores | {"last": torch.ones(1)},
    )
    assert plan.selection.kept["first"] == plan.selection.kept["middle"] == (4, 5, 6, 7)
    assert pruning.cut(plan.groups[0], (4, 5, 6, 7)) == 3.5
    assert pruning.cut(plan.groups[0], range(8)) is None


def test_protected_names_stay() -> None:
    net = deconv_to_conv(DDnet())
    plan = pruning.plan(net, PruneOptions(amount=0.3, round_to=4, ignore=("blocks.0.*",)))
    kept = {g.name: len(plan.selection.kept[g.name]) for g in plan.groups}
    assert all(kept[g.name] == g.width for g in plan.groups if g.name.startswith("blocks.0."))
    with pytest.raises(UsageError, match=r"named 'stem\.cov'; did you mean 'stem\.conv'"):
        pruning.plan(net, PruneOptions(amount=0.3, ignore=("stem.cov",)))


def test_frozen_weights_stay_frozen() -> None:
    net = Plain(16)
    net.first.requires_grad_(False)
    small = pruning.plan(net, PruneOptions(amount=0.3, round_to=4)).apply(net)
    assert small.middle.weight.shape != net.middle.weight.shape
    learn = {name: p.requires_grad for name, p in net.named_parameters()}
    assert {name: p.requires_grad for name, p in small.named_parameters()} == learn


def test_grouped_convolutions_stay_whole_and_say_so() -> None:
    plan = pruning.plan(Plain(16, groups=4), PruneOptions(threshold=9.0, round_to=4))
    reasons = {g.name: g.fixed for g in plan.groups}
    assert "middle is a grouped convolution" in reasons["middle"]
    assert "grouped convolution" in reasons["first"]
    assert plan.removed["macs"] == 0


def test_given_threshold_is_used() -> None:
    net = randomise(Plain(32), 1)
    plan = pruning.plan(net, PruneOptions(threshold=0.0, round_to=1))
    first = next(g for g in plan.groups if g.name == "first")
    assert plan.selection.kept["first"] == tuple((first.rank >= 0).nonzero().flatten().tolist())
