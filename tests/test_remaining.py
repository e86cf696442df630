"""How long a run says that its training will still take."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import data
from test_progress import Terminal

from compress.base import progress
from compress.recipe import load
from compress.run import pipeline
from compress.steps.train import Train
from compress.training.remaining import Remaining, work

PAIRS = data().train
OPTIONS = Train(epochs=10, batch=4, crop=16, slices_per_epoch=8)
RECIPE = """schema: 1
model: {name: ddnet, residual: true, trunk: 16, bottleneck: 16, decoder: 16}
data: {source: phantom, image_size: 32, train_slices: 2, test_slices: 1, views: 8}
steps:
  - train: {epochs: 3, batch: 2, crop: 16, slices_per_epoch: 2}
  - prune: {amount: 0.3, round_to: null}
  - retrain: {epochs: 2, batch: 2, crop: 32, slices_per_epoch: 4}
"""
durations = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=10)


def remaining(later: int = 0) -> Remaining:
    return Remaining(OPTIONS, PAIRS, OPTIONS.epochs, later)


def test_nothing_is_said_before_an_epoch_is_done():
    assert remaining().seconds is None
    assert remaining().words() == ""


def test_equal_epochs_count_down_to_what_comes_later():
    found, estimates = remaining(later=work(OPTIONS, PAIRS) // 2), []
    for _ in range(OPTIONS.epochs):
        found.done(60.0)
        estimates.append(found.seconds)
    assert estimates == [60.0 * (left + 5) for left in reversed(range(10))]
    assert found.words().replace("\u00a0", " ") == (
        "about 5 min 0 s of training left, later stages included"
    )


def test_a_slow_first_epoch_is_soon_forgotten():
    found = remaining()
    for seconds in (90.0, 10.0, 10.0):
        found.done(seconds)
    assert found.seconds == 70.0


@given(durations)
def test_it_lies_between_the_fastest_and_the_slowest_epoch(took):
    found = remaining(later=3 * work(OPTIONS, PAIRS))
    for seconds in took:
        found.done(seconds)
    left = OPTIONS.epochs - len(took) + 3 * OPTIONS.epochs
    assert found.seconds is not None
    assert 0.999 * min(took) * left <= found.seconds <= 1.001 * max(took) * left


@given(durations)
def test_an_epoch_as_long_as_the_usual_one_brings_the_end_nearer(took):
    found = remaining()
    for seconds in took:
        found.done(seconds)
    if found.epochs:
        before = found.seconds
        found.done(sorted(took)[(len(took) - 1) // 2])
        assert before is not None
        assert found.seconds is not None
        assert found.seconds < before


def test_the_rest_of_an_epoch_that_was_stopped_counts_as_the_share_that_it_is():
    found = remaining()
    found.done(15.0, share=0.25)
    assert found.seconds == 9 * 60.0


def test_work_counts_pixels():
    assert work(OPTIONS, PAIRS) == 10 * 2 * 4 * 16 * 16
    whole = Train(epochs=1, batch=1, crop=None, slices_per_epoch=1)
    assert work(whole, PAIRS) == PAIRS.full[0].size


def test_a_run_says_what_all_of_its_training_will_take(tmp_path, monkeypatch, caplog):
    (tmp_path / "r.yaml").write_text(RECIPE)
    seen: list[tuple[int, float]] = []
    done = Remaining.done

    def noted(self, seconds, share):
        assert share == 1
        done(self, 1.0)
        seen.append((self.epochs, self.seconds))

    monkeypatch.setattr(Remaining, "done", noted)
    monkeypatch.setattr(progress, "SELDOM", -1.0)
    with caplog.at_level(logging.INFO, logger="compress"):
        pipeline.run(load(tmp_path / "r.yaml"), out=tmp_path / "run", device="cpu")
    # A retrain epoch has 4 crops of 32 x 32, one of train 2 of 16 x 16: 8 times as many pixels.
    assert seen == [(2, 2.0 + 16), (1, 1.0 + 16), (0, 16.0), (1, 1.0), (0, 0.0)]
    said = [record.getMessage().replace("\u00a0", " ") for record in caplog.records]
    assert "00-train: 1 of 3 done, about 18 s of training left, later stages included" in said
    (tmp_path / "run" / "00-train" / "facts.json").unlink()
    seen.clear()
    pipeline.run(load(tmp_path / "r.yaml"), out=tmp_path / "run", device="cpu")
    assert seen == [(2, 2.0), (1, 1.0), (0, 0.0)]  # what is done already is not waited for


def test_the_first_estimate_is_said_at_once(caplog):
    found = remaining()
    with caplog.at_level(logging.INFO, logger="compress"):
        for _ in progress.track(range(4), "00-train", note=found.words):
            found.done(60.0)
    said = [record.getMessage().replace("\u00a0", " ") for record in caplog.records]
    assert said == ["00-train: 1 of 4 done, about 9 min 0 s of training left in this stage"]


def test_it_is_beside_the_bar(monkeypatch):
    shown = Terminal.install(monkeypatch)
    found = remaining()
    for _ in progress.track(range(2), "00-train", note=found.words):
        found.done(60.0)
    assert "of training left in this stage" in shown.text()


def test_without_it_the_bar_has_its_own(monkeypatch):
    shown = Terminal.install(monkeypatch)
    assert list(progress.track(range(2), "looking")) == [0, 1]
    assert "looking" in shown.text()
    assert "training" not in shown.text()


@pytest.mark.parametrize("later", [0, 10**9])
def test_the_end_of_the_last_stage_is_the_end(later):
    found = remaining(later)
    for _ in range(OPTIONS.epochs):
        found.done(2.0)
    assert (found.seconds == 0) == (later == 0)


def test_recipes_of_the_package_can_be_counted():
    recipe = load(Path("smoke"))
    steps = [step for _, step in recipe.steps if isinstance(step, Train)]
    assert [work(step, PAIRS) for step in steps] == [2 * 32 * 32 * 32] * 3
