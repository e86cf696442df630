"""Channels of a layer's input scaled to one range, so that one INT8 step serves them all.

A layer's input has one step. Channels of small range, such as those of a skip beside an upsampled
half, are then rounded coarsely. What makes a channel can make it smaller and the weights that read
it larger, by the same factor: BatchNorm and convolutions are linear in their own weights, and
ReLU, LeakyReLU and pooling let a positive factor through. The function stays, the rounding does
not. After Nagel et al., "Data-free quantization through weight equalization and bias correction",
ICCV 2019; the whole factor goes to the weights, as activations cost more here than weights do.
"""

import copy
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.graph import flow, plain
from compress.graph.cost import given
from compress.quantization.layers import refusal

MOST = 2.0**10
"""Largest factor of a channel; a range may be the rounding of a zero."""
CLOSE = 1e-3
"""Largest change of the output that is rounding, as a share of the largest output."""
MODULES = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d,
           nn.AvgPool2d)  # fmt: skip
"""f(a x) = a f(x) for a > 0, in eval mode, each channel by itself."""
FUNCTIONS = (F.relu, F.leaky_relu, torch.relu, F.max_pool2d, F.avg_pool2d)
METHODS = ("relu", "relu_", "contiguous")


def equalised(
    net: nn.Module, names: Collection[str], inputs: Sequence[Tensor]
) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of `net` that computes the same, with inputs of layers scaled channel by channel.

    The factors of a layer's channels have the geometric mean 1, so that weights keep their size.
    A channel that is zero throughout stays as it is.

    Args:
        net: in eval mode.
        names: layers that are to be quantised.
        inputs: (N, C, H, W) in network range, on the network's device: crops for the ranges, at
            least one.

    Returns:
        The copy, and the layers whose input has channels of one range on those crops. A network
        that torch.fx cannot trace, or whose output changed, is returned as it is.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)).eval()
        >>> _ = net[0].weight.data.copy_(torch.tensor([1.0, 100.0]))
        >>> x = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
        >>> found, names = equalised(net, ["1"], [x])
        >>> names
        ('1',)
        >>> [round(value, 3) for value in found[0](x).flatten().tolist()]
        [10.0, 10.0]
        >>> torch.allclose(found(x), net(x))
        True
    """
    found, sources = copy.deepcopy(net), dict(_sources(net, names))
    for name, largest in _ranges(net, sources, inputs).items():
        _scale(found.get_submodule(sources[name]), found.get_submodule(name), _factors(largest))
    # Code may use a weight in ways that torch.fx shows as no call of its layer.
    return (found, tuple(sources)) if _same(net, found, inputs[0]) else (copy.deepcopy(net), ())


def _same(net: nn.Module, other: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        one, two = net(x), other(x)
    return bool((one - two).abs().max() <= CLOSE * one.abs().max())


def _sources(net: nn.Module, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Convolutions among `names` of several channels, each with the layer that alone makes them."""
    nodes = flow.nodes(net)
    once = flow.called_once(net, nodes)
    owners = plain.owners(net)
    for node in nodes:
        name = str(node.target)
        if node.op != "call_module" or name not in names or not _reads(once.get(name)):
            continue
        source = _behind(node, once)
        makes = once.get(str(source.target)) if source else None
        if not source or not makes or not _makes(makes):
            continue
        own = (*makes.parameters(recurse=False), *once[name].parameters(recurse=False))
        if all(owners[id(one)] == 1 for one in own):
            yield name, str(source.target)


def _behind(node: fx.Node, once: Mapping[str, nn.Module]) -> fx.Node | None:
    """The call that makes what `node` reads, past what lets factors through; no other reads it."""
    at = node
    while len(at.all_input_nodes) == 1:
        at = at.all_input_nodes[0]
        if len(at.users) != 1:
            return None
        module = once.get(str(at.target)) if at.op == "call_module" else None
        through = (
            type(module) in MODULES
            or (at.op == "call_function" and at.target in FUNCTIONS)
            or (at.op == "call_method" and at.target in METHODS)
        )
        if not through:
            return at if module is not None else None
    return None


def _reads(module: nn.Module | None) -> bool:
    """Whether the weights of a layer that reads channels can be multiplied."""
    if not isinstance(module, nn.Conv2d) or refusal(module):
        return False
    return module.groups == 1 and module.in_channels > 1


def _makes(module: nn.Module) -> bool:
    """Whether what a layer makes is linear in its own weight and bias, channel by channel."""
    if type(module) is nn.BatchNorm2d:
        return module.affine
    return type(module) is nn.Conv2d and not plain.computed(module)


def _ranges(net: nn.Module, names: Collection[str], inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The largest magnitude of each channel of each layer's input, (C,)."""
    found = dict[str, Tensor]()

    def see(name: str, _: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        largest = given(inputs, named).detach().abs().amax((0, 2, 3))
        found[name] = torch.maximum(found.get(name, largest), largest)

    hooks = [
        net.get_submodule(name).register_forward_pre_hook(
            functools.partial(see, name), with_kwargs=True
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            for x in inputs:
                net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _factors(largest: Tensor) -> Tensor:
    """What the weights that read a channel are multiplied by, (C,) float64; 1 where it is zero."""
    known = largest.double()
    seen = known > 0
    if not seen.any():
        return torch.ones_like(known)
    factors = known / known[seen].log().mean().exp()
    return torch.where(seen, factors.clamp(1 / MOST, MOST), 1.0)


def _scale(source: nn.Module, layer: nn.Module, factors: Tensor) -> None:
    """Divide channels where they are made and multiply them where they are read, in place."""
    with torch.no_grad():
        for value in source.parameters(recurse=False):
            value.copy_(value.double() / factors.view(-1, *[1] * (value.ndim - 1)))
        weight = layer.get_parameter("weight")
        weight.copy_(weight.double() * factors.view(1, -1, 1, 1))
