"""A Triton model repository: files lie where Triton looks, the configuration fits its schema."""

import importlib.util
from pathlib import Path

import fake_tensorrt
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from pairs import data

from compress import checkpoint
from compress.base.errors import UsageError
from compress.base.files import read_json
from compress.checkpoint import Model, ModelOptions
from compress.engines import onnx, sidecar, subprocess_run, triton_server
from compress.engines.base import Shape
from compress.engines.torch_tensorrt import TorchTensorRT
from compress.run import export

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def schema():
    """Triton's own ModelConfig, without the client that its package is for."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    folder = Path(next(iter(package.submodule_search_locations or [])))
    spec = importlib.util.spec_from_file_location("schema", folder / "grpc" / "model_config_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    origin = ModelOptions(name="ddnet", options={"trunk": 4, "bottleneck": 4, "decoder": 4})
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), folder)
    return folder


WRITTEN: dict[tuple, tuple[bytes, dict]] = {}
"""ONNX files of this module's tests and the facts of their building, by what they are made from."""


@pytest.fixture(autouse=True)
def written_once(monkeypatch):
    """An ONNX file of the same network and shape is not written anew for each test.

    It is compared in this process; test_steps_export.py compares engines in one of their own.
    """
    build = onnx.Onnx.build

    def once(self, subject, shape: Shape, path: Path, device: torch.device) -> dict:
        weights = b"".join(t.numpy().tobytes() for t in subject.state_dict().values())
        key = str(subject), weights, shape
        if key not in WRITTEN:
            facts = build(self, subject, shape, path, device)
            WRITTEN[key] = path.read_bytes(), facts
        path.write_bytes(WRITTEN[key][0])
        return dict(WRITTEN[key][1])

    monkeypatch.setattr(onnx.Onnx, "build", once)
    monkeypatch.setattr(subprocess_run, "run", lambda side, x: sidecar.load(side)[1](x))


def served(model: Path, tmp_path: Path, monkeypatch, name=None, **options: object) -> Path:
    monkeypatch.setattr(export, "_pairs", lambda *_: data())
    repository = tmp_path / "repository"
    given = {"image_size": 32, **options}
    export.run(
        model, tmp_path / "engines", given, device="cpu", triton=repository, triton_name=name
    )
    return repository


def read(folder: Path, schema):
    """A configuration parsed by Triton's schema, and its tensors as (name, type, dims)."""
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    tensors = [(t.name, schema.DataType.Name(t.data_type), list(t.dims))
               for t in (*config.input, *config.output)]  # fmt: skip
    return config, tensors


def test_a_dynamic_batch_is_gathered_by_the_server(model, tmp_path, monkeypatch, schema) -> None:
    repository = served(model, tmp_path, monkeypatch, batch=(16,), dynamic_batch=True)
    folder = repository / "onnx-fp32"
    assert sorted(p.relative_to(repository).as_posix() for p in repository.rglob("*.*")) == [
        "onnx-fp32/1/compress.json", "onnx-fp32/1/model.onnx", "onnx-fp32/config.pbtxt",
    ]  # fmt: skip
    config, tensors = read(folder, schema)
    assert (config.name, config.backend, config.max_batch_size) == ("onnx-fp32", "onnxruntime", 16)
    assert tensors == [
        ("low", "TYPE_FP32", [1, 32, 32]), ("enhanced", "TYPE_FP32", [1, 32, 32]),
    ]  # fmt: skip
    assert list(config.dynamic_batching.preferred_batch_size) == [16]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    assert [t.name for t in (*session.get_inputs(), *session.get_outputs())] == ["low", "enhanced"]


def test_a_fixed_batch_is_part_of_the_shape(model, tmp_path, monkeypatch, schema) -> None:
    repository = served(model, tmp_path, monkeypatch, batch=(1, 2))
    assert sorted(p.name for p in repository.iterdir()) == ["onnx-fp32-b1", "onnx-fp32-b2"]
    config, tensors = read(repository / "onnx-fp32-b2", schema)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert tensors[0] == ("low", "TYPE_FP32", [2, 1, 32, 32])


def test_a_later_export_is_the_next_version(model, tmp_path, monkeypatch) -> None:
    for _ in range(2):
        repository = served(model, tmp_path, monkeypatch)
    versions = sorted(p.parent.name for p in repository.rglob("model.onnx"))
    assert versions == ["1", "2"]


