"""The number formats of training: which one, and the autocast and loss scaler that belong to it.

The training loop has no branches for them: where a format needs no autocast or no scaler, what
stands here does nothing. The only file that imports apex.amp.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from compress.errors import UsageError

Name = Literal["auto", "fp32", "tf32", "fp16", "bf16"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """A number format on a device, ready for a training loop."""

    name: str
    device: torch.device
    why: str

    def autocast(self) -> AbstractContextManager[None]:
        """A context that runs convolutions in the format; does nothing for fp32 and tf32."""
        dtype = DTYPES.get(self.name)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """A loss scaler: dynamic for fp16, without effect for all others."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    def prepare(self, net: nn.Module) -> nn.Module:
        """Move `net` to the device in the memory layout that its kernels like best."""
        torch.backends.cuda.matmul.allow_tf32 = self.name != "fp32"
        torch.backends.cudnn.allow_tf32 = self.name != "fp32"
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore


def choose(name: Name, device: torch.device) -> Precision:
    """The format to train in.

    auto: fp16 with a loss scaler on GPUs from Volta (compute capability 7.0), else fp32.

    Raises:
        UsageError: the device cannot do what was asked for by name.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if name == "auto":
        if capability >= (7, 0):
            return Precision("fp16", device, "auto: a GPU with tensor cores")
        return Precision("fp32", device, f"auto: {device.type} without fp16 tensor cores")
    if device.type == "cuda" and name in ("bf16", "tf32") and capability < (8, 0):
        raise UsageError(f"precision {name} needs a GPU from Ampere on; take fp16 here")
    if device.type == "cpu" and name in ("fp16", "tf32"):
        raise UsageError(f"precision {name} needs a GPU; take fp32 or bf16 on the CPU")
    return Precision(name, device, "asked for")
