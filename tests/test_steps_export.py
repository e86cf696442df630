"""export: engines that load from their files alone, and the truth about those not built."""

import functools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from networks import Plain, randomise
from packaging.version import Version
from pairs import data

from compress import checkpoint
from compress.base.errors import QualityError, UsageError
from compress.base.hu import to_network
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import aot_inductor, onnx, parity, sidecar, subprocess_run, torch_tensorrt
from compress.engines.base import Format, NotBuilt, Shape
from compress.engines.build import Job
from compress.engines.formats import formats
from compress.engines.subject import Subject, prepared
from compress.graph import cost, groups
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.pruning import plan
from compress.pruning.options import PruneOptions
from compress.sparsity import masks
from compress.sparsity.pattern import is_2to4
from compress.steps.export import Export

CPU = torch.device("cpu")


def work(folder: Path) -> Work:
    folder.mkdir(parents=True)
    return Work(stage=folder, device=CPU, data=data(side=64), seed=0)


def model(net: torch.nn.Module, **options: object) -> Model:
    return Model(net=net.eval(), origin=ModelOptions(name="ddnet", options=options))


def ddnet() -> torch.nn.Module:
    return randomise(DDnet(residual=True, bottleneck=32, decoder=32), 0).float()


@functools.cache
def variants(name: str) -> dict[str, Model]:
    """One of `NETWORKS`: dense, pruned, and pruned with 2:4 zeros. Tests do not change them."""
    dense = model(deconv_to_conv(NETWORKS[name]()))
    pruned = replace(
        dense, net=plan.plan(dense.net, PruneOptions(amount=0.3, round_to=16)).apply(dense.net)
    )
    held = masks.compute(pruned.net, "modelopt")
    sparse = replace(pruned, net=groups.remove(pruned.net, (), {}), masks=held)
    masks.apply(sparse.net, held)
    return {"dense": dense, "pruned": pruned, "sparse": sparse}


NETWORKS = {
    "ddnet": ddnet,
    "redcnn": lambda: RedCNN(channels=32),  # noise on these weights would make values explode
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("variant", ["dense", "pruned", "sparse"])
def test_onnx_agrees_in_a_fresh_process(name: str, variant: str, tmp_path: Path) -> None:
    place, given = work(tmp_path / "e"), variants(name)[variant]
    after = Export(formats=("onnx",), batch=(2,), image_size=64).run(given, place)
    assert after is given
    (row,) = place.facts["engines"]
    assert row["status"] == "built"
    assert row["parity"]["ok"]
    assert row["parity"]["max_hu"] < 0.05
    built = json.loads((place.stage / row["sidecar"]).read_text())["built"]
    assert built["sparse24"] >= len(given.masks)
    assert built["convolutions"] == len(cost.convolutions(given.net))


def test_an_onnx_file_holds_no_path_of_the_machine_that_made_it(tmp_path: Path) -> None:
    subject, _ = prepared(ddnet(), "fp32", as_conv=True)
    path = tmp_path / "m.onnx"
    onnx.Onnx().build(subject, Shape(batch=1, size=32), path, CPU)
    data = path.read_bytes()
    places = (Path(__file__).parents[1], Path(torch.__file__).parents[1], tmp_path)
    assert not [place for place in places if bytes(place) in data]
    assert not re.findall(rb"[\w/.-]+\.py\b|, line \d+|def forward", data)


# The compiler takes minutes for a DDnet. The sparse one is the pruned one with zeros, which it does
# not look at; dense layers are compiled in RED-CNN. ONNX, above, agrees for all six.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant"), [("ddnet", "sparse"), ("redcnn", "dense"), ("redcnn", "pruned")]
)
def test_aot_inductor_agrees_in_a_fresh_process(name: str, variant: str, tmp_path: Path) -> None:
    place, held = work(tmp_path / "e"), variants(name)[variant]
    Export(formats=("aot_inductor",), image_size=64, require=("aot_inductor",)).run(held, place)
    (row,) = place.facts["engines"]
    assert row["file"] == "aot_inductor-fp32-b1.pt2"
    assert row["parity"]["max_hu"] < 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_polygraphy_finds_2to4_in_the_file_where_it_was_made(name: str, tmp_path: Path) -> None:
    for variant, held in variants(name).items():
        path = tmp_path / f"{variant}.onnx"
        subject, _ = prepared(held.net, "fp32", as_conv=True)
        onnx.Onnx().build(subject, Shape(batch=1, size=32), path, CPU)
        found = polygraphy(path)
        masked = {f"net.{layer}.weight" for layer in held.masks}
        assert found["sparse"] == masked
        assert found["non-sparse"], "the first layers or the last one always stay dense"
        assert (variant == "sparse") == bool(masked)


