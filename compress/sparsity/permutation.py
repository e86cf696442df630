"""Orders of channels under which a 2:4 mask keeps more magnitude; the network computes the same.

Which four input channels compete for two places is an accident of their order. The channels of a
group (see graph/groups.py) may change places where everything that carries them follows:
producers, BatchNorm, and all consumers, behind concatenations too. Pool and Yu, "Channel
permutations for N:M sparsity", NeurIPS 2021; here a greedy exchange of two channels at a time,
with all the consumers of a group in the balance at once.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.base.errors import CompressError
from compress.base.tensors import cast
from compress.graph import cost, draws
from compress.graph.groups import EXAMPLE, Group, Part, groups
from compress.graph.layout import by_output
from compress.graph.slices import channels
from compress.sparsity.pattern import check_finite, mask_2to4

VISITS = 2
"""Visits to each group: its consumers also read channels of other groups, which move meanwhile."""
LEAST = 1e-6
"""Gain, as a share of the consumers' magnitude, below which no channels are exchanged."""

SAME = 1e-9
"""Difference between the networks in float64, as a share of the largest output."""


@dataclass(frozen=True)
class Permuted:
    """A network with its channels in another order."""

    net: nn.Module
    exchanges: int
    """Pairs of channels that changed places."""
    kept_before: float
    """Share of the layers' magnitude, the sum of |w|, that a 2:4 mask keeps in the old order."""
    kept: float
    """The same in the new order."""


def permute(net: nn.Module, layers: Iterable[str]) -> Permuted:
    """A copy of `net` that computes the same, with channels in an order that suits 2:4.

    Args:
        net: an (N, 1, H, W) network.
        layers: convolutions and linear layers that will get a mask, by module name.

    Returns:
        The copy and what was gained; outputs differ by rounding, as sums run in another order.

    Raises:
        UsageError: a parameter is not finite.
        CompressError: the network uses channels in a way that the tracer does not see.
    """
    check_finite(net)
    found, wanted = [group for group in groups(net) if _movable(group)], sorted(layers)
    other, exchanges = copy.deepcopy(net), 0
    modules = dict(other.named_modules())
    for group in found * VISITS:
        readers = [part for part in group.consumers if part.module in wanted]
        if readers:
            places, count = _order(group.width, readers, modules)
            exchanges += count
            _move(group, places, other)
    _check(net, other)
    return Permuted(other, exchanges, kept(net, wanted), kept(other, wanted))


def kept(net: nn.Module, layers: Iterable[str]) -> float:
    """Share of the magnitude, the sum of |w| over these layers, that their 2:4 masks keep."""
    modules = cost.compressible(net)
    weights = [by_output(modules[name]).detach().abs().double() for name in layers]
    whole = sum(float(weight.sum()) for weight in weights)
    return sum(float((w * mask_2to4(w)).sum()) for w in weights) / whole if whole else 1.0


def _movable(group: Group) -> bool:
    """Whether each member of a group is exactly one channel in every module that carries it."""
    members = list(range(group.width))
    return not group.fixed and all(sorted(part.members) == members for part in group.parts)


def _check(net: nn.Module, other: nn.Module) -> None:
    """Make sure that both networks compute the same: a tracer can miss a use of a channel."""
    generator, shape = torch.Generator().manual_seed(0), (1, channels(net), *EXAMPLE)
    x = torch.rand(shape, generator=generator, dtype=torch.double)
    one, two = (cast(copy.deepcopy(given).cpu(), x.dtype).eval() for given in (net, other))
    with draws.comparable(one, x):
        y, z = draws.seeded(one, x), draws.seeded(two, x)
    # So that NaN, which compares with nothing, is refused as well.
    if not float((y - z).abs().max()) <= SAME * float(y.abs().max()):
        raise CompressError("the channels of this network cannot be permuted; leave permute out")


def _order(
    width: int, readers: Sequence[Part], modules: Mapping[str, nn.Module]
) -> tuple[list[int], int]:
    """Which member of a group should stand at each place, and after how many exchanges."""
    tables = [_Table(by_output(modules[part.module]), part) for part in readers]
    places, count = list(range(width)), 0
    least = LEAST * sum(table.whole for table in tables)
    while True:
        gains = torch.stack([table.gains() for table in tables]).sum(0)
        one, other = divmod(int(gains.argmax()), width)
        if not float(gains[one, other]) > least:  # ends on NaN, too
            return places, count
        places[one], places[other] = places[other], places[one]
        count += 1
        for table in tables:
            table.exchange(one, other)


class _Table:
    """What one consumer would keep if two members of the group changed places.

    Q quads of channels, C channels, R rows: outputs and kernel positions.
    """

    def __init__(self, weight: Tensor, part: Part) -> None:
        self._rows = weight.detach().abs().double().movedim(1, -1).flatten(0, -2)  # (R, C)
        self.whole = float(self._rows.sum())
        place = dict(zip(part.members, part.channels, strict=True))
        self._at = torch.tensor([place[member] for member in range(len(place))])
        size = self._rows.shape[1]
        self._kept = torch.zeros(size // 4, dtype=torch.double)  # (Q,)
        self._with = torch.zeros(size, size, dtype=torch.double)  # (C, C), see _fill
        self._fill(range(size // 4))

    def gains(self) -> Tensor:
        """(width, width): magnitude gained if these two members changed places."""
        quad = self._at // 4
        new = self._with[self._at][:, self._at]
        both = self._kept[quad]
        gain = new + new.T - both[:, None] - both
        return gain.masked_fill(quad[:, None] == quad, 0.0)

    def exchange(self, one: int, other: int) -> None:
        """Let two members change places."""
        a, b = int(self._at[one]), int(self._at[other])
        self._rows[:, [a, b]] = self._rows[:, [b, a]]
        self._with[:, [a, b]] = self._with[:, [b, a]]
        self._fill({a // 4, b // 4})

    def _fill(self, quads: Iterable[int]) -> None:
        """What each of these quads keeps, now and with channel c (column) in the place of a row."""
        for quad in quads:
            own = self._rows[:, 4 * quad : 4 * quad + 4]  # (R, 4)
            self._kept[quad] = own.topk(2).values.sum()
            for place in range(4):
                rest = own[:, [i for i in range(4) if i != place]].topk(2).values  # (R, 2)
                second = torch.maximum(rest[:, 1:], self._rows)  # (R, C)
                self._with[4 * quad + place] = (rest[:, :1] + second).sum(0)


def _move(group: Group, places: Sequence[int], net: nn.Module) -> None:
    """Let every tensor of a group carry member `places[i]` where it carried member i."""
    state = net.state_dict()
    for part in group.parts:
        at = dict(zip(part.members, part.channels, strict=True))
        to = [at[place] for place in range(group.width)]
        own = state[part.tensor].movedim(part.dim, 0)  # a view
        own[to] = own[[at[member] for member in places]]
