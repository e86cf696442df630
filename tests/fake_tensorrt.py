"""A Torch-TensorRT of a few lines: its engines are PyTorch programs, its log says what it is told.

`install` puts it where `compress.engines.torch_tensorrt` imports the real one from.
"""

import io
import logging
import sys
import warnings
from dataclasses import dataclass, fields
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

LOGGER = "torch_tensorrt [TensorRT Conversion Context]"


@dataclass
class From2_13:
    """Of the settings that Torch-TensorRT 2.13 and 2.14 honour, those that are used here."""

    device: Any = None
    sparse_weights: bool = False
    require_full_compilation: bool = False
    immutable_weights: bool = True
    min_block_size: int = 5
    timing_cache_path: str = ""


@dataclass
class Until2_12(From2_13):
    """Those of 2.8 to 2.12: typing and runtime are the caller's choice."""

    use_explicit_typing: bool = False
    use_python_runtime: bool = False


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
        self.info, self.runtime, self.engines = "{}", True, 1
        self.error: str | None = None  # "": an assertion fails without a word
        self.generation: type[From2_13] = Until2_12
        self.given: dict = {}
        self.settings: dict = {}

    def compile(self, exported_program, *, arg_inputs, use_python_runtime=False, **given):
        """As `torch_tensorrt.dynamo.compile`: what it does not know it drops without a word."""
        given |= {"use_python_runtime": True} if use_python_runtime else {}
        honoured = {field.name for field in fields(self.generation)}
        self.given, self.settings = given, {name: given[name] for name in given if name in honoured}
        if use_python_runtime and self.generation is From2_13:
            warnings.warn("`use_python_runtime` has no effect", DeprecationWarning, stacklevel=2)
        for level, line in self.log:
            logging.getLogger(LOGGER).log(level, line)
        if self.error is not None:
            raise RuntimeError(self.error) if self.error else AssertionError
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
    module.dynamo = _Dynamo(fake)
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


class _Dynamo(SimpleNamespace):
    def __init__(self, fake: Fake) -> None:
        super().__init__(compile=fake.compile)
        self.fake = fake

    @property
    def CompilationSettings(self) -> type[From2_13]:
        return self.fake.generation


class _Features:
    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    @property
    def torch_tensorrt_runtime(self) -> bool:
        return self.fake.runtime
