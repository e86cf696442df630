"""compress export: the step on a checkpoint folder, its words and its exit status."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pairs import pairs

from compress import checkpoint
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.data import DataOptions
from compress.engines import parity, sidecar
from compress.engines.formats import formats
from compress.engines.torch_tensorrt import TorchTensorRT
from compress.run import export
from compress.steps.export import Export

NARROW = ModelOptions(
    name="ddnet", options={"residual": True, "trunk": 4, "bottleneck": 4, "decoder": 4}
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(Model(net=NARROW.build().eval(), origin=NARROW), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two patients with two slices each."""
    folder = tmp_path_factory.mktemp("data")
    for patient, seed in (("A", 1), ("B", 2)):
        made = pairs(2, 40, seed, patient)
        for name, low, full in zip(made.names, made.low, made.full, strict=True):
            for side, image in (("low", low), ("full", full)):
                path = folder / side / patient / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, image)
    return folder


def call(*words: object):
    return CliRunner().invoke(main.main, ["export", *map(str, words)])


def test_engines_for_two_batches_load_from_the_folder(model, data, tmp_path) -> None:
    out = tmp_path / "new" / "engines"
    result = call(model, "--batch", "1,2", "--size", 48, "-o", out, "--data", data, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((out / export.FILE).read_text())
    assert [row["file"] for row in found["engines"]] == ["onnx-fp32-b1.onnx", "onnx-fp32-b2.onnx"]
    for row in found["engines"]:
        facts, _ = sidecar.load(out / row["sidecar"])
        assert facts["weights"] == checkpoint.weights_hash(model)
        assert sidecar._model(facts, out / row["file"]) == model
        assert row["parity"]["ok"]
    left = {path.name for path in out.iterdir()}
    assert left == {export.FILE} | {
        f"onnx-fp32-b{n}.onnx{end}" for n in (1, 2) for end in ("", ".json")
    }


def test_the_command_in_a_refusal_is_one_that_runs(model, data, tmp_path) -> None:
    call(model, "--size", 32, "-o", tmp_path, "--data", data, "--dynamic-batch", "--batch", 3)
    side = tmp_path / "onnx-fp32-b1-3.onnx.json"
    facts = json.loads(side.read_text())
    words = sidecar.rebuild(facts, side.with_suffix("")).split()
    assert words[:2] == ["compress", "export"]
    assert "--dynamic-batch" in words
    side.unlink()
    assert call(*words[2:], "--data", data).exit_code == 0
    again = json.loads(side.read_text())
    for found in (facts, again):
        del found["built"]["build_seconds"]
    assert again == facts


def test_formats_by_list_and_by_repetition(model, data, tmp_path, monkeypatch) -> None:
    seen: list = []

    def run(_model, _out, options, **_more):
        seen.append(Export(**options))
        return {"schema": 1, "engines": []}

    monkeypatch.setattr(export, "run", run)
    call(model, "-o", tmp_path, "--format", "onnx,aot_inductor", "--format", "onnx")
    call(model, "-o", tmp_path, "--precision", "bf16", "--deconvolutions", "keep")
    assert seen[0] == Export(formats=("onnx", "aot_inductor"))
    assert seen[1] == Export(precision="bf16", deconvolutions="keep")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--format", "onx"), "'onx' is none of torch_tensorrt, aot_inductor, fused, onnx"),
        (("--batch", "0"), "'0' is no list of whole numbers from 1 on, such as 1,16"),
        (("--size", "8"), "export: image_size must be at least 16 pixels, got 8"),
    ],
)
def test_wrong_words_end_with_exit_code_2(model, tmp_path, words, sentence) -> None:
    result = call(model, "-o", tmp_path / "e", *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "e").exists()


def test_what_cannot_be_built_ends_with_exit_code_1(model, data, tmp_path) -> None:
    if TorchTensorRT().missing(torch.device("cpu")) is None:
        pytest.skip("TensorRT is here")
    words = ("--format", "torch_tensorrt,onnx", "--size", 32, "--data", data, "--device", "cpu")
    result = call(model, "-o", tmp_path, *words)
    assert result.exit_code == 1
    assert "torch_tensorrt was not built: " in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].endswith("TensorRT needs an NVIDIA GPU")
    assert (tmp_path / "onnx-fp32-b1.onnx").is_file()


def test_an_engine_that_differs_ends_with_exit_code_3(model, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parity.subprocess_run, "run", lambda _side, x: x + 0.01)
    result = call(model, "-o", tmp_path, "--size", 32, "--data", data)
    assert result.exit_code == 3
    assert "differs from the network by 29.2 HU at most" in result.stderr
    (row,) = json.loads((tmp_path / export.FILE).read_text())["engines"]
    assert row["parity"]["ok"] is False


def test_no_slices_are_made_where_nothing_can_be_built(model, tmp_path, monkeypatch) -> None:
    if TorchTensorRT().missing(torch.device("cpu")) is None:
        pytest.skip("TensorRT is here")
    monkeypatch.setattr(export, "load", lambda *_a, **_k: pytest.fail("slices were made"))
    result = call(model, "--format", "torch_tensorrt", "--size", 48, "-o", tmp_path)
    assert result.exit_code == 1
    assert "torch_tensorrt was not built" in result.stderr


def test_stopped_before_the_first_engine_the_record_of_before_stays(
    model, data, tmp_path, monkeypatch
) -> None:
    def stopped(*_args: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / export.FILE).write_text("of before")
    monkeypatch.setattr(Export, "build", stopped)
    result = call(model, "--size", 48, "-o", tmp_path, "--data", data)
    assert (result.exit_code, (tmp_path / export.FILE).read_text()) == (75, "of before")
    assert "export: stopped before the end; run the same command again" in result.stderr


@pytest.mark.parametrize(
    ("cached", "run", "fallback", "source"),
    [
        (True, "demo", True, "demo"),
        (True, None, True, "demo"),
        (True, "phantom", True, "phantom"),
        (False, "demo", True, "phantom"),
        (False, None, True, "phantom"),
        (False, "phantom", True, "phantom"),
        (False, None, False, "demo"),
    ],
)
def test_nothing_is_fetched_for_a_comparison(
    cached, run, fallback, source, tmp_path, monkeypatch
) -> None:
    """Only --no-fallback asks for the demo set where it is not in the cache."""
    seen: list = []
    monkeypatch.setattr(export, "load", lambda wanted, **_: seen.append(wanted))
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    if cached:
        (tmp_path / "cache" / "demo").mkdir(parents=True)
        for patient in "ABC":
            (tmp_path / "cache" / "demo" / f"{patient}.npy").touch()
    if run is not None:
        (tmp_path / "manifest.json").write_text(json.dumps({"data": {"source": run}}))
    for batch in ((1, 2), (16,)):
        export._pairs(Export(batch=batch, image_size=48), tmp_path / "04-retrain", None, fallback)
    assert seen == [
        DataOptions(source=source, train_slices=1, test_slices=n, image_size=48) for n in (2, 6)
    ]


def test_every_format_can_be_named() -> None:
    from compress.cli.engines import FORMATS

    assert set(FORMATS) == formats().keys()
