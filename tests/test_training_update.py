"""One optimizer step: how it is executed, what warming up leaves behind, and what is said."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import Plain
from pairs import data

from compress import masks, precision
from compress.checkpoint import Model, ModelOptions
from compress.data.crops import draws
from compress.data.loaders import Resident
from compress.steps.train import Train
from compress.training import stepper, update
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


def test_what_cannot_be_captured_runs_call_by_call(monkeypatch, caplog) -> None:
    def refuse(self: stepper.Stepper, raw: torch.Tensor) -> None:
        with self._kept():
            self._step(raw)
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(stepper.Stepper, "_captured", refuse)
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

    def captured(self: stepper.Stepper, raw: torch.Tensor) -> stepper.Step:
        with self._kept():
            for _ in range(stepper.WARM):
                self._step(raw)
        return lambda raw: self._step(given.copy_(raw))

    monkeypatch.setattr(stepper.Stepper, "_captured", captured)
    one, plain = made(), made()
    one.stepper.graph = True
    for index, raw in enumerate(raws(4)):
        one(raw, 1e-2 / (1 + index))
        plain(raw, 1e-2 / (1 + index))
    assert all(map(torch.equal, values(one), values(plain)))


def test_why_there_is_no_graph() -> None:
    assert made().facts()["cuda_graph_why"] == "no GPU"
    facts = made(replace(OPTIONS, graph=False)).facts()
    assert (facts["cuda_graph"], facts["cuda_graph_why"]) == (False, "graph: false")


def test_masks_hold_after_every_step() -> None:
    one = made(replace(OPTIONS, weight_decay=0.1))
    for raw in raws(3):
        one(raw, 1e-2)
        one.hold.check()


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_loss() -> None:
    one, plain = made(replace(OPTIONS, compile=True)), made()
    for raw in raws(4):
        one(raw, 1e-3)
        plain(raw, 1e-3)
    assert one.facts()["compiled"]
    torch.testing.assert_close(one.total, plain.total, rtol=1e-4, atol=0)


def test_where_compiling_fails_it_is_said_and_left(monkeypatch, caplog) -> None:
    def broken(objective: torch.nn.Module, **_: object) -> torch.nn.Module:
        class Broken(torch.nn.Module):
            def forward(self, *_: torch.Tensor) -> torch.Tensor:
                raise RuntimeError("no C++ compiler\nin sight")

        return Broken()

    monkeypatch.setattr(update.torch, "compile", broken)
    one, plain = made(replace(OPTIONS, compile=True)), made()
    for raw in raws(3):
        one(raw, 1e-3)
        plain(raw, 1e-3)
    why = "torch.compile does not work here: no C++ compiler"
    assert (one.facts()["compiled"], one.facts()["compiled_why"]) == (False, why)
    assert caplog.messages == [f"{why}; the network runs uncompiled, slower"]
    assert all(map(torch.equal, values(one), values(plain)))


def test_the_loader_of_a_stage_is_in_its_facts(tmp_path: Path) -> None:
    from test_train import model, work

    place = work(tmp_path / "00-train")
    replace(OPTIONS, loader="workers").run(model(), place)
    assert (place.facts["loader"], place.facts["loader_why"]) == ("workers", "asked for")
