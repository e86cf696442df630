"""TensorRT engines through Torch-TensorRT, for its versions 2.8 (TensorRT 10) to 2.14 (11).

The subject is strongly typed (half precision is in its own casts), because TensorRT 11 knows no
other way. Up to 2.12 a strongly typed network takes no `enabled_precisions` but float32; from 2.13
on they are dropped without a word. No engine cache is used: its key ignores weights, so a pruned or
2:4 network would get another one's engine.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.base import machine
from compress.base.machine import Package
from compress.base.words import listed
from compress.engines import tensorrt_log, tensorrt_plan
from compress.engines.base import Format, NotBuilt, Runner, Served, Shape, broken, giving_up, placed
from compress.engines.records import Built
from compress.graph import cost

COMMAND = "pip install 'torch-tensorrt=={}.*'"
NEWEST, KNOWN = (2, 14), "2026-11"
"""The newest Torch-TensorRT, for the torch of that version, and the month when it was."""
LOGGER = "torch_tensorrt [TensorRT Conversion Context]"
"""Where Torch-TensorRT hands TensorRT's own messages to Python's logging."""


class TorchTensorRT(Format):
    """TensorRT plans, and the same engine as a PyTorch program; 2:4 weights may run sparse."""

    suffix = ".engine"
    requires = ("torch_tensorrt", "tensorrt", machine.GPU)
    needs_same = ("gpu", "sm", "tensorrt", "torch")
    library = "tensorrt"
    timed = True
    served = Served("tensorrt", "model.plan")

    def packages(self) -> tuple[Package, ...]:
        """Torch-TensorRT for the installed torch, which brings TensorRT."""
        use, gpu = "export torch_tensorrt", torch.cuda.is_available()
        why, command = _obtained() if gpu else ("it needs an NVIDIA GPU that PyTorch can use", "")
        return (
            Package("torch-tensorrt", "torch_tensorrt", use, command, why),
            Package("tensorrt", "tensorrt", use, command, why),
        )

    def place(self, device: torch.device) -> dict[str, str | None]:
        """TensorRT's version."""
        return {"tensorrt": tensorrt_plan.version() if device.type == "cuda" else None}

    def missing(self, device: torch.device) -> NotBuilt | None:
        """A GPU and both packages."""
        if device.type != "cuda":
            able = torch.cuda.is_available()
            command = "compress run RECIPE --device cuda" if able else ""
            return NotBuilt("TensorRT needs an NVIDIA GPU", command)
        absent = [] if importlib.util.find_spec("torch_tensorrt") else ["torch_tensorrt"]
        absent += [] if tensorrt_plan.library() else ["tensorrt"]
        if absent:
            verb = "is" if len(absent) == 1 else "are"
            why, command = _obtained()
            reason = f"{listed(absent)} {verb} not installed{': ' if why else ''}{why}"
            return NotBuilt(reason, command)
        return broken(self.packages()[:1])  # it imports TensorRT, by one of two names

    def build(self, subject: nn.Module, shape: Shape, path: Path, device: torch.device) -> Built:
        """Trace and compile as one engine without a rest in PyTorch, then write it.

        Facts: TensorRT's version; what it says of sparse kernels, see `tensorrt_log.facts`;
        `files`, the PyTorch program beside the plan where this Torch-TensorRT can write one.
        """
        import torch_tensorrt

        example = (shape.example(device),)
        with _listening() as (said, wrong), giving_up("Torch-TensorRT", wrong):
            program = torch.export.export(
                subject.to(device), example, dynamic_shapes=shape.dynamic_shapes()
            )
            compiled = torch_tensorrt.dynamo.compile(
                program, arg_inputs=[_input(shape)], **_settings(path, device)
            )
        engine = _engine(compiled)
        path.write_bytes(bytes(engine.serialized_engine))
        files = []
        if _compiled_runtime():
            beside = path.with_suffix(".ep")
            torch_tensorrt.save(compiled, str(beside), arg_inputs=list(example), retrace=False)
            files = [beside.name]
        names = [name.removeprefix("net.") for name in cost.compressible(subject)]
        told = tensorrt_log.facts("\n".join(said), _layers(engine), names)
        return {
            "tensorrt": tensorrt_plan.version(),
            "files": files,
            "tensors": _names(engine),
            **told,
        }

    def load(self, path: Path, device: torch.device) -> Runner:
        """The plan run by TensorRT, or the program with its engine, on the GPU."""
        if path.suffix == self.suffix:
            return tensorrt_plan.Plan(path, device)
        import torch_tensorrt

        module = torch_tensorrt.load(str(path)).module()

        def run(x: Tensor) -> Tensor:
            with torch.inference_mode():
                y: Tensor = module(placed(x, device))
            return y

        return run


