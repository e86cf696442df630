"""What version 0.1 (commit 80b2892) left on disk loads, counts as done, and is gone on with.

`fixtures/version_0_1` holds made-up pairs, the recipe, its run folder without the pages of the
report, and a `fused` engine of a small DDnet with an output of its own. Paths of the machine were
taken out of the ONNX file's metadata.
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import compress
from compress import checkpoint
from compress.engines import fused, sidecar
from compress.recipe import load
from compress.run import pipeline

OLD = Path(__file__).parent / "fixtures" / "version_0_1"
STAGES = sorted(path.parent.name for path in OLD.glob("run/*/model.json"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def facts(stage: Path) -> dict:
    return json.loads((stage / "facts.json").read_text("utf-8"))


def begun(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Names of the stages that the log says have begun."""
    texts = [record.getMessage() for record in caplog.records]
    return [text.split(":")[0] for text in texts if text.endswith(": starting")]


@pytest.mark.parametrize("stage", STAGES)
def test_checkpoints_load(stage: str) -> None:
    model = checkpoint.load(OLD / "run" / stage)
    assert checkpoint.fingerprint(model) == checkpoint.weights_hash(OLD / "run" / stage)
    assert len(model.masks) == (9 if stage >= "03" else 0)


def test_finished_stages_are_not_done_again(copy: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    before = {path.name: path.read_bytes() for path in copy.glob("run/0[0-6]*/facts.json")}
    pipeline.run(load(copy / "recipe.yaml"), out=copy / "run", device="cpu")
    assert {path.name: path.read_bytes() for path in copy.glob("run/0[0-6]*/facts.json")} == before
    started = [
        record.getMessage() for record in caplog.records if "starting" in record.getMessage()
    ]
    assert started == []


def test_a_run_goes_on_from_its_last_finished_stage(copy: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    torch.set_num_threads(1)
    for stage in ("04-retrain", "05-evaluate", "06-export", "07-report"):
        shutil.rmtree(copy / "run" / stage)
    pipeline.run(load(copy / "recipe.yaml"), out=copy / "run", device="cpu")
    started = [
        record.getMessage() for record in caplog.records if "starting" in record.getMessage()
    ]
    assert [text.split(":")[0] for text in started] == [
        "04-retrain", "05-evaluate", "06-export", "07-report",
    ]  # fmt: skip
    for name, found in facts(OLD / "run" / "05-evaluate")["facts"]["summary"].items():
        now = facts(copy / "run" / "05-evaluate")["facts"]["summary"][name]
        assert now["psnr"]["mean"] == pytest.approx(found["psnr"]["mean"], abs=1e-3)
    assert (copy / "run" / "07-report" / "report.html").is_file()


def test_an_onnx_engine_loads(copy: Path) -> None:
    net = compress.load(copy / "run" / "04-retrain")
    engine = compress.load(copy / "run" / "06-export" / "onnx-fp32-b1.onnx")
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(engine(x), net(x), atol=1e-5, rtol=0)


def test_a_fused_engine_loads() -> None:
    path = OLD / "engines" / "fused.safetensors"
    assert sidecar.read(path.with_name("fused.safetensors.json"))[1] == path
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        y = fused.load(path, "cpu", kernels=False)(x)
    expected = torch.from_numpy(np.load(OLD / "engines" / "output.npy"))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)
