"""Faults that networks of users met once; each of these tests failed before it was mended."""

import hashlib
import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Plain
from pairs import data
from torch import nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import onnx, parity, sidecar
from compress.engines.base import NotBuilt, Shape, giving_up
from compress.engines.kernels.plan import compiled
from compress.engines.subject import Subject, prepared
from compress.graph import cost, rules, trace, trial
from compress.graph.groups import Group, cuts, groups
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.pruning import network, proof
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from compress.steps.prune import Prune
from zoo.blocks import Chain, conv
from zoo.reference import difference, distinct

CPU = torch.device("cpu")
GOLDEN = json.loads((Path(__file__).parents[1] / "golden_plans.json").read_text())
NETWORKS = {
    "ddnet": DDnet,
    "ddnet_residual": lambda: DDnet(residual=True),
    "redcnn": lambda: RedCNN(channels=32),
}


def filled(net: nn.Module) -> nn.Module:
    """Weights that are the same on every machine and in every version of PyTorch."""
    start = 0
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            places = np.arange(start, start + tensor.numel(), dtype=np.uint64)
            start += tensor.numel()
            drawn = ((places * np.uint64(2654435761)) % np.uint64(2**32)).astype(np.float64)
            values = torch.from_numpy((drawn / 2**32 - 0.5).astype(np.float32))
            values = values.reshape(tensor.shape)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    return net.eval()


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['network']}-{c['options']['amount']}")
def test_plans_and_bits_are_those_of_version_0_1(case: dict) -> None:
    """The numbers were written by commit 80b2892, whose groups were Torch-Pruning's."""
    net = deconv_to_conv(filled(NETWORKS[case["network"]]()))
    today = {old: new.name for old, new in PruneOptions.RENAMED.items()}
    options = {today.get(name, name): value for name, value in case["options"].items()}
    plan = pruning.plan(net, PruneOptions(**options))
    assert plan.selection.threshold == pytest.approx(case["threshold"], rel=1e-12)
    assert plan.removed == pytest.approx(case["removed"], abs=1e-15)
    assert {g.name: g.fixed for g in plan.groups if g.fixed} == case["fixed"]
    gone = json.dumps({name: list(members) for name, members in plan.pruned.items()})
    assert hashlib.sha256(gone.encode()).hexdigest() == case["pruned"]
    bits = hashlib.sha256()
    for name, tensor in plan.apply(net).state_dict().items():
        bits.update(name.encode())
        bits.update(tensor.numpy().tobytes())
    assert bits.hexdigest() == case["sha256"]
    assert plan.difference < 1e-9
    assert not plan.failing


@pytest.mark.parametrize("net", [DDnet(bottleneck=8, decoder=8), RedCNN(channels=8)])
def test_groups_are_those_of_torch_pruning(net: nn.Module) -> None:
    """Another tracer, by autograd, finds the same layers in the same groups."""
    import torch_pruning

    net = deconv_to_conv(net).eval()
    example = (torch.rand(1, 1, 64, 64),)
    graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=example)
    names = {module: name for name, module in net.named_modules()}
    theirs = set()
    for raw in graph.get_all_groups():
        modules = {names[i.dep.target.module] for i in raw.items if i.dep.target.module in names}
        theirs.add(frozenset(modules))
    ours = {frozenset(part.module for part in group.parts) for group in groups(net)}
    assert ours == theirs


