"""Kernels by predicted milliseconds: times of both sizes, prices, the budget, what is missing."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import Kernels, Shape, UNet, randomise, shapes
from test_latency import SIZE, Called
from test_rings import check
from test_variance import slices
from torch import nn

from compress.base.errors import UsageError
from compress.base.files import write_json
from compress.engines.kernels import single
from compress.graph import cost, kernels
from compress.graph.groups import groups
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.pruning import latency, taylor, variance
from compress.pruning import plan as pruning
from compress.pruning.families import Family, Knots, wanted
from compress.pruning.latency import Table, Times
from compress.pruning.ledger import Ledger
from compress.pruning.options import PruneOptions
from compress.recipe import load
from compress.run import pipeline, preview

calm = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
Us = Callable[[Family, int, int], float]


def tabled(nets: Sequence[nn.Module], us: Us, engine: str = "eager", step: int = 1) -> Table:
    """A table with made-up microseconds for all layers of some networks."""
    families = {
        family.name: Times(
            knots=knots, us=tuple(tuple(us(family, i, o) for o in knots.outs) for i in knots.ins)
        )
        for family, knots in wanted(nets, SIZE, step, most=10**6).items()
    }
    return Table(
        device="a made-up GPU", engine=engine, torch="2", arithmetic="float16", families=families
    )


def both(net: nn.Module, least: int = 3) -> list[nn.Module]:
    return [net, *kernels.smaller(net, least)]


def by_macs(nets: Sequence[nn.Module]) -> Table:
    """Microseconds that are the multiply-accumulates."""
    each = {
        Family.of(net.get_submodule(one.name), one.grid).name: Called(one).macs_of_one(net)
        for net in nets
        for one in cost.counted(net, SIZE).calls
    }
    return tabled(nets, lambda family, ins, outs: float(each[family.name] * max(ins, 1) * outs))


def options(**given_: object) -> PruneOptions:
    more = {"criterion": "variance", "kernels": "weigh", "target": "latency"}
    return PruneOptions(**{**more, "latency_size": SIZE[0], **given_})


@calm
@given(shapes, st.floats(0.1, 0.9), st.sampled_from([1, 2, 4]))
def test_a_table_of_macs_gives_the_plan_by_macs(shape: Shape, amount: float, align: int) -> None:
    assume(not shape.add)  # a layer that reads and makes one group: its cost is no line
    net = randomise(UNet(shape), 1)
    worth = variance.worth(net, slices, rings=kernels.cuttable(net, 1)[0])
    more = {"amount": amount, "round_to": align, "min_kernel": 1}
    try:
        macs = pruning.plan(net, options(target="macs", **more), importance=worth)
    except UsageError:
        with pytest.raises(UsageError, match="of latency cannot be removed"):
            pruning.plan(net, options(**more), importance=worth, times=by_macs(both(net, 1)))
        return
    plan = pruning.plan(net, options(**more), importance=worth, times=by_macs(both(net, 1)))
    assert plan.rings == macs.rings
    assert plan.selection.kept == macs.selection.kept
    assert plan.removed["latency"] == pytest.approx(plan.removed["macs"])


@calm
@given(shapes, st.floats(0.05, 0.8), st.sampled_from([1, 4, 8]), st.randoms(use_true_random=False))
def test_a_plan_never_exceeds_its_budget(
    shape: Shape, amount: float, align: int, draw: object
) -> None:
    net = randomise(UNet(shape), 2)
    pairs = [(x, x.square()) for x in slices()]
    rings = kernels.cuttable(net, 1)[0]
    worth = taylor.worth(net, pairs, torch.device("cpu"), rings)
    # Smaller kernels may even be slower here.
    table = tabled(both(net, 1), lambda _, ins, outs: draw.uniform(1, 50) * (1 + ins * outs / 16))
    wish = options(amount=amount, round_to=align, criterion="taylor", min_kernel=1)
    try:
        plan = pruning.plan(net, wish, importance=worth, times=table)
    except UsageError as error:
        assert "of latency cannot be removed" in str(error)
        return
    assert plan.times.after_ms <= plan.times.budget_ms * (1 + 1e-12)
    small = check(net, plan)
    predicted = latency.Predictor(small, table, SIZE).ms()
    assert predicted == pytest.approx(plan.times.after_ms)
    assert predicted <= (1 - amount) * latency.Predictor(net, table, SIZE).ms() * (1 + 1e-12)


def ddnet() -> nn.Module:
    return randomise(deconv_to_conv(DDnet(trunk=16, bottleneck=32, decoder=32)), 3)


def test_rings_that_save_no_time_stay() -> None:
    net = ddnet()
    table = tabled(both(net), lambda _, ins, outs: 1.0 + ins * outs)
    plan = pruning.plan(net, options(amount=0.6, round_to=8), times=table)
    assert not plan.rings
    assert plan.removed["latency"] >= 0.6


def test_channels_that_save_no_time_stay() -> None:
    net = ddnet()
    table = tabled(both(net), lambda family, _, __: float(math.prod(family.kernel)))
    plan = pruning.plan(net, options(amount=0.4, round_to=8), times=table)
    assert plan.rings
    assert not any(plan.pruned.values())
    assert plan.removed["latency"] >= 0.4
    check(net, plan, 64)


def test_plateaus_are_those_of_the_smaller_kernels() -> None:
    """5x5 in tiles of 8 channels, 3x3 in tiles of 16: narrow layers save nothing by 3x3."""

    def us(family: Family, ins: int, outs: int) -> float:
        tile = 16 if family.kernel == (3, 3) else 8
        return math.prod(family.kernel) * -(-ins // tile) * -(-outs // tile) * tile * tile / 64

    net = ddnet()
    plan = pruning.plan(net, options(amount=0.7, round_to=8), times=tabled(both(net), us, step=8))
    small = check(net, plan, 64)
    assert plan.rings
    for name in plan.rings:
        conv = small.get_submodule(name)
        full = -(-conv.in_channels // 16) * 16 * -(-conv.out_channels // 16) * 16
        assert conv.kernel_size != (3, 3) or 9 * full < 25 * conv.in_channels * conv.out_channels


def test_a_table_without_smaller_kernels_is_refused_and_single_ones_are_named() -> None:
    net = ddnet()
    with pytest.raises(
        UsageError, match=r"kernels: the latency table has no times of a Conv2d ker"
    ):
        pruning.plan(net, options(amount=0.4, ignore=("stem.conv",)), times=by_macs([net]))
    table = by_macs(both(net))
    gone = [name for name in table.families if "kernel 3x3" in name and "on 64x64" in name]
    fewer = replace(table, families={n: t for n, t in table.families.items() if n not in gone})
    plan = pruning.plan(net, options(amount=0.6, kernels="cut"), times=fewer)
    kept = {kernel.name: kernel.kept for kernel in plan.kernels if kernel.kept}
    assert kept == {"decoders.3.wide.conv": f"the latency table has no times of a {gone[0]}"}
    assert plan.rings["stem.conv"] == 1  # its 5x5 has times


def test_kernels_of_fused_stay_where_too_few_channels_are_left() -> None:
    net = randomise(deconv_to_conv(DDnet(residual=True)), 4)
    every = wanted(both(net), SIZE, 8, 10**6)
    own = wanted([net], SIZE, 8, 10**6)
    served = single.served(every, own)
    assert served.keys() >= own.keys()
    smaller = [knots for family, knots in served.items() if family.kernel == (3, 3)]
    assert smaller
    assert all(min(knots.ins) >= 16 and min(knots.outs) >= 16 for knots in smaller)
    assert any(8 in k.ins for f, k in served.items() if f.kernel == (5, 5))  # its own
    others = wanted([Kernels()], SIZE, 8)
    assert single.served(others, others) == others  # and refused when they are measured
    assert not single.served(others, {}).keys() & {f for f in others if f.stride == (2, 2)}

    def us(family: Family, ins: int, outs: int) -> float:
        return float(max(ins, 1) * outs * math.prod(family.kernel) * math.prod(family.grid))

    families = {
        f.name: Times(knots=k, us=tuple(tuple(us(f, i, o) for o in k.outs) for i in k.ins))
        for f, k in served.items()
    }
    table = replace(tabled([net], us, "fused", 8), families=families)
    for word in ("weigh", "cut"):
        plan = pruning.plan(net, options(amount=0.8, round_to=8, kernels=word), times=table)
        small = plan.apply(net)
        assert "stem.conv" not in plan.rings  # from one channel
        for name in plan.rings:
            conv = small.get_submodule(name)
            assert min(conv.in_channels, conv.out_channels) >= 16, name
        assert plan.removed["latency"] >= 0.8
        check(net, plan, 64)
    stay = {kernel.kept for kernel in plan.kernels if kernel.after == kernel.before}
    assert "the engine has no smaller kernel for the channels that are left" in stay
    assert "" not in stay
    eager = replace(table, engine="eager")
    free = pruning.plan(net, options(amount=0.8, round_to=8, kernels="cut"), times=eager)
    assert len(free.rings) > len(plan.rings)


def test_narrow_layers_with_their_own_kernels_are_not_narrow() -> None:
    net = ddnet()
    table = tabled(both(net), lambda *_: 1.0, "fused", 16)
    predictor = latency.Predictor(net, table, SIZE, kernels.cuttable(net, 3)[0])
    whole = {name: list(p.shape) for name, p in net.named_parameters()}
    assert not predictor.narrow(whole)
    one = {**whole, "blocks.0.0.growth.conv.weight": [8, 32, 5, 5]}
    assert not predictor.narrow(one)
    one["blocks.0.0.growth.conv.weight"] = [8, 32, 3, 3]
    assert predictor.narrow(one) == {"blocks.0.0.growth.conv.weight"}
    one["blocks.0.0.growth.conv.weight"] = [16, 32, 3, 3]
    assert not predictor.narrow(one)


@pytest.mark.parametrize("target", ["macs", "params", "channels", "latency"])
def test_what_one_group_saves_is_found_from_its_own_tensors(target: str) -> None:
    for net in (ddnet(), randomise(Kernels(), 5)):
        found, rings = groups(net, SIZE), kernels.cuttable(net, 3)[0]
        table = tabled(both(net), lambda f, i, o: 1.0 + math.prod(f.kernel) * i * o)
        ledger = Ledger(net, found, latency.Predictor(net, table, SIZE, rings)).cut(rings)
        whole = {group.name: group.width for group in found}
        for group in found[::3]:
            counts = range(1, group.width + 1)
            expected = [ledger.removed({**whole, group.name: n})[target] for n in counts]
            assert ledger.alone(group, target) == pytest.approx(expected, abs=1e-12)


RECIPE = """schema: 1
model: {name: ddnet, trunk: 8, bottleneck: 8, decoder: 8}
data: {source: phantom, image_size: 32, train_slices: 2, test_slices: 1, views: 30}
steps:
  - train: {epochs: 1, crop: 16, slices_per_epoch: 4}
  - prune: {amount: 0.2, target: latency, latency_size: 64, round_to: 8, criterion: variance,
            batches: 1, kernels: weigh}
  - evaluate
