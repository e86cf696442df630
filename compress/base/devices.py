"""The device that the user means."""

import torch

from compress.base.errors import UsageError


def choose(name: str | None) -> torch.device:
    """The device called `name`; without a name the GPU where there is one.

    A GPU that is named by its number becomes this thread's current one, because events, CUDA
    graphs, Triton's kernels and engines, which know no number, go to that one.

    Raises:
        UsageError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: there is no such device; take cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs here")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device
