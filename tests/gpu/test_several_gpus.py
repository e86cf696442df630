"""Two GPUs through NCCL: they learn what one learns, in captured steps and under SyncBatchNorm."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from children import ending

from compress import checkpoint
from compress.sparsity import pattern

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

PROGRAM = str(Path(__file__).parent / "several.py")
OPTIONS = {
    "epochs": 20, "batch": 8, "crop": 64, "slices_per_epoch": 8, "lr": 1e-4, "precision": "fp32"
}  # fmt: skip
"""Twenty steps, with the loss of each."""
CASES = {
    "no BatchNorm": ("redcnn", {}, 1e-4),
    "frozen BatchNorm": ("ddnet", {"freeze_norm": True}, 1e-4),
    # Under a BatchNorm in training one GPU differs from itself by so much, see test_training.py.
    "synchronised BatchNorm": ("ddnet", {"sync_norm": True}, 2e-2),
}
"""Network, options, and how far two losses of one step may differ, relatively."""
WHOLE = """schema: 1
name: whole
model: {name: ddnet, residual: true, trunk: 16, bottleneck: 32, decoder: 32}
data: {source: phantom, image_size: 64, train_slices: 2, test_slices: 1, views: 8}
seed: 0
steps:
  - train: {epochs: 2, batch: 4, crop: 64, slices_per_epoch: 8}
  - prune: {amount: 0.3, round_to: 16}
  - retrain: {epochs: 2, batch: 4, crop: 64, slices_per_epoch: 8, sync_norm: true}
  - sparsify: {pattern: "2:4", backend: modelopt}
  - retrain: {epochs: 2, batch: 4, crop: 64, slices_per_epoch: 8}
  - evaluate
"""


def torchrun(processes: int, *command: str) -> None:
    """As torchrun starts it; its output is told where it fails."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    with subprocess.Popen(
        [sys.executable, *launcher, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        with ending([process]):
            output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-4000:]


def learned(folder: Path, processes: int, network: str, **options: Any) -> list[dict[str, Any]]:
    """The facts of every process."""
    words = (PROGRAM, str(folder), network, json.dumps(OPTIONS | options))
    torchrun(processes, *words)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True], ids=["called", "captured"])
@pytest.mark.parametrize("case", CASES)
def test_two_gpus_learn_what_one_learns(case: str, graph: bool, tmp_path: Path) -> None:
    network, options, rtol = CASES[case]
    (one,) = learned(tmp_path / "1", 1, network, cuda_graph=graph, **options)
    two = learned(tmp_path / "2", 2, network, cuda_graph=graph, **options)
    assert [facts["device"] for facts in two] == ["cuda:0", "cuda:1"]
    assert [facts["processes"] for facts in two] == [2, 2]
    assert all(facts["cuda_graph"] is graph for facts in two), two[0]["cuda_graph_why"]
    assert len({facts["parameters"] for facts in two}) == 1
    assert len(set(one["loss"])) == 20
    for facts in two:
        torch.testing.assert_close(
            torch.tensor(facts["loss"]), torch.tensor(one["loss"]), rtol=rtol, atol=0
        )


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True], ids=["called", "captured"])
def test_synchronised_norm_sees_the_whole_batch(graph: bool, tmp_path: Path) -> None:
    once = {"epochs": 1, "cuda_graph": graph}  # one step, before weights can differ
    (one,) = learned(tmp_path / "1", 1, "ddnet", **once)
    together = learned(tmp_path / "together", 2, "ddnet", sync_norm=True, **once)
    apart = learned(tmp_path / "apart", 2, "ddnet", **once)
    expected = torch.tensor(one["statistics"])
    for facts in together:
        torch.testing.assert_close(
            torch.tensor(facts["statistics"]), expected, rtol=1e-4, atol=1e-5
        )
    shares = torch.tensor([facts["statistics"] for facts in apart])
    assert not torch.allclose(shares[0], expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(shares[0], shares[1], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_masks_and_weights_are_the_same_on_both(precision: str, tmp_path: Path) -> None:
    options = {"precision": precision, "weight_decay": 0.1, "lr": 1e-3}
    two = learned(tmp_path / "2", 2, "ddnet24", **options)
    assert all(facts["cuda_graph"] for facts in two), two[0]["cuda_graph_why"]
    assert len({facts["parameters"] for facts in two}) == 1
    assert two[0]["loss"] == two[1]["loss"]


@pytest.mark.slow
def test_a_whole_recipe_on_two_gpus(tmp_path: Path) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(WHOLE)
    torchrun(2, "-m", "compress", "run", str(recipe), "--out", str(out), "--device", "cuda")
    facts = json.loads((out / "05-evaluate" / "facts.json").read_text())["facts"]
    assert facts["networks"] == ["input", "dense", "compressed"]
    model = checkpoint.load(out / "04-retrain")
    assert len(model.masks) > 40
    for name in model.masks:
        assert pattern.is_2to4(model.net.get_submodule(name).weight)
