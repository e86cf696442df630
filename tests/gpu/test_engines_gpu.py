"""Engines on a GPU: AOTInductor in a CUDA graph, TensorRT's plan, and the clock of `bench`."""

from pathlib import Path

import pytest
import torch
from pairs import data

from compress import checkpoint
from compress.base import timing
from compress.base.timing import Budget
from compress.bench import command
from compress.bench.targets import Artefact
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import fused, sidecar
from compress.engines.base import Shape
from compress.engines.torch_tensorrt import TorchTensorRT
from compress.steps.export import Export

GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    widths = {"trunk": 8, "bottleneck": 8, "decoder": 8, "residual": True}
    origin = ModelOptions(name="ddnet", options=widths)
    return Model(net=origin.build().eval(), origin=origin)


def built(model: Model, folder: Path, format_: str) -> list[dict]:
    work = Work(stage=folder, device=GPU, data=data(), seed=0)
    Export(formats=(format_,), batch=(2,), image_size=64, require=(format_,)).run(model, work)
    return work.facts["engines"]


def artefact(side: Path) -> Artefact:
    facts, runner = sidecar.load(side)
    return Artefact(
        name="x", how=facts["format"], device=GPU, most=2, least=2, size=64, channels=1, layers=[],
        graph=True, net=None, start=lambda: runner,
    )  # fmt: skip


@pytest.mark.parametrize("format_", ["aot_inductor", "fused", "torch_tensorrt"])
def test_an_engine_agrees_alone_and_in_a_cuda_graph(model, tmp_path, format_, monkeypatch) -> None:
    monkeypatch.setattr(fused, "SECONDS", 20.0)
    if format_ == "torch_tensorrt" and (missing := TorchTensorRT().missing(GPU)):
        pytest.skip(missing.reason)
    for row in built(model, tmp_path, format_):
        assert row["parity"]["ok"]
        if row["file"].endswith(".ep"):
            continue
        one = artefact(tmp_path / row["sidecar"])
        x = Shape(batch=2, size=64).example(GPU)
        with torch.inference_mode():
            call, facts = one.call(x)
            alone = one.start()(x)
            for scale in (1.0, 0.5):
                x.mul_(scale)
                torch.testing.assert_close(call(), one.start()(x), rtol=0, atol=1e-3)
        assert facts == {"cuda_graph": True, "cuda_graph_why": ""}
        assert not torch.equal(alone, call())


def test_the_gpus_clock_counts_what_the_gpu_does() -> None:
    x = torch.rand(4096, 4096, device=GPU)
    once, often = (timing.events(lambda n=n: [x @ x for _ in range(n)], 5)[2:] for n in (1, 8))
    assert 4 < min(often) / min(once) < 16


def test_bench_says_where_it_was(tmp_path) -> None:
    origin = ModelOptions(name="ddnet", options={"trunk": 4, "bottleneck": 4, "decoder": 4})
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), tmp_path)
    modes = ("eager-fp32", "eager-tf32", "eager-fp16", "eager-bf16", "compiled")
    found = command.run([tmp_path], modes=modes, size=64, budget=Budget(rounds=2, seconds=0.1))
    assert [row["cuda_graph"] for row in found["rows"]] == [False] * 4 + [True]
    assert all(row["p50_ms"] > 0 for row in found["rows"])
    assert found["place"]["gpu"] == torch.cuda.get_device_name()
    assert int(found["clocks_mhz"]["1"][0]["clocks.sm"]) > 0