class Wrong(nn.Module):
    """Reads the first channel differently when there are fewer; no tracer can know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(1, 16), conv(16, 16), conv(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        y = y * (len(y[0]) / 16)
        return self.c(torch.relu(self.b(y)))


class Raises(Wrong):
    """Refuses other widths than its own in words of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        assert y.shape[1] == 16, "sixteen channels\nare what I was written for"
        return self.c(torch.relu(self.b(y)))


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Wrong(), r"the others change \(by \d[^ ]* of the output\)"),
        (Raises(), "does not run without some of them: sixteen channels$"),
    ],
)
def test_a_group_that_fails_when_it_is_tried_stays_whole(net, reason, tmp_path, caplog) -> None:
    model = Model(net=net.eval(), origin=ModelOptions(name="ddnet"))
    work = Work(stage=tmp_path, device=CPU, data=data(side=64), seed=0)
    with caplog.at_level(logging.WARNING):
        small = Prune(threshold=0.5, round_to=1).run(model, work)
    assert small.net.a.out_channels == 16
    assert small.net.b.out_channels < 16
    (name,) = work.facts["proof"]["failing"]
    assert name == "a"
    assert work.facts["proof"]["difference"] < 1e-9
    assert caplog.messages[0].startswith("a stays whole: ")
    with pytest.raises(UsageError, match=f"a stays whole: .*{reason}"):
        pruning.plan(net, PruneOptions(amount=0.9, round_to=1))


def test_an_alignment_that_is_said_to_reach_the_amount_does() -> None:
    """It was computed, not tried: of this network a group stays whole when it is."""
    with pytest.raises(UsageError, match=r"and round_to 4 reaches it$"):
        pruning.plan(Wrong(), PruneOptions(amount=0.7, round_to=16))
    plan = pruning.plan(Wrong(), PruneOptions(amount=0.7, round_to=4))
    assert plan.removed["macs"] >= 0.7
    with pytest.raises(UsageError, match=r"and round_to 4 reaches it$"):
        pruning.plan(Wrong(), PruneOptions(amount=0.7, round_to=8))


def test_the_proof_sees_wrong_columns() -> None:
    """One place off, as a concatenation with the slice in front was cut once."""
    net = distinct(Chain([], 16, raw=True), seed=1)
    found = groups(net)
    right = proof.Proof(net, found, (32, 32))
    pruned = {"first": (3, 4, 5)}
    assert not right.failing(pruned)
    shifted = tuple(
        replace(g, parts=tuple(
            replace(p, channels=tuple(c - 1 for c in p.channels)) if p.side == "in" else p
            for p in g.parts
        ))
        for g in found
    )  # fmt: skip
    assert set(proof.Proof(net, shifted, (32, 32)).failing(pruned).groups) == {"first"}
    assert cuts(found, pruned)["last.weight", 1] == {4, 5, 6}


@pytest.mark.parametrize(("limit", "value"), [("SECONDS", 0.0), ("BYTES", 2**16)])
def test_tracing_has_an_end(limit: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, limit, value)
    with pytest.raises(UsageError, match=r"channels of Chain takes more than .*; leave prune out"):
        pruning.plan(Chain(["plain"]), PruneOptions(amount=0.3))


def test_following_channels_and_the_proof_share_their_time(monkeypatch) -> None:
    """Each had its own limit, and the proof had it anew for every plan: minutes in all."""

    def slow(*given: object) -> tuple[Group, ...]:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            torch.rand(1000).sort()
        return groups(*given)

    options = PruneOptions(threshold=0.5, round_to=1)
    assert set(pruning.plan(Wrong(), options).failing) == {"a"}
    monkeypatch.setattr(network, "groups", slow)
    monkeypatch.setattr(pruning, "SECONDS", 0.1)
    plan = pruning.plan(Wrong(), options)
    assert set(plan.failing) == {"a", "b"}
    assert plan.failing["b"].startswith("there was no time")


def test_a_network_is_traced_with_a_batch_of_slices() -> None:
    """Unpacked along the batch axis, the example made of a mean over channels one over rows."""
    net = Chain(["channel mean"]).eval()
    assert any("computes a mean over channels" in group.fixed for group in groups(net, (16, 16)))


