"""The dense network trained on: what quality is compared with, and what the report says of it."""

import json
from pathlib import Path

import pytest
import run_folders
import torch
from pairs import data
from test_expand import recipe, refused
from test_steps_report import change, written

from compress import checkpoint
from compress.base.errors import UsageError
from compress.recipe import load
from compress.run import pipeline
from compress.steps.baseline import Baseline

TWICE = """steps:
  - train: {epochs: 6}
  - prune: {amount: 0.5}
  - retrain: {epochs: 4, distill: 0.5}
  - sparsify
  - retrain: {epochs: 3, lr: 2e-4}
  - baseline
  - evaluate
"""


def test_the_dense_network_gets_what_each_retrain_has_without_a_teacher(tmp_path: Path) -> None:
    found = recipe(tmp_path, TWICE).steps
    assert [word for word, _ in found][5:] == ["baseline", "baseline", "evaluate"]
    one, two = found[5][1], found[6][1]
    assert (one.epochs, one.distill, one.lr) == (4, 0.0, 1e-3)
    assert (two.epochs, two.lr) == (3, 2e-4)


def test_with_early_pruning_it_goes_on_with_the_same_schedule(tmp_path: Path) -> None:
    text = TWICE.replace("amount: 0.5", "amount: 0.5, at: 0.2")
    found = recipe(tmp_path, text).steps
    assert found[0][1].lr_until == found[5][1].lr_rewind == 0.2
    assert found[5][1].epochs == found[2][1].epochs == 8


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("- baseline\n", "- baseline: {lr: 2e-4}\n",
         "steps[5].baseline: lr needs epochs beside it; without options all is retrain's"),
        ("  - baseline\n", "  - baseline\n  - baseline\n",
         "steps[6].baseline: nothing was trained before it since the network was compressed; "
         "leave it out"),
        ("  - train: {epochs: 6}\n  - prune: {amount: 0.5}\n  - retrain: {epochs: 4, distill: 0.5}"
         "\n  - sparsify\n  - retrain: {epochs: 3, lr: 2e-4}\n  - baseline\n",
         "  - sparsify\n  - baseline: {epochs: 2}\n",
         "steps[1].baseline: nothing was trained before; put train first or give model.weights"),
    ],
)  # fmt: skip
def test_what_makes_up_for_nothing_is_refused(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert refused(tmp_path, TWICE.replace(old, new, 1)) == sentence


TINY = """schema: 1
model: {import: "networks:Plain", width: 16}
steps:
  - train:   {epochs: 1, batch: 2, crop: 32, slices_per_epoch: 4}
  - prune:   {amount: 0.4, round_to: 4}
  - retrain: {epochs: 2, batch: 2, crop: 32, slices_per_epoch: 4}
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


def test_evaluate_measures_the_dense_network_that_was_trained_on(tmp_path: Path) -> None:
    out = run(tmp_path)
    dense, pruned = (
        checkpoint.load(out / name).net for name in ("03-baseline/dense", "02-retrain")
    )
    before = checkpoint.load(out / "00-train").net
    assert dense.first.weight.shape == before.first.weight.shape != pruned.first.weight.shape
    assert not torch.equal(dense.first.weight, before.first.weight)
    assert not (out / "03-baseline" / "model.json").exists()  # the pruned network passed through
    report = json.loads((out / "05-report" / "report.json").read_text())
    assert [stage["steps"] for stage in report["baseline"]] == [4]
    assert [stage["stage"] for stage in report["training"]] == ["00-train", "02-retrain"]
    assert "the dense network trained as long" in report["verdict"]
    assert any("trained on for 4 optimizer steps after" in limit for limit in report["limits"])
    facts = (out / "04-evaluate" / "facts.json").read_text()
    for stage in ("04-evaluate", "05-report"):  # done again, with the baseline from the disk
        (out / stage / "facts.json").unlink()
    run(tmp_path)
    again = json.loads((out / "04-evaluate" / "facts.json").read_text())
    assert again["facts"] == json.loads(facts)["facts"]


def test_without_a_dense_network_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    from test_train import model, work

    with pytest.raises(UsageError, match="baseline: no dense network was trained before"):
        Baseline(epochs=1).run(model(), work(tmp_path / "00-baseline"))


def test_a_report_without_a_fair_baseline_says_so_in_its_first_sentence(tmp_path: Path) -> None:
    report, html, markdown = written(run_folders.make(tmp_path / "run"))
    lacks = "which lacks 1,280 of the 1,600 optimizer steps"
    assert f"(no fair comparison with the dense network at 46.15 dB, {lacks})" in report["verdict"]
    row = next(row for row in report["undone"] if row["what"].startswith("Fair comparison"))
    assert row["command"] == "- baseline"
    for page in (html, markdown):
        assert lacks in page


def test_a_baseline_after_the_evaluation_does_not_count(tmp_path: Path) -> None:
    steps = ("train", "prune", "retrain", "evaluate", "retrain")
    for last, fair in ((1, True), (3, False)):
        run_ = run_folders.make(tmp_path / str(last), steps)
        change(run_ / "04-retrain" / "facts.json", kind="baseline", step="baseline")
        if fair:
            (run_ / "04-retrain").rename(run_ / "02-x")
            change(run_ / "02-x" / "facts.json", stage="02-x")
        report, _, _ = written(run_)
        assert ("trained as long" in report["verdict"]) == fair
        assert ("no fair comparison" in report["verdict"]) == (not fair)
