"""What a network costs as a function of the channels and taps that are kept."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from compress.graph.cost import Counted, by_layer, counted
from compress.graph.groups import Group
from compress.graph.kernels import Rings
from compress.graph.layout import axes
from compress.pruning.latency import Predictor
from compress.pruning.shrinking import shrinking

Share = Literal["macs", "params", "channels", "latency"]


class Ledger:
    """Parameters, MACs and channels of a network as a function of the kept counts of its groups.

    Args:
        net: the network.
        found: its groups.
        predictor: of its time; None: `latency` is none of its quantities.
    """

    def __init__(
        self, net: nn.Module, found: Sequence[Group], predictor: Predictor | None = None
    ) -> None:
        self.predictor = predictor
        self._shapes = {name: list(p.shape) for name, p in net.named_parameters()}
        self._parameters = tuple(self._shapes)
        names = {id(p): name for name, p in net.named_parameters()}
        self._positions: dict[str, int] = {}
        self._out: dict[str, int] = {}
        what = counted(net, often=True)
        for path, layer in by_layer(what).items():
            module = net.get_submodule(path)
            # A weight that is computed, as by a parametrization, is no parameter: it stays.
            name = names.get(id(module.weight), f"{path}.weight")
            self._shapes.setdefault(name, list(layer.shape))
            self._positions[name] = self._positions.get(name, 0) + layer.positions
            self._out[name], _ = axes(module)
        self._groups = tuple(found)
        self._parts = {
            one.name: [(p.tensor, p.dim, len(p.channels)) for p in one.parts] for one in found
        }
        self._add_products(net, what)
        self.products = sum(one.macs for one in what.products) / max(what.macs, 1)
        """Share of the MACs that are products of values, in [0, 1]."""
        self._rings: Rings = {}
        self.whole = self._count({group.name: group.width for group in found})
        """Every quantity of the network as it is; latency in milliseconds."""

    def _add_products(self, net: nn.Module, what: Counted) -> None:
        """Count products of values as further tensors that get smaller with groups."""
        less = shrinking(net, self._groups, what)
        for index, product in enumerate(what.products):
            name = f"product {index}"  # no module's name has a space
            self._shapes[name], self._positions[name] = [*product.sizes], 1
            for group in self._groups:
                change = less.get(group.name, {}).get(index, ())
                along = [(name, dim, n * group.width) for dim, n in enumerate(change) if n]
                self._parts[group.name] += along

    def cut(self, rings: Rings) -> "Ledger":
        """The same network with smaller kernels; shares removed stay those of the whole one."""
        other = copy.copy(self)
        other._rings = {f"{module}.weight": count for module, count in rings.items()}
        return other

    def removed(self, kept: Mapping[str, int]) -> dict[Share, float]:
        """Kept counts by group name -> share removed of each quantity, in [0, 1)."""
        rest = self._count(kept)
        return {share: 1 - rest[share] / whole for share, whole in self.whole.items()}

    def alone(self, group: Group, target: Share) -> list[float]:
        """Share removed of a quantity where a group keeps 1, 2, ... channels and the others all.

        As `removed`, of the tensors that the group is in alone: in little time.
        """
        whole = self.shapes({one.name: one.width for one in self._groups})
        own = {name: whole[name] for name, _, _ in self._parts[group.name] if name in whole}
        rest = self._of(whole, target) - self._of(own, target)
        kept = range(1, group.width + 1)
        counts = [self._of(self._kept(own, group, n), target) for n in kept]
        return [1 - (rest + count) / self.whole[target] for count in counts]

    def narrow(self, kept: Mapping[str, int]) -> set[str]:
        """Convolutions whose smaller kernels no time is known for, as too few channels are left."""
        if self.predictor is None:
            return set()
        weights = self.predictor.narrow(self.shapes(kept))
        return {name.rpartition(".")[0] for name in weights}

    def shapes(self, kept: Mapping[str, int]) -> dict[str, list[int]]:
        """Kept counts by group name -> the shapes of all parameters."""
        shapes = {name: [*shape] for name, shape in self._shapes.items()}
        for name, rings in self._rings.items():
            shapes[name][2:] = [side - 2 * rings for side in shapes[name][2:]]
        for group in self._groups:
            if kept[group.name] < group.width:
                shapes |= self._kept(shapes, group, kept[group.name])
        return shapes

    def _kept(
        self, shapes: Mapping[str, Sequence[int]], group: Group, count: int
    ) -> dict[str, list[int]]:
        """The shapes of a group's tensors with so many of its channels."""
        gone = group.width - count
        own: dict[str, list[int]] = {}
        for name, dim, channels in self._parts[group.name]:
            if name in shapes:  # buffers are no parameters
                shape = own.setdefault(name, [*shapes[name]])
                shape[dim] -= channels * gone // group.width
        return own

    def _count(self, kept: Mapping[str, int]) -> dict[Share, float]:
        shapes = self.shapes(kept)
        return {share: self._of(shapes, share) for share in self._known}

    def _of(self, shapes: Mapping[str, Sequence[int]], share: Share) -> float:
        """A quantity of the tensors that are given."""
        if share == "latency":
            assert self.predictor is not None
            return self.predictor.ms(shapes)
        if share == "macs":
            used = [(name, times) for name, times in self._positions.items() if name in shapes]
            return sum(math.prod(shapes[name]) * times for name, times in used)
        if share == "params":
            return sum(math.prod(shapes[name]) for name in self._parameters if name in shapes)
        return sum(shapes[name][dim] for name, dim in self._out.items() if name in shapes)

    @property
    def _known(self) -> tuple[Share, ...]:
        """The quantities that it knows."""
        return ("macs", "params", "channels", *(("latency",) if self.predictor else ()))
