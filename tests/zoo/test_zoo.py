"""Networks of many kinds: pruned rightly, or left whole with a reason."""

import copy
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.engines.base import NotBuilt, Shape
from compress.engines.onnx import Onnx
from compress.engines.subject import Subject
from compress.graph import cost
from compress.graph.groups import groups
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from compress.sparsity import eligibility, masks
from zoo.blocks import BLOCKS, Chain
from zoo.reference import difference, distinct

SIDE = 16
RANDOM = int(os.environ.get("COMPRESS_RANDOM_NETWORKS", "30"))
"""Random networks to try."""
EVERY = 1 if "COMPRESS_RANDOM_NETWORKS" in os.environ else 8
"""Of how many random networks one is exported to ONNX, which takes seconds."""
HELD = {
    "layer norm by hand": "computes a mean over channels",
    "group norm": "normalises over channels",
    "group norm, functional": "normalises over channels",
    "response norm": "computes a mean over channels",
    "local response norm": "joins them with channels that stay",
    "softmax": "computes a softmax over channels",
    "channel mean": "computes a mean over channels",
    "unit length": "over channels",
    "neighbour gate": "can only go together",
    "standardised": "is computed while it runs",
    "grouped": "is a grouped convolution",
    "grouped up": "is a grouped convolution",
    "split": "does not run without some of them: split",
    "roll": "takes channels at fixed places",
    "list": "takes channels at fixed places",
    "every second": "takes channels at fixed places",
    "mlp, layer norm": "normalises over channels",
    "attention": "multiplies them with each other",
    "parametrized": "is computed while it runs",
    "added": "joins them with channels that stay",
}
"""Blocks of which some channels stay whole, and what the reason says."""

STAY = {
    "standardised": "it pads by 0 pixels, so a smaller kernel would read other pixels",
    "parametrized": "its weight is computed while it runs",
    "depthwise": "its kernel is 2x2, not square and odd",
    "multiplied": "its kernel is 2x2, not square and odd",
    "grouped up": "its kernel is 2x2, not square and odd",
    "padded": "it pads by 0 pixels, so a smaller kernel would read other pixels",
}
"""Blocks of which some kernels stay, and what the reason says."""


def counts(net: nn.Module) -> tuple[int, int]:
    found = cost.cost(net)
    return found.macs, found.params


def said_is_real(net: nn.Module, plan: pruning.Plan) -> nn.Module:
    """The pruned network, whose counts are those of the plan."""
    small = plan.apply(net)
    before, after = counts(net), counts(small)
    assert 1 - after[0] / before[0] == pytest.approx(plan.removed["macs"], abs=1e-12)
    assert 1 - after[1] / before[1] == pytest.approx(plan.removed["params"], abs=1e-12)
    return small


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block(block: str) -> None:
    net = distinct(Chain([block], raw=True), seed=1)
    plan = pruning.plan(net, PruneOptions(threshold=0.3, round_to=2), size=(SIDE, SIDE))
    small = said_is_real(net, plan)
    assert difference(net, small, SIDE) < 1e-9
    assert plan.difference < 1e-9
    reasons = {g.fixed for g in plan.groups if g.fixed and not g.fixed.startswith("feeds")}
    reasons = {reason for reason in reasons if "one channel for several" not in reason}
    assert bool(reasons) == (block in HELD), reasons
    if reasons:
        assert any(HELD[block] in reason for reason in reasons)
    if block != "attention":  # its width is written into a reshape, and all else is joined to it
        assert plan.removed["macs"] > 0.2


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_with_the_smallest_kernels(block: str) -> None:
    net = distinct(Chain([block], raw=True), seed=1)
    options = PruneOptions(threshold=-0.5, round_to=2, kernels="cut", min_kernel=1)
    plan = pruning.plan(net, options, size=(SIDE, SIDE))
    small = said_is_real(net, plan)
    assert difference(net, small, SIDE) < 1e-9
    assert {"first", "last"} <= plan.rings.keys()
    for kernel in plan.kernels:
        assert bool(kernel.kept) == (kernel.after > 1), kernel
    kept = {kernel.kept for kernel in plan.kernels if kernel.kept}
    if block in STAY:
        assert any(STAY[block] in reason for reason in kept)
    else:
        assert not kept


@pytest.mark.parametrize("block", ["gate", "glu", "maxout", "shuffle", "channel shuffle"])
def test_channels_that_go_together_count_once_and_stay_aligned(block: str) -> None:
    net = distinct(Chain([block], 32), seed=2)
    plan = pruning.plan(net, PruneOptions(amount=0.4, round_to=4), size=(SIDE, SIDE))
    small = plan.apply(net)
    for name, (into, out) in checkpoint.channels(small).items():
        assert into % 4 == 0 or into == 1, name
        assert out % 4 == 0 or out == 1, name


def test_halves_of_a_chunk_go_together() -> None:
    """Each is read by a layer of its own, so nothing else ties them."""
    found = groups(Chain(["halves"], 16), (SIDE, SIDE))
    (group,) = (group for group in found if group.producers[0].module == "blocks.0.a")
    assert group.width == 16
    assert len(group.producers[0].channels) == 32


