"""Do all number formats learn alike? Prints one JSON object.

    PYTHONPATH=tests python tests/gpu/precisions.py [--steps 200]

DDnet trains for the same steps in each format, in each scope and with torch.compile, from the same
start on the same crops. A format is as good as float32 when its last loss, a mean over ten epochs
of five steps, differs from float32's by no more than float32 differs between three seeds.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from pairs import data

from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.models.ddnet import DDnet
from compress.sparsity import masks
from compress.steps.train import Train
from compress.training import apex_amp

PER_EPOCH, LAST = 5, 10
"""Steps in an epoch, and epochs at the end whose losses are averaged."""
FORMATS: Mapping[str, dict[str, Any]] = {
    "tf32": {"precision": "tf32"},
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "fp16, eager": {"precision": "fp16", "cuda_graph": False},
    "fp16, sparse layers": {"precision": "fp16", "scope": "sparse_layers"},
    "bf16, sparse layers": {"precision": "bf16", "scope": "sparse_layers"},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "apex-O1": {"precision": "apex-O1"},
    "apex-O2": {"precision": "apex-O2"},
}


def start(seed: int) -> Model:
    """A fresh residual DDnet with 2:4 masks."""
    torch.manual_seed(seed)
    origin = ModelOptions(name="ddnet", options={"residual": True})
    model = Model(net=DDnet(residual=True), origin=origin).rewritten("deconv_to_conv")
    return replace(model, masks=masks.compute(model.net, "modelopt"))


def last_loss(steps: int, seed: int, device: torch.device, **options: Any) -> dict[str, Any]:
    """Train; the last loss, how it was executed, and that the masks have held."""
    chosen = Train(
        epochs=steps // PER_EPOCH, batch=8, crop=64, slices_per_epoch=8 * PER_EPOCH, **options
    )
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "00-train"  # its name seeds the draws
        stage.mkdir()
        work = Work(stage=stage, device=device, data=data(side=96, train=8), seed=seed)
        model = start(seed)
        masks.check(chosen.run(model, work).net, model.masks)
    keys = ("precision", "scope", "cuda_graph", "cuda_graph_why", "compiled_why", "train_seconds")
    facts = {key: work.facts[key] for key in keys}
    return {"loss": statistics.fmean(work.facts["loss"][-LAST:]), "masks_hold": True, **facts}


def compare(steps: int, device: torch.device, formats: Mapping[str, dict[str, Any]]) -> Any:
    """Every format beside three seeds of float32."""
    seeds = [last_loss(steps, seed, device, precision="fp32") for seed in range(3)]
    losses = [found["loss"] for found in seeds]
    spread = max(losses) - min(losses)
    report: dict[str, Any] = {"steps": steps, "fp32": seeds, "spread": spread, "formats": {}}
    for name, options in formats.items():
        if name.startswith("apex") and apex_amp.why_missing():
            report["formats"][name] = {"left_out": apex_amp.why_missing()}
            continue
        found = last_loss(steps, 0, device, **options)
        difference = found["loss"] - losses[0]
        found |= {"difference": difference, "within_spread": abs(difference) <= spread}
        report["formats"][name] = found
    return report


@click.command()
@click.option("--steps", default=200, help="Optimizer steps of each training.")
def main(steps: int) -> None:
    """Compare the number formats on this GPU."""
    device = torch.device("cuda")
    report = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    click.echo(json.dumps(report | compare(steps, device, FORMATS), indent=1))


if __name__ == "__main__":
    main()
