"""inspect: what it says of checkpoints and engines is what is in their files."""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from networks import Plain, Shape, UNet
from pairs import data
from torch import nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.base.files import read_json, sha256, write_json
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.context import Work
from compress.engines import inspection, onnx, sidecar
from compress.engines.base import Shape as Input
from compress.engines.subject import Subject
from compress.graph import cost
from compress.sparsity import masks, pattern
from compress.sparsity.layers import layers
from compress.steps.export import Export


def sparse(**options: int) -> Model:
    torch.manual_seed(0)
    origin = ModelOptions(name="ddnet", options=options)
    model = Model(net=origin.build(), origin=origin).rewritten("deconv_to_conv")
    held = masks.compute(model.net, "modelopt")
    masks.apply(model.net, held)
    return replace(model, masks=held)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(sparse(trunk=16, bottleneck=16, decoder=16), place)
    return place


def rows(found: dict) -> dict[str, dict]:
    return {row["name"]: row for row in found["layers"]}


def test_ddnet_sparse_and_pruned(folder: Path) -> None:
    found = inspection.inspect(folder)
    net = checkpoint.load(folder).net
    totals = found["totals"]
    assert (found["kind"], found["about"]["network"], found["about"]["masks"]) == (
        "checkpoint", "ddnet", 43,
    )  # fmt: skip
    assert (totals["layers"], totals["sparse24"]) == (45, 43)
    assert (totals["eligible_backend"], totals["eligible_trt"]) == (43, 44)
    assert totals["macs"] == cost.cost(net).macs
    assert totals["weights"] - totals["zeros"] == cost.cost(net).nonzero_weights
    assert totals["share_of_weights"] > 0.97
    assert totals["picked"] == "unknown"
    assert sum(row["share_of_macs"] for row in found["layers"]) == pytest.approx(1)
    first = rows(found)["stem.conv"]
    assert (first["shape"], first["failing"], first["sparse24"]) == ([16, 1, 7, 7], None, False)
    last = rows(found)["decoders.3.narrow.conv"]
    assert (last["failing"], last["eligible_backend"], last["eligible_trt"]) == (4, False, True)
    assert last["reason_backend"] == "1 output channel is no multiple of 8"


def test_a_dense_deconvolution_is_shown_as_the_convolution_it_equals(tmp_path: Path) -> None:
    origin = ModelOptions(name="ddnet")
    checkpoint.save(Model(net=origin.build(), origin=origin), tmp_path)
    found = inspection.inspect(tmp_path)
    assert found["totals"]["eligible_backend"] == 43
    wide = rows(found)["decoders.3.wide.conv"]
    assert (wide["kind"], wide["shape"], wide["failing"]) == ("Conv2d", [32, 32, 5, 5], 6400)


def test_planted_violations_are_counted_and_the_first_located() -> None:
    net = Plain(32)
    with torch.no_grad():
        net.middle.weight.mul_(pattern.mask_2to4(net.middle.weight))
        for out in range(5):
            net.middle.weight[out, 8:12, 1, 2] = torch.tensor([1.0, 2.0, 3.0, 0.0])
    (row,) = (row for row in layers(net) if row["name"] == "middle")
    assert (row["sparse24"], row["failing"]) == (False, 5)
    assert row["first"] == [
        {"out": out, "first": 8, "tap": [1, 2], "nonzeros": 3} for out in range(3)
    ]


def test_layers_out_of_use_linear_ones_and_strided_deconvolutions() -> None:
    net = UNet(Shape((8, 8, 8), concat=False, add=False, strided=True, norm=False))
    net.spare = nn.Linear(16, 8)
    found = {row["name"]: row for row in layers(net)}
    assert (found["spare"]["macs"], found["spare"]["share_of_macs"]) == (None, None)
    assert found["up"]["shape"] == [8, 8, 4, 4]  # (out, in, kernel), however it is stored
    with torch.no_grad():
        net.up.weight[2:4] = 0  # inputs 2 and 3
        net.up.weight[6:8] = 0
    up = next(row for row in layers(net) if row["name"] == "up")
    assert (up["sparse24"], up["eligible_trt"]) == (True, False)


SHAPE = Input(batch=1, size=32)


