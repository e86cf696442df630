"""Engines: a network compiled for one place, in a file, with a sidecar that says which place.

torch_tensorrt.py  TensorRT through Torch-TensorRT, 2:4 weights included
tensorrt_plan.py   a TensorRT plan, run
tensorrt_log.py    which layers of a TensorRT engine run sparse kernels, by its own words
aot_inductor.py    a compiled .pt2 package of PyTorch's own, for Python and C++
fused.py           DDnet on Triton kernels of our own, see kernels/
onnx.py            a portable model for trtexec and ONNX Runtime
subject.py         the module that is compiled: half precision inside, float32 at its borders
triton_server.py   engines as a model repository of Triton Inference Server
sidecar.py         what an engine was built from and for; checked before it is loaded
build.py           one engine: rewritten, compiled, described, compared
parity.py          how far it is from the network, in HU
subprocess_run.py  an engine run once in a process of its own: what parity is measured on

Every format computes (N, 1, H, W) float32 in network range -> the same shape, whatever its
precision inside.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

FormatName = Literal["torch_tensorrt", "aot_inductor", "fused", "onnx"]
Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
ALL: tuple[Precision, ...] = tuple(DTYPES)
Runner = Callable[[Tensor], Tensor]
"""(N, 1, H, W) float32 in network range -> the same shape and type."""


class NotBuilt(Exception):
    """A format cannot be built here; `command` is what would help, empty where nothing does."""

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(reason)
        self.reason, self.command = reason, command


@contextmanager
def giving_up(who: str) -> Iterator[None]:
    """Turn what a compiler raises into the reason why there is no engine: its first line."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotBuilt(f"{who} gave up: {reason}") from error


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The input that an engine is built for."""

    batch: int
    """Slices at once; the most of them where `dynamic`."""
    size: int
    """Height and width of a slice in pixels."""
    dynamic: bool = False
    """Whether any batch from 1 to `batch` will do."""

    def example(self, device: torch.device) -> Tensor:
        """An input of this shape, random in [0, 1)."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, 1, self.size, self.size)
        return torch.rand(shape, generator=generator).to(device)

    def dynamic_shapes(self) -> tuple[dict[int, Any]] | None:
        """What torch.export wants to know of it."""
        return ({0: torch.export.Dim("batch", min=1, max=self.batch)},) if self.dynamic else None


class Format(Protocol):
    """One engine format."""

    suffix: str
    """Ending of its files, with the dot."""
    precisions: tuple[Precision, ...]
    """What it can compute in."""
    casts: bool
    """Whether it rounds to half precision itself, and so is given a subject in float32."""

    def missing(self, device: torch.device) -> NotBuilt | None:
        """Why it cannot be built for `device` here; None where it can."""
        ...

    def build(
        self, subject: nn.Module, shape: Shape, path: Path, device: torch.device
    ) -> dict[str, Any]:
        """Write the engine of `subject` to `path`; returns facts for the sidecar.

        Raises:
            NotBuilt: the compiler gave up.
        """
        ...

    def load(self, path: Path, device: torch.device) -> Runner:
        """The engine in `path`, which was checked against its sidecar."""
        ...


def formats() -> Mapping[FormatName, Format]:
    """Every format by name."""
    from compress.engines.aot_inductor import AotInductor
    from compress.engines.fused import Fused
    from compress.engines.onnx import Onnx
    from compress.engines.torch_tensorrt import TorchTensorRT

    return {
        "torch_tensorrt": TorchTensorRT(),
        "aot_inductor": AotInductor(),
        "fused": Fused(),
        "onnx": Onnx(),
    }
