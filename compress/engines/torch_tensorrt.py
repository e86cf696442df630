"""TensorRT engines through Torch-TensorRT: the only file that imports either.

The subject is strongly typed (half precision is in its own casts), because TensorRT 11 knows no
other way and Torch-TensorRT from 2.10 on drops `enabled_precisions` without a word. No engine
cache is used: its key ignores weights, so a pruned or 2:4 network would get another one's engine.
"""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.engines import NotBuilt, Runner, Shape

COMMAND = "pip install 'torch-tensorrt=={}.*'"


class TorchTensorRT:
    """Torch-TensorRT programs; 2:4 weights may be run by sparse kernels."""

    suffix = ".ep"

    def missing(self, device: torch.device) -> NotBuilt | None:
        """A GPU and both packages."""
        minor = ".".join(torch.__version__.split(".")[:2])
        absent = [n for n in ("torch_tensorrt", "tensorrt") if importlib.util.find_spec(n) is None]
        if absent:
            verb = "is" if len(absent) == 1 else "are"
            reason = f"{' and '.join(absent)} {verb} not installed"
            return NotBuilt(reason, COMMAND.format(minor))
        if device.type != "cuda":
            return NotBuilt("TensorRT needs an NVIDIA GPU", "compress run RECIPE --device cuda")
        return None

    def build(
        self, subject: nn.Module, shape: Shape, path: Path, device: torch.device
    ) -> dict[str, Any]:
        """Trace and compile as one engine without a rest in PyTorch, then write it."""
        import torch_tensorrt

        example = (shape.example(device),)
        program = torch.export.export(
            subject.to(device), example, dynamic_shapes=shape.dynamic_shapes()
        )
        try:
            compiled = torch_tensorrt.dynamo.compile(
                program, arg_inputs=[_input(shape)], **_settings(path, device)
            )
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise NotBuilt(f"Torch-TensorRT gave up: {reason}") from error
        torch_tensorrt.save(compiled, str(path), arg_inputs=list(example), retrace=False)
        return {"tensorrt": tensorrt_version()}

    def load(self, path: Path, device: torch.device) -> Runner:
        """The program with its engine, on the GPU."""
        import torch_tensorrt

        module = torch_tensorrt.load(str(path)).module()

        def run(x: Tensor) -> Tensor:
            with torch.inference_mode():
                y: Tensor = module(x.to(device))
            return y

        return run


def tensorrt_version() -> str | None:
    """The version of the TensorRT library that engines are built and run with, None without it."""
    if importlib.util.find_spec("tensorrt") is None:
        return None
    import tensorrt

    return str(tensorrt.__version__)


def _input(shape: Shape) -> Any:
    import torch_tensorrt

    full = tuple(shape.example(torch.device("cpu")).shape)
    if not shape.dynamic:
        return torch_tensorrt.Input(shape=full, dtype=torch.float32)
    one = (1, *full[1:])
    return torch_tensorrt.Input(min_shape=one, opt_shape=full, max_shape=full, dtype=torch.float32)


def _settings(path: Path, device: torch.device) -> dict[str, Any]:
    """Settings of this version: strong typing is an option up to 2.12 and the only way after."""
    import torch_tensorrt

    settings = {
        "device": torch_tensorrt.Device(str(device)),
        "sparse_weights": True,
        "require_full_compilation": True,
        "immutable_weights": True,  # refitted engines keep the tactics of other weights
        "timing_cache_path": str(path.with_suffix(".timing")),
    }
    known = inspect.signature(torch_tensorrt.dynamo.compile).parameters
    if "use_explicit_typing" in known:
        settings["use_explicit_typing"] = True
    return settings
