"""The same steps on other networks: RED-CNN, a U-Net, a plain CNN, grouped convolutions."""

import json
from pathlib import Path

import pytest
from pairs import data

from compress import checkpoint
from compress.base.errors import UsageError
from compress.graph import cost
from compress.recipe import load
from compress.run import pipeline
from compress.sparsity import masks
from compress.sparsity.pattern import is_2to4

RECIPE = """schema: 1
name: r
model: MODEL
steps:
  - train: {epochs: 1, batch: 2, crop: 32, slices_per_epoch: 4}
  - prune: {amount: 0.3, round_to: ALIGN, criterion: CRITERION, rounds: 2, recalibrate: 1,
            batches: 2}
  - retrain: {epochs: 2, batch: 2, crop: 32, slices_per_epoch: 4, distill: 0.5, recalibrate: 1}
  - sparsify: {backend: modelopt}
  - retrain: {epochs: 1, batch: 2, crop: 32, slices_per_epoch: 4}
  - evaluate
  - report
"""
MODELS = {
    "plain": ('{import: "networks:Plain", width: 64}', 16),
    "unet": ('{import: "networks:strided_unet"}', 8),
    "redcnn": ("{name: redcnn, channels: 32}", 16),
}
"""Model section, and the alignment that leaves it layers for 2:4."""


def run(folder: Path, model: str, align: int, criterion: str, patch: pytest.MonkeyPatch) -> Path:
    path = folder / "r.yaml"
    text = RECIPE.replace("MODEL", model).replace("CRITERION", criterion)
    path.write_text(text.replace("ALIGN", str(align)))
    patch.setattr(pipeline, "slices", lambda *_a, **_k: data(side=64, train=2, test=2))
    return pipeline.run(load(path), out=folder / "run", device="cpu")


@pytest.mark.parametrize("criterion", ["gaussian", "taylor"])
@pytest.mark.parametrize("name", MODELS)
def test_every_step_on_every_network(
    name: str, criterion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run(tmp_path, *MODELS[name], criterion, monkeypatch)
    dense = checkpoint.load(out / "00-train")
    final = checkpoint.load(out / "06-retrain")
    assert 1 - cost.cost(final.net).macs / cost.cost(dense.net).macs >= 0.3
    assert final.masks
    masks.check(final.net, final.masks)
    assert all(is_2to4(final.net.get_submodule(layer).weight) for layer in final.masks)
    facts = json.loads((out / "03-prune" / "facts.json").read_text())["facts"]
    assert facts["criterion"] == criterion
    assert facts["after"]["macs"] == cost.cost(final.net).macs
    assert (out / "08-report" / "report.html").stat().st_size > 10_000


def test_grouped_convolutions_stay_whole_and_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = '{import: "networks:Plain", width: 32, groups: 4}'
    with pytest.raises(
        UsageError,
        match=r"at round_to 8; the most is 0\.0, and no alignment reaches it; "
        "first stays whole: middle is a grouped convolution",
    ):
        run(tmp_path, grouped, 8, "gaussian", monkeypatch)
