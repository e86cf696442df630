"""What each channel is worth to the output's variance: scores that no rescaling changes.

Behind BatchNorm, and before ReLU or LeakyReLU, a channel can be multiplied by any positive number
and the network computes the same, so the norm of its weights says nothing of its importance. Here
every channel is counted in the scale in which it varies by 1: the weight W_oc from channel c to
output o counts v_c |W_oc|^2, where v_c is the variance of what the layer reads. Its part of the sum
over c is the channel's share of o. Shares are followed from the network's output back to its input,
as importance is in Yu et al., "NISP: pruning networks using neuron importance score propagation",
CVPR 2018: an output channel is worth 1, and a layer hands on to its inputs what its outputs are
worth, so that channels of all layers compare.

A ring of a kernel is counted alike: of what its layer's outputs are worth, it has the share that
its taps have of their variance, were neighbouring pixels independent. All inputs of a depthwise
convolution's group share its worth, so its rings count the whole of it.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.base.tensors import number
from compress.graph.cost import given, layers
from compress.graph.groups import LAYERS, Group, Part, groups
from compress.graph.kernels import Rings, ring_sums
from compress.graph.layout import by_output
from compress.graph.slices import channels
from compress.graph.trial import slice_size
from compress.pruning.worth import Worth

Samples = Callable[[], Iterable[Tensor]]
"""Gives slices, (N, 1, H, W) in network range."""


def worth(
    net: nn.Module,
    samples: Samples | None = None,
    device: torch.device | None = None,
    rings: Rings | None = None,
) -> Worth:
    """The worth of every output channel of a group, and of rings; `net` is not changed.

    Args:
        net: an (N, 1, H, W) network.
        samples: called where a layer reads something else than the output of a BatchNorm layer,
            whose scale is the deviation; None: such a layer's inputs count as varying by 1 each.
        device: where samples go through the network; None: the CPU.
        rings: that kernels can lose, by module name.

    Returns:
        Of channels the group's worth, for every layer that makes channels.
    """
    size = slice_size(net)
    found, known = groups(net, size), from_batchnorm(net, size)
    missing = unscaled(found, known)
    if samples is not None and missing:
        known = {**input_variances(net, samples(), missing, device), **known}
    worth, made = _propagated(net, found, known)
    channels = _of_channels(net, found, worth)
    of_rings = {
        name: _of_rings(name, net.get_submodule(name), made.get(name, channels.get(name)), known, n)
        for name, n in (rings or {}).items()
    }
    return Worth(channels=channels, rings=of_rings)


def _of_channels(
    net: nn.Module, found: Sequence[Group], worth: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """(out,) float64 worth of what every layer makes, channel by channel."""
    state, channels = net.state_dict(), dict[str, Tensor]()
    for group in found:
        for part in group.producers:
            width = state[part.tensor].shape[part.dim]
            own = channels.setdefault(part.module, torch.zeros(width, dtype=torch.float64))
            own[list(part.channels)] = worth[group.name][list(part.members)]
    return channels


def _of_rings(
    name: str,
    module: nn.Module,
    made: Tensor | None,
    variances: Mapping[str, Tensor],
    rings: int,
) -> Tensor:
    """(rings,) float64 worth of a layer's outermost rings.

    Args:
        name: of the layer.
        module: the layer.
        made: (out,) what its outputs are worth; None where nothing reads them.
        variances: of what layers read.
        rings: how many.
    """
    weight = by_output(module)
    variance = _variance(name, weight, variances).double()
    taps = weight.detach().double().cpu().square() * variance.view(1, -1, 1, 1)
    taps = taps.sum(1)  # (out, k, k)
    whole = taps.sum((1, 2), keepdim=True)
    parts = ring_sums(_ratio(taps, whole, torch.tensor(float(taps[0].numel()))), rings)
    return torch.zeros(rings).double() if made is None else made.double() @ parts


def unscaled(found: Sequence[Group], known: Mapping[str, Tensor]) -> set[str]:
    """Layers of groups the variances of whose inputs are not known, by module name."""
    parts = [part for group in found for part in (*group.producers, *group.consumers)]
    return {part.module for part in parts} - known.keys()


def from_batchnorm(net: nn.Module, size: tuple[int, int]) -> dict[str, Tensor]:
    """Variances of what layers read right behind a BatchNorm layer: its scale, squared.

    Args:
        net: an (N, 1, H, W) network.
        size: height and width of a slice that it takes.

    Returns:
        (in,) float64 by module name, for the layers that read nothing else.
    """
    # By the output's id, which lasts as long as the output; its version tells of changes in place.
    scales: dict[int, tuple[Tensor, int, Tensor]] = {}
    reads: dict[str, list[Tensor | None]] = defaultdict(list)

    def normed(module: _BatchNorm, _: Any, out: Tensor) -> None:
        weight = torch.ones(module.num_features) if module.weight is None else module.weight
        scales[id(out)] = out, out._version, weight.detach().double().square()

    def reading(name: str, _: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        out, version, scale = scales.get(id(given(inputs, named)), (None, 0, None))
        reads[name].append(scale if out is not None and out._version == version else None)

    shadow = copy.deepcopy(net).cpu().eval()
    for name, module in shadow.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(normed)
        elif isinstance(module, LAYERS):
            module.register_forward_pre_hook(partial(reading, name), with_kwargs=True)
    with torch.no_grad():
        shadow(torch.zeros(1, channels(net), *size, dtype=number(net)))
    means = {name: _mean(found) for name, found in reads.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def input_variances(
    net: nn.Module, samples: Iterable[Tensor], names: Iterable[str], device: torch.device | None
) -> dict[str, Tensor]:
    """Variances of what layers read, over slices and pixels, each batch's averaged.

    Args:
        net: an (N, 1, H, W) network; it runs in eval mode.
        samples: (N, 1, H, W) each.
        names: of convolutions and linear layers.
        device: where to compute; None: the CPU.

    Returns:
        (in,) float64 on the CPU by module name, for layers that are used.
    """
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def reading(
        name: str, module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        x = given(inputs, named).detach().double()
        x = x.flatten(0, -2) if isinstance(module, nn.Linear) else x.transpose(0, 1).flatten(1).T
        seen[name].append(x.var(0, correction=0).cpu())

    shadow = copy.deepcopy(net).to(device or "cpu").eval()
    for name in names:
        layer = shadow.get_submodule(name)
        layer.register_forward_pre_hook(partial(reading, name), with_kwargs=True)
    with torch.no_grad():
        for x in samples:
            shadow(x.to(device or "cpu", number(net)))
    return {name: torch.stack(found).mean(0) for name, found in seen.items()}


def shares(weight: Tensor, variance: Tensor) -> Tensor:
    """What each input is of each output's variance, were the inputs independent.

    Args:
        weight: (out, in, ...).
        variance: (in,) of the inputs.

    Returns:
        (out, in) float64, rows of sum 1; an output that reads nothing shares evenly.
    """
    energy = _energy(weight, variance)
    whole = energy.sum(1, keepdim=True)
    return _ratio(energy, whole, torch.tensor(float(energy.shape[1])))


def _mean(found: Sequence[Tensor | None]) -> Tensor | None:
    """The mean over the uses of a layer; None where one of them is not known."""
    known = [one for one in found if one is not None]
    return torch.stack(known).mean(0) if len(known) == len(found) else None


def _propagated(
    net: nn.Module, found: Sequence[Group], variances: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is worth how much, from the output back.

    Returns:
        (width,) float64 worth of the members of every group by its name, and (out,) float64 worth
        of what every layer makes by its own; of grouped convolutions, see `_split`, none.
    """
    readers: dict[str, list[tuple[Group, Part]]] = defaultdict(list)
    makers: dict[str, list[tuple[Group, Part, Tensor]]] = defaultdict(list)
    worth: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}
    for group in found:
        end = bool(group.fixed) or not group.consumers
        worth[group.name] = torch.full((group.width,), float(end), dtype=torch.float64)
        for part in group.consumers:
            readers[part.module].append((group, part))
        for part, split in _split(net, group, variances):
            makers[part.module].append((group, part, split))
    known = readers.keys() | makers.keys()
    for name in reversed([name for name in layers(net) if name in known]):
        weight = by_output(net.get_submodule(name))
        outputs = torch.zeros(len(weight), dtype=torch.float64)
        for group, part, split in makers[name]:
            outputs[list(part.channels)] = worth[group.name][list(part.members)] * split
        if makers[name]:
            made[name] = outputs
        passed = outputs @ shares(weight, _variance(name, weight, variances))
        for group, part in readers[name]:
            index = torch.tensor(part.members)
            worth[group.name].index_add_(0, index, passed[list(part.channels)])
    return worth, made


