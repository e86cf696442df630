"""Which channels of a network must go together, and how they are cut out.

The groups come from one run of the network, see `trace.py`. They are sound by construction for
what its rules know, and `proof.py` tries every plan on the network itself.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.base.tensors import number
from compress.graph.kernels import Rings, middle
from compress.graph.labels import Axis, Sets
from compress.graph.layout import axes
from compress.graph.resize import resize
from compress.graph.rules import follow
from compress.graph.slices import channels
from compress.graph.trace import trace

EXAMPLE = (64, 64)
"""Height and width of the slice that a network is traced with."""
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
Side = Literal["out", "in", "feature"]


@dataclass(frozen=True)
class Part:
    """The channels of one tensor that follow a group's members."""

    tensor: str
    """Name in the network's state, such as stem.conv.weight."""
    dim: int
    """The tensor's dimension that they lie along."""
    side: Side
    """out, in: what a layer's weight makes and reads; feature: biases, norms, slopes, scales."""
    members: tuple[int, ...]
    """Group member that each of `channels` follows; a member can stand here more than once."""
    channels: tuple[int, ...]
    """Indices along the dimension."""

    @property
    def module(self) -> str:
        """Name of the module that owns the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True)
class Group:
    """Channels that exist or go together: one or more producers and all their consumers."""

    name: str
    """Module name of the last producer; with its first channel where it makes several groups."""
    width: int
    parts: tuple[Part, ...]
    fixed: str
    """Why its channels must all stay; empty where they may go."""

    @property
    def producers(self) -> tuple[Part, ...]:
        """The weights whose output channels these are, the last layer's first."""
        return tuple(part for part in reversed(self.parts) if part.side == "out")

    @property
    def consumers(self) -> tuple[Part, ...]:
        """The weights that read these channels."""
        return tuple(part for part in self.parts if part.side == "in")


def groups(net: nn.Module, size: tuple[int, int] = EXAMPLE) -> tuple[Group, ...]:
    """The groups of `net` in the order of its modules.

    Args:
        net: the network; it is not changed.
        size: height and width of the slice that it is run with.

    Raises:
        UsageError: it takes too much time or memory.
    """
    shape, generator = (1, channels(net), *size), torch.Generator().manual_seed(0)
    sets = trace(net, torch.rand(shape, generator=generator, dtype=number(net)), follow)
    return _groups(net, sets)


def remove(
    net: nn.Module,
    found: Iterable[Group],
    pruned: Mapping[str, tuple[int, ...]],
    rings: Rings | None = None,
) -> nn.Module:
    """A copy of `net` in eval mode, without the given channels and rings of kernels.

    It is on the CPU; on the meta device where `net` is there.

    Parameters that are not trained, such as a fixed filter, are not trained in the copy either.

    Args:
        net: the network that `groups` was asked about.
        found: its groups.
        pruned: member indices to cut, by group name.
        rings: that kernels lose, by module name; see `kernels.cuttable`.
    """
    net = copy.deepcopy(net).eval()
    if not any(tensor.is_meta for tensor in net.state_dict().values()):
        net = net.cpu()
    state = net.state_dict()
    small = dict(state)
    for (name, dim), gone in cuts(found, pruned).items():
        kept = [index for index in range(state[name].shape[dim]) if index not in gone]
        small[name] = small[name].index_select(dim, torch.tensor(kept, device=state[name].device))
    for module, count in (rings or {}).items():
        small[f"{module}.weight"] = middle(small[f"{module}.weight"], count).contiguous()
    names = {id(tensor): name for name, tensor in reversed(net.state_dict(keep_vars=True).items())}
    same = {n: small[names[id(t)]] for n, t in net.state_dict(keep_vars=True).items()}
    resize(net, same)
    net.load_state_dict(same)
    return net


def cuts(
    found: Iterable[Group], pruned: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, int], set[int]]:
    """The indices that go, by name of a tensor and dimension.

    Args:
        found: groups.
        pruned: member indices by group name.
    """
    gone: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group in found:
        members = set(pruned.get(group.name, ()))
        for part in group.parts if members else ():
            pairs = zip(part.members, part.channels, strict=True)
            gone[part.tensor, part.dim] |= {c for m, c in pairs if m in members}
    return gone


