"""Plans by predicted milliseconds: the table, its prices, the budget, and what is refused."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Plain, Shape, UNet, randomise, shapes, strided_unet
from torch import nn

from compress.base.errors import UsageError
from compress.base.files import write_json
from compress.checkpoint import Model, ModelOptions
from compress.graph import cost
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.pruning import knapsack, latency, selection
from compress.pruning import plan as pruning
from compress.pruning.families import Family, Knots, wanted
from compress.pruning.latency import Lookup, Table, Times
from compress.pruning.options import PruneOptions
from compress.pruning.selection import Ranked
from compress.steps.prune import Prune

SIZE = (64, 64)


def tabled(net: nn.Module, us: Callable[[Family, int, int], float], step: int = 1) -> Table:
    """A table with made-up microseconds for all layers of a network."""
    families = {
        family.name: Times(
            knots=knots, us=tuple(tuple(us(family, i, o) for o in knots.outs) for i in knots.ins)
        )
        for family, knots in wanted([net], SIZE, step, most=10**6).items()
    }
    about = {"device": "a made-up GPU", "engine": "eager", "torch": "2", "arithmetic": "float16"}
    return Table(**about, families=families)


def by_macs(net: nn.Module) -> Table:
    """Microseconds that are the multiply-accumulates."""
    each = {
        Family.of(net.get_submodule(one.name), one.grid).name: one.macs_of_one(net)
        for one in map(Called, cost.counted(net, SIZE).calls)
    }
    return tabled(net, lambda family, ins, outs: float(each[family.name] * max(ins, 1) * outs))


class Called:
    """A layer with what one pair of channels of it computes."""

    def __init__(self, call: cost.Call) -> None:
        self.call, self.name, self.grid = call, call.name, call.grid

    def macs_of_one(self, net: nn.Module) -> int:
        family = Family.of(net.get_submodule(self.name), self.grid)
        ins, outs = family.counts(self.call.shape)
        macs = self.call.positions * torch.Size(self.call.shape).numel()
        return macs // (max(ins, 1) * outs)


def options(**given: object) -> PruneOptions:
    return PruneOptions(target="latency", latency_size=SIZE[0], **given)


def kept(plan: pruning.Plan) -> dict[str, tuple[int, ...]]:
    return dict(plan.selection.kept)


times = st.floats(0, 1e3)
counts = st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True).map(sorted)


@st.composite
def lookups(draw: st.DrawFn) -> Lookup:
    ins, outs = tuple(draw(counts)), tuple(draw(counts))
    rows = tuple(tuple(draw(times) for _ in outs) for _ in ins)
    return Lookup("a layer", Times(knots=Knots(ins=ins, outs=outs), us=rows))


@settings(max_examples=60, deadline=None)
@given(lookups(), st.data())
def test_no_time_falls_with_a_channel_and_none_is_below_the_measured(
    look: Lookup, data: st.DataObject
) -> None:
    last_in, last_out = look.knots.ins[-1], look.knots.outs[-1]
    ins, outs = data.draw(st.integers(0, last_in)), data.draw(st.integers(0, last_out))
    more = data.draw(st.integers(ins, last_in)), data.draw(st.integers(outs, last_out))
    assert look(ins, outs) <= look(*more) * (1 + 1e-12)
    assert look.us[0][0] <= look(ins, outs) <= look.us[-1][-1]


def test_times_are_interpolated_between_knots_and_raised_to_be_monotone() -> None:
    measured = Times(knots=Knots(ins=(8, 16), outs=(8, 24)), us=((1.0, 3.0), (0.5, 7.0)))
    assert measured.monotone == ((1.0, 3.0), (1.0, 7.0))
    look = Lookup("a layer", measured)
    assert (look(8, 16), look(16, 16), look(12, 16)) == (2.0, 4.0, 3.0)
    assert look(1, 1) == look(8, 8) == 1.0
    with pytest.raises(
        UsageError, match=r"ends at 16 channels for a layer, and the network has 17"
    ):
        look(17, 8)


@settings(max_examples=15, deadline=None)
@given(shapes, st.floats(0.1, 0.8), st.sampled_from([1, 2, 4]), st.sampled_from([True, False]))
def test_a_table_of_macs_gives_the_plan_by_macs(
    shape: Shape, amount: float, align: int, packed: bool
) -> None:
    assume(not shape.add)  # a layer that reads and makes one group: its cost is no line
    net = randomise(UNet(shape), 1)
    more = {
        "amount": amount,
        "round_to": align,
        "criterion": "l1",
        "solver": "knapsack" if packed else "threshold",
    }
    try:
        macs = pruning.plan(net, PruneOptions(**more))
    except UsageError:
        with pytest.raises(UsageError, match="of latency cannot be removed"):
            pruning.plan(net, options(**more), times=by_macs(net))
        return
    plan = pruning.plan(net, options(**more), times=by_macs(net))
    assert kept(plan) == kept(macs)
    assert plan.removed["latency"] == pytest.approx(plan.removed["macs"])


@settings(max_examples=15, deadline=None)
@given(shapes, st.floats(0.05, 0.7), st.sampled_from([1, 4, 8]), st.randoms(use_true_random=False))
def test_a_plan_never_exceeds_its_budget(
    shape: Shape, amount: float, align: int, draw: object
) -> None:
    net = randomise(UNet(shape), 2)
    table = tabled(net, lambda family, ins, outs: draw.uniform(1, 50) * (1 + ins * outs / 16))
    wish = options(amount=amount, round_to=align, criterion="l1")
    try:
        plan = pruning.plan(net, wish, times=table)
    except UsageError as error:
        assert "of latency cannot be removed" in str(error)
        return
    assert plan.times is not None
    assert plan.times.after_ms <= plan.times.budget_ms * (1 + 1e-12)
    small = plan.apply(net)
    predicted = latency.Predictor(small, table, SIZE).ms()
    assert predicted == pytest.approx(plan.times.after_ms)
    assert predicted <= (1 - amount) * latency.Predictor(net, table, SIZE).ms() * (1 + 1e-12)


def tiled(family: Family, ins: int, outs: int) -> float:
    """Microseconds of tiles of 16: as many channels as fit into one cost the same."""
    return 1.0 + 10.0 * -(-ins // 16) * -(-outs // 16)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 0.75), st.sampled_from([4, 8]))
def test_a_plateau_keeps_all_its_channels(amount: float, align: int) -> None:
    net = randomise(Plain(48), 4)
    more = {"amount": amount, "round_to": align, "criterion": "l1"}
    plan = pruning.plan(net, options(**more), times=tabled(net, tiled))
    assert {len(own) for own in kept(plan).values()} <= {1, 16, 32, 48}
    assert plan.times.after_ms <= plan.times.budget_ms


def test_without_plateaus_the_same_network_is_cut_elsewhere() -> None:
    net = randomise(Plain(48), 4)
    more = {"amount": 0.4, "round_to": 8, "criterion": "l1"}
    macs = pruning.plan(net, options(**more), times=by_macs(net))
    assert any(len(own) % 16 for own in kept(macs).values() if len(own) > 1)


worths = st.lists(st.floats(0.1, 10), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(worths, st.data()), min_size=1, max_size=3))
def test_no_choice_of_the_same_cost_is_worth_more(
    drawn: list[tuple[list[float], st.DataObject]],
) -> None:
    far = [1e4, 1e-4]  # so that deviations of the ranks are far larger than what breaks ties
    named = [
        Ranked(str(i), torch.zeros(len(one)), scores=torch.tensor(one, dtype=torch.float64))
        for i, one in enumerate([*(one for one, _ in drawn), far])
    ]
    steps = st.sampled_from([0.0, 0.0, 0.05, 0.1, 0.3])
    prices = {
        group.name: [0.1, *(data.draw(steps) for _ in one[1:])]
        for group, (one, data) in zip(named[:-1], drawn, strict=True)
    }
    prices[named[-1].name] = [0.1, 0.1]
    ranked = knapsack.ranked_on_curves(named, prices)
    best = {g.name: sorted(g.scores.tolist(), reverse=True) for g in named}

    def of(counts: tuple[int, ...]) -> tuple[float, float]:
        pairs = list(zip(named, counts, strict=True))
        spent = sum(sum(prices[g.name][:count]) for g, count in pairs)
        return spent, sum(sum(best[g.name][:count]) for g, count in pairs)

    every = [of(c) for c in itertools.product(*(range(1, g.width + 1) for g in named))]
    for threshold in {value for group in ranked for value in group.rank.tolist()}:
        picked = selection.select(ranked, threshold - 1e-7, 1)
        for group in ranked:
            worst = min(group.scores[list(picked[group.name])].tolist())
            gone = {*range(group.width)} - {*picked[group.name]}
            assert all(float(group.scores[i]) <= worst for i in gone)
        if any(not bool((group.rank >= threshold - 1e-7).any()) for group in ranked):
            continue  # one channel stays all the same
        spent, worth = of(tuple(len(picked[g.name]) for g in named))
        assert all(other <= worth + 1e-9 for cost_, other in every if cost_ <= spent + 1e-12)


def test_layers_of_all_kinds_are_timed_by_what_they_read() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(1, 8, 3, padding=1)
            self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
            self.up = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1)
            self.point = nn.Linear(8, 4)
            self.last = nn.Conv2d(4, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.depth(torch.relu(self.head(x))))
            y = torch.relu(self.up(torch.relu(self.down(y))))
            y = self.point(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            out: torch.Tensor = self.last(torch.relu(y))
            return out

    net = randomise(Mixed(), 5)
    found = wanted([net], SIZE, 4)
    assert len(found) == 6
    for family, knots in found.items():
        layer = family.layer(knots.ins[-1], knots.outs[-1]).double()
        assert Family.of(layer, family.grid) == family
        assert family.counts(layer.weight.shape) == (knots.ins[-1], knots.outs[-1])
        assert layer(torch.rand(family.read(layer), dtype=torch.float64)).isfinite().all()
    plan = pruning.plan(net, options(amount=0.3, round_to=1, criterion="l1"), times=by_macs(net))
    assert plan.removed["latency"] == pytest.approx(plan.removed["macs"])
    assert plan.removed["macs"] >= 0.3


@pytest.mark.parametrize(("step", "shapes_"), [(16, 115), (8, 390)])
def test_ddnet_needs_hundreds_of_shapes_at_most(step: int, shapes_: int) -> None:
    net = deconv_to_conv(DDnet())
    found = wanted([net], (512, 512), step)
    assert sum(len(one.ins) * len(one.outs) for one in found.values()) == shapes_ <= 400
    few = wanted([net], (512, 512), step, most=60)
    assert sum(len(one.ins) * len(one.outs) for one in few.values()) <= 60
    assert all(few[f].ins[-1] == k.ins[-1] for f, k in found.items())


def test_a_file_gives_the_table_again(tmp_path: Path) -> None:
    net = randomise(Plain(16), 6)
    table = by_macs(net)
    write_json(tmp_path / "t.json", table.to_json())
    again = latency.read(tmp_path / "t.json")
    assert again == table
    assert again.sha256 == table.sha256
    wish = {"amount": 0.3, "round_to": 4, "criterion": "l1"}
    given_ = options(latency_table=str(tmp_path / "t.json"), **wish)
    assert kept(pruning.plan(net, given_)) == kept(pruning.plan(net, options(**wish), times=table))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "other"}, "is no compress-latency of schema 1"),
        ({"torch": None, "families": {"a": {"in": [2, 1], "out": [1], "us": [[1], [2]]}}},
         "channel counts must be ascending whole numbers"),
        ({"families": {"a": {"in": [1], "out": [1, 2], "us": [[1]]}}}, "us must have a row"),
        ({"families": {"a": {"in": [1], "out": [1], "us": [[0]]}}}, "finite and positive"),
        ({"families": {"a": {"out": [1], "us": [[1]]}}}, "it lacks 'in'"),
        ({"families": []}, "is no latency table"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    value = {**by_macs(randomise(Plain(4), 0)).to_json(), **change}
    (tmp_path / "t.json").write_text(json.dumps(value))
    with pytest.raises(UsageError, match=sentence):
        latency.read(tmp_path / "t.json")


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    net = randomise(Plain(8), 7)
    with pytest.raises(UsageError, match="target latency needs measured times"):
        pruning.plan(net, options(amount=0.3))
    with pytest.raises(UsageError, match=r"none\.json cannot be read: No such file"):
        pruning.plan(net, options(amount=0.3, latency_table=str(tmp_path / "none.json")))
    other = by_macs(randomise(UNet(Shape((4, 4, 4), True, False, False, False)), 0))
    with pytest.raises(UsageError, match=r"ends at 4 channels for Conv2d kernel 3x3"):
        pruning.plan(net, options(amount=0.3), times=other)
    with pytest.raises(ValueError, match="latency_table is for target latency, and target is macs"):
        PruneOptions(amount=0.3, latency_table="t.json")
    with pytest.raises(ValueError, match="latency_size must be at least 1"):
        PruneOptions(amount=0.3, target="latency", latency_size=0)
    with pytest.raises(ValueError, match="removes no channels, so target cannot be latency"):
        Prune(amount=0.3, target="latency", criterion="magnitude_weights")


def test_rounds_spend_what_the_dense_network_takes(tmp_path: Path) -> None:
    net = strided_unet()
    write_json(tmp_path / "t.json", by_macs(net).to_json())
    model = Model(net=net.eval(), origin=ModelOptions(import_="networks:strided_unet"))
    given_ = {"target": "latency", "latency_size": 64, "latency_table": str(tmp_path / "t.json")}
    step = Prune(amount=0.3, round_to=1, criterion="l1", **given_)
    _, first = step.plan(model, 0)
    half = Model(net=first.apply(net), origin=model.origin)
    again = Prune(amount=0.5, base="dense", round_to=1, criterion="l1", **given_)
    _, second = again.plan(half, 0)
    whole = first.times.before_ms
    assert second.times.budget_ms == pytest.approx(0.5 * whole)
    assert second.times.after_ms <= 0.5 * whole < second.times.before_ms < whole
