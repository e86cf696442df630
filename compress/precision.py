"""The number formats of training: which one, and the autocast and loss scaler that belong to it.

The training loop has no branches for them: where a format needs no autocast or no scaler, what
stands here does nothing. The only file that imports apex.amp.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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

    @contextmanager
    def switches(self) -> Iterator[None]:
        """Set torch's global switches for this format; afterwards they are as before."""
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark)
        allow = self.name != "fp32"
        # Shapes never change while training, so it pays to let cuDNN try its kernels once.
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = allow, allow, True
        try:
            yield
        finally:
            cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before

    def start(self, net: nn.Module, optimizer: Optimizer) -> "Amp":
        """What one training of `net` by `optimizer` needs for the format."""
        return Amp(self, optimizer)


class Amp:
    """Loss scaling of one training: dynamic for fp16, without effect for all others.

    The fused optimizer takes scale and overflow as tensors and skips a step on the device, so
    nothing here waits for it and a step can be captured as a CUDA graph.
    """

    def __init__(self, precision: Precision, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        enabled = precision.name == "fp16"
        self._scaler = torch.amp.GradScaler(precision.device.type, enabled=enabled)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Let the optimizer step, unless a gradient has overflowed."""
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """JSON-like; waits for the device."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; a step that broke off between scaling and updating is forgotten."""
        self._scaler.load_state_dict(state)
        if self._scaler.is_enabled():
            self._scaler._per_optimizer_states.clear()


def choose(name: Name, device: torch.device) -> Precision:
    """The format to train in.

    auto: bf16 on GPUs from Ampere (compute capability 8.0), which needs no loss scaling; fp16 with
    a loss scaler on Volta and Turing; else fp32.

    Raises:
        UsageError: the device cannot do what was asked for by name.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if name == "auto":
        if capability >= (8, 0):
            return Precision("bf16", device, "auto: a GPU with bf16 tensor cores")
        if capability >= (7, 0):
            return Precision("fp16", device, "auto: a GPU with fp16 tensor cores only")
        return Precision("fp32", device, f"auto: {device.type} without tensor cores")
    if device.type == "cuda" and name in ("bf16", "tf32") and capability < (8, 0):
        raise UsageError(f"precision {name} needs a GPU from Ampere on; take fp16 here")
    if device.type == "cpu" and name in ("fp16", "tf32"):
        raise UsageError(f"precision {name} needs a GPU; take fp32 or bf16 on the CPU")
    return Precision(name, device, "asked for")
