"""Early pruning: a cut at a share of the epochs, in one schedule of the learning rate."""

import json
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import data
from test_expand import recipe, refused

from compress.base.errors import Stopped
from compress.recipe import load
from compress.recipe.shorthand import _divided
from compress.run import pipeline
from compress.run.keys import keys
from compress.steps.train import Train
from compress.training.session import Session

EARLY = """steps:
  - train: {epochs: 96, lr: 2e-3}
  - evaluate
  - prune: {amount: 0.5, at: 0.1}
  - sparsify
  - retrain: {epochs: 40, lr: 2e-3}
  - report
"""


def test_the_epochs_are_divided_anew(tmp_path: Path) -> None:
    found = recipe(tmp_path, EARLY).steps
    assert [word for word, _ in found] == [
        "train", "evaluate", "prune", "sparsify", "retrain", "report",
    ]  # fmt: skip
    train, prune, retrain = (found[i][1] for i in (0, 2, 4))
    assert (train.epochs, train.lr_rewind, train.lr_until) == (14, 0.0, 14 / 136)
    assert (retrain.epochs, retrain.lr_rewind, retrain.lr_until) == (122, 14 / 136, 1.0)
    assert prune.at is None
    assert retrain.lr == 2e-3


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 0.9), st.integers(1, 5))
def test_both_parts_follow_the_rate_of_one_training(
    before: int, after: int, share: float, batches: int
) -> None:
    options = {"batch": 2, "slices_per_epoch": 2 * batches}
    whole = Train(epochs=before + after, **options)
    try:
        parts = _divided(Train(epochs=before, **options), Train(epochs=after, **options), share)
    except ValueError as error:
        assert "leaves none on one side" in str(error)
        return
    rates = [part.rate(i) for part in parts for i in range(part.epochs * batches)]
    expected = [whole.rate(i) for i in range(whole.epochs * batches)]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_stages_are_those_of_the_recipe_written_out(tmp_path: Path) -> None:
    written = EARLY.replace(", at: 0.1", "")
    written = written.replace("epochs: 96", f"epochs: 14, lr_until: {14 / 136!r}")
    written = written.replace("epochs: 40", f"epochs: 122, lr_rewind: {14 / 136!r}")
    assert keys(recipe(tmp_path, EARLY), data()) == keys(recipe(tmp_path, written), data())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("at: 0.1", "at: 1.0", "at must lie in (0, 1), got 1.0"),
        ("at: 0.1", "at: 0.001", "at 0.001 of 136 epochs leaves none on one side of it"),
        ("at: 0.1", "at: 0.1, rounds: 2", "give at or rounds, not both"),
        ("epochs: 40, lr: 2e-3", "epochs: 40",
         "at needs the same lr before and after it, got 0.002 and 0.001"),
        ("epochs: 40,", "epochs: 40, lr_rewind: 0.5,",
         "at sets lr_rewind and lr_until itself; leave them out"),
        ("  - retrain: {epochs: 40, lr: 2e-3}\n", "",
         "at needs a train before it and a retrain after it"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert refused(tmp_path, EARLY.replace(old, new)) == f"steps[2].prune: {sentence}"


def test_a_rate_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    text = "steps:\n  - train: {epochs: 1, lr_rewind: 0.5, lr_until: 0.5}\n"
    said = "steps[0].train: lr_until must lie in (lr_rewind, 1], got 0.5"
    assert refused(tmp_path, text) == said


TINY = """schema: 1
model: {import: "networks:Plain", width: 16}
seed: 3
steps:
  - train:   {epochs: 4, batch: 2, crop: 32, slices_per_epoch: 6}
  - prune:   {amount: 0.4, round_to: 4, at: 0.34}
  - retrain: {epochs: 2, batch: 2, crop: 32, slices_per_epoch: 6}
  - baseline
  - evaluate: {pictures: 0}
  - report
"""


def run(folder: Path) -> Path:
    path = folder / "r.yaml"
    path.write_text(TINY)
    out = folder / "out"
    pipeline.run(load(path), out=out, device="cpu", loaded=data())
    return out


@pytest.mark.parametrize("last", [2, 6, 13, 23])
def test_a_signal_at_any_step_changes_no_bit(
    last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "again"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole")
    asked, left = Session._stopping, [last]

    def stopping(session: Session) -> bool:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)
        return asked(session)

    monkeypatch.setattr(Session, "_stopping", stopping)
    with pytest.raises(Stopped):
        run(tmp_path / "again")
    monkeypatch.setattr(Session, "_stopping", asked)
    again = run(tmp_path / "again")
    for stage in ("00-train", "01-prune", "02-retrain", "03-baseline/dense"):
        one, two = (folder / stage / "model.safetensors" for folder in (whole, again))
        assert one.read_bytes() == two.read_bytes()
    report = json.loads((again / "05-report" / "report.json").read_text())
    sentence = "Pruned after 2 of 6 epochs; one cosine schedule of the learning rate runs across."
    assert report["pruning"][0]["early"] == sentence
    assert sentence in (again / "05-report" / "report.md").read_text()
    assert sentence in (again / "05-report" / "report.html").read_text()
