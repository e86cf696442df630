"""Slices of any size through networks and engines that take only some.

A network takes sides that are multiples of 16 or of another number, a static engine one size and
one batch. Slices are continued beyond their lower and right border by their mirror image, not by
air: an edge of air beside tissue is a structure that no network has seen in the middle of a
patient, and the mirror image goes on with the same tissue and the same noise. What was added is
cut off again.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.base.words import listed
from compress.graph import fitness
from compress.graph.slices import Slices, neighbours
from compress.graph.trial import check_shape

MULTIPLES = (16, 32, 64, 128)
"""What sides may have to be multiples of: a half-sized grid for each of four to seven levels."""


class AnySize(Slices):
    """A network or engine as one that takes any batch, height and width.

    Args:
        net: a network of slices, float32 in network range, or an engine of one.
        size: the only side that it takes; None: all multiples of `multiple`.
        batch: the only batch that it takes; None: every one.
        multiple: of sides.
        beside: neighbours that an engine sees on each side; None: as many as the network `net`.
    """

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        size: int | None = None,
        batch: int | None = None,
        multiple: int = MULTIPLES[0],
        beside: int | None = None,
    ) -> None:
        super().__init__()
        self.net, self.size, self.batch, self.multiple = net, size, batch, multiple
        self.neighbours = neighbours(net) if beside is None else beside

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2 * neighbours + 1, H, W) float32 in network range -> (N, 1, H, W).

        Raises:
            ValueError: H or W is larger than `size`.
            UsageError: it has another number of dimensions or channels, or is empty. Compiled
                programs do not look and read what lies behind in memory.
        """
        seen = 2 * self.neighbours + 1
        if x.ndim != 4 or x.shape[1] != seen or not x.numel():
            raise UsageError(f"expected (N, {seen}, H, W), none of them 0, got {tuple(x.shape)}")
        count, _, height, width = x.shape
        sides = [self.size or up(side, self.multiple) for side in (height, width)]
        if height > sides[0] or width > sides[1]:
            raise ValueError(f"slices of {height} x {width} do not fit into {self.size}")
        for axis, (old, new) in enumerate(zip((height, width), sides, strict=True), 2):
            if new > old:
                x = x.index_select(axis, mirrored(old, new).to(x.device))
        step = self.batch or count
        parts = [self._run(x[k : k + step]) for k in range(0, count, step)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y[:, :, :height, :width]

    def _run(self, x: Tensor) -> Tensor:
        count = len(x)
        if self.batch and count < self.batch:
            x = torch.cat((x, x[-1:].expand(self.batch - count, -1, -1, -1)))
        return self.net(x.contiguous())[:count].float()


def ready(net: nn.Module, device: torch.device) -> AnySize:
    """A copy of a network on a device and in eval mode, for slices of any size.

    Args:
        net: a network of slices, in any mode and anywhere; it stays as it is.
        device: where slices will lie.

    Raises:
        UsageError: it is no network, or takes no slice.
    """
    fitness.check(net)
    found = next(_multiples(net), None)
    if found is None:
        check_shape(net)  # it may take a single size
    return AnySize(copy.deepcopy(net).to(device).eval(), multiple=found or MULTIPLES[0])


def mirrored(old: int, new: int) -> Tensor:
    """Indices into `old` pixels that continue them to `new` by mirroring at both ends, (new,)."""
    period = max(1, 2 * (old - 1))
    place = torch.arange(new) % period
    return torch.where(place < old, place, period - place)


def up(side: int, multiple: int) -> int:
    """The smallest multiple that is not below `side`."""
    return -(-side // multiple) * multiple


def takes(net: nn.Module, height: int, width: int) -> bool:
    """Whether a network takes slices of height x width; nothing is computed."""
    try:
        check_shape(net, (height, width))
    except UsageError:
        return False
    return True


def multiple(net: nn.Module) -> int:
    """What sides of slices for `net` must be multiples of: the smallest of MULTIPLES that does.

    The first of them, where none does: a network may take a single size.
    """
    return next(_multiples(net), MULTIPLES[0])


def _multiples(net: nn.Module) -> Iterator[int]:
    """Those of MULTIPLES that will do."""
    return (number for number in MULTIPLES if takes(net, 3 * number, 5 * number))


def refuse_sides(
    net: nn.Module, shape: tuple[int, int], where: str, most: int | None = None
) -> None:
    """Pass where a network takes slices of a shape as they are, without padding.

    Args:
        net: the network.
        shape: height and width.
        where: what asks for it, to begin the sentence with.
        most: the largest side to propose instead.

    Raises:
        UsageError: it does not; says why, and which sides would do.
    """
    try:
        check_shape(net, shape)
    except UsageError as error:
        works = [side for side in _nearest(net, max(shape)) if most is None or side <= most]
        hint = f"; {listed(works)} would work" if works else ""
        raise UsageError(f"{where}: {error}{hint}") from error


def _nearest(net: nn.Module, side: int) -> list[int]:
    """The next sides of squares below and above `side` that go through the network."""
    number = multiple(net)
    near = (up(side, number) - number, up(side, number))
    return [size for size in near if size and takes(net, size, size)]
