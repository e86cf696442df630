"""Slices of any size through networks and engines of fixed sizes and batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import body, write_series
from torch import nn

from compress import checkpoint
from compress.base.errors import CompressError, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.engines import onnx, sidecar
from compress.engines.base import Shape
from compress.engines.inspection import inspect
from compress.graph.padding import AnySize, mirrored
from compress.imaging.command import Options, run
from compress.imaging.inference import Flight, Network, load

CPU = torch.device("cpu")
NARROW = ModelOptions(
    name="ddnet", options={"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
)


class Seen(nn.Module):
    """A network that gives back its input and remembers the shapes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return x


@pytest.mark.parametrize(("old", "new"), [(5, 5), (5, 12), (1, 16), (2, 7), (16, 31)])
def test_mirrored_borders_are_those_of_numpy(old, new):
    expected = np.pad(np.arange(old), (0, new - old), mode="reflect")
    assert mirrored(old, new).tolist() == expected.tolist()


def test_a_network_sees_multiples_of_16_and_what_was_added_is_cut_off():
    net = Seen()
    x = torch.rand(3, 1, 17, 40)
    assert torch.equal(AnySize(net)(x), x)
    assert net.shapes == [(3, 1, 32, 48)]


def test_an_engine_sees_its_size_and_its_batch():
    net = Seen()
    x = torch.rand(5, 1, 9, 20)
    assert torch.equal(AnySize(net, size=32, batch=2)(x), x)
    assert net.shapes == [(2, 1, 32, 32)] * 3


def test_what_is_larger_than_the_engine_is_refused():
    with pytest.raises(ValueError, match="slices of 33 x 8 do not fit into 32"):
        AnySize(Seen(), size=32)(torch.rand(1, 1, 33, 8))


def test_nothing_is_added_where_it_fits():
    net = Seen()
    AnySize(net)(torch.rand(1, 1, 32, 16))
    assert net.shapes == [(1, 1, 32, 16)]


def test_two_flights_do_not_share_memory():
    net = Network(AnySize(Seen()), CPU, 2, "0", "fp32")
    a, b = np.full((16, 16), 10, np.float32), np.full((16, 16), 20, np.float32)
    first, second = net.launch([a, a]), net.launch([b])
    np.testing.assert_allclose(first.land()[0], np.stack([a, a]), atol=1e-3)
    output, seconds = second.land()
    np.testing.assert_allclose(output, b[None], atol=1e-3)
    assert seconds > 0


def test_a_full_batch_is_sent_where_its_size_must_not_change():
    seen = Seen()
    net = Network(AnySize(seen), CPU, 4, "0", "fp32")
    assert not net.full, "on the CPU every slice takes its time"
    net.full = True
    slices = [np.full((16, 16), k, np.float32) for k in range(2)]
    net.launch([np.full((16, 16), np.nan, np.float32)] * 4).land()
    flight = net.launch(slices)
    assert flight.done()
    output, _ = flight.land()
    np.testing.assert_allclose(output, np.stack(slices), atol=1e-3)
    assert seen.shapes == [(4, 1, 16, 16)] * 2


def test_a_flight_is_done_when_its_last_event_is():
    class Event:
        over = False

        def query(self):
            return self.over

    first, last = Event(), Event()
    flight = Flight(torch.zeros(1, 1, 2, 2), (first, last), 0.0)
    assert not flight.done()
    last.over = True
    assert flight.done()


def test_outputs_are_clipped_to_the_network_range():
    class Far(nn.Module):
        def forward(self, x):
            return x * 0 + torch.tensor([-1.0, 2.0]).repeat(8)

    net = Network(AnySize(Far()), CPU, 1, "0", "fp32")
    output, _ = net.launch([np.zeros((16, 16), np.float32)]).land()
    assert (output.min(), output.max()) == (-1024, 1900)


def test_infinity_is_not_clipped_to_white():
    def half(x: torch.Tensor) -> torch.Tensor:  # which overflows in float16
        return torch.where(x > 0.5, torch.inf, x)

    net = Network(AnySize(half), torch.device("cpu"), 1, "", "fp16")
    slices = [np.array([[-1024, 1900]], np.float32)]
    found, _ = net.launch(slices).land()
    assert found[0, 0].tolist() == [-1024, pytest.approx(float("nan"), nan_ok=True)]


