"""compress bench: what is timed beside what, and what is said of it; a fake clock tells time."""

import contextlib
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pairs import data

from compress import checkpoint
from compress.base import machine, timing
from compress.base.errors import UsageError
from compress.base.timing import Budget
from compress.bench import command, table
from compress.bench.targets import MODES, artefacts, called
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.cli.engines import MODES as OFFERED
from compress.context import Work
from compress.engines import onnx, sidecar
from compress.sparsity import masks
from compress.steps.export import Export

CPU = torch.device("cpu")
ONCE = Budget(rounds=2, seconds=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Checkpoints `dense` and `sparse` of equal widths, and engines of the latter."""
    root = tmp_path_factory.mktemp("bench")
    origin = ModelOptions(name="ddnet", options={"trunk": 16, "bottleneck": 16, "decoder": 16})
    dense = Model(net=origin.build().eval(), origin=origin).rewritten("deconv_to_conv")
    held = masks.compute(dense.net, "modelopt")
    sparse = replace(dense.rewritten("deconv_to_conv"), masks=held)
    for name, model in (("dense", dense), ("sparse", sparse)):
        (root / name).mkdir()
        if name == "sparse":
            masks.apply(model.net, held)
        checkpoint.save(model, root / name)
    work = Work(stage=root, device=CPU, data=data(), seed=0)
    Export(batch=(1, 2), image_size=32).run(checkpoint.load(root / "sparse"), work)
    Export(batch=(4,), dynamic_batch=True, image_size=32).run(
        checkpoint.load(root / "sparse"), work
    )
    return root


@pytest.fixture
def told(monkeypatch):
    """Seconds that the clock says, for one artefact after the other; the calls are made once."""
    seconds: list[float] = []
    owners: dict[int, float] = {}

    def clock(_device):
        mine = seconds[len(owners) % len(seconds)]
        owners[len(owners)] = mine
        return lambda call, count: call() is not None and [mine] * count

    monkeypatch.setattr(timing, "clock", clock)
    return seconds


def test_checkpoints_and_engines_in_one_run(folder, told) -> None:
    told += [0.4, 0.1, 0.2]
    paths = [folder / "dense", folder / "onnx-fp32-b2.onnx", folder / "onnx-fp32-b1-4.onnx.json"]
    found = command.run(paths, batches=(2,), budget=ONCE, device="cpu")
    first, second, third = found["rows"]
    assert [row["how"] for row in found["rows"]] == ["eager-fp32", "onnx fp32", "onnx fp32"]
    assert [row["runs"] for row in found["rows"]] == ["eager-fp32", "onnx fp32", "onnx fp32"]
    assert (first["p50_ms"], first["ratio"]) == (pytest.approx(200), 1)
    assert (second["ratio"], third["ratio"]) == (pytest.approx(4), pytest.approx(2))
    assert second["slices_per_second"] == pytest.approx(20)
    assert found["size"] == 32, "the engines'"
    assert found["place"]["torch"] == torch.__version__
    assert first["memory_bytes"] is None
    json.dumps(found, allow_nan=False)


def test_what_ran_on_the_cpu_beside_a_gpu_says_so() -> None:
    gpu = torch.device("cuda")
    graph = command._runs("fused fp16", {"device": "cuda", "cuda_graph": True}, gpu)
    assert graph == "fused fp16, CUDA graph"
    runtime = {"device": "cpu", "cuda_graph": False}
    assert command._runs("onnx fp16", runtime, gpu) == "onnx fp16, on the CPU"
    assert command._runs("onnx fp16", runtime, CPU) == "onnx fp16"


def test_each_batch_has_its_own_first(folder, told) -> None:
    told += [0.3]
    paths = [folder / "onnx-fp32-b1.onnx", folder / "onnx-fp32-b2.onnx"]
    found = command.run(paths, budget=ONCE)
    assert [(row["batch"], row["ratio"]) for row in found["rows"]] == [(1, 1), (2, 1)]


def test_sparse_and_dense_of_equal_widths_are_an_ab(folder, told, capsys) -> None:
    told += [0.20, 0.19]
    paths = [folder / "dense", folder / "sparse"]
    found = command.run(paths, size=32, budget=ONCE, device="cpu")
    (ab,) = found["sparse_ab"]
    assert (ab["dense"], ab["sparse"]) == tuple(map(str, paths))
    assert (ab["layers"], ab["of"]) == (43, 45)
    assert ab["ratio"] == pytest.approx(0.20 / 0.19)
    table.render(found)
    assert "1.053 times as fast as" in capsys.readouterr().out
    same = command.run([folder / "sparse", folder / "sparse"], size=32, budget=ONCE, device="cpu")
    assert same["sparse_ab"] == []


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.98, 1.02, "no difference beyond the spread"),
        (1.01, 1.05, "faster in every round"),
        (0.9, 0.99, "slower in every round"),
    ],
)
def test_a_gain_is_said_only_where_every_round_has_it(low, high, verdict) -> None:
    ab = {"batch": 1, "how": "x", "dense": "a", "sparse": "b", "layers": 1, "of": 2,
          "ratio": (low + high) / 2, "ratio_min": low, "ratio_max": high}  # fmt: skip
    (sentence,) = table._sparse_sentences({"sparse_ab": [ab], "rounds": 10})
    assert sentence.endswith(f"({low:.3f}-{high:.3f} over 10 rounds): {verdict}")
    (few,) = table._sparse_sentences({"sparse_ab": [ab], "rounds": 2})
    assert few.endswith("over 2 rounds): too few rounds to tell, 6 are needed")


def test_compiled_computes_what_eager_does(folder, told) -> None:
    eager, compiled = artefacts(folder / "sparse", ("eager-fp32", "compiled"), CPU, graph=True)
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(compiled.start()(x), eager.start()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        (["dense", "onnx-fp32-b1.onnx"], {"size": 64}, "takes slices of 32 pixels, not 64"),
        (["onnx-fp32-b2.onnx"], {"batches": (1, 4)}, "was built for a batch of 2, not 1, 4"),
        (["dense"], {"modes": ("eager-fp16",)}, "--mode eager-fp16 needs a GPU"),
        (["none.onnx"], {}, "there is no such checkpoint folder, engine or sidecar"),
    ],
)
def test_what_cannot_be_timed(folder, names, options, sentence) -> None:
    with pytest.raises(UsageError, match=sentence):
        command.run([folder / name for name in names], device="cpu", **options)


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [("onnxruntime", "; pip install onnx onnxscript onnxruntime would help$"), ("numpy.core", "$")],
)
def test_an_engine_whose_runtime_cannot_be_imported(folder, monkeypatch, missing, remedy) -> None:
    def load(*_: object) -> None:
        raise ImportError(f"No module named '{missing}'", name=missing)

    monkeypatch.setattr(onnx.Onnx, "load", load)
    said = rf"onnx-fp32-b1\.onnx cannot be loaded: No module named '{missing}'{remedy}"
    with pytest.raises(UsageError, match=said):
        command.run([folder / "onnx-fp32-b1.onnx"], device="cpu", budget=ONCE)


def test_an_engine_is_refused_before_anything_is_timed(folder, tmp_path) -> None:
    side = json.loads((folder / "onnx-fp32-b1.onnx.json").read_text())
    side["format"], side["place"]["torch"] = "aot_inductor", "1.0"
    (tmp_path / "onnx-fp32-b1.onnx").write_bytes((folder / "onnx-fp32-b1.onnx").read_bytes())
    (tmp_path / "onnx-fp32-b1.onnx.json").write_text(json.dumps(side))
    with pytest.raises(UsageError, match=r"was built for torch 1\.0, here it is"):
        command.run([folder / "dense", tmp_path / "onnx-fp32-b1.onnx"], device="cpu", budget=ONCE)


def test_on_the_command_line(folder, told) -> None:
    told += [0.2]
    words = ["bench", str(folder / "dense"), str(folder / "onnx-fp32-b1.onnx"), "--device", "cpu"]
    words += ["--rounds", "1", "--seconds", "0"]
    result = CliRunner().invoke(main.main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["batch"] for row in found["rows"]] == [1, 1]
    assert found["rounds"] == 1
    table = CliRunner().invoke(main.main, words).stdout
    assert "slices/s" in table
    assert "1.00 (1.00-1.00)" in table


def test_a_captured_call_keeps_alive_what_its_graph_reads(monkeypatch) -> None:
    class Stream:
        def __init__(self, _device: object) -> None:
            pass

        def wait_stream(self, _other: object) -> None:
            pass

    class Graph:
        def replay(self) -> None:
            pass

    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Stream)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **_k: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    net, x = torch.nn.Conv2d(1, 1, 1), torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        call, facts = called(net, x, graph=True)
    assert facts["cuda_graph"]
    weight, image = weakref.ref(net.weight), weakref.ref(x)
    assert call().shape == x.shape
    del net, x
    gc.collect()
    assert weight() is not None
    assert image() is not None


def test_modes_on_offer_are_those_that_exist() -> None:
    assert OFFERED == MODES


def test_clocks_are_those_of_the_gpu_that_pytorch_uses(monkeypatch) -> None:
    asked: list = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _d: type("Properties", (), {"uuid": "12-ab"})
    )
    monkeypatch.setattr(machine, "_output", lambda c: asked.append(c) or "1980, 2619\n")
    found = machine.smi(torch.device("cuda"), "clocks.sm", "clocks.mem")
    assert found == {"clocks.sm": "1980", "clocks.mem": "2619"}
    assert asked[0][-2:] == ["-i", "GPU-12-ab"]
    monkeypatch.setattr(machine, "_output", lambda _c: "")
    assert machine.smi(torch.device("cuda"), "clocks.sm", "clocks.mem") == {}
    assert machine.driver(torch.device("cuda")) is None


def test_which_tensorrt_it_was_is_said(folder, tmp_path, monkeypatch) -> None:
    side = json.loads((folder / "onnx-fp32-b1.onnx.json").read_text())
    side["format"], side["place"]["tensorrt"] = "torch_tensorrt", "RTX 1.5.0"
    (tmp_path / "onnx-fp32-b1.onnx").write_bytes((folder / "onnx-fp32-b1.onnx").read_bytes())
    (tmp_path / "onnx-fp32-b1.onnx.json").write_text(json.dumps(side))
    monkeypatch.setattr(sidecar, "place", lambda _device: side["place"])
    monkeypatch.setattr(sidecar, "formats", lambda: {"torch_tensorrt": onnx.Onnx()})
    (one,) = artefacts(tmp_path / "onnx-fp32-b1.onnx", (), CPU, graph=False)
    assert one.how == "torch_tensorrt fp32, TensorRT RTX 1.5.0"
