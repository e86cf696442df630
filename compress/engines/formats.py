"""The table of the engine formats: a new one is a file beside this one and its lines here.

Light at import, because the command line reads the names. Number formats, such as fp16, are in
precision.py.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from compress.engines.base import Format

FormatName = Literal["torch_tensorrt", "aot_inductor", "fused", "onnx"]


def formats() -> "Mapping[FormatName, Format]":
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
