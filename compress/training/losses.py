"""What training makes small: formulas on network range [0, 1], one number for a batch."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.base.errors import UsageError
from compress.quality.ssim import MS_SSIM_SIDE, ms_ssim

Name = Literal["mse", "mse+0.1*(1-ms_ssim)"]
"""Losses by the name that a recipe uses; the second is the one of the DDnet studies."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""(enhanced, full), each (N, 1, H, W) in network range -> a scalar, float32 (or float64)."""


def loss(name: Name) -> Loss:
    """The loss with this name."""
    return _LOSSES[name]


def mse(enhanced: Tensor, full: Tensor) -> Tensor:
    """Mean squared error over all pixels of the batch."""
    return F.mse_loss(_wide(enhanced), _wide(full))


def mse_ms_ssim(enhanced: Tensor, full: Tensor) -> Tensor:
    """Mean squared error + 0.1 (1 - MS-SSIM), MS-SSIM averaged over the batch, data range 1.

    Raises:
        UsageError: a side is shorter than 176 pixels, too few for five scales.
    """
    height, width = enhanced.shape[-2:]
    if min(height, width) < MS_SSIM_SIDE:
        need = f"needs sides of at least {MS_SSIM_SIDE} pixels"
        raise UsageError(f"loss mse+0.1*(1-ms_ssim) {need}, got {height}x{width}; enlarge crop")
    a, b = _wide(enhanced), _wide(full)
    # Local variances are differences of nearly equal numbers: half precision cannot hold them.
    with torch.autocast(enhanced.device.type, enabled=False):
        return F.mse_loss(a, b) + 0.1 * (1 - ms_ssim(a, b, data_range=1.0).mean())


def _wide(x: Tensor) -> Tensor:
    """Half precision to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


_LOSSES: Mapping[Name, Loss] = {"mse": mse, "mse+0.1*(1-ms_ssim)": mse_ms_ssim}
