"""A whole run with smaller kernels: early pruning, 2:4, engines, report, and that it goes on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from networks import randomise
from pairs import data

from compress import api, checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.cli.main import main
from compress.context import Work
from compress.graph import cost
from compress.models.ddnet import DDnet
from compress.recipe import load
from compress.run import pipeline, preview
from compress.steps.prune import Prune

pytestmark = pytest.mark.filterwarnings("ignore")  # ModelOpt's own, on import

TRAINING = "slices_per_epoch: 4, batch: 2, crop: 32"
RECIPE = f"""\
schema: 1
name: kernels
model: {{name: ddnet, residual: true, trunk: 16, bottleneck: 32, decoder: 32}}
data: {{source: phantom, image_size: 64, train_slices: 2, test_slices: 1, views: 60}}
steps:
  - train:    {{epochs: 2, {TRAINING}}}
  - prune:    {{amount: 0.7, at: 0.5, criterion: CRITERION, batches: 1, kernels: weigh}}
  - retrain:  {{epochs: 2, {TRAINING}}}
  - sparsify: {{backend: modelopt}}
  - retrain:  {{epochs: 1, {TRAINING}}}
  - evaluate: {{pictures: 0}}
  - export:   {{formats: [onnx], image_size: 64}}
  - report
"""


@pytest.fixture(scope="module", params=["variance", "taylor"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "r.yaml").write_text(RECIPE.replace("CRITERION", request.param))
    return pipeline.run(load(folder / "r.yaml"), out=folder / "out", device="cpu")


def facts(stage: Path) -> dict:
    return json.loads((stage / "facts.json").read_text())["facts"]


def test_smaller_kernels_last_to_the_end(run: Path) -> None:
    found = facts(run / "01-prune")
    small = {k["name"] for k in found["kernels"] if k["after"] < k["before"]}
    assert small
    assert len(found["kernels"]) == 21
    assert found["removed"]["macs"] >= 0.7
    assert found["align"] == 16
    assert all(k["worth"] >= 0 and not k["kept"] for k in found["kernels"])
    for stage in ("01-prune", "02-retrain", "03-sparsify", "04-retrain"):
        model = checkpoint.load(run / stage)
        sides = checkpoint.kernels(model.net)
        assert {n for n, k in sides.items() if n in small and k == [3, 3]} == small - {"stem.conv"}
        assert json.loads((run / stage / "model.json").read_text())["kernels"] == sides
    assert small & set(model.masks)
    macs = cost.cost(model.net).macs
    assert macs == found["after"]["macs"]


def test_engines_report_and_inspection_tell_of_it(run: Path) -> None:
    (onnx,) = facts(run / "06-export")["engines"]
    assert onnx["status"] == "built"
    assert onnx["parity"]["ok"]
    kernels = facts(run / "01-prune")["kernels"]
    small = [k["name"] for k in kernels if k["after"] < k["before"]]
    report = json.loads((run / "07-report" / "report.json").read_text())
    (pruning,) = report["pruning"]
    assert pruning["kernels"] == kernels
    shapes = {row["name"]: row["shape"] for row in report["layers"]}
    assert all(shapes[name][2:] != [5, 5] for name in small)
    said = f"{len(small)} of 21 larger kernels got smaller"
    for name in ("report.md", "report.html"):
        text = (run / "07-report" / name).read_text()
        assert said in text
        assert small[0] in text
    done = CliRunner().invoke(main, ["inspect", str(run / "04-retrain")])
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert all("x3x3" in lines[name] for name in small if name != "stem.conv")


def test_it_goes_on_from_a_checkpoint_with_smaller_kernels(run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(run, tmp_path / "out")
    for name in ("02-retrain", "03-sparsify", "04-retrain", "05-evaluate", "06-export"):
        shutil.rmtree(out / name)
    began = (out / "01-prune" / "facts.json").stat().st_mtime_ns
    pipeline.run(load(run.parent / "r.yaml"), out=out, device="cpu", until="04-retrain")
    assert (out / "01-prune" / "facts.json").stat().st_mtime_ns == began
    again, first = (checkpoint.weights_hash(at / "04-retrain") for at in (out, run))
    assert again == first


def test_check_says_which_kernels(run: Path) -> None:
    plan = preview.check(load(run.parent / "r.yaml"))
    assert plan["pruning"][0]["kernels"]
    done = CliRunner().invoke(main, ["check", str(run.parent / "r.yaml")])
    assert done.exit_code == 0, done.output
    said = done.output.replace("\n", " ")
    assert "kernels 5x5 -> 3x3 (" in said


def test_pruned_again_the_share_is_of_the_dense_network(tmp_path: Path) -> None:
    origin = ModelOptions(name="ddnet", options={"trunk": 16, "bottleneck": 32, "decoder": 32})
    net = randomise(origin.build(), 0).float()
    model = Model(net=net, origin=origin)
    work = Work(stage=tmp_path, device=torch.device("cpu"), data=data(), seed=0)
    options = {"criterion": "variance", "batches": 1, "round_to": 8, "base": "dense"}
    once = Prune(amount=0.5, kernels="cut", **options).run(model, work)
    twice = Prune(amount=0.8, kernels="weigh", min_kernel=1, **options).run(once, work)
    dense = cost.cost(net).macs
    assert cost.cost(once.net).macs <= 0.5 * dense
    assert cost.cost(twice.net).macs <= 0.2 * dense
    assert max(max(k) for k in checkpoint.kernels(once.net).values()) == 3
    checkpoint.save(twice, tmp_path)
    again = checkpoint.load(tmp_path)
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.net(x), twice.net(x))


def test_from_python() -> None:
    net = DDnet(residual=True, trunk=16, bottleneck=32, decoder=32)
    small = api.prune(net, 0.5, kernels="cut")
    assert small.stem.conv.kernel_size == (3, 3)
    assert net.stem.conv.kernel_size == (7, 7)
    with pytest.raises(ValueError, match="removes no taps, so kernels must be keep"):
        Prune(amount=0.5, criterion="random_weights", kernels="cut")
    with pytest.raises(UsageError, match="has no kernel that could get smaller"):
        api.prune(small, 0.2, kernels="cut")
