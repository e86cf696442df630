"""Networks that were trained on standardised HU, as ones of the network range."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.base.hu import DATA_RANGE, HU_MIN

OPTIONS = ("hu_mean", "hu_std")


class Standardised(nn.Module):
    """A network of z = (HU - mean) / std, as one of the network range.

    Args:
        net: (N, C, H, W) standardised -> (N, 1, H, W) standardised.
        mean: in HU.
        std: in HU, more than 0.
    """

    def __init__(self, net: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.net = net
        self.shift, self.scale = (mean - HU_MIN) / DATA_RANGE, std / DATA_RANGE

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in network range -> (N, 1, H, W) in network range."""
        y: Tensor = self.net((x - self.shift) / self.scale)
        return y * self.scale + self.shift


def split(
    network: Callable[..., nn.Module], options: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[float, float] | None]:
    """The options of a network's class, and mean and deviation where those are none of them.

    Raises:
        UsageError: one of both is missing or no number, or the deviation is not positive.
    """
    own = [name for name in OPTIONS if name in options]
    if not own or set(own) & set(inspect.signature(network).parameters):
        return dict(options), None
    for name in OPTIONS:
        value = options.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"model.{name}: expected a number, got {value!r}")
    mean, std = (float(options[name]) for name in OPTIONS)
    if not std > 0:
        raise UsageError(f"model.hu_std: must be positive, got {std}")
    return {key: value for key, value in options.items() if key not in OPTIONS}, (mean, std)
