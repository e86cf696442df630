"""The number formats of training: which one, and the casts and loss scaling that belong to it.

The training loop has no branches for them: where a format needs no casts or no scaling, what stands
here does nothing. Which options a format excludes is checked in training/options.py and
training/session.py. The precisions of engines are another table: engines/precision.py.

fp32   everything in single precision
tf32   the same, convolutions rounded to TF32 on tensor cores (Ampere and newer)
fp16   convolutions in half precision by torch.autocast, with dynamic loss scaling
bf16   convolutions in bfloat16 by torch.autocast; needs no scaling
apex-* Apex's mixed precision: O1 casts by patched torch functions, O2 keeps the network itself in
       half precision beside float32 masters
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.base.errors import UsageError
from compress.base.machine import IMAGE
from compress.training.apex_amp import Apex, why_missing

Name = Literal["auto", "fp32", "tf32", "fp16", "bf16", "apex-O1", "apex-O2"]
Scope = Literal["all", "sparse_layers"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Amp(Protocol):
    """What a format needs while one network trains."""

    net: nn.Module
    """The network whose float32 parameters the optimizer changes: the one that is kept."""
    uncapturable: str
    """Why a step cannot be captured as a CUDA graph; empty where it can."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        ...

    def step(self) -> None:
        """Let the optimizer step, unless a gradient has overflowed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-like; waits for the device."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state` and from what `net` holds now."""
        ...

    def close(self) -> None:
        """Undo what the format has changed outside the network."""
        ...


@dataclass(frozen=True)
class Precision:
    """A number format on a device, ready for a training loop."""

    name: str
    device: torch.device
    why: str
    scope: Scope = "all"
    """Which layers compute in it; those not in scope compute in fp32."""

    def autocast(self) -> AbstractContextManager[None]:
        """A context that runs all convolutions in the format, where that is how it works."""
        dtype = DTYPES.get(self.name)
        if dtype is None or self.scope != "all":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    @contextmanager
    def switches(self) -> Iterator[None]:
        """Set torch's global switches for this format; afterwards they are as before."""
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark)
        allow = self.name != "fp32" and self.scope == "all"
        # Shapes never change while training, so it pays to let cuDNN try its kernels once.
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = allow, allow, True
        try:
            yield
        finally:
            cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before

    def start(self, net: nn.Module, optimizer: Optimizer, sparse: Collection[str] = ()) -> Amp:
        """Make `net` and `optimizer` ready for the format, in place.

        Args:
            net: on the device, in float32.
            optimizer: of its parameters, its state not yet filled from a file.
            sparse: names of the sparsified layers, the scope of `sparse_layers`.
        """
        if self.name.startswith("apex"):
            return Apex(self.name.removeprefix("apex-"), net, optimizer)
        dtype = DTYPES.get(self.name)
        if dtype is not None and self.scope == "sparse_layers":
            for name in sparse:
                _in_half(net.get_submodule(name), self.device.type, dtype)
        return _Torch(self, net, optimizer)


def choose(name: Name, device: torch.device, scope: Scope = "all") -> Precision:
    """The format to train in.

    auto: bf16 on GPUs from Ampere (compute capability 8.0), which needs no loss scaling; fp16 with
    a loss scaler on Volta and Turing; else fp32. Apex is taken by name only: its steps wait for the
    device to know whether a gradient overflowed, so they cannot be captured as a CUDA graph, and
    small networks train several times slower for it.

    Raises:
        UsageError: the device or the installation cannot do what was asked for by name.
    """
    if name == "auto":
        chosen, why = _auto(device)
        return Precision(chosen, device, f"auto: {why}", scope)
    if name.startswith("apex") and (missing := why_missing()):
        raise UsageError(
            f"precision {name} cannot be used: {missing}; the container {IMAGE} has it, "
            "or take fp16"
        )
    if device.type == "cpu" and name not in ("fp32", "bf16"):
        raise UsageError(f"precision {name} needs a GPU; take fp32 or bf16 on the CPU")
    if name in ("bf16", "tf32") and device.type == "cuda" and _capability(device) < (8, 0):
        raise UsageError(f"precision {name} needs a GPU from Ampere on; take fp16 here")
    return Precision(name, device, "asked for", scope)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _auto(device: torch.device) -> tuple[str, str]:
    capability = _capability(device)
    if capability >= (8, 0):
        return "bf16", "a GPU with bf16 tensor cores"
    if capability >= (7, 0):
        return "fp16", "a GPU with fp16 tensor cores only"
    return "fp32", f"{device.type} without tensor cores"


def _in_half(layer: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Let one layer compute in half precision, from float32 to float32."""
    forward = layer.forward

    def halved(x: Tensor) -> Tensor:
        with torch.autocast(device, dtype=dtype):
            y: Tensor = forward(x)
        return y

    def widened(_layer: nn.Module, _inputs: object, y: Tensor) -> Tensor:
        return y.float()

    layer.forward = halved
    layer.register_forward_hook(widened)


class _Torch:
    """Loss scaling by torch: dynamic for fp16, without effect for all others.

    The fused optimizer takes scale and overflow as tensors and skips a step on the device, so
    nothing here waits for it.
    """

    uncapturable = ""

    def __init__(self, precision: Precision, net: nn.Module, optimizer: Optimizer) -> None:
        self.net, self._optimizer = net, optimizer
        enabled = precision.name == "fp16"
        self._scaler = torch.amp.GradScaler(precision.device.type, enabled=enabled)

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)
        if self._scaler.is_enabled():
            # A step that broke off between scaling and updating is forgotten.
            self._scaler._per_optimizer_states.clear()

    def close(self) -> None:
        pass
