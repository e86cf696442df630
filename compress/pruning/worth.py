"""What channels, and rings of kernels, are worth in one currency."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Scores by module name; those of rings and of channels compare and add up."""

    channels: dict[str, Tensor]
    """(out,) float64, at least 0, of each layer's output channels."""
    rings: dict[str, Tensor] = field(default_factory=dict)
    """(rings,) float64, at least 0, of the rings that a kernel can lose, the outermost first."""