@functools.cache
def exported(folder: Path) -> tuple[bytes, dict]:
    """The ONNX file of the checkpoint in `folder`, and the facts of its building."""
    net = checkpoint.load(folder).net
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        facts = onnx.Onnx().build(Subject(net, "fp32"), SHAPE, path, torch.device("cpu"))
        return path.read_bytes(), {**facts, "layers": layers(net)}


def engine(folder: Path, place: Path, **built: object) -> Path:
    """An ONNX engine of the checkpoint in `folder`, with its sidecar."""
    model, cpu, path = checkpoint.load(folder), torch.device("cpu"), place / "model.onnx"
    file, facts = exported(folder)
    path.write_bytes(file)
    facts = {**facts, **built}
    return sidecar.write(
        path, format_="onnx", precision="fp32", shape=SHAPE,
        weights=checkpoint.fingerprint(model), device=cpu, built=facts,
    )  # fmt: skip


def test_an_engine_by_its_file_and_by_its_sidecar(folder: Path, tmp_path: Path) -> None:
    side = engine(folder, tmp_path)
    found = inspection.inspect(side)
    assert found["kind"] == "engine"
    assert found["about"]["weights"] == checkpoint.fingerprint(checkpoint.load(folder))
    assert found["layers"] == inspection.inspect(tmp_path / "model.onnx")["layers"]
    assert found["layers"] == inspection.inspect(folder)["layers"]


def test_zeros_are_those_of_the_onnx_file_not_of_its_sidecar(folder: Path, tmp_path: Path) -> None:
    side = engine(folder, tmp_path)
    facts = read_json(side)
    for row in facts["built"]["layers"]:
        row.update(zeros=0, sparse24=False)
    write_json(side, facts)
    assert inspection.inspect(side)["totals"]["sparse24"] == 43


def test_what_an_engine_tells_of_kernels_and_time(folder: Path, tmp_path: Path) -> None:
    names = ["decoders.3.wide.conv", "decoders.2.wide.conv"]
    side = engine(folder, tmp_path, picked=names[:1], seconds=dict(zip(names, (0.3, 0.1))))  # noqa: B905
    found = inspection.inspect(side)
    picked = {name: row["picked"] for name, row in rows(found).items()}
    assert picked.pop(names[0]) == "yes"
    assert set(picked.values()) == {"no"}
    assert found["totals"]["picked"] == 1
    assert rows(found)[names[0]]["share_of_time"] == pytest.approx(0.75)
    shown = CliRunner().invoke(main.main, ["inspect", str(side)]).stdout
    assert "75.0" in next(line for line in shown.splitlines() if line.startswith(names[0]))


def test_an_engine_that_tells_its_kernels_shows_them_with_time_and_floor(
    folder: Path, tmp_path: Path
) -> None:
    told = {"kernel": "CUDA, mma.sp (2:4)", "sparse": True, "us": 12.345, "floor_us": 8.4}
    side = engine(folder, tmp_path, kernels={"decoders.3.wide.conv": told})
    shown = CliRunner().invoke(main.main, ["inspect", str(side)]).stdout.splitlines()
    head = next(line for line in shown if line.startswith("layer"))
    row = next(line for line in shown if line.startswith("decoders.3.wide.conv"))
    assert head.split()[-3:] == ["kernel", "us", "floor"]
    assert row.split()[-5:] == ["CUDA,", "mma.sp", "(2:4)", "12.35", "8.40"]
    before = CliRunner().invoke(main.main, ["inspect", str(folder)]).stdout
    assert "kernel" not in before.splitlines()[2]


def test_export_writes_the_layers_into_the_sidecar(folder: Path, tmp_path: Path) -> None:
    work = Work(stage=tmp_path, device=torch.device("cpu"), data=data(), seed=0)
    Export(image_size=32).run(checkpoint.load(folder), work)
    assert inspection.inspect(tmp_path / "onnx-fp32-b1.onnx")["totals"]["sparse24"] == 43