@settings(
    max_examples=RANDOM,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3),
    width=st.sampled_from([8, 16, 24, 48]),
    raw=st.booleans(),
    amount=st.sampled_from([0.2, 0.4, 0.6]),
    align=st.sampled_from([1, 2, 4, 8, 16]),
    criterion=st.sampled_from(["gaussian", "l2", "random"]),
    seed=st.integers(0, 99),
)
def test_any_chain_of_blocks(
    blocks: list[str], width: int, raw: bool, amount: float, align: int, criterion: str, seed: int
) -> None:
    net = distinct(Chain(blocks, width, raw=raw), seed)
    options = {"amount": amount, "round_to": align, "criterion": criterion}
    try:
        plan = pruning.plan(net, PruneOptions(**options), seed=seed, size=(SIDE, SIDE))
    except UsageError as error:
        assert "cannot be removed" in str(error)
        event("out of reach")
        return
    event("pruned")
    assert plan.removed["macs"] >= amount
    small = said_is_real(net, plan)
    assert difference(net, small, SIDE) < 1e-9
    for group in plan.groups:
        left = len(plan.selection.kept[group.name])
        assert left == group.width or (left % align == 0 and not group.fixed)
    small = small.float()
    masked = masked_as_said(small)
    if seed % EVERY == 0:
        with tempfile.TemporaryDirectory() as folder:
            event(f"ONNX: {onnx_equals(small, masked, Path(folder))}")


def masked_as_said(net: nn.Module) -> int:
    """Mask the layers of a network in place, those that are said to be eligible.

    Returns:
        How many of them its output depends on, which is all but the one that is never called.
    """
    layers = cost.compressible(net).items()
    eligible = {name for name, layer in layers if not eligibility.refusal(layer)}
    if not eligible:
        return 0
    found = masks.compute(net, "modelopt")
    assert set(found) == eligible
    masks.apply(net, found)
    masks.check(net, found)
    for name in eligible:
        layer = net.get_submodule(name)
        fours = layer.weight.detach().movedim(1, -1).unflatten(-1, (-1, 4))
        assert int((fours != 0).sum(-1).max()) <= 2
    return sum(not name.endswith(".never") for name in eligible)


def onnx_equals(net: nn.Module, masked: int, folder: Path) -> str:
    """Export a network, compare ONNX Runtime with it; `equal`, or what the exporter cannot do."""
    file, cpu = folder / "net.onnx", torch.device("cpu")
    try:
        facts = Onnx().build(Subject(net, "fp32"), Shape(batch=1, size=SIDE), file, cpu)
    except NotBuilt as error:
        return error.reason
    assert facts["sparse24"] >= masked
    x = torch.rand(1, 1, SIDE, SIDE)
    with torch.no_grad():
        expected = net(x)
        assert (Onnx().load(file, cpu)(x) - expected).abs().max() < 1e-4 * expected.abs().max()
    return "equal"


@pytest.mark.parametrize("blocks", [["gate", "mlp"], ["in place", "squeeze"], ["shuffle"]])
def test_masks_and_onnx_of_pruned_networks(blocks: list[str], tmp_path: Path) -> None:
    net = distinct(Chain(blocks, 64), seed=3)
    plan = pruning.plan(net, PruneOptions(amount=0.3, round_to=16), size=(SIDE, SIDE))
    small = plan.apply(net).float()
    masked = masked_as_said(small)
    assert masked
    assert onnx_equals(small, masked, tmp_path) == "equal"


@pytest.mark.parametrize("block", ["instance", "slopes", "reused", "depthwise", "scaled", "gate"])
def test_checkpoints_of_pruned_networks_run(block: str, tmp_path: Path) -> None:
    origin = ModelOptions(
        import_="zoo.blocks:Chain", folder=str(Path(__file__).parents[1]),
        options={"blocks": [block], "width": 16},
    )  # fmt: skip
    net = distinct(origin.build(), seed=4).float()
    plan = pruning.plan(net, PruneOptions(amount=0.3, round_to=2), size=(SIDE, SIDE))
    assert not plan.failing
    small = plan.apply(net)
    checkpoint.save(Model(net=small, origin=origin), tmp_path)
    again = checkpoint.load(tmp_path).net
    x = torch.rand(1, 1, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert counts(again) == counts(small)


def test_pruning_again_starts_from_what_is_left() -> None:
    net = distinct(Chain(["gate", "depthwise", "instance"], 32), seed=5)
    once = pruning.plan(net, PruneOptions(amount=0.3, round_to=4), size=(SIDE, SIDE)).apply(net)
    plan = pruning.plan(once, PruneOptions(amount=0.3, round_to=4), size=(SIDE, SIDE))
    assert difference(once, said_is_real(once, plan), SIDE) < 1e-9


def test_the_network_itself_is_not_changed() -> None:
    net = distinct(Chain(["in place", "remembers"]), seed=6)
    before = copy.deepcopy(net.state_dict())
    pruning.plan(net, PruneOptions(amount=0.3, round_to=2), size=(SIDE, SIDE))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
