"""A Torch-TensorRT of a few lines: its engines are PyTorch programs, its log says what it is told.

`install` puts it where `compress.engines.torch_tensorrt` imports the real one from.
"""

import io
import logging
import sys
from types import ModuleType, SimpleNamespace

import torch

LOGGER = "torch_tensorrt [TensorRT Conversion Context]"


class Engine(torch.nn.Module):
    """The module of an engine in a compiled program."""

    def __init__(self, program, info: str) -> None:
        super().__init__()
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        self.serialized_engine, self.info = bytearray(buffer.getvalue()), info
        self.input_names, self.output_names = ["x"], ["output0"]

    def get_layer_info(self) -> str:
        return self.info


class Fake:
    """What the next build does and what it was asked for."""

    def __init__(self) -> None:
        self.log: list[tuple[int, str]] = []
        self.info, self.runtime, self.engines, self.error = "{}", True, 1, ""
        self.settings: dict = {}

    def compile(self, exported_program, *, arg_inputs, use_python_runtime=False, **settings):
        """As `torch_tensorrt.dynamo.compile`."""
        self.settings = {"use_python_runtime": use_python_runtime, **settings}
        for level, line in self.log:
            logging.getLogger(LOGGER).log(level, line)
        if self.error:
            raise RuntimeError(self.error)
        return torch.nn.ModuleList(Engine(exported_program, self.info) for _ in range(self.engines))

    def save(self, compiled, path: str, *, arg_inputs, retrace: bool) -> None:
        """As `torch_tensorrt.save`."""
        with open(path, "wb") as file:
            file.write(compiled[0].serialized_engine)


def install(monkeypatch) -> Fake:
    """Put the fake in the place of Torch-TensorRT and of the plan's runner, on the CPU."""
    from compress.engines import tensorrt_plan
    from compress.engines.torch_tensorrt import TorchTensorRT

    fake = Fake()
    module = ModuleType("torch_tensorrt")
    module.dynamo = SimpleNamespace(compile=fake.compile)
    module.save = fake.save
    module.load = torch.export.load
    module.Device = _device
    module.Input = lambda **given: given
    features = ModuleType("torch_tensorrt._features")
    features.ENABLED_FEATURES = _Features(fake)
    module._features = features
    monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
    monkeypatch.setitem(sys.modules, "torch_tensorrt._features", features)
    monkeypatch.setattr(TorchTensorRT, "missing", lambda _self, _device: None)
    monkeypatch.setattr(tensorrt_plan, "version", lambda: "11.1.0")
    monkeypatch.setattr(
        tensorrt_plan, "Plan", lambda path, _device: torch.export.load(path).module()
    )
    return fake


def _device(text: str) -> tuple[str, int]:
    """As `torch_tensorrt.Device`: a kind and a number, no kind alone."""
    kind, number = text.split(":")
    assert kind == "cuda"
    return kind, int(number)


class _Features:
    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    @property
    def torch_tensorrt_runtime(self) -> bool:
        return self.fake.runtime