class HeadBodyTail(nn.Module):
    """Attributes of a residual DDnet, and another function."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = True
        self.head, self.body, self.tail = conv(1, 1), conv(1, 1), conv(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.tail(self.body(self.head(x)))


def test_engines_compute_the_network_whatever_its_attributes_are_called(tmp_path: Path) -> None:
    net, x = HeadBodyTail().eval(), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(prepared(net, "fp32", as_conv=True)[0](x), net(x))
    shape, file = Shape(batch=1, size=64), tmp_path / "other.onnx"
    built = onnx.Onnx().build(Subject(nn.Identity(), "fp32"), shape, file, CPU)
    side = sidecar.write(
        file, format_="onnx", precision="fp32", shape=shape, weights="", device=CPU, built=built
    )
    found = parity.compare(net, side, data(side=64).test, shape, "fp32", CPU)
    assert not found["ok"]
    assert found["max_hu"] > 1


class HalfResidual(DDnet):
    """Not the sum that a residual DDnet is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.5 * self.body(x)


def test_a_class_derived_from_ddnet_may_compute_something_else() -> None:
    """Engines and enhanced images were those of x + body(x)."""
    net = filled(HalfResidual(residual=True, trunk=2, bottleneck=2, decoder=2))
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        got = prepared(net, "fp32", as_conv=False)[0](x)
        assert (got - net(x)).abs().max() < 1e-4 * net.body(x).abs().max()
    with pytest.raises(UsageError, match="only DDnet has a plan, not HalfResidual"):
        compiled(net)


def test_the_reference_of_engines_is_the_network_itself(monkeypatch) -> None:
    """What engines are made of was their reference, too, so that its faults were not seen."""
    monkeypatch.setattr(Subject, "forward", lambda self, x: 0 * x)
    net, x = HeadBodyTail().eval(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(parity._reference(net, x, CPU), net(x), atol=1e-6)


class Fixed(Chain):
    """Takes slices of one size."""

    def __init__(self, side: int) -> None:
        super().__init__(["plain"], 16)
        self.place = nn.Parameter(torch.zeros(1, 1, side, side))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.place)


class Looks(Chain):
    """Its way depends on a value."""

    def __init__(self) -> None:
        super().__init__(["plain"], 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = max(float(x.max()), 1e-3)
        return scale * super().forward(x / scale)


@pytest.mark.parametrize(
    ("net", "side"), [(Fixed(96), 96), (Fixed(128), 128), (Looks(), 64), (Plain(), 64)]
)
def test_networks_of_one_size_or_that_look_at_values(net: nn.Module, side: int) -> None:
    assert trial.slice_size(net) == (side, side)
    trial.check_shape(net)
    net = distinct(net, seed=1)
    plan = pruning.plan(net, PruneOptions(amount=0.3, round_to=2))
    assert difference(net, plan.apply(net), side) < 1e-9


class Twice(Chain):
    """A backward pass that works once."""

    def __init__(self) -> None:
        super().__init__(["plain"])
        self.kept: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = self.first.weight.square().sum()
        return super().forward(x) * self.kept


class Pair(Chain):
    """Gives two images."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x), x


class Functional(nn.Module):
    """Convolves with a parameter of its own; no layer of PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.full((1, 1, 3, 3), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.conv2d(x, self.kernel, padding=1)


def test_a_network_without_layers_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="Functional has no convolution or linear layer to prune"):
        pruning.plan(Functional(), PruneOptions(amount=0.3))
    with pytest.raises(UsageError, match="Functional uses no convolution or linear layer: nothing"):
        cost.check_work(Functional())


def test_what_no_step_can_handle_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="Twice cannot be trained: Trying to backward"):
        trial.check_training(Twice(), (32, 32))
    old = Chain(["plain"])
    nn.utils.weight_norm(old.last)
    with pytest.raises(UsageError, match=r"cannot be copied .*take torch\.nn\.utils\.param"):
        trial.check_shape(old)
    with pytest.raises(UsageError, match="gives a tuple, not a tensor"):
        trial.check_shape(Pair(["plain"]))


def test_reasons_of_compilers_are_their_causes_in_plain_text() -> None:
    failed = TypeError("step 1 of 3")
    failed.__cause__ = ValueError("\x1b[31mno such operator\x1b[0m\nmore")
    with pytest.raises(NotBuilt) as caught, giving_up("the exporter"):
        raise failed
    assert caught.value.reason == "the exporter gave up: no such operator"