def _minor() -> str:
    """The version of torch without the patch level, which that of Torch-TensorRT follows."""
    return ".".join(torch.__version__.split(".")[:2])


def _obtained() -> tuple[str, str]:
    """Why there is no Torch-TensorRT for this torch, or the command that installs it."""
    if tuple(map(int, _minor().split("."))) <= NEWEST:
        return "", COMMAND.format(_minor())
    newest = ".".join(map(str, NEWEST))
    late = f"Torch-TensorRT for torch {_minor()} was not out in {KNOWN}"
    return f"{late}; torch {newest} or older is needed", ""


def _engine(compiled: nn.Module) -> Any:
    """The module of the one engine in a compiled program."""
    found = [m for m in compiled.modules() if getattr(m, "serialized_engine", None) is not None]
    if len(found) != 1:
        raise NotBuilt(f"Torch-TensorRT made {len(found)} engines of the network, not one")
    return found[0]


def _names(engine: Any) -> list[str]:
    """Names of the engine's input and output; the two runtimes keep them under two names."""
    found = []
    for side in ("input", "output"):
        compiled = getattr(engine, f"{side}_binding_names", None)
        found += compiled or getattr(engine, f"{side}_names")
    return [str(name) for name in found]


def _layers(engine: Any) -> str:
    """The engine's layer information as JSON; nothing where this runtime does not give it."""
    try:
        return str(engine.get_layer_info())
    except (AttributeError, RuntimeError):
        return ""


@contextmanager
def _listening() -> Iterator[tuple[list[str], list[str]]]:
    """Collect what TensorRT says of sparsity while it builds, and its errors.

    Nothing but warnings is passed on.
    """
    said, wrong = list[str](), list[str]()

    def sift(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if tensorrt_log.MARK in message:
            said.append(message)
        if record.levelno >= logging.ERROR:
            wrong.append(tensorrt_log.wrong(message))
        return record.levelno >= logging.WARNING

    logger = logging.getLogger(LOGGER)
    before = logger.level
    logger.setLevel(logging.DEBUG)  # from TensorRT 8.6 on the lines are among the verbose ones
    logger.addFilter(sift)
    try:
        yield said, wrong
    finally:
        logger.removeFilter(sift)
        logger.setLevel(before)


def _compiled_runtime() -> bool:
    """Whether this Torch-TensorRT has its C++ runtime, which writes programs.

    Without it versions up to 2.12 write none, and of later ones none is asked. The one for
    TensorRT-RTX ends the process where its library is not the very one that it was built with.
    """
    from torch_tensorrt import _features

    has = _features.ENABLED_FEATURES
    return getattr(has, "torch_tensorrt_runtime", True) and not getattr(has, "tensorrt_rtx", False)


def _input(shape: Shape) -> Any:
    import torch_tensorrt

    full = tuple(shape.example(torch.device("cpu")).shape)
    if not shape.dynamic:
        return torch_tensorrt.Input(shape=full, dtype=torch.float32)
    one = (1, *full[1:])
    return torch_tensorrt.Input(min_shape=one, opt_shape=full, max_shape=full, dtype=torch.float32)


def _settings(path: Path, device: torch.device) -> dict[str, Any]:
    """Settings that this version honours; `compile` takes others, too, and does not use them.

    Up to 2.12 strong typing and the runtime are options. From 2.13 on networks are always strongly
    typed and the runtime is the one that is installed.
    """
    import torch_tensorrt

    settings = {
        "device": torch_tensorrt.Device(f"cuda:{device.index or 0}"),  # it takes no bare "cuda"
        "sparse_weights": True,
        "require_full_compilation": True,
        "immutable_weights": True,  # refitted engines keep the tactics of other weights
        "min_block_size": 1,
        "timing_cache_path": str(path.with_suffix(".timing")),
    }
    honoured = {field.name for field in fields(torch_tensorrt.dynamo.CompilationSettings)}
    if "use_explicit_typing" in honoured:
        settings["use_explicit_typing"] = True
    if "use_python_runtime" in honoured and not _compiled_runtime():
        settings["use_python_runtime"] = True
    return settings
