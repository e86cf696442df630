"""One optimizer step: how it is executed, what warming up leaves behind, and what is said."""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from networks import Plain
from pairs import data
from test_train import model, same, work
from torch.utils._python_dispatch import TorchDispatchMode

from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.world import World
from compress.checkpoint import Model, ModelOptions
from compress.data.crops import draws
from compress.data.loaders import Resident
from compress.sparsity import masks
from compress.steps.train import Train
from compress.training import cuda_graph, losses, precision, update
from compress.training.update import Update

CPU = torch.device("cpu")
OPTIONS = Train(epochs=1, batch=2, crop=32, slices_per_epoch=8)
PAIRS = data().train


class Normed(Plain):
    """Plain with BatchNorm, whose statistics every forward pass moves."""

    def __init__(self) -> None:
        super().__init__(16)
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.norm(x))


def made(options: Train = OPTIONS) -> Update:
    torch.manual_seed(0)
    net = Normed()
    held = masks.compute(net, "modelopt")
    model = Model(net=net, origin=ModelOptions(import_="networks:Plain"), masks=held)
    chosen = precision.choose(options.precision, CPU)
    return Update(options, model, Resident(PAIRS, (32, 32), CPU), chosen)


def raws(count: int) -> list[torch.Tensor]:
    drawn = draws(PAIRS, count=count, batch=2, crop=32, seed=(0,))
    return list(Resident(PAIRS, (32, 32), CPU).batches(drawn))


def values(one: Update) -> list[torch.Tensor]:
    """Everything that a step changes, copied."""
    states = [t for state in one.optimizer.state.values() for t in state.values()]
    return [t.clone() for t in (*one.net.state_dict().values(), *states, one.total)]


def test_what_warming_up_changes_is_put_back_in_place() -> None:
    one = made()
    one(raws(1)[0], 1e-2)
    before = values(one)
    places = [p.data_ptr() for p in one.net.parameters()]
    with one._kept():
        for raw in raws(3):
            one._step(raw)
        assert not all(map(torch.equal, values(one), before))
    assert all(map(torch.equal, values(one), before))
    assert [p.data_ptr() for p in one.net.parameters()] == places