def test_a_network_that_keeps_tensors_is_left_with_tensors() -> None:
    net = Chain(["remembers"]).eval()
    subject, _ = prepared(net, "fp32", as_conv=True)
    assert isinstance(subject.net.blocks[0].mean, torch.Tensor)
    assert "Proxy" not in type(subject.net.blocks[0].mean).__name__


def test_2to4_linear_layers_count_in_onnx_files(tmp_path: Path) -> None:
    net = Chain(["mlp"], 16).eval()
    for layer in (net.blocks[0].up, net.blocks[0].down):
        layer.weight.data[:, ::2] = 0
    file = tmp_path / "x.onnx"
    facts = onnx.Onnx().build(Subject(net, "fp32"), Shape(batch=1, size=32), file, CPU)
    assert facts["sparse24"] == 2
    inside = onnx.weights(file)
    assert torch.equal(inside["blocks.0.up"], net.blocks[0].up.weight)


class Told(Chain):
    """Gets the noise level beside the slice."""

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + level.view(-1, 1, 1, 1)


def test_a_network_is_given_its_noise_level(tmp_path: Path) -> None:
    options = {"blocks": ["gate"], "width": 16, "noise_level": 0.25}
    origin = ModelOptions(
        import_="zoo.test_faults:Told", folder=str(Path(__file__).parents[1]), options=options
    )
    net = distinct(origin.build(), seed=1).float()
    plan = pruning.plan(net, PruneOptions(amount=0.3, round_to=2))
    small = plan.apply(net)
    checkpoint.save(Model(net=small, origin=origin), tmp_path)
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        y = checkpoint.load(tmp_path).net(x)
        assert torch.equal(y, small.net(x, torch.tensor([0.25, 0.25])))
        assert not torch.equal(y, small.net(x, torch.zeros(2)))
    with pytest.raises(UsageError, match=r"noise_level: expected a number, at least 0, got -1"):
        replace(origin, options={**options, "noise_level": -1}).build()


def test_a_tensor_under_two_names_is_saved(tmp_path: Path) -> None:
    options = {"blocks": ["reused"], "width": 16}
    folder = str(Path(__file__).parents[1])
    origin = ModelOptions(import_="zoo.blocks:Chain", folder=folder, options=options)
    net = origin.build()
    checkpoint.save(Model(net=net, origin=origin), tmp_path)
    again = checkpoint.load(tmp_path).net.blocks[0]
    assert again.also is again.b
    assert torch.equal(again.b.weight, net.blocks[0].b.weight)


def test_code_beside_a_recipe_is_found_when_it_runs_and_named_where_it_is_gone(
    tmp_path: Path,
) -> None:
    (tmp_path / "late_helper.py").write_text("SCALE = 2.0\n")
    (tmp_path / "late_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Conv2d):\n"
        "    def __init__(self):\n"
        "        super().__init__(1, 1, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        from late_helper import SCALE\n"
        "        return SCALE * super().forward(x)\n"
    )
    origin = ModelOptions(import_="late_net:Net", folder=str(tmp_path))
    assert origin.build()(torch.rand(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    gone = ModelOptions(import_="moved_net:Net", folder=str(tmp_path / "old"))
    said = "No module named 'moved_net'; it was looked for in .*old and those of PYTHONPATH: set"
    with pytest.raises(UsageError, match=said):
        gone.build()


@pytest.mark.parametrize(
    "name", ["leaky_relu", "leaky_relu_", "elu_", "celu_", "selu_", "hardtanh_", "hardsigmoid_"]
)
def test_activations_that_pytorch_2_11_does_not_tag_as_pointwise(name: str) -> None:
    """On 2.11 every channel of DDnet stayed whole: "stem mixes channels (leaky_relu)"."""
    assert getattr(torch.ops.aten, name) in rules.POINTWISE
