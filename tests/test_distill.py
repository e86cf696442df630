"""The dense network as teacher: the mixed target has the gradient of both losses."""

from pathlib import Path

import pytest
import torch
from networks import Plain
from pairs import data

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.recipe import load
from compress.steps.train import Train
from compress.training import distill


def work(folder: Path, dense: Path | None = None) -> Work:
    folder.mkdir(exist_ok=True)
    device = torch.device("cpu")
    return Work(stage=folder, device=device, data=data(), seed=0, dense=dense)


def model(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model(net=Plain(8), origin=ModelOptions(import_="networks:Plain"))


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    folder = tmp_path / "teacher"
    folder.mkdir()
    checkpoint.save(model(1), folder)
    return folder


def test_without_weight_the_target_is_the_full_dose(tmp_path: Path) -> None:
    low, full = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    assert distill.target(0.0, work(tmp_path))(low, full) is full


def test_gradient_is_that_of_the_weighted_sum(tmp_path: Path, teacher: Path) -> None:
    low, full = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    target = distill.target(0.3, work(tmp_path, teacher))(low, full)
    student, dense = model(2).net, checkpoint.load(teacher).net
    parameters = list(student.parameters())
    mse = torch.nn.functional.mse_loss
    mixed = torch.autograd.grad(mse(student(low), target), parameters)
    both = 0.7 * mse(student(low), full) + 0.3 * mse(student(low), dense(low).detach())
    for one, other in zip(mixed, torch.autograd.grad(both, parameters), strict=True):
        torch.testing.assert_close(one, other)
    assert not target.requires_grad


def test_training_towards_the_teacher_gets_near_it(tmp_path: Path, teacher: Path) -> None:
    options = Train(epochs=30, batch=2, crop=32, slices_per_epoch=8, lr=5e-3, distill=1.0)
    place = work(tmp_path / "01-retrain", teacher)
    options.run(model(2), place)
    assert place.facts["loss"][-1] < 0.1 * place.facts["loss"][0]


def test_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="00-train: distill needs a dense network trained"):
        distill.target(0.5, work(tmp_path / "00-train"))
    path = tmp_path / "r.yaml"
    path.write_text("schema: 1\nmodel: {name: ddnet}\nsteps:\n  - train: {epochs: 1, distill: 0.5}")
    with pytest.raises(UsageError, match=r"steps\[0\]\.train: distill has no teacher"):
        load(path)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("distill", 1.5, r"distill must lie in \[0, 1\], got 1.5"),
        ("lr_rewind", 1.0, r"lr_rewind must lie in \[0, 1\), got 1.0"),
        ("recalibrate", -1, "recalibrate must not be negative, got -1"),
    ],
)
def test_impossible_options(option: str, value: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Train(epochs=1, **{option: value})


def test_a_rewound_rate_is_the_end_of_a_longer_schedule() -> None:
    long = Train(epochs=40, batch=8, slices_per_epoch=8)
    last = Train(epochs=10, batch=8, slices_per_epoch=8, lr_rewind=0.75)
    assert [last.rate(step) for step in range(10)] == pytest.approx(
        [long.rate(30 + step) for step in range(10)]
    )
