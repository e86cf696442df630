"""Networks that are told how noisy a slice is, as ones that take the slice alone."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError

OPTION = "noise_level"


class AtNoiseLevel(nn.Module):
    """A network of a slice and a noise level, at one level; FFDNet and DRUNet are such.

    Args:
        net: takes (N, 1, H, W) in network range and (N,) levels.
        level: standard deviation of the noise in network range, at least 0.
    """

    def __init__(self, net: nn.Module, level: float) -> None:
        super().__init__()
        self.net, self.level = net, level

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) in network range -> the same shape."""
        level = torch.full((x.shape[0],), self.level, dtype=x.dtype, device=x.device)
        out: Tensor = self.net(x, level)
        return out


def split(
    network: Callable[..., nn.Module], options: Mapping[str, Any]
) -> tuple[dict[str, Any], float | None]:
    """The options of a network's class, and the noise level where that is not one of them.

    Raises:
        UsageError: the level is no number, or below 0.
    """
    level = options.get(OPTION)
    if level is None or OPTION in inspect.signature(network).parameters:
        return dict(options), None
    if isinstance(level, bool) or not isinstance(level, int | float) or not level >= 0:
        raise UsageError(f"model.{OPTION}: expected a number, at least 0, got {level!r}")
    return {key: value for key, value in options.items() if key != OPTION}, float(level)
