"""What a recipe says in short: epochs left over, and pruning in rounds."""

from pathlib import Path

import pytest

from compress.base.errors import UsageError
from compress.recipe import Recipe, load

HEAD = "schema: 1\nname: r\nmodel: {name: ddnet}\n"


def recipe(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "r.yaml"
    path.write_text(HEAD + text)
    return load(path, overrides)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        recipe(folder, text)
    return str(caught.value).partition(": ")[2]


HYBRID = """epochs_total: 50
steps:
  - train: {epochs: 10}
  - prune: {amount: 0.5}
  - retrain: {batch: 4}
  - report
"""


@pytest.mark.parametrize("dense", [5, 10, 45])
def test_retrain_takes_the_epochs_that_are_left(tmp_path: Path, dense: int) -> None:
    found = recipe(tmp_path, HYBRID, f"steps.train.epochs={dense}")
    assert found.steps[0][1].epochs == dense
    assert (found.steps[2][1].epochs, found.steps[2][1].batch) == (50 - dense, 4)


def test_with_nothing_left_there_is_no_retraining(tmp_path: Path) -> None:
    found = recipe(tmp_path, HYBRID, "steps.train.epochs=50")
    assert [word for word, _ in found.steps] == ["train", "prune", "report"]


def test_wrong_totals_are_refused(tmp_path: Path) -> None:
    many = HYBRID.replace("epochs: 10", "epochs: 60")
    assert refused(tmp_path, many) == "epochs_total: the steps have 60 epochs, more than 50"
    none = HYBRID.replace("batch: 4", "epochs: 4")
    one = "epochs_total: exactly one retrain must omit epochs; found 0"
    assert refused(tmp_path, none) == one
    two = HYBRID.replace("  - report", "  - retrain\n  - report")
    assert refused(tmp_path, two) == one.replace("found 0", "found 2")
    text = HYBRID.replace("epochs: 10", "epochs: many")
    assert "steps[0].train.epochs: expected a whole number" in refused(tmp_path, text)


ROUNDS = """steps:
  - train: {epochs: 4}
  - prune: {amount: 0.657, round_to: 4, rounds: 3}
  - retrain: {epochs: 8, lr: 2e-3}
  - report
"""


def test_rounds_become_prune_and_retrain(tmp_path: Path) -> None:
    found = recipe(tmp_path, ROUNDS)
    words = ["train", "prune", "retrain", "prune", "retrain", "prune", "retrain", "report"]
    assert [word for word, _ in found.steps] == words
    prunes = [step for word, step in found.steps if word == "prune"]
    assert [p.amount for p in prunes] == pytest.approx([0.3, 0.51, 0.657], abs=1e-3)
    assert {(p.rounds, p.base, p.round_to) for p in prunes} == {(1, "dense", 4)}
    retrains = [step for word, step in found.steps if word == "retrain"]
    assert [(r.epochs, r.lr) for r in retrains] == [(2, 2e-3), (2, 2e-3), (4, 2e-3)]


def test_one_round_is_the_recipe_as_written(tmp_path: Path) -> None:
    found = recipe(tmp_path, ROUNDS, "steps.prune.rounds=1")
    assert [word for word, _ in found.steps] == ["train", "prune", "retrain", "report"]
    assert found.steps[1][1].base == "current"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs: 8", "epochs: 2", "3 rounds need a retrain of as many epochs at least, got 2"),
        ("  - retrain: {epochs: 8, lr: 2e-3}\n", "", "rounds needs a retrain right after it"),
        ("round_to: 4", "criterion: random_weights",
         "rounds is for channels, and random_weights removes none"),
        ("rounds: 3", "rounds: 0", "rounds must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_wrong_rounds_are_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert refused(tmp_path, ROUNDS.replace(old, new)) == f"steps[1].prune: {sentence}"


def test_reseed_is_for_the_stages_after_the_first_training(tmp_path: Path) -> None:
    found = recipe(tmp_path, "seed: 3\nreseed: 7\n" + ROUNDS, "steps.prune.rounds=1")
    assert [found.stage_seed(index) for index in range(4)] == [3, 7, 7, 7]
    again = recipe(tmp_path, "seed: 3\n" + ROUNDS)
    assert again.stage_seed(2) == 3
    with_null = recipe(tmp_path, "seed: 3\nreseed: null\n" + ROUNDS)
    assert with_null.reseed is None
    said = refused(tmp_path, "reseed: -1\n" + ROUNDS)
    assert said == "reseed: must lie in [0, 2^63), got -1"
