"""Which layers of a network its output depends on: others are in no engine."""

import contextlib
import copy
import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from compress.graph.draws import seeded
from compress.graph.slices import channels
from compress.graph.trial import slice_size


def effective(net: nn.Module, names: Collection[str]) -> set[str]:
    """Those of some layers whose weight the output depends on; all where that cannot be found out.

    A layer counts where a gradient reaches its weight. Code may cut gradients off, so of the rest
    each counts whose weight, set to NaN, changes the output.

    Args:
        net: in any mode; it is not changed.
        names: of modules with a weight.
    """
    try:
        x = torch.zeros(1, channels(net), *slice_size(net))
        reached = _reached(net, names, x)
        return {name for name in names if name in reached or _changes(net, name, x)}
    except Exception:  # the network's own code may raise anything
        return set(names)


def _reached(net: nn.Module, names: Collection[str], x: Tensor) -> set[str]:
    """The layers whose weight a gradient of the output reaches."""
    for device in ("meta", "cpu"):
        with contextlib.suppress(Exception):  # values decide its way, or all of it has no gradients
            return _graded(net, names, x.to(device))
    return set()


def _graded(net: nn.Module, names: Collection[str], x: Tensor) -> set[str]:
    net = _copy(net).to(x.device).requires_grad_(True)
    weights = [net.get_parameter(f"{name}.weight") for name in names]
    with torch.enable_grad():
        found = torch.autograd.grad(net(x).sum(), weights, allow_unused=True)
    return {name for name, grad in zip(names, found, strict=True) if grad is not None}


def _changes(net: nn.Module, name: str, x: Tensor) -> bool:
    """Whether the output is another one when the weight of a layer is NaN."""
    broken = _copy(net)
    with torch.no_grad():
        broken.get_parameter(f"{name}.weight").fill_(math.nan)
        before, after = (seeded(other, x) for other in (_copy(net), broken))
    return not torch.equal(before, after)


def _copy(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).cpu().float().eval()
