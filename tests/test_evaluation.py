"""compress evaluate: the numbers of the step, as a table per slice, patient and window."""

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pairs import pairs

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.data import folder
from compress.data.pairs import digests
from compress.engines import onnx, sidecar
from compress.engines.base import Shape
from compress.engines.subject import Subject
from compress.quality import metrics
from compress.run import evaluate

NARROW = ModelOptions(
    name="ddnet", options={"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A checkpoint whose network gives back its input: residual, last layer zero."""
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(Model(net=NARROW.build().eval(), origin=NARROW), folder)
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    """Two patients with two slices each, sides that are no multiples of 16."""
    for patient, seed in (("A", 1), ("B", 2)):
        made = pairs(2, 40, seed, patient)
        for name, low, full in zip(made.names, made.low, made.full, strict=True):
            for side, image in (("low", low), ("full", full)):
                path = tmp_path / "data" / side / patient / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, image)
    return tmp_path / "data"


def test_slices_patients_and_windows(model, data, tmp_path):
    content = evaluate.run(model, data, tmp_path / "out", ("lung",), "cpu")
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == content
    with (tmp_path / "out/evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 2, "slices, networks, windows"
    assert list(content["by_patient"]) == ["A", "B"]
    low, full = (np.load(data / side / "A/A-000.npy") for side in ("low", "full"))
    expected = metrics.measure(low, full)
    (own,) = (
        row
        for row in rows
        if row["slice"] == "A/A-000.npy" and (row["network"], row["window"]) == ("input", "lung")
    )
    assert float(own["rmse_hu"]) == pytest.approx(expected["rmse_hu_lung"], rel=1e-4)
    assert float(own["ssim"]) == pytest.approx(expected["ssim_lung"], rel=1e-4)
    assert own["ms_ssim"] == ""
    one, other = content["summary"]["input"], content["summary"]["model"]
    assert one["full"]["rmse_hu"]["mean"] == pytest.approx(other["full"]["rmse_hu"]["mean"])
    assert one.keys() == {"full", "lung"}
    assert content["windows"] == ["full", "lung"]


def test_the_test_part_is_measured_where_there_is_one(model, data, tmp_path):
    for part in ("train", "test"):
        (tmp_path / "split").mkdir(exist_ok=True)
        for side in ("low", "full"):
            target = tmp_path / "split" / part / side
            target.mkdir(parents=True)
            name = "A/A-000.npy" if part == "test" else "B/B-000.npy"
            (target / "x.npy").write_bytes((data / side / name).read_bytes())
    content = evaluate.run(model, tmp_path / "split", tmp_path / "out", (), "cpu")
    assert content["slices"] == 1


def test_an_engine_of_a_fixed_size_and_batch(data, tmp_path):
    net = NARROW.build().eval()
    shape, cpu = Shape(batch=3, size=48), torch.device("cpu")
    engine = tmp_path / "net.onnx"
    built = onnx.Onnx().build(Subject(net, "fp32"), shape, engine, cpu)
    side = sidecar.write(
        engine, format_="onnx", precision="fp32", shape=shape, weights="0", device=cpu, built=built
    )
    for path in (engine, side):
        content = evaluate.run(path, data, tmp_path / "out", (), None)
        one, other = content["summary"]["input"], content["summary"]["model"]
        assert one["full"]["psnr"]["mean"] == pytest.approx(other["full"]["psnr"]["mean"])


def test_windows():
    assert evaluate.windows(None) == ("lung", "mediastinum")
    assert evaluate.windows("lung, mediastinum") == ("lung", "mediastinum")
    assert evaluate.windows("") == ()
    said = r"^--windows: there is no window 'bone'; there are lung, mediastinum$"
    with pytest.raises(UsageError, match=said):
        evaluate.windows("bone")


def test_slices_that_are_too_small(model, tmp_path):
    for side in ("low", "full"):
        (tmp_path / side).mkdir()
        np.save(tmp_path / side / "x.npy", np.arange(-1000, 600, 20, dtype=np.int16).reshape(8, 10))
    with pytest.raises(UsageError, match=r"^slice x.npy has 8 x 10 pixels; SSIM needs 11 x 11$"):
        evaluate.run(model, tmp_path, tmp_path / "out", (), "cpu")


def test_a_folder_that_cannot_be_made_is_found_before_anything_is_measured(
    model, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        evaluate.Evaluate, "measure", lambda *_: pytest.fail("it was measured for nothing")
    )
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        evaluate.run(model, data, tmp_path / "file" / "out", (), "cpu")


def test_the_command(model, data, tmp_path):
    words = ("evaluate", str(model), "--data", str(data), "--device", "cpu")
    result = CliRunner().invoke(main.main, (*words, "-o", str(tmp_path / "out")))
    assert result.exit_code == 0, result.output
    assert "mediastinum" in result.stdout
    result = CliRunner().invoke(main.main, (*words, "--windows", "x"))
    assert result.exit_code == 2


def test_slices_that_the_network_learned_from_are_told(model, data, tmp_path, caplog, monkeypatch):
    """In a folder without `train` most slices are trained on, and all of it is measured."""
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    assert evaluate.run(model, data, tmp_path / "out", (), "cpu")["trained_on"] is None
    train, _test = folder.load(data)
    learned, engine = tmp_path / "learned", tmp_path / "net.onnx"
    learned.mkdir()
    loaded = checkpoint.load(model)
    found = loaded.trained_on.union(filter(None, digests(train)))
    checkpoint.save(replace(loaded, trained_on=found), learned)
    assert checkpoint.load(learned).trained_on == found
    assert checkpoint.identity(learned) == checkpoint.identity(model)  # it computes the same
    shape, cpu = Shape(batch=1, size=48), torch.device("cpu")
    built = onnx.Onnx().build(Subject(loaded.net, "fp32"), shape, engine, cpu)
    sidecar.write(
        engine, format_="onnx", precision="fp32", shape=shape, device=cpu, built=built,
        weights=checkpoint.fingerprint(loaded), model=learned,
    )  # fmt: skip
    assert "was trained" not in caplog.text
    for path in (learned, engine):
        caplog.clear()
        content = evaluate.run(path, data, tmp_path / "out", (), "cpu")
        assert content["trained_on"] == len(train.names) == 2
        assert f"all figures are in {tmp_path / 'out' / 'evaluation.json'}" in caplog.text
        said = "the network was trained on 2 of these 4 slices: on others it may do worse "
        assert said in caplog.text