def polygraphy(path: Path) -> dict[str, set[str]]:
    """Names of the weights that NVIDIA's tool finds to be 2:4 and not, along input channels."""
    tool = Path(sys.executable).with_name("polygraphy")
    command = [tool, "inspect", "sparsity", path]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (said.stdout + said.stderr).splitlines()
    return {
        kind: {line.split()[-1] for line in lines if f"Found {kind} tensor:" in line}
        for kind in ("sparse", "non-sparse")
    }


def test_a_size_that_does_not_fit_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="DDnet takes no slice of shape"):
        Export(formats=("onnx",), image_size=100).run(model(ddnet()), work(tmp_path / "stage"))
    assert not list((tmp_path / "stage").iterdir())


def test_dynamic_batch_takes_every_batch(tmp_path: Path) -> None:
    place = work(tmp_path / "e")
    given = model(ddnet())
    options = Export(batch=(1, 3), dynamic_batch=True, image_size=32)
    options.run(given, place)
    (row,) = place.facts["engines"]
    assert row["file"] == "onnx-fp32-b1-3.onnx"
    for batch in (1, 2, 3):
        x = Shape(batch=batch, size=32).example(CPU)
        y = subprocess_run.run(place.stage / row["sidecar"], x)
        with torch.inference_mode():
            assert torch.allclose(y, given.net(x), atol=1e-5)


def test_what_cannot_be_built_is_said_with_reason_and_command(tmp_path: Path, caplog) -> None:
    if formats()["torch_tensorrt"].missing(CPU) is None:
        pytest.skip("TensorRT is here")
    place = work(tmp_path / "e")
    options = Export(formats=("torch_tensorrt", "onnx"), image_size=32)
    assert options.uses(CPU).name == "onnx"
    options.run(model(ddnet()), place)
    first, second = place.facts["engines"]
    assert (first["status"], second["status"]) == ("not built", "built")
    assert first["file"] is None
    gpu = torch.cuda.is_available()
    assert first["reason"] == "TensorRT needs an NVIDIA GPU"
    assert first["command"] == ("compress run RECIPE --device cuda" if gpu else "")
    with pytest.raises(UsageError, match="torch_tensorrt cannot be built here: TensorRT needs an"):
        replace(options, require=("torch_tensorrt",)).uses(CPU)