def test_a_plan_is_served_by_the_tensorrt_back_end(model, tmp_path, monkeypatch, schema) -> None:
    fake_tensorrt.install(monkeypatch)
    load = TorchTensorRT().load
    monkeypatch.setattr(subprocess_run, "run", lambda side, x: load(side.with_suffix(""), CPU)(x))
    repository = served(model, tmp_path, monkeypatch, formats=("torch_tensorrt",))
    (folder,) = repository.iterdir()
    config, tensors = read(folder, schema)
    assert config.backend == "tensorrt"
    assert [name for name, *_ in tensors] == ["x", "output0"]
    plan = tmp_path / "engines" / "torch_tensorrt-fp32-b1.engine"
    assert (folder / "1" / "model.plan").read_bytes() == plan.read_bytes()


def test_what_triton_does_not_serve_is_refused_before_it_is_built(model, tmp_path) -> None:
    options = {"formats": ("onnx", "aot_inductor")}
    with pytest.raises(UsageError, match=r"^--triton serves .*onnx.*, not aot_in"):
        export.run(model, tmp_path / "e", options, triton=tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_an_altered_engine_is_not_served(model, tmp_path, monkeypatch) -> None:
    served(model, tmp_path, monkeypatch)
    side = tmp_path / "engines" / "onnx-fp32-b1.onnx.json"
    assert read_json(side)["built"]["tensors"] == ["low", "enhanced"]
    side.with_suffix("").write_bytes(b"")
    with pytest.raises(UsageError, match="was altered or cut off"):
        triton_server.Repository(folder=tmp_path / "other").add(side)
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another network of the same form."""
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(7)
    origin = ModelOptions(name="ddnet", options={"trunk": 4, "bottleneck": 4, "decoder": 4})
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), folder)
    return folder


def test_another_network_does_not_replace_one(model, other, tmp_path, monkeypatch) -> None:
    repository = served(model, tmp_path, monkeypatch)
    before = {path: path.read_bytes() for path in repository.rglob("*.*")}
    monkeypatch.setattr(subprocess_run, "run", lambda *_: pytest.fail("it was built first"))
    with pytest.raises(UsageError, match=r"onnx-fp32-b1 serves weights .*, not .*--triton-name"):
        served(other, tmp_path, monkeypatch)
    assert {path: path.read_bytes() for path in repository.rglob("*.*")} == before


def test_a_repository_of_another_program_is_left_alone(model, tmp_path, monkeypatch) -> None:
    foreign = tmp_path / "repository" / "onnx-fp32-b1" / "3"
    foreign.mkdir(parents=True)
    with pytest.raises(UsageError, match="serves another network, not"):
        served(model, tmp_path, monkeypatch)
    assert not list(foreign.iterdir())


def test_names_tell_networks_apart(model, other, tmp_path, monkeypatch, schema) -> None:
    for net, name in ((model, "dense"), (other, "small"), (other, "dense")):
        repository = served(net, tmp_path, monkeypatch, name=name)
    found = sorted(p.relative_to(repository).as_posix() for p in repository.rglob("*.onnx"))
    assert found == ["dense/1/model.onnx", "dense/2/model.onnx", "small/1/model.onnx"]
    assert read(repository / "dense", schema)[0].name == "dense"
    one, two = (read_json(repository / "dense" / n / "compress.json")["weights"] for n in "12")
    assert one == checkpoint.weights_hash(model)
    assert two == checkpoint.weights_hash(other)
    served(model, tmp_path, monkeypatch, name="both", batch=(1, 2))
    assert {p.name for p in repository.glob("both*")} == {"both-onnx-fp32-b1", "both-onnx-fp32-b2"}


def test_a_version_of_another_size_is_refused_and_a_tuned_configuration_kept(
    model, tmp_path, monkeypatch
) -> None:
    repository = served(model, tmp_path, monkeypatch)
    tuned = repository / "onnx-fp32-b1" / "config.pbtxt"
    tuned.write_text(tuned.read_text().replace("count: 1", "count: 3"))
    served(model, tmp_path, monkeypatch)
    assert "count: 3" in tuned.read_text()
    for name in (None, "onnx-fp32-b1"):
        with pytest.raises(UsageError, match="serves engines of another size, batch or format"):
            served(model, tmp_path, monkeypatch, image_size=48, name=name)
    assert sorted(p.name for p in tuned.parent.iterdir()) == ["1", "2", "config.pbtxt"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "ä", ".x", "a b"])
def test_names_that_no_model_can_have(name, model, tmp_path, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"--triton-name .*: give letters, digits"):
        served(model, tmp_path, monkeypatch, name=name)


def test_a_name_without_a_repository_is_refused(model, tmp_path) -> None:
    with pytest.raises(UsageError, match="--triton-name is for --triton, which is missing"):
        export.run(model, tmp_path, {"image_size": 32}, triton_name="x")
