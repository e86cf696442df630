"""Options of version 0.1 under their old names: read with a notice, hashed as they were."""

import logging
from pathlib import Path

import pytest

from compress.base.errors import UsageError
from compress.base.renamed import old_names, renamed
from compress.data import Data, DataOptions
from compress.data.folder import NONE
from compress.recipe import load
from compress.run.keys import keys
from compress.steps import STEPS
from compress.steps.evaluate import Evaluate

HEAD = "schema: 1\nmodel: {name: ddnet}\n"
OLD = (
    HEAD
    + """data: {source: phantom, size: 64}
steps:
  - train: {epochs: 1, graph: false}
  - prune: {amount: 0.5, of: params, floor: 0.1, protect: [stem.conv], align: 8}
  - retrain: {epochs: 1, rewind: 0.5}
  - sparsify: {rule: trt}
  - export: {size: 64}
"""
)
NEW = (
    HEAD
    + """data: {source: phantom, image_size: 64}
steps:
  - train: {epochs: 1, cuda_graph: false}
  - prune: {amount: 0.5, target: params, min_keep: 0.1, ignore: [stem.conv], round_to: 8}
  - retrain: {epochs: 1, lr_rewind: 0.5}
  - sparsify: {eligibility: tensorrt}
  - export: {image_size: 64}
"""
)
KEYS = ["a350", "f738", "6181", "846c", "3c13"]
"""Hashes of the five stages at commit 80b2892, their first four digits."""


def written(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def test_old_names_are_read_and_each_is_named_once(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    old = load(written(tmp_path, OLD))
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "data.size: write image_size",
        "steps[0].train.graph: write cuda_graph",
        "steps[1].prune.of: write target",
        "steps[1].prune.floor: write min_keep",
        "steps[1].prune.protect: write ignore",
        "steps[1].prune.align: write round_to",
        "steps[2].retrain.rewind: write lr_rewind",
        "steps[3].sparsify.rule: write eligibility: tensorrt",
        "steps[4].export.size: write image_size",
    ]
    caplog.clear()
    new = load(written(tmp_path, NEW))
    assert not caplog.records
    assert (old.steps, old.data) == (new.steps, new.data)


def test_stages_keep_the_hashes_of_version_0_1(tmp_path: Path) -> None:
    data = Data(train=NONE, test=NONE, source="phantom", fingerprint="0" * 64)
    found = keys(load(written(tmp_path, NEW)), data)
    assert [key[:4] for key in found] == KEYS


def test_both_names_at_once_are_refused(tmp_path: Path) -> None:
    both = OLD.replace("align: 8", "align: 8, round_to: 8")
    with pytest.raises(
        UsageError, match=r"prune: align is the old name of round_to; give round_to"
    ):
        load(written(tmp_path, both))


@pytest.mark.parametrize("options", [*dict.fromkeys(STEPS.values()), DataOptions])
def test_every_old_name_has_one_of_today(options: type) -> None:
    fields = options.__dataclass_fields__.keys()  # type: ignore[attr-defined]
    table = renamed(options)
    assert {new.name for new in table.values()} <= fields
    assert not table.keys() & fields


def test_options_that_version_0_1_lacked_count_once_they_are_used() -> None:
    assert old_names(Evaluate()) == {"batch": 1, "pictures": 2, "compare": True}
    used = old_names(Evaluate(physics=True, at_most={"bias_hu": 1.0}))
    assert used["physics"] is True
    assert used["at_most"] == {"bias_hu": 1.0}
    assert "realisations" not in used


def test_values_get_their_old_names_back() -> None:
    step = STEPS["sparsify"](eligibility="tensorrt")  # type: ignore[call-arg]
    assert old_names(step)["rule"] == "trt"
    assert "eligibility" not in old_names(step)