"""


def test_a_recipe_measures_both_sizes_and_its_table_gives_the_plan_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    pipeline.run(load(path), out=tmp_path / "run", device="cpu")
    facts = json.loads((tmp_path / "run/01-prune/facts.json").read_text())["facts"]
    found = facts["latency"]
    assert facts["removed"]["latency"] >= 0.2
    assert found["after_ms"] <= found["budget_ms"]
    names = latency.read(Path(found["table"])).families
    assert any("kernel 3x3" in name for name in names)
    assert any("kernel 5x5" in name for name in names)
    again = load(path, [f"steps.prune.latency_table={found['table']}"])
    pipeline.run(again, out=tmp_path / "again", device="cpu")
    other = json.loads((tmp_path / "again/01-prune/facts.json").read_text())["facts"]
    assert other["kernels"] == facts["kernels"]
    assert other["groups"] == facts["groups"]
    plan = preview.check(again)
    assert len(plan["pruning"][0]["kernels"]) == 21
    net = deconv_to_conv(DDnet(trunk=8, bottleneck=8, decoder=8))
    write_json(tmp_path / "t.json", by_macs([net]).to_json())
    words = [f"latency_table={tmp_path / 't.json'}", "ignore=[stem.conv]"]
    old = load(path, [f"steps.prune.{word}" for word in words])
    with pytest.raises(UsageError, match="measure a table with kernels weigh"):
        preview.check(old)


def test_families_without_rings_are_those_of_smaller_layers() -> None:
    for net in (Kernels(), deconv_to_conv(DDnet())):
        most = kernels.cuttable(net, 3)[0]
        small = kernels.cut(net, most)
        for name, count in most.items():
            family = Family.of(net.get_submodule(name), (32, 32))
            assert family.without(count) == Family.of(small.get_submodule(name), (32, 32))
    assert Knots(ins=(1,), outs=(1,)) in wanted([nn.Conv2d(1, 1, 5, padding=2)], SIZE, 16).values()
