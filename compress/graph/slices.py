"""Networks that see the slices beside the one that they enhance, as channels of their input."""

from torch import Tensor, nn


class Slices(nn.Module):
    """A module of (N, 2 * neighbours + 1, H, W): a slice in the middle of its neighbours."""

    neighbours: int = 0
    """Slices on each side."""


class Neighbouring(Slices):
    """A network of neighbouring slices.

    Args:
        net: (N, 2 * neighbours + 1, H, W) float32 in network range -> (N, 1, H, W), the slice in
            the middle enhanced; the slices are in the order of the volume.
        neighbours: slices on each side.
    """

    def __init__(self, net: nn.Module, neighbours: int) -> None:
        super().__init__()
        self.net, self.neighbours = net, neighbours

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2 * neighbours + 1, H, W) in network range -> (N, 1, H, W)."""
        out: Tensor = self.net(x)
        return out


def neighbours(net: object) -> int:
    """How many slices on each side a network sees; only `Slices` see any."""
    return net.neighbours if isinstance(net, Slices) else 0


def channels(net: object) -> int:
    """How many slices a network sees in all: the channels of its input."""
    return 2 * neighbours(net) + 1
