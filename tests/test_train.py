"""The training loop: it learns, it resumes bit for bit, it holds masks, it says what is wrong."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import Plain
from pairs import data
from safetensors import torch as safetensors
from torch import nn

from compress.base.errors import CompressError, Stopped, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data.pairs import digests
from compress.sparsity import masks
from compress.steps.train import Train
from compress.training import state


def model() -> Model:
    torch.manual_seed(0)
    return Model(net=Plain(16), origin=ModelOptions(import_="networks:Plain"))


def work(folder: Path, **changes: object) -> Work:
    folder.mkdir(exist_ok=True, parents=True)
    values = {"stage": folder, "device": torch.device("cpu"), "data": data(), "seed": 0}
    return Work(**{**values, **changes})


def same(one: Model, other: Model) -> bool:
    left, right = one.net.state_dict(), other.net.state_dict()
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


SMALL = Train(epochs=3, batch=2, crop=32, slices_per_epoch=8, lr=1e-3)


def test_learns_and_writes_its_log(tmp_path: Path) -> None:
    place = work(tmp_path / "00-train")
    options = replace(SMALL, epochs=8, lr=5e-3)
    start = model()
    before = {name: t.clone() for name, t in start.net.state_dict().items()}
    trained = options.run(start, place)
    loss = place.facts["loss"]
    assert len(loss) == 8
    assert loss[-1] < 0.3 * loss[0]
    assert all(torch.equal(t, before[n]) for n, t in start.net.state_dict().items())
    assert not trained.net.training
    assert trained.trained_on == {*digests(place.data.train)}
    assert replace(SMALL, epochs=1).run(
        replace(start, trained_on=frozenset({"x"})), work(tmp_path / "01-train")
    ).trained_on == {"x", *trained.trained_on}
    rows = (place.stage / "log.csv").read_text().splitlines()
    assert rows[0] == "epoch,step,loss,lr"
    assert len(rows) == 9
    assert not (place.stage / state.FILE).exists()


def test_rate_falls_from_lr_to_its_final_share() -> None:
    rates = [SMALL.rate(step) for step in range(13)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates == sorted(rates, reverse=True)


class StopLater(threading.Event):
    """Is set when it is asked for the last time of so many."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("stop_after", [1, 4, 6, 11])
def test_resume_after_any_step_gives_the_same_bits(stop_after: int, tmp_path: Path) -> None:
    whole = SMALL.run(model(), work(tmp_path / "00-train"))
    (tmp_path / "again").mkdir()
    folder = tmp_path / "again" / "00-train"
    with pytest.raises(Stopped, match="00-train: stopped and saved; run again to go on"):
        SMALL.run(model(), work(folder, stop=StopLater(stop_after)))
    assert (folder / state.FILE).exists()
    place = work(folder)
    assert same(SMALL.run(model(), place), whole)
    assert place.facts["steps"] == 12
    assert len(place.facts["loss"]) == 3


def test_dropout_goes_on_with_the_same_draws_after_a_stop(tmp_path: Path) -> None:
    def start() -> Model:
        torch.manual_seed(0)  # as the pipeline does before every stage
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Dropout(), nn.Conv2d(8, 1, 1))
        return Model(net=net, origin=ModelOptions())

    whole = SMALL.run(start(), work(tmp_path / "00-train"))
    (tmp_path / "again").mkdir()
    folder = tmp_path / "again" / "00-train"
    with pytest.raises(Stopped):
        SMALL.run(start(), work(folder, stop=StopLater(6)))
    assert same(SMALL.run(start(), work(folder)), whole)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-100], "Error while deserializing header"),
        (lambda data: b"", "Error while deserializing header: header too small"),
        (lambda data: data[:-7] + bytes([data[-7] ^ 1]) + data[-6:], "its hash is not the one"),
        (lambda data: data.replace(b'"step\\": 1', b'"step\\": 2'), "its hash is not the one"),
        (lambda data: safetensors.save({"a": torch.zeros(1)}), ""),
        (lambda data: safetensors.save({"a": torch.zeros(1)}, {"values": "{}"}), "Missing key"),
    ],
)
def test_a_damaged_state_is_never_trained_on(spoil, said: str, tmp_path: Path) -> None:
    """A flipped bit of a weight would not be noticed by anyone."""
    net, file = Plain(16), tmp_path / state.FILE
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 1, 16, 16)).sum().backward()
    optimizer.step()
    state.save(file, net, optimizer, {"step": 1})
    assert state.load(file, net, optimizer) == {"step": 1}
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    assert file.read_bytes() != whole
    with pytest.raises(UsageError, match=f"^{file} is damaged: {said}.*; remove it to train"):
        state.load(file, net, optimizer)


def test_masks_hold_to_the_end(tmp_path: Path) -> None:
    start = model()
    held = masks.compute(start.net, "modelopt")
    trained = replace(SMALL, weight_decay=0.1).run(
        replace(start, masks=held), work(tmp_path / "01-retrain")
    )
    masks.check(trained.net, held)
    assert trained.masks == held


def test_bf16_on_the_cpu_learns_too(tmp_path: Path) -> None:
    place = work(tmp_path / "00-train")
    replace(SMALL, epochs=8, lr=5e-3, precision="bf16").run(model(), place)
    assert place.facts["precision"] == "bf16"
    assert place.facts["loss"][-1] < 0.4 * place.facts["loss"][0]


def test_a_loss_that_is_not_finite_ends_the_stage(tmp_path: Path) -> None:
    start = model()
    with torch.no_grad():
        start.net.last.bias.fill_(float("nan"))
    with pytest.raises(CompressError, match="the loss of epoch 1 is nan; try a lower lr"):
        SMALL.run(start, work(tmp_path / "00-train"))


def test_precision_the_cpu_has_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision fp16 needs a GPU; take fp32 or bf16"):
        replace(SMALL, precision="fp16").run(model(), work(tmp_path / "00-train"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": -1}, "batch must be at least 1, got -1"),
        ({"crop": 0}, "crop must be at least 1 pixel, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"lr_final": -1.0}, "lr_final must be finite and not negative, got -1.0"),
        ({"lr_final": float("inf")}, "lr_final must be finite and not negative, got inf"),
        ({"weight_decay": -1.0}, "weight_decay must be finite and not negative, got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be finite and not negative, got nan"),
    ],
)
def test_impossible_options(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, **changes)
