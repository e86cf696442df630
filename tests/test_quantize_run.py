"""A whole run that ends in INT8: its stages, its report, and that it goes on where it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from compress import api, checkpoint
from compress.base.errors import UsageError
from compress.bench import targets
from compress.quantization import quantisers
from compress.recipe import load
from compress.run import pipeline, preview

pytestmark = pytest.mark.filterwarnings("ignore")  # ModelOpt's own, on import

TRAINING = "epochs: 1, slices_per_epoch: 4, batch: 2, crop: 32"
RECIPE = f"""\
schema: 1
name: int8
model: {{name: redcnn, channels: 16}}
data: {{source: phantom, image_size: 48, train_slices: 2, test_slices: 1, views: 60}}
steps:
  - train:    {{{TRAINING}}}
  - prune:    {{amount: 0.2, round_to: 8}}
  - sparsify: {{backend: modelopt, eligibility: tensorrt}}
  - quantize: {{keep: ["encoder.0"], calibrate: 4}}
  - retrain:  {{{TRAINING}, lr: 1.0e-5}}
  - evaluate: {{pictures: 0}}
  - export:   {{formats: [onnx, aot_inductor], image_size: 48}}
  - report
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "r.yaml").write_text(RECIPE)
    return pipeline.run(load(folder / "r.yaml"), out=folder / "out", device="cpu")


def facts(stage: Path) -> dict:
    return json.loads((stage / "facts.json").read_text())["facts"]


def test_the_last_checkpoint_is_quantised_pruned_and_2_to_4(run: Path) -> None:
    model, before = (checkpoint.load(run / name) for name in ("04-retrain", "02-sparsify"))
    assert len(model.quantised) == 9
    assert model.masks.keys() == before.masks.keys()
    assert len(model.masks) == 9
    assert checkpoint.channels(model.net) == checkpoint.channels(before.net)
    assert facts(run / "04-retrain")["cuda_graph"] is False


def test_engines_and_report_tell_of_it(run: Path) -> None:
    onnx, aot = facts(run / "06-export")["engines"]
    assert onnx["status"] == "built"
    assert onnx["parity"]["ok"]
    assert aot["reason"].startswith("it takes no quantised network yet")
    report = json.loads((run / "07-report" / "report.json").read_text())
    assert "9 of 10 layers in INT8" in report["verdict"]
    rows = {row["name"]: row for row in report["int8"]["layers"]}
    assert rows["encoder.0"]["reason"] == "kept by 'encoder.0'"
    assert report["speed"] is None  # simulated INT8 is no speed


def test_it_goes_on_from_the_quantised_checkpoint(run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(run, tmp_path / "out")
    for name in ("04-retrain", "05-evaluate", "06-export", "07-report"):
        shutil.rmtree(out / name)
    began = (out / "03-quantize" / "facts.json").stat().st_mtime_ns
    pipeline.run(load(run.parent / "r.yaml"), out=out, device="cpu", until="05-evaluate")
    assert (out / "03-quantize" / "facts.json").stat().st_mtime_ns == began
    again, first = (checkpoint.weights_hash(at / "04-retrain") for at in (out, run))
    assert again == first


def test_what_is_timed_in_pytorch_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="in PyTorch INT8 is simulated"):
        targets._checkpoint(run / "04-retrain", "eager-fp32", torch.device("cpu"), graph=False)


def test_from_python_it_is_known_as_quantised(run: Path) -> None:
    net = api.load(run / "04-retrain")
    assert quantisers.quantised(net)
    with pytest.raises(UsageError, match="put prune before quantize"):
        api.prune(net, 0.2)


def test_the_plan_takes_it_in(run: Path) -> None:
    plan = preview.check(load(run.parent / "r.yaml"))
    assert plan["pruned"]["macs"] < plan["dense"]["macs"]


@pytest.mark.parametrize("word", ["prune: {amount: 0.1}", "sparsify", "quantize"])
def test_no_compression_comes_after_it(word: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("  - evaluate", f"  - {word}\n  - evaluate"))
    with pytest.raises(UsageError, match="comes before it"):
        load(path)


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        ("none", "one of auto|expected"),
        ("3", "expected"),
        ("[3]", r"keep\[0\]"),
    ],
)
def test_what_is_kept_is_auto_or_names(keep: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace('["encoder.0"]', keep))
    with pytest.raises(UsageError, match=why) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", ["calibrate: 0", "budget: 0", "budget: -1.5"])
def test_options_that_make_no_sense_are_refused(options: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace('keep: ["encoder.0"], calibrate: 4', options))
    with pytest.raises(UsageError, match=options.partition(":")[0]):
        load(path)