@pytest.mark.parametrize(
    ("version", "behind", "command"),
    [
        ("2.14.1+cu130", "", "pip install 'torch-tensorrt==2.14.*'"),
        ("2.15.0+cu130", ": Torch-TensorRT for torch 2.15 was not out in 2026-11; torch 2.14 or "
         "older is needed", ""),
    ],
)  # fmt: skip
def test_no_torch_tensorrt_is_advised_that_is_not_out(version, behind, command, monkeypatch):
    monkeypatch.setattr(torch_tensorrt.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(torch_tensorrt.tensorrt_plan, "library", lambda: "")
    monkeypatch.setattr(torch, "__version__", version)
    lack = formats()["torch_tensorrt"].missing(torch.device("cuda"))
    absent = "torch_tensorrt and tensorrt are not installed"
    assert (lack.reason, lack.command) == (f"{absent}{behind}", command)


def test_a_package_that_cannot_be_imported_is_a_reason_not_a_traceback(tmp_path, break_package):
    break_package("onnxscript")
    options = Export(image_size=32)
    place = work(tmp_path / "e")
    options.run(model(ddnet()), place)
    (row,) = place.facts["engines"]
    assert (row["status"], row["reason"]) == (
        "not built",
        "onnxscript cannot be imported: libcuda.so.1: not found",
    )
    with pytest.raises(UsageError, match="onnx cannot be built here: onnxscript cannot be impor"):
        replace(options, require=("onnx",)).uses(CPU)


def test_onnx_is_not_written_in_bfloat16(tmp_path: Path) -> None:
    """Its checker refuses such convolutions in this operator set."""
    place = work(tmp_path / "stage")
    Export(image_size=32, precision="bf16").run(model(ddnet()), place)
    (row,) = place.facts["engines"]
    assert row["reason"] == "it computes in fp32 and fp16 only, not in bf16"
    assert row["command"] == "--precision fp16"


def test_a_required_format_that_fails_fails_the_stage(tmp_path: Path, monkeypatch) -> None:
    def gives_up(*_: object) -> dict:
        raise NotBuilt("the compiler gave up")

    monkeypatch.setattr(onnx.Onnx, "build", gives_up)
    with pytest.raises(QualityError, match="onnx was not built: the compiler gave up"):
        Export(image_size=32, require=("onnx",)).run(model(ddnet()), work(tmp_path / "e"))


def test_an_engine_that_differs_ends_with_exit_code_3(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parity.subprocess_run, "run", lambda _side, x: x + 0.01)
    place = work(tmp_path / "e")
    with pytest.raises(QualityError, match=r"onnx-fp32-b1\.onnx differs from the network by") as e:
        Export(image_size=32).run(model(Plain(16)), place)
    assert e.value.exit_code == 3
    monkeypatch.setattr(parity.subprocess_run, "run", lambda _side, x: x * float("nan"))
    with pytest.raises(QualityError, match="gives NaN, infinity or another shape"):
        Export(image_size=32).run(model(Plain(16)), place)


def test_lost_zeros_are_noticed(tmp_path: Path, monkeypatch) -> None:
    given = variants("ddnet")["sparse"]
    real = onnx.Onnx.build
    monkeypatch.setattr(
        onnx.Onnx, "build", lambda *a: {**real(*a), "sparse24": len(given.masks) - 1}
    )
    with pytest.raises(QualityError, match="masked layers are 2:4 in onnx"):
        Export(image_size=32).run(given, work(tmp_path / "e"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    """The sidecar of a small ONNX engine."""
    place = work(tmp_path_factory.mktemp("engine") / "e")
    Export(image_size=32).run(model(Plain(16)), place)
    return place.stage / place.facts["engines"][0]["sidecar"]


@pytest.fixture
def copied(engine: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(engine.parent, tmp_path / "copy")
    return tmp_path / "copy" / engine.name


def test_an_altered_or_cut_engine_is_refused(copied: Path) -> None:
    file = copied.with_suffix("")
    whole = file.read_bytes()
    hashed = f"its hash is not the {json.loads(copied.read_text())['sha256'][:12]} in {copied.name}"
    for broken in (whole[:-100], b"x" + whole[1:], b""):
        file.write_bytes(broken)
        with pytest.raises(UsageError) as error:
            sidecar.load(copied)
        said = hashed if broken else "it is an empty file"
        again = f"{said}; build it again: compress export "
        assert f"{file} was altered or cut off: {again}" in str(error.value)
    file.unlink()
    with pytest.raises(UsageError, match="is no sidecar of an engine"):
        sidecar.load(copied)
    copied.write_text("{}")
    with pytest.raises(UsageError, match="is no sidecar of an engine"):
        sidecar.load(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": None}, "its format is None"),
        ({"format": "trt"}, "its format is 'trt'; there are: torch_tensorrt, "),
        ({"batch": "1"}, "its batch is '1'"),
        ({"batch": 0}, "its batch, size and neighbours are 0, 32 and 0"),
        ({"neighbours": -1}, "its batch, size and neighbours are 1, 32 and -1"),
        ({"place": {}}, "it has no place.device"),
        ({"place": {"device": "tpu", "gpu": None}}, "its place.device is 'tpu'"),
        ({"model": 5}, "its model is 5"),
        ({"normalisation": {"hu_min": 0, "hu_max": 1}}, "it maps {'hu_min': 0, 'hu_max': 1}, not"),
    ],
)
def test_a_sidecar_that_cannot_be_used_is_one_sentence(change, said: str, copied: Path) -> None:
    copied.write_text(json.dumps({**json.loads(copied.read_text()), **change}))
    with pytest.raises(UsageError) as error:
        sidecar.load(copied)
    assert str(error.value).startswith(f"{copied} is damaged: {said}")


def test_an_engine_that_was_moved_names_no_folder_that_is_not_there(copied: Path) -> None:
    facts = json.loads(copied.read_text())
    (copied.parent / "net").mkdir()
    for name, shown in (("net", copied.parent / "net"), ("../gone", "MODEL"), (None, "MODEL")):
        command = sidecar.rebuild({**facts, "model": name}, copied.with_suffix(""))
        assert command.startswith(f"compress export {shown} --format onnx ")


@pytest.mark.parametrize(
    ("key", "word"), [("torch", "torch"), ("cpu", "CPU instructions"), ("sm", "compute capability")]
)
def test_an_engine_of_another_place_names_both_sides(copied: Path, key: str, word: str) -> None:
    facts = json.loads(copied.read_text())
    here = facts["place"][key]
    facts["format"], facts["place"][key] = "aot_inductor", "other 1.0"
    copied.write_text(json.dumps(facts))
    with pytest.raises(UsageError) as error:
        sidecar.load(copied)
    folder = copied.parent
    command = "compress export MODEL --format aot_inductor --precision fp32 --batch 1 --size 32"
    own = "there is none" if here is None else f"it is {here}"
    sentence = f"was built for {word} other 1.0, here {own}; build it again: {command}"
    assert str(error.value) == f"{copied.with_suffix('')} {sentence} --out {folder}"


H100 = {"device": "cpu", "gpu": "NVIDIA H100", "sm": "9.0", "cpu": None, "cuda": "13.0",
        "driver": "580.1", "tensorrt": "10.16.1", "torch": torch.__version__}  # fmt: skip


@pytest.mark.parametrize(
    ("format_", "changes", "sentence"),
    [
        ("torch_tensorrt", {"gpu": "NVIDIA A100"}, "GPU NVIDIA H100, here it is NVIDIA A100"),
        ("torch_tensorrt", {"gpu": None}, "GPU NVIDIA H100, here there is none"),
        ("torch_tensorrt", {"tensorrt": "11.1.0"}, "TensorRT 10.16.1, here it is 11.1.0"),
        ("torch_tensorrt", {"tensorrt": None}, "TensorRT 10.16.1, here there is none"),
        ("aot_inductor", {"sm": "8.0"}, "compute capability 9.0, here it is 8.0"),
        ("aot_inductor", {"tensorrt": None, "driver": "590.2"}, ""),
    ],
)
def test_engines_know_their_gpu_and_tensorrt(
    copied: Path, monkeypatch, format_: str, changes: dict, sentence: str
) -> None:
    facts = json.loads(copied.read_text()) | {"format": format_, "place": H100}
    copied.write_text(json.dumps(facts))
    monkeypatch.setattr(sidecar, "place", lambda _device: H100 | changes)
    stand_in = onnx.Onnx()
    stand_in.needs_same = formats()[format_].needs_same  # loads anywhere, and asks for the same
    monkeypatch.setattr(sidecar, "formats", lambda: {format_: stand_in})
    if not sentence:
        sidecar.load(copied)
        return
    with pytest.raises(UsageError) as error:
        sidecar.load(copied)
    assert f"was built for {sentence}; build it again: compress export " in str(error.value)


def test_an_engine_for_a_gpu_where_there_is_none(copied: Path, monkeypatch) -> None:
    facts = json.loads(copied.read_text())
    copied.write_text(json.dumps(facts | {"place": H100 | {"device": "cuda"}}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = "was built for GPU NVIDIA H100, here is none; where there is one, build it again: compr"
    with pytest.raises(UsageError, match=said):
        sidecar.load(copied)


@pytest.mark.parametrize("answers", [False, True])
def test_a_fresh_process_that_crashes_says_where(answers, tmp_path, monkeypatch) -> None:
    python = tmp_path / "python"
    crash = "import ctypes, sys; {}ctypes.string_at(0)"
    code = crash.format("open(sys.argv[6], 'w'); " if answers else "")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -X faulthandler -c "{code}" x "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(subprocess_run.sys, "executable", str(python))
    with pytest.raises(QualityError) as caught:
        subprocess_run.run(tmp_path / "e.onnx.json", torch.zeros(1, 1, 8, 8))
    said = str(caught.value)
    assert "e.onnx does not run in a fresh process: it was ended by SIGSEGV at File" in said
    assert said.endswith(", after it had answered") == answers


def test_a_fresh_process_that_fails_is_quoted(copied: Path) -> None:
    copied.with_suffix("").write_bytes(b"")
    with pytest.raises(QualityError, match=r"does not run in a fresh process: .*altered"):
        subprocess_run.run(copied, torch.zeros(1, 1, 32, 32))


def test_a_residual_network_adds_its_input_in_float32() -> None:
    net = DDnet(residual=True, trunk=4, bottleneck=4, decoder=4).eval()  # f(x) = 0 at the start
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(Subject(net, "bf16")(x), x)
    plain = Subject(Plain(4), "bf16")(x)
    assert plain.dtype == torch.float32


def test_slices_are_cut_and_padded_to_the_engine() -> None:
    image = np.arange(20 * 40, dtype=np.int16).reshape(20, 40)
    fitted = parity.fitted(image, 32)
    assert fitted.shape == (1, 32, 32)
    assert torch.equal(fitted[0, :20], to_network(torch.tensor(image[:, 4:36])))
    assert not fitted[0, 20:].any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"formats": ()}, "formats must name at least one"),
        ({"batch": (0,)}, r"batch must be numbers from 1 on, got \[0\]"),
        ({"image_size": 8}, "image_size must be at least 16 pixels, got 8"),
        ({"require": ("aot_inductor",)}, "require names aot_inductor, which is not among"),
    ],
)
def test_impossible_options(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(Export(), **changes)


def test_the_compiler_is_what_aot_inductor_misses(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = aot_inductor.AotInductor().missing(CPU)
    assert found is not None
    assert found.reason == "no-such-compiler is not installed"


class Undecided(Plain):
    """A network that no tracer takes: its way depends on what is in a slice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else x


TRACES = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.9"), reason="this torch traces one way, without a word"
)


@pytest.mark.parametrize(
    ("name", "who"),
    [
        pytest.param("onnx", "the ONNX exporter", marks=TRACES),
        ("aot_inductor", "AOTInductor"),
    ],
)
def test_a_network_that_cannot_be_compiled_is_reported_not_raised(name, who, tmp_path) -> None:
    place = work(tmp_path / "e")
    Export(formats=(name,), image_size=32).run(model(Undecided(4)), place)
    (row,) = place.facts["engines"]
    assert row["status"] == "not built"
    assert row["reason"].startswith(f"{who} gave up: ")
    assert "\n" not in row["reason"]
    assert not list(place.stage.iterdir())


def test_2to4_survives_tracing() -> None:
    given = variants("ddnet")["sparse"]
    subject = Subject(given.net, "fp32")
    program = torch.export.export(subject, (torch.rand(1, 1, 32, 32),))
    weights = {f"net.{name}.weight" for name in given.masks}
    assert weights <= program.state_dict.keys()
    assert all(is_2to4(program.state_dict[name]) for name in weights)


def test_the_folded_subject_agrees_with_the_network() -> None:
    net = ddnet()
    subject, count = prepared(net, "fp32", as_conv=True)
    assert count == 24
    assert not [m for m in subject.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    x = torch.rand(1, 1, 32, 48)
    with torch.inference_mode():
        expected = Subject(net, "fp32")(x)
        assert (subject(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert any(isinstance(m, torch.nn.ConvTranspose2d) for m in net.modules())


def jobs(folder: Path, net: torch.nn.Module, **options: object) -> Job:
    words = {"name": "aot_inductor", "precision": "fp32", "deconvolutions": "auto", "source": None}
    shape = Shape(batch=1, size=32)
    return Job(**{**words, "shape": shape, "model": model(net), "work": work(folder), **options})


class Copies(Format):
    """A format whose files hold the kind of their last deconvolution, and run as long as told."""

    suffix = ".copy"
    precisions = ("fp32",)

    def missing(self, _device: torch.device) -> None:
        return None

    def build(self, subject: Subject, _shape: Shape, path: Path, _device: torch.device) -> dict:
        kinds = [type(m).__name__ for m in subject.modules()]
        path.write_text("keep" if "ConvTranspose2d" in kinds else "conv")
        path.with_suffix(".more").write_text("more")
        return {}

    def load(self, path: Path, _device: torch.device):
        return lambda _x: path.read_text()


@pytest.mark.parametrize("winner", ["conv", "keep"])
def test_auto_keeps_the_faster_way_and_nothing_else(winner, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Job, "_measures", lambda _self: True)
    monkeypatch.setattr("compress.engines.build.formats", lambda: {"aot_inductor": Copies()})

    def fastest(calls, _device):
        assert {name: call() for name, call in calls.items()} == {"conv": "conv", "keep": "keep"}
        return winner, {"conv": 2.0, "keep": 3.0}

    monkeypatch.setattr("compress.engines.build.timing.fastest", fastest)
    job = jobs(tmp_path / "e", RedCNN(channels=4))
    path, built = job._build()
    assert path.read_text() == winner
    assert built["deconvolutions"] == winner
    assert built["deconvolutions_ms"] == {"conv": 2.0, "keep": 3.0}
    assert sorted(f.name for f in job.work.stage.iterdir()) == [
        "aot_inductor-fp32-b1.copy", "aot_inductor-fp32-b1.more",
    ]  # fmt: skip


def test_nothing_is_measured_where_there_is_nothing_to_choose(tmp_path, monkeypatch) -> None:
    job = jobs(tmp_path / "a", RedCNN(channels=4))
    assert job._choices() == ("conv",), "on a CPU"
    assert replace(job, deconvolutions="keep")._choices() == ("keep",)
    monkeypatch.setattr(Job, "_measures", lambda _self: True)
    assert job._choices() == ("conv", "keep")
    assert replace(job, model=model(Plain(4)))._choices() == ("conv",)


def test_the_body_is_what_the_outer_air_does_not_reach() -> None:
    hu = torch.full((2, 1, 9, 9), -1000.0)
    hu[0, 0, 2:7, 2:7] = 40  # a chest
    hu[0, 0, 4, 4] = -850  # with a lung
    inside = parity.body(to_network(hu))
    assert inside[0].sum() == 25
    assert inside[0, 0, 4, 4]
    assert inside[1].all(), "a slice of nothing but air is all compared"


@given(arrays(bool, st.tuples(st.integers(1, 3), st.just(1), st.integers(1, 9), st.integers(1, 9))))
def test_the_body_is_what_a_flood_from_outside_leaves(air: np.ndarray) -> None:
    from skimage.segmentation import flood

    ringed = np.pad(air[:, 0], ((0, 0), (1, 1), (1, 1)), constant_values=True)
    dry = np.stack([~flood(one, (0, 0)) for one in ringed])[:, None, 1:-1, 1:-1]
    dry[~dry.any((1, 2, 3))] = True
    hu = torch.where(torch.from_numpy(air), -900.0, 40.0)
    assert np.array_equal(parity.body(to_network(hu)).numpy(), dry)


def test_limits_hold_inside_the_body(tmp_path: Path, monkeypatch) -> None:
    place = work(tmp_path / "e")
    low = parity.slices(place.data.test, Shape(batch=1, size=64))
    air = (~parity.body(low)).float()
    assert 0 < air.mean() < 1
    net = DDnet(residual=True, trunk=4, bottleneck=4, decoder=4)  # f(x) = 0 at the start
    monkeypatch.setattr(parity.subprocess_run, "run", lambda _side, x: x + 0.01 * air)
    Export(image_size=64).run(model(net), place)
    found = place.facts["engines"][0]["parity"]
    assert found["max_hu"] == 0
    assert found["max_hu_everywhere"] == pytest.approx(29.24, rel=1e-3)
    assert 30 < found["psnr"] < 60


def test_where_an_engine_differs_most_is_said(tmp_path: Path, monkeypatch, caplog) -> None:
    place = work(tmp_path / "e")
    low = parity.slices(place.data.test, Shape(batch=2, size=64))
    inside = parity.body(low)
    row, column = (int(one) for one in inside[1, 0].nonzero()[7])
    wrong = torch.zeros_like(low)
    wrong[1, 0, row, column] = 0.01
    wrong[~inside] = 0.1  # air around the patient does not count
    net = DDnet(residual=True, trunk=4, bottleneck=4, decoder=4)
    monkeypatch.setattr(parity.subprocess_run, "run", lambda _side, x: x + wrong)
    with caplog.at_level("INFO"), pytest.raises(QualityError, match=r"differs .* by 29\.2 HU"):
        Export(image_size=64, batch=(2,)).run(model(net), place)
    assert f"29.2 HU from the network, in slice 1 at row {row}, column {column}" in caplog.text
    assert place.facts["engines"][0]["parity"]["max_at"] == [1, row, column]


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    place = work(tmp_path / "run" / "01-export")
    before = tmp_path / "run" / "00-train"
    before.mkdir()
    options = {"residual": True, "trunk": 4, "bottleneck": 4, "decoder": 4}
    given = model(DDnet(**options), **options)
    checkpoint.save(given, before)
    Export(image_size=32).run(given, place)
    side = place.stage / place.facts["engines"][0]["sidecar"]
    assert json.loads(side.read_text())["model"] == "../00-train"
    sidecar.load(side)
    old = checkpoint.fingerprint(given)
    with torch.no_grad():
        given.net.stem.conv.weight.add_(1)
    checkpoint.save(given, before)
    with pytest.raises(UsageError) as error:
        sidecar.load(side)
    new = checkpoint.fingerprint(given)
    assert f"was built from weights {old[:12]}, {before} now holds {new[:12]}" in str(error.value)
    assert f"build it again: compress export {before} --format onnx" in str(error.value)
    shutil.rmtree(before)
    sidecar.load(side)
