"""Which channels of a network must go together: the only file that imports torch_pruning.

Its DependencyGraph traces the network; we read the groups from it, choose channels ourselves
(`selection.py`) and give it the indices to cut. Fang et al., "DepGraph: Towards any structural
pruning", CVPR 2023.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from compress.graph.cost import CONVOLUTIONS

EXAMPLE = (1, 1, 64, 64)
"""Shape of the slice that a network is traced with."""


@dataclass(frozen=True)
class Part:
    """The channels of one module that follow a group's members."""

    module: str
    side: Literal["out", "in", "feature"]
    members: tuple[int, ...]
    """Group member that each of `channels` follows; a member can stand here more than once."""
    channels: tuple[int, ...]
    """Channel index in the module's output, input or features."""


@dataclass(frozen=True)
class Group:
    """Channels that exist or go together: one or more producers and all their consumers."""

    name: str
    """Module name of the first producer."""
    width: int
    parts: tuple[Part, ...]
    fixed: str
    """Why its channels must all stay; empty where they may go."""

    @property
    def producers(self) -> tuple[Part, ...]:
        """The convolutions whose output channels these are."""
        return tuple(part for part in self.parts if part.side == "out")

    @property
    def consumers(self) -> tuple[Part, ...]:
        """The convolutions and linear layers that read these channels."""
        return tuple(part for part in self.parts if part.side == "in")


def groups(net: nn.Module) -> tuple[Group, ...]:
    """The groups of `net`, an (N, 1, H, W) network, in the order of its modules.

    Groups that feed the network's output, or a grouped convolution, are `fixed`.
    """
    net = _traceable(net)
    graph = _graph(net)
    names = {module: name for name, module in net.named_modules()}
    found = [_group(raw, names) for raw in graph.get_all_groups()]
    order = {name: index for index, name in enumerate(names.values())}
    return tuple(sorted(found, key=lambda group: order[group.name]))


def remove(net: nn.Module, pruned: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of `net` without the given channels: weights, biases and BatchNorm entries are gone.

    Args:
        net: the network that `groups` was asked about.
        pruned: member indices to cut, by group name.
    """
    net = _traceable(net)
    graph = _graph(net)
    modules = dict(net.named_modules())
    for name, members in pruned.items():
        if members:
            root = modules[name]
            cut = graph.get_pruner_of_module(root).prune_out_channels
            graph.get_pruning_group(root, cut, idxs=list(members)).prune(record_history=False)
    for parameter in net.parameters():  # the tracer's graph must not live on in the result
        parameter.grad = None
    return net


def _traceable(net: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode and with gradients, as the tracer wants it."""
    return copy.deepcopy(net).cpu().eval().requires_grad_(True)


def _graph(net: nn.Module) -> Any:
    import torch_pruning

    with torch.enable_grad():
        example = torch.zeros(EXAMPLE, dtype=next(net.parameters()).dtype)
        return torch_pruning.DependencyGraph().build_dependency(net, example_inputs=example)


def _group(raw: Any, names: Mapping[nn.Module, str]) -> Group:
    parts: dict[tuple[str, str], Part] = {}
    reasons = []
    for item in raw.items:
        module = item.dep.target.module
        if "OutputOp" in type(module).__name__:
            reasons.append("feeds the network's output")
        elif module in names:
            part = _part(item, names[module])
            if getattr(module, "groups", 1) > 1:
                reasons.append(f"{part.module} is a grouped convolution")
            if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                reasons.append(f"{part.module} normalises over channels")
            parts[part.module, part.side] = _joined(parts.get((part.module, part.side)), part)
    root = next(iter(parts.values()))
    fixed = reasons[0] if reasons else ""
    return Group(root.module, len(set(root.members)), tuple(parts.values()), fixed)


def _part(item: Any, name: str) -> Part:
    module = item.dep.target.module
    side: Literal["out", "in", "feature"] = "feature"  # BatchNorm, PReLU and the like
    if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        side = "in" if "in_channels" in item.dep.handler.__name__ else "out"
    return Part(name, side, tuple(map(int, item.root_idxs)), tuple(map(int, item.idxs)))


def _joined(one: Part | None, other: Part) -> Part:
    """Both parts of the same module, each channel once."""
    if one is None:
        return other
    pairs = dict.fromkeys(zip(one.members, one.channels, strict=True))
    pairs |= dict.fromkeys(zip(other.members, other.channels, strict=True))
    members, channels = zip(*pairs, strict=True)
    return Part(other.module, other.side, members, channels)