def _split(
    net: nn.Module, group: Group, variances: Mapping[str, Tensor]
) -> list[tuple[Part, Tensor]]:
    """How a group's worth is divided among the layers whose outputs are added: by their variance.

    Returns:
        The producers with, for each of their channels, its share of the member that it is of.
        Grouped convolutions, which follow another producer of the group, have none.
    """
    modules = {part.module: net.get_submodule(part.module) for part in group.producers}
    parts = [p for p in group.producers if getattr(modules[p.module], "groups", 1) == 1]
    energies = []
    total, count = torch.zeros(2, group.width, dtype=torch.float64)
    for part in parts:
        weight = by_output(modules[part.module])
        energy = _energy(weight, _variance(part.module, weight, variances)).sum(1)
        energies.append(energy[list(part.channels)])
        members = torch.tensor(part.members)
        total.index_add_(0, members, energies[-1])
        count.index_add_(0, members, torch.ones(len(members), dtype=torch.float64))
    return [
        (part, _ratio(energy, total[list(part.members)], count[list(part.members)]))
        for part, energy in zip(parts, energies, strict=True)
    ]


def _ratio(part: Tensor, whole: Tensor, count: Tensor) -> Tensor:
    """Each part of the whole, and equal parts where the whole is nothing."""
    return torch.where(whole > 0, part / whole.clamp_min(1e-300), 1 / count)


def _energy(weight: Tensor, variance: Tensor) -> Tensor:
    """(out, in, ...) and (in,) -> (out, in) float64: variance that each input causes."""
    flat = weight.detach().double().cpu().reshape(*weight.shape[:2], -1)
    return flat.square().sum(2) * variance.double()


def _variance(name: str, weight: Tensor, variances: Mapping[str, Tensor]) -> Tensor:
    """(in,) variances of a layer's inputs; 1 where they are not known."""
    ones = torch.ones(weight.shape[1], dtype=torch.float64)
    return variances.get(name, ones) if len(variances.get(name, ones)) == len(ones) else ones