def reads(net: nn.Module) -> set[tuple[str, int]]:
    """Name and dimension of every weight along which a layer reads, by all names of the weight.

    A convolution and a deconvolution can share one: what the one makes the other reads.
    """
    sides = _sides(net)
    names: dict[int, list[str]] = defaultdict(list)
    state = net.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names[id(tensor)].append(name)
    return {
        (other, dim)
        for name, dims in sides.items()
        for dim, side in dims.items()
        if side == "in"
        for other in names[id(state[name])]
    }


def _groups(net: nn.Module, sets: Sets) -> tuple[Group, ...]:
    """Sets of labels -> groups: sets of one kind, made by the same layers, are one group."""
    sides, state = _sides(net), net.state_dict()
    order = {name: index for index, name in enumerate(sides)}
    places: dict[int, list[tuple[Axis, int]]] = defaultdict(list)
    for axis, roots in sorted(sets.axes(), key=lambda item: order[item[0].tensor]):
        for index, root in enumerate(roots.tolist()):
            places[root].append((axis, index))
    kinds: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for root, found in places.items():
        if any(sides[axis.tensor].get(axis.dim) == "out" for axis, _ in found):
            counts = Counter(axis for axis, _ in found)
            reason = sets.reason(root) or _unknown(state, counts, sides)
            kinds[(*counts.items(), reason)].append(root)
    made = [
        _group(kind[-1], [places[root] for root in roots], sides) for kind, roots in kinds.items()
    ]
    return _named(sorted(made, key=lambda group: _first(group, order)))


def _group(
    reason: object,
    members: Sequence[Sequence[tuple[Axis, int]]],
    sides: Mapping[str, Mapping[int, Side]],
) -> Group:
    members = sorted(members, key=lambda places: _lead(places, sides))
    lists: dict[Axis, list[tuple[int, int]]] = defaultdict(list)
    for member, places in enumerate(members):
        for axis, index in places:
            lists[axis].append((member, index))
    parts = [
        Part(
            axis.tensor,
            axis.dim,
            sides[axis.tensor].get(axis.dim, "feature"),
            tuple(member for member, _ in pairs),
            tuple(index for _, index in pairs),
        )
        for axis, pairs in lists.items()
    ]
    lead = next(part for part in reversed(parts) if part.side == "out")
    fixed = str(reason)
    most = max(len(part.channels) for part in parts if part.side == "out")
    if not fixed and len(members) == 1 and most > 1:
        fixed = f"its {most} channels can only go together"
    return Group(lead.module, len(members), tuple(parts), fixed)


def _lead(places: Sequence[tuple[Axis, int]], sides: Mapping[str, Mapping[int, Side]]) -> int:
    """The channel by which members are ordered: the first in the last layer that makes them."""
    made = [place for place in places if sides[place[0].tensor].get(place[0].dim) == "out"]
    return min(index for axis, index in made if axis == made[-1][0])


def _sides(net: nn.Module) -> dict[str, dict[int, Side]]:
    """What the dimensions of every tensor of a network are, by its name, in order."""
    layers = {name: m for name, m in net.named_modules() if isinstance(m, LAYERS)}
    sides: dict[str, dict[int, Side]] = {}
    for name in net.state_dict():
        module, _, attribute = name.rpartition(".")
        sides[name] = {}
        if module in layers and attribute == "weight":
            out, into = axes(layers[module])
            sides[name] = {out: "out"} if into is None else {out: "out", into: "in"}
    return sides


def _unknown(
    state: Mapping[str, Tensor], axes: Iterable[Axis], sides: Mapping[str, Mapping[int, Side]]
) -> str:
    """Why tensors cannot be cut that no layer of PyTorch's owns; empty where there are none."""
    for axis in axes:
        vector = state[axis.tensor].numel() == state[axis.tensor].shape[axis.dim]
        if not vector and axis.dim not in sides[axis.tensor]:
            return f"{axis.tensor} belongs to no convolution or linear layer"
    return ""


def _first(group: Group, order: Mapping[str, int]) -> tuple[int, int]:
    lead = group.producers[0]
    return order[lead.tensor], lead.channels[0]


def _named(found: Sequence[Group]) -> tuple[Group, ...]:
    """Names of groups that one layer makes several of get their first channel."""
    counts = Counter(group.name for group in found)
    return tuple(
        Group(f"{g.name}[{g.producers[0].channels[0]}]", g.width, g.parts, g.fixed)
        if counts[g.name] > 1
        else g
        for g in found
    )
