"""Which layers run sparse kernels, by TensorRT's own words, from its log to report and inspect."""

import json
import logging
from pathlib import Path

import fake_tensorrt
import pytest
import torch
from networks import Plain
from pairs import data

from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import inspection, subprocess_run, tensorrt_log
from compress.engines.base import NotBuilt, Shape
from compress.engines.subject import Subject
from compress.engines.torch_tensorrt import TorchTensorRT
from compress.reporting import sentences
from compress.steps.export import Export

CPU = torch.device("cpu")
NAMES = ("first", "middle", "last")


def conv(name: str, number: int) -> str:
    """A layer as Torch-TensorRT names it."""
    return f"[CONVOLUTION]-[aten_ops.convolution.default]-[net.{name}/convolution_{number}]"


RELU = "[ACTIVATION]-[aten_ops.relu.default]-[net/relu]"
BOTH = f"{conv('first', 0)} + {RELU}, {conv('middle', 1)}"
OLD = [
    f"[I] [TRT] (Sparsity) Layers eligible for sparse math: {BOTH}",
    f"[I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: "
    f"{conv('middle', 1)}",
]
NEW = [
    f"(Sparsity) Found 2 layer(s) eligible to use sparse tactics: {BOTH}",
    f"(Sparsity) Chose 1 layer(s) using sparse tactics: {conv('middle', 1)}",
]


@pytest.mark.parametrize("lines", [OLD, NEW])
def test_both_wordings_name_the_layers(lines) -> None:
    found = tensorrt_log.facts("\n".join(["[I] something else", *lines]), "", NAMES)
    assert found == {
        "sparsity": {"source": "build log", "eligible": 2, "picked": 1},
        "eligible": ["first", "middle"],
        "picked": ["middle"],
    }


def test_nothing_picked_is_known_and_not_unknown() -> None:
    log = "(Sparsity) Layers eligible for sparse math: Conv_0\n"
    log += "(Sparsity) TRT inference plan picked sparse implementation for layers:"
    found = tensorrt_log.facts(log, "", NAMES)
    assert found["sparsity"] == {"source": "build log", "eligible": 1, "picked": 0}
    assert found["picked"] == []
    assert "eligible" not in found, "Conv_0 is none of the network's names"


def test_numbers_without_names() -> None:
    log = "(Sparsity) Found 39 layer(s) eligible to use sparse tactics\n"
    log += "(Sparsity) Chose 3 layer(s) using sparse tactics"
    found = tensorrt_log.facts(log, "", NAMES)
    assert found == {"sparsity": {"source": "build log", "eligible": 39, "picked": 3}}


def test_the_last_choice_counts() -> None:
    log = "(Sparsity) Chose 9 layer(s) using sparse tactics\n"
    log += "(Sparsity) Chose 0 layer(s) using sparse tactics"
    assert tensorrt_log.facts(log, "", NAMES)["sparsity"]["picked"] == 0


def test_a_silent_log_leaves_all_unknown() -> None:
    assert tensorrt_log.facts("[I] built in 31 s", "", NAMES) == {
        "sparsity": {"source": None, "eligible": None, "picked": None}
    }


@pytest.mark.parametrize("tensors", ["Bindings", "I/O Tensors"])
def test_layer_information_of_tensorrt_10_and_11(tensors) -> None:
    layers = [
        {"Name": conv("first", 0), "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16"},
        {"Name": conv("last", 2), "TacticName": "sm80_xmma_fprop_sparse_conv_f16f16"},
        {"Name": "Reformatting CopyNode for Input Tensor 0"},
    ]
    found = tensorrt_log.facts("", json.dumps({"Layers": layers, tensors: []}), NAMES)
    assert found == {
        "sparsity": {"source": "layer information", "eligible": None, "picked": 1},
        "picked": ["last"],
    }


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"Layers": ["names", "alone"]}'])
def test_layer_information_without_kernels_says_nothing(text) -> None:
    assert tensorrt_log.from_layers(text) is None


def test_names_are_whole_names() -> None:
    layers = tensorrt_log.Layers(1, (conv("blocks.1.10.conv", 3),))
    assert layers.modules(["blocks.1.1.conv", "blocks.1.10.conv"]) == ["blocks.1.10.conv"]
    assert tensorrt_log.Layers(1, ("/net/blocks/1/1/conv/Conv",)).modules(["blocks.1.1.conv"])


@pytest.fixture(params=[fake_tensorrt.Until2_12, fake_tensorrt.From2_13])
def fake(request, monkeypatch):
    fake = fake_tensorrt.install(monkeypatch)
    fake.generation = request.param
    fake.log = [(logging.DEBUG, line) for line in NEW]
    monkeypatch.setattr(subprocess_run, "run", in_this_process)
    return fake


def in_this_process(side: Path, x: torch.Tensor) -> torch.Tensor:
    path = side.with_suffix("")
    return TorchTensorRT().load(path, CPU)(x)


def exported(folder: Path, **options: object) -> list[dict]:
    folder.mkdir(exist_ok=True)
    net = Plain(16).eval()
    work = Work(stage=folder, device=CPU, data=data(), seed=0)
    model = Model(net=net, origin=ModelOptions(name="ddnet"))
    Export(formats=("torch_tensorrt",), image_size=32, **options).run(model, work)
    return work.facts["engines"]