class Operators(TorchDispatchMode):
    """Records the names of all operators, those of the backward pass, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.name().partition("::")[2].partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", get_args(losses.Name))
def test_loss_and_gradient_read_nothing_back_and_bring_nothing_from_the_host(loss) -> None:
    """A GPU would have to wait, and a CUDA graph could not be captured."""
    big = data(side=192).train
    loader = Resident(big, (176, 176), CPU)
    options = replace(OPTIONS, crop=176, batch=1, loss=loss)
    model = Model(net=Normed(), origin=ModelOptions(import_="networks:Plain"))
    one = Update(options, model, loader, precision.choose("bf16", CPU))
    (raw,) = loader.batches(draws(big, count=1, batch=1, crop=176, seed=(0,)))
    operators = Operators()
    with operators:
        one.amp.backward(one._loss(raw))
    assert "convolution_backward" in operators.seen
    assert not operators.seen & {"_local_scalar_dense", "nonzero", "lift_fresh", "masked_select"}


def test_what_cannot_be_captured_runs_call_by_call(monkeypatch, caplog) -> None:
    def refuse(self: cuda_graph.Stepper, raw: torch.Tensor) -> None:
        with self._kept():
            self._step(raw)
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cuda_graph.Stepper, "_captured", refuse)
    captured, plain = made(), made()
    captured.stepper.graph = True
    with caplog.at_level(logging.WARNING, "compress"):
        for raw in raws(4):
            captured(raw, 1e-2)
            plain(raw, 1e-2)
    assert all(map(torch.equal, values(captured), values(plain)))
    facts = captured.facts()
    why = "cannot be captured as a CUDA graph: operation not permitted when stream is capturing"
    assert (facts["cuda_graph"], facts["cuda_graph_why"]) == (False, f"the step {why}")
    assert [f"the step {why}; it runs call by call, slower"] == caplog.messages


def test_a_captured_step_is_replayed_with_new_input(monkeypatch) -> None:
    """The capture itself needs a GPU; here a stand-in warms up and then repeats the step."""
    given = raws(1)[0].clone()

    def captured(self: cuda_graph.Stepper, raw: torch.Tensor) -> cuda_graph.Step:
        with self._kept():
            for _ in range(cuda_graph.WARM):
                self._step(raw)
        return lambda raw: self._step(given.copy_(raw))

    monkeypatch.setattr(cuda_graph.Stepper, "_captured", captured)
    one, plain = made(), made()
    one.stepper.graph = True
    for index, raw in enumerate(raws(4)):
        one(raw, 1e-2 / (1 + index))
        plain(raw, 1e-2 / (1 + index))
    assert all(map(torch.equal, values(one), values(plain)))


def test_why_there_is_no_graph() -> None:
    assert made().facts()["cuda_graph_why"] == "no GPU"
    facts = made(replace(OPTIONS, cuda_graph=False)).facts()
    assert (facts["cuda_graph"], facts["cuda_graph_why"]) == (False, "cuda_graph: false")


def test_masks_hold_after_every_step() -> None:
    one = made(replace(OPTIONS, weight_decay=0.1))
    for raw in raws(3):
        one(raw, 1e-2)
        one.check()


def test_the_network_is_compiled_alone_where_the_loss_cannot_be(monkeypatch, caplog) -> None:
    class Layout(torch.nn.Module):
        def forward(self, *_):
            raise AssertionError("expected size 32==32, stride 262144==1\nat dim=1")

    def compiled(module, **_):
        narrow = [m for m in module.modules() if type(m) is torch.nn.ConvTranspose2d]
        assert not narrow  # it is the twin that is compiled
        return Layout() if isinstance(module, update.Objective) else module

    monkeypatch.setattr(update, "compiled", compiled)
    one, plain = made(replace(OPTIONS, compile=True)), made()
    for raw in raws(2):
        one(raw, 1e-3)
        plain(raw, 1e-3)
    why = "the network without the loss, which fails: expected size 32==32, stride 262144==1"
    assert (one.facts()["compiled"], one.facts()["compiled_why"]) == (True, why)
    assert caplog.messages == []
    torch.testing.assert_close(one.total, plain.total, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_loss() -> None:
    one, plain = made(replace(OPTIONS, compile=True)), made()
    for raw in raws(4):
        one(raw, 1e-3)
        plain(raw, 1e-3)
    assert one.facts()["compiled"]
    torch.testing.assert_close(one.total, plain.total, rtol=1e-4, atol=0)


def test_what_is_compiled_wrongly_is_not_used(monkeypatch, caplog) -> None:
    class Wrong(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return self.module(*given) + 1

    monkeypatch.setattr(update, "compiled", lambda module, **_: Wrong(module))
    one, plain = made(replace(OPTIONS, compile=True)), made()
    for raw in raws(3):
        one(raw, 1e-3)
        plain(raw, 1e-3)
    assert torch.equal(one.total, plain.total)
    assert not one.facts()["compiled"]
    assert "it makes the loss" in one.facts()["compiled_why"]
    assert "instead of" in caplog.text


@pytest.mark.parametrize("before", [0, 2, 3])
def test_compiled_steps_count_as_others_do(before, monkeypatch) -> None:
    """Batches go through in two parts, each of which counts, until the norms are frozen."""

    def compiled(module: torch.nn.Module) -> torch.nn.Module:
        return torch.compile(module, dynamic=False, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(update, "compiled", compiled)
    options = replace(OPTIONS, freeze_norm=before == 0)
    one, plain = made(replace(options, compile=True)), made(options)
    one.micro = plain.micro = 1
    for step, raw in enumerate(raws(3)):
        if step == before:
            one.freeze_norm()
            plain.freeze_norm()
        one(raw, 1e-3)
        plain(raw, 1e-3)
        assert one.facts()["compiled"]
    assert int(one.net.norm.num_batches_tracked) == 2 * before
    for found, expected in zip(one.net.buffers(), plain.net.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


def test_where_compiling_fails_it_is_said_and_left(monkeypatch, caplog) -> None:
    def broken(objective: torch.nn.Module, **_: object) -> torch.nn.Module:
        class Broken(torch.nn.Module):
            def forward(self, *_: torch.Tensor) -> torch.Tensor:
                raise RuntimeError("no C++ compiler\nin sight")

        return Broken()

    monkeypatch.setattr(update, "compiled", broken)
    one, plain = made(replace(OPTIONS, compile=True)), made()
    for raw in raws(3):
        one(raw, 1e-3)
        plain(raw, 1e-3)
    why = "torch.compile does not work here: no C++ compiler"
    assert (one.facts()["compiled"], one.facts()["compiled_why"]) == (False, why)
    assert caplog.messages == [f"{why}; the network runs uncompiled, slower"]
    assert all(map(torch.equal, values(one), values(plain)))


def test_the_loader_of_a_stage_is_in_its_facts(tmp_path: Path) -> None:

    place = work(tmp_path / "00-train")
    replace(OPTIONS, loader="workers").run(model(), place)
    assert (place.facts["loader"], place.facts["loader_why"]) == ("workers", "asked for")


def limited(monkeypatch, crops: int) -> None:
    """A memory that runs out as soon as more than `crops` crops go through a network at once."""
    forward = update.Objective.forward

    def full(self: torch.nn.Module, low: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if len(low) > crops:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, low, *rest)

    monkeypatch.setattr(update.Objective, "forward", full)


@pytest.mark.parametrize(("crops", "micro"), [(2, 2), (1, 1), (5, 4), (4, 4)])
def test_out_of_memory_halves_the_micro_batch_and_says_so_once(crops, micro, monkeypatch, caplog):
    options = replace(OPTIONS, batch=7, freeze_norm=True)
    drawn = draws(PAIRS, count=4, batch=7, crop=32, seed=(0,))
    raws = list(Resident(PAIRS, (32, 32), CPU).batches(drawn))
    plain = made(options)
    for raw in raws:
        plain(raw, 1e-3)
    limited(monkeypatch, crops)
    one = made(options)
    for raw in raws:
        one(raw, 1e-3)
    said = f"out of memory with 7 crops at once: gradients are accumulated over parts of {micro}, "
    assert caplog.messages == [f"{said}for the same effective batch"]
    assert (one.facts()["micro_batch"], one.facts()["micro_batch_why"]) == (
        micro, caplog.messages[0],
    )  # fmt: skip
    torch.testing.assert_close(one.total, plain.total, rtol=1e-5, atol=0)
    for ours, theirs in zip(one.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_under_batchnorm_accumulating_is_called_rough(monkeypatch):
    limited(monkeypatch, 1)
    one = made()
    one(raws(1)[0], 1e-3)
    why = one.facts()["micro_batch_why"]
    assert why.endswith("roughly, because BatchNorm sees one part at a time")


def test_out_of_memory_with_one_crop_ends_the_stage(monkeypatch):
    limited(monkeypatch, 0)
    said = "out of GPU memory with a micro-batch of 1; take a smaller crop or batch"
    with pytest.raises(CompressError, match=said):
        made()(raws(1)[0], 1e-3)


def test_out_of_memory_on_the_way_back_leaves_no_trace(monkeypatch):
    """BatchNorm has seen the whole batch by then."""
    one, plain = made(replace(OPTIONS, batch=2)), made(replace(OPTIONS, batch=2))
    plain.micro = 1
    backward, calls = torch.Tensor.backward, []

    def full_at_first(self: torch.Tensor) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        backward(self)

    monkeypatch.setattr(torch.Tensor, "backward", full_at_first)
    for raw in raws(2):
        one(raw, 1e-3)
        plain(raw, 1e-3)
    assert one.micro == 1
    assert all(map(torch.equal, values(one), values(plain)))


@pytest.mark.parametrize("changes", [{"sync_norm": True}, {}])
def test_out_of_memory_while_others_wait_ends_the_stage(changes, monkeypatch):
    """With several processes that is anywhere but in the rehearsal, unless BatchNorm waits, too."""
    one = made(replace(OPTIONS, batch=4, **changes))
    one.world, one.micro, one._tried = World(0, 2), 2, not changes
    limited(monkeypatch, 0)
    with pytest.raises(CompressError, match="out of GPU memory with a micro-batch of 2"):
        one(raws(1)[0], 1e-3)


def test_frozen_norm_keeps_its_statistics_and_trains_the_rest():
    one = made(replace(OPTIONS, freeze_norm=True))
    before = {name: t.clone() for name, t in one.net.state_dict().items()}
    for raw in raws(2):
        one(raw, 1e-2)
    changed = {n for n, t in one.net.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {n for n, _ in one.net.named_parameters()}


@pytest.mark.parametrize("stop_after", [3, 8, 10, 14])
def test_norms_are_frozen_for_the_last_epochs_also_after_a_stop(stop_after, tmp_path):
    class StopLater(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked == stop_after

    def start() -> Model:
        torch.manual_seed(0)
        return Model(net=Normed(), origin=ModelOptions(import_="networks:Plain"))

    options = replace(OPTIONS, epochs=4, freeze_norm_last=0.4)  # 0.4 * 4 is rounded to 2 epochs
    learning = replace(options, epochs=2, freeze_norm_last=0, lr_until=0.5)  # the rates are equal
    whole = options.run(start(), work(tmp_path / "00-train"))
    half = learning.run(start(), work(tmp_path / "half" / "00-train"))
    buffers = dict(half.net.named_buffers())
    assert int(whole.net.norm.num_batches_tracked) == 2 * options.steps_per_epoch
    assert all(torch.equal(value, buffers[name]) for name, value in whole.net.named_buffers())
    folder = tmp_path / "parts" / "00-train"
    with pytest.raises(Stopped):
        options.run(start(), work(folder, stop=StopLater()))
    assert same(options.run(start(), work(folder)), whole)


def test_sync_norm_needs_gpus():
    options = replace(OPTIONS, sync_norm=True)
    model = Model(net=Normed(), origin=ModelOptions(import_="networks:Plain"))
    chosen = precision.choose("fp32", CPU)
    with pytest.raises(UsageError, match="sync_norm needs GPUs; on the CPU take freeze_norm or"):
        Update(options, model, Resident(PAIRS, (32, 32), CPU), chosen, World(0, 2))
    Update(options, model, Resident(PAIRS, (32, 32), CPU), chosen)  # alone it has no effect
