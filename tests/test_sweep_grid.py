"""The points of a sweep: values, names, baselines, and what is said about wrong ones."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.base.errors import UsageError
from compress.cli.main import main
from compress.sweep import rows
from compress.sweep.grid import COMPRESSING, baselines, less, points
from compress.sweep.options import Sweep

RECIPE = """schema: 1
name: tiny
model: {import: "networks:Plain"}
steps:
  - train: {epochs: 1}
  - prune: {amount: 0.5, round_to: 1}
  - retrain: {epochs: 1}
  - sparsify
  - evaluate
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def test_every_combination(path: Path) -> None:
    found = points(path, ["steps.prune.amount=0.1:0.3:0.1", "reseed=0,1"], ["seed=5"])
    assert [p.name for p in found] == [
        f"prune.amount={a}_reseed={s}" for a in ("0.1", "0.2", "0.3") for s in (0, 1)
    ]
    assert [p.recipe.steps[1][1].amount for p in found] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert {p.recipe.seed for p in found} == {5}
    assert found[3].values == {"steps.prune.amount": "0.2", "reseed": "1"}


def test_ranges_hold_both_ends_in_decimal(path: Path) -> None:
    found = points(path, ["steps.prune.amount=0.1:0.9:0.1"])
    assert [p.values["steps.prune.amount"] for p in found] == [f"0.{i}" for i in range(1, 10)]
    assert len(points(path, ["steps.train.epochs=5:50:5"])) == 10


@pytest.mark.parametrize(
    ("vary", "sentence"),
    [
        ((), "nothing to sweep over; give --vary, such as steps.prune.amount=0.1:0.9:0.1"),
        (("seed",), "--vary seed: expected KEY=VALUES, such as"),
        (("seed=1,,2",), "--vary seed=1,,2: a value is empty or given twice"),
        (("seed=1,1",), "--vary seed=1,1: a value is empty or given twice"),
        (("seed=1:a:2",), "--vary seed=1:a:2: expected first:last:step in numbers"),
        (("seed=1:9:0",), "--vary seed=1:9:0: expected first:last:step in numbers"),
        (("seed=9:1:1",), "--vary seed=9:1:1: these are 0 values; 1 to 1000 are possible"),
        (("seed=1", "seed=2"), "--vary: an option is given twice; give all its values at once"),
        (("steps.prune.amount=0.5,1.5",), "amount must lie in (0, 1), got 1.5"),
        (("steps.prun.amount=0.5",), "steps.prun: no such step in the recipe"),
        (("prune.amount=0.3",), "r.yaml with --vary prune.amount=0.3: unknown section 'prune'"),
    ],
)
def test_wrong_grids_are_refused(path: Path, vary: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        points(path, vary)
    assert sentence in str(caught.value)


def test_what_was_set_is_told_from_what_was_varied(path: Path) -> None:
    said = "r.yaml with --set seed=2 --vary seed=x --vary reseed=1: seed: expected a whole number"
    with pytest.raises(UsageError) as caught:
        points(path, ["seed=x", "reseed=1"], ["seed=2"])
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_baselines_are_trained_as_long_and_shared(path: Path) -> None:
    grid = points(path, ["steps.prune.amount=0.2,0.4", "reseed=0,1", "steps.retrain.epochs=3"])
    found = baselines(grid)
    assert [p.name for p in found] == ["baseline_reseed=0", "baseline_reseed=1"]
    assert all(p.baseline for p in found)
    words = [word for word, _ in found[0].recipe.steps]
    assert words == ["train", "retrain", "evaluate"]
    assert found[0].recipe.steps[1][1].epochs == 3
    assert less(grid[0].recipe, COMPRESSING).steps == found[0].recipe.steps
    (one,) = baselines(points(path, ["steps.prune.amount=0.2,0.4"]))
    assert one.name == "baseline"


def test_a_sweep_trains_no_baseline_of_a_baseline(tmp_path: Path) -> None:
    text = """schema: 1
model: {name: ddnet}
steps:
  - train: {epochs: 2}
  - prune: {amount: 0.4, at: 0.5}
  - retrain: {epochs: 2}
  - baseline
  - evaluate
"""
    (tmp_path / "r.yaml").write_text(text)
    grid = points(tmp_path / "r.yaml", ["steps.prune.amount=0.2,0.4"])
    (found,) = baselines(grid)
    assert [word for word, _ in found.recipe.steps] == ["train", "retrain", "evaluate"]
    assert found.recipe.steps[1][1].lr_rewind == 0.5  # the dense network has one schedule, too


def test_by_default_steps_that_a_recipe_lacks_are_left_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Sweep]()
    monkeypatch.setattr("compress.sweep.run.run", lambda one: asked.append(one) or one.out)
    words = ["sweep", str(path), "--vary", "reseed=0,1"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert asked[0].without == COMPRESSING
    assert "--without" not in asked[0].words()
    assert [point.baseline for point in asked[0].grid()] == [True, True, False, False]


def test_what_to_leave_out_of_the_baseline(path: Path) -> None:
    grid = points(path, ["reseed=0,1"])
    found = baselines(grid, ["sparsify"])
    words = [word for word, _ in found[0].recipe.steps]
    assert words == ["train", "prune", "retrain", "evaluate"]
    with pytest.raises(UsageError, match="--without sparsfy: the recipe has no such step"):
        baselines(grid, ["sparsfy"])
    pruned = [replace(p, recipe=less(p.recipe, ["sparsify"])) for p in grid]
    assert len(baselines(pruned)) == 2
    with pytest.raises(UsageError, match="--without sparsify: the recipe has no such step"):
        baselines(pruned, ["sparsify"])
    dense = [replace(p, recipe=less(p.recipe, COMPRESSING)) for p in grid]
    assert baselines(dense) == []


def test_baselines_of_older_sweeps_are_dense_as_they_were():
    row = {"kind": "baseline", "without": ["prune", "sparsify"], "command": "compress sweep r.yaml"}
    assert rows._named(row) == "dense"
    asked = {**row, "command": "compress sweep r.yaml --without prune,sparsify"}
    assert rows._named(asked) == "without prune and sparsify"
    assert rows._named({**row, "without": [*COMPRESSING]}) == "dense"