def test_engines_that_cannot_be_inspected(folder: Path, tmp_path: Path) -> None:
    side = engine(folder, tmp_path)
    facts = read_json(side)
    with pytest.raises(UsageError, match="there is no such checkpoint folder, engine or sidecar"):
        inspection.inspect(tmp_path / "none.onnx")
    (tmp_path / "alone.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="neither a checkpoint folder nor an engine with a side"):
        inspection.inspect(tmp_path / "alone.onnx")
    del facts["built"]["layers"]
    write_json(side, facts)
    with pytest.raises(UsageError, match="lists no layers; export the engine again"):
        inspection.inspect(side)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="was altered or cut off"):
        inspection.inspect(side)
    write_json(side, {**facts, "schema": 9, "sha256": sha256(tmp_path / "model.onnx")})
    with pytest.raises(UsageError, match="has schema 9, not 1"):
        inspection.inspect(side)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        inspection.inspect(tmp_path)


def test_on_the_command_line(folder: Path) -> None:
    result = CliRunner().invoke(main.main, ["inspect", str(folder), "--json"])
    assert json.loads(result.stdout) == inspection.inspect(folder)
    lines = CliRunner().invoke(main.main, ["inspect", str(folder)]).stdout.splitlines()
    assert lines[2].split() == [
        "layer", "weight", "zeros", "2:4", "eligible", "MACs", "share",
    ]  # fmt: skip  # nothing tells of kernels that were picked
    assert lines[4].split()[:6] == [
        "blocks.0.0.bottleneck.conv", "16x16x1x1", "50.0", "%", "yes", "both",
    ]  # fmt: skip
    narrow = [line for line in lines if line.startswith("decoders.3.narrow.conv: ")]
    assert narrow == [
        "decoders.3.narrow.conv: not for ModelOpt and ASP: 1 output channel is no multiple of 8"
    ]  # it was left dense: where it is not 2:4 is no news
    assert "stem.conv: not for TensorRT: 1 input channel is no multiple of 4" in lines
    assert lines[-1].startswith("2:4: 43 of 45 layers with 97.")


def shown(path: Path) -> list[str]:
    return CliRunner().invoke(main.main, ["inspect", str(path)]).stdout.splitlines()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(value: float, folder: Path, tmp_path: Path) -> None:
    assert inspection.inspect(folder)["nonfinite"] == {}
    assert not [line for line in shown(folder) if "not finite" in line]
    model = checkpoint.load(folder)
    with torch.no_grad():
        model.net.stem.conv.weight[3, 0, :2, 1] = value
        model.net.stem.norm.running_var[0] = value
    checkpoint.save(model, tmp_path)
    counts = {"stem.conv.weight": 2, "stem.norm.running_var": 1}
    assert inspection.inspect(tmp_path)["nonfinite"] == counts
    lines = shown(tmp_path)
    assert "stem.conv.weight: 2 values are not finite (NaN or infinite)" in lines
    assert "stem.norm.running_var: 1 value is not finite (NaN or infinite)" in lines
    printed = CliRunner().invoke(main.main, ["inspect", str(tmp_path), "--json"]).stdout
    assert json.loads(printed)["nonfinite"] == counts


def test_values_in_an_engines_file_that_are_not_finite(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    model = sparse(trunk=16, bottleneck=16, decoder=16)
    with torch.no_grad():
        model.net.stem.conv.weight[3, 0, 0, 1] = float("nan")
    checkpoint.save(model, tmp_path / "a")
    found = inspection.inspect(engine(tmp_path / "a", tmp_path))["nonfinite"]
    assert found.keys() == {"stem.conv.weight"}


def test_one_group_is_no_plural(tmp_path: Path) -> None:
    net = Plain(16)
    with torch.no_grad():
        net.middle.weight.mul_(pattern.mask_2to4(net.middle.weight))
        net.middle.weight[3, 4:8, 1, 2] = 1.0
    origin = ModelOptions(import_="networks:Plain", options={"width": 16})
    checkpoint.save(Model(net=net, origin=origin), tmp_path)
    assert (
        "middle: not 2:4: 1 group of four holds more than two non-zeros, first at "
        "out 3 in 4-7 tap 1,2 (4)"
    ) in shown(tmp_path)


def test_a_file_of_a_checkpoint_is_told_what_to_name(folder: Path) -> None:
    for name in ("model.safetensors", "model.json"):
        sentence = rf"{name} is one file of a checkpoint; inspect its folder, {folder}$"
        with pytest.raises(UsageError, match=sentence):
            inspection.inspect(folder / name)
