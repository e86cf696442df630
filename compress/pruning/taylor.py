"""What each channel is worth to the loss: the first-order Taylor criterion.

Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance estimation for neural network pruning", CVPR
2019: the squared change of the loss when a weight w with gradient g is set to zero is (g w)^2 to
first order; a channel is worth the sum over its weights and bias, averaged over batches, and a ring
of a kernel the sum over the weights in it.
"""

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.graph.groups import LAYERS
from compress.graph.kernels import Rings, ring_sums
from compress.graph.layout import outputs_first
from compress.pruning.worth import Worth


def worth(
    net: nn.Module,
    samples: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    rings: Rings | None = None,
) -> Worth:
    """The worth of every output channel, and of rings, by module name; `net` is not changed.

    Args:
        net: an (N, 1, H, W) network; BatchNorm uses its running statistics.
        samples: low and full dose, each (N, 1, H, W) in network range, on `device`.
        device: where to compute.
        rings: that kernels can lose, by module name.

    Returns:
        Channels for every convolution and linear layer; 0 where the loss does not depend on the
        layer, as behind a last layer that is still all zeros.
    """
    net = copy.deepcopy(net).to(device).eval().requires_grad_(True)
    layers = {n: m for n, m in net.named_modules() if isinstance(m, LAYERS)}
    channels: dict[str, Tensor] = {}
    taps: dict[str, Tensor] = {}
    count = 0
    for low, full in samples:
        net.zero_grad(set_to_none=True)
        with torch.enable_grad():
            F.mse_loss(net(low), full).backward()  # type: ignore[no-untyped-call]
        count += 1
        for name, layer in layers.items():
            channels[name] = _worth(layer) + channels.get(name, 0.0)
        for name, most in (rings or {}).items():
            change = _change(net.get_submodule(name).weight).sum((0, 1))  # type: ignore[arg-type]
            taps[name] = ring_sums(change, most) + taps.get(name, 0.0)
    means = ({n: (value / count).cpu() for n, value in one.items()} for one in (channels, taps))
    return Worth(channels=next(means), rings=next(means))


def _change(parameter: Tensor) -> Tensor:
    """(g w)^2 of every entry, float64."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return (parameter.detach().double() * gradient.double()).square()


def _worth(layer: nn.Module) -> Tensor:
    """(out,) float64: the sum of (g w)^2 over each output channel's weights and bias."""
    worth = []
    for name, parameter in layer.named_parameters(recurse=False):
        change = _change(parameter)
        if name == "weight":
            change = outputs_first(layer, change)
        worth.append(change.reshape(len(change), -1).sum(1))
    return torch.stack(worth).sum(0)