def test_a_batch_that_does_not_fit_into_memory_is_halved():
    class Small(Seen):
        def forward(self, x):
            super().forward(x)
            if len(x) > 1:
                raise torch.OutOfMemoryError("no more")
            return x

    small = Small()
    net = Network(AnySize(small), CPU, 4, "0", "fp32")
    slices = [np.full((16, 16), k, np.float32) for k in range(3)]
    output, _ = net.launch(slices).land()
    np.testing.assert_allclose(output, np.stack(slices), atol=1e-3)
    assert [shape[0] for shape in small.shapes] == [3, 1, 2, 1, 1]


def test_no_memory_for_one_slice_is_an_error_in_words(tmp_path, monkeypatch):
    class None_(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("no more")

    net = Network(AnySize(None_()), CPU, 2, "0", "fp32")
    monkeypatch.setattr("compress.imaging.inference.load", lambda *_a, **_k: net)
    folder = write_series(tmp_path / "in", 2)
    with pytest.raises(CompressError, match=r"^the GPU's memory is too small for a single slice$"):
        run(Options(source=folder, model=tmp_path, out=tmp_path / "out"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(Model(net=NARROW.build().eval(), origin=NARROW), folder)
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    """A static ONNX engine: three slices of 48 x 48."""
    path = tmp_path_factory.mktemp("engine") / "net.onnx"
    shape = Shape(batch=3, size=48)
    built = onnx.Onnx().build(NARROW.build().eval(), shape, path, CPU)
    about = {"precision": "fp32", "shape": shape, "weights": "0", "device": CPU, "built": built}
    sidecar.write(path, format_="onnx", **about)
    return path


def test_a_checkpoint(model):
    net = load(model, device="cpu", batch=None)
    assert (net.batch, net.size, net.precision) == (2, None, "fp32")
    assert net.model == checkpoint.identity(model)
    assert load(model, device="cpu", batch=5).batch == 5


def test_an_engine(engine):
    for path in (engine, engine.with_name("net.onnx.json")):
        net = load(path, device=None, batch=None)
        assert (net.batch, net.size) == (3, 48)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"device": "cpu", "batch": 2}, "--batch 2: the engine was built for a batch of 3"),
        ({"device": "cuda:99", "batch": None}, "--device cuda:99: PyTorch sees"),
    ],
)
def test_engines_refuse_what_they_cannot(engine, given, said):
    with pytest.raises(UsageError, match=said):
        load(engine, **given)


def test_dynamic_engines_take_smaller_batches(engine, tmp_path):
    text = engine.with_name("net.onnx.json").read_text()
    (tmp_path / "net.onnx").write_bytes(engine.read_bytes())
    side = tmp_path / "net.onnx.json"
    side.write_text(text.replace('"dynamic_batch": false', '"dynamic_batch": true'))
    assert load(side, device=None, batch=2).net.batch is None
    with pytest.raises(UsageError, match="--batch 4: the engine was built for a batch of up to 3"):
        load(side, device=None, batch=4)


def test_neither_checkpoint_nor_engine(tmp_path):
    (tmp_path / "x.onnx").touch()
    with pytest.raises(UsageError, match=r"x.onnx is neither a checkpoint folder nor an engine"):
        load(tmp_path / "x.onnx", device=None, batch=None)
    with pytest.raises(UsageError, match="holds no checkpoint: no model"):
        load(tmp_path, device="cpu", batch=None)


def test_a_folder_of_engines_names_one(engine):
    said = rf"{engine.parent} holds no checkpoint, but engines; try {engine}$"
    with pytest.raises(UsageError, match=said):
        load(engine.parent, device="cpu", batch=None)
    with pytest.raises(UsageError, match=said):
        inspect(engine.parent)


def test_enhance_with_an_engine_that_is_too_small_for_some(engine, tmp_path):
    import pydicom
    from dicom_files import dataset, packed

    folder = write_series(tmp_path / "in", 4, side=40)
    (folder / "large").write_bytes(packed(dataset(body(64), index=9)))
    with pytest.raises(CompressError, match=r"1 of 5 files failed: 1 engine-size \(larger than"):
        run(Options(source=folder, model=engine, out=tmp_path / "out"))
    found = [pydicom.dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
    assert len(found) == 4
    for ds in found:
        expected = body(40, int(ds.InstanceNumber) - 1).astype(int) + 1024
        assert np.array_equal(ds.pixel_array, expected)
