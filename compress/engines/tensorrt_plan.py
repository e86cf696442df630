"""A serialised TensorRT plan, run by TensorRT itself: no compiler and no Torch-TensorRT needed.

TensorRT-RTX, the edition for workstations, has the same interface under another name.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.base.errors import CompressError, UsageError
from compress.engines.base import placed

LIBRARIES = ("tensorrt", "tensorrt_rtx")


def library() -> str | None:
    """The module of the TensorRT that is installed; None without one."""
    if LIBRARIES[0] in sys.modules:  # Torch-TensorRT puts TensorRT-RTX there, too
        return LIBRARIES[0]
    return next((name for name in LIBRARIES if importlib.util.find_spec(name)), None)


def version() -> str | None:
    """The version of TensorRT that plans are built and run with; None without one."""
    name = library()
    if name is None:
        return None
    module = importlib.import_module(name)
    rtx = LIBRARIES[1] in (name, getattr(module, "_package_name", ""))
    return f"RTX {module.__version__}" if rtx else str(module.__version__)


class Plan:
    """A plan with one input and one output of the same shape, float32, on the GPU.

    Args:
        path: its file.
        device: the GPU that it was built for.

    Raises:
        UsageError: TensorRT does not take the file.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        name = library()
        if name is None:
            raise UsageError(f"{path} needs TensorRT, which is not installed")
        trt: Any = importlib.import_module(name)
        self.device = device
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise UsageError(f"{path} is no plan that TensorRT {version()} takes")
        self.context = self.engine.create_execution_context()
        names = [self.engine.get_tensor_name(k) for k in range(self.engine.num_io_tensors)]
        inputs = {n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        (self.low,), (self.enhanced,) = inputs, set(names) - inputs
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) float32 in network range -> the same shape and type."""
        x = placed(x, self.device)
        y = torch.empty_like(x)
        current = torch.cuda.current_stream(self.device)
        # On the default stream TensorRT would wait for the whole device after every call.
        own = current == torch.cuda.default_stream(self.device)
        stream = self.stream if own else current
        stream.wait_stream(current)
        self.context.set_input_shape(self.low, tuple(x.shape))
        self.context.set_tensor_address(self.low, x.data_ptr())
        self.context.set_tensor_address(self.enhanced, y.data_ptr())
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise CompressError("TensorRT could not run the engine; its own log has the reason")
        current.wait_stream(stream)
        return y