def test_from_the_build_to_inspect_and_report(fake, tmp_path) -> None:
    plan, program = exported(tmp_path)
    assert [row["file"] for row in (plan, program)] == [
        "torch_tensorrt-fp32-b1.engine", "torch_tensorrt-fp32-b1.ep",
    ]  # fmt: skip
    assert all(row["parity"]["ok"] for row in (plan, program))
    assert plan["sparsity"] == {"source": "build log", "eligible": 2, "picked": 1}
    found = inspection.inspect(tmp_path / plan["file"])
    rows = {row["name"]: (row["eligible_engine"], row["picked"]) for row in found["layers"]}
    assert rows == {"first": ("yes", "no"), "middle": ("yes", "yes"), "last": ("no", "no")}
    assert (found["totals"]["eligible_engine"], found["totals"]["picked"]) == (2, 1)
    assert found["about"]["sparse_kernels"] == "1 of 2 eligible layers"
    assert fake.settings["sparse_weights"] is True
    assert fake.settings["require_full_compilation"] is True
    assert fake.settings["immutable_weights"] is True
    assert fake.settings["device"] == ("cuda", 0)


def test_without_the_compiled_runtime_the_plan_stands_alone(fake, tmp_path) -> None:
    fake.runtime, fake.log = False, []
    (row,) = exported(tmp_path)
    assert row["file"].endswith(".engine")
    if fake.generation is fake_tensorrt.Until2_12:  # later ones choose by themselves
        assert fake.settings["use_python_runtime"] is True
    assert inspection.inspect(tmp_path / row["file"])["totals"]["picked"] == "unknown"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_network_says_its_precision_not_an_option(fake, tmp_path, precision) -> None:
    plan, _ = exported(tmp_path, precision=precision)
    program = torch.export.load(tmp_path / plan["file"])
    values = [node.meta.get("val") for node in program.graph.nodes]
    types = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    assert types == {torch.float32} | ({torch.float16} if precision == "fp16" else set())
    assert "enabled_precisions" not in fake.given
    assert fake.settings.get("use_explicit_typing", True) is True


def test_every_setting_is_one_that_the_version_honours(fake, tmp_path) -> None:
    for fake.runtime in (True, False):
        exported(tmp_path / str(fake.runtime))
        assert set(fake.given) == set(fake.settings)


def test_what_makes_no_single_engine_is_not_built(fake, tmp_path) -> None:
    subject, shape = Subject(Plain(16).eval(), "fp32"), Shape(batch=1, size=32)
    fake.engines = 2
    with pytest.raises(NotBuilt, match="made 2 engines of the network, not one"):
        TorchTensorRT().build(subject, shape, tmp_path / "x.engine", CPU)
    fake.error = "no converter\nand more"
    with pytest.raises(NotBuilt, match=r"^Torch-TensorRT gave up: no converter$"):
        TorchTensorRT().build(subject, shape, tmp_path / "x.engine", CPU)
    # As TensorRT-RTX 1.7.1 says it on an H200; the exception behind it has no words.
    fake.error, gpu = "", "The engine cannot run on this GPU, which has compute capability 9.0"
    fake.log = [
        (logging.WARNING, "weights are shared"),
        (logging.ERROR, "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error "
         f"({gpu}. In throwUnlessComputeCapSupported at /_src/runtime/runtime.cpp:84)"),
        (logging.ERROR, "and so on"),
    ]  # fmt: skip
    with pytest.raises(NotBuilt, match=rf"^Torch-TensorRT gave up: {gpu}$"):
        TorchTensorRT().build(subject, shape, tmp_path / "x.engine", CPU)
    fake.log = []
    with pytest.raises(NotBuilt, match=r"^Torch-TensorRT gave up: AssertionError$"):
        TorchTensorRT().build(subject, shape, tmp_path / "x.engine", CPU)
    assert not list(tmp_path.iterdir())


def test_verbose_messages_stay_inside(fake, tmp_path, caplog) -> None:
    fake.log += [(logging.DEBUG, "a tactic"), (logging.WARNING, "beware")]
    exported(tmp_path)
    said = [r.getMessage() for r in caplog.records if r.name == fake_tensorrt.LOGGER]
    assert said == ["beware"]
    assert logging.getLogger(fake_tensorrt.LOGGER).level == logging.NOTSET


ALL = "of 43 that TensorRT could take"
SHOWS = "shows `compress bench` beside an engine of the same widths without 2:4."


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ((None, None), "does not tell for which layers it runs sparse kernels."),
        ((43, 0), f"runs no layer {ALL} with a sparse kernel: 2:4 gains it no time."),
        ((43, 2), f"runs 2 layers {ALL} with sparse kernels; what that is worth {SHOWS}"),
    ],
)
def test_the_report_promises_nothing(told, sentence) -> None:
    sparsity = {"source": "build log", "eligible": told[0], "picked": told[1]}
    assert sentences._kernels({"file": "x.engine", "sparsity": sparsity}) == f"x.engine {sentence}"
