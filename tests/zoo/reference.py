"""The dense network whose pruned channels are masked, found by values alone.

Nothing of `compress` is used: random weights are all different, so where each entry of a pruned
weight came from can be looked up in the dense one.
"""

import copy

import torch
from torch import Tensor, nn

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def distinct(net: nn.Module, seed: int) -> nn.Module:
    """A float64 copy whose weights and statistics are random and all different."""
    net = copy.deepcopy(net).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                fan = max(1, tensor[0].numel()) if tensor.dim() else 1
                scale = 2 / fan**0.5 if tensor.dim() > 1 else 1.0
                tensor.copy_(0.5 + drawn if "running_var" in name else scale * (drawn - 0.5))
    return net


def telling(net: nn.Module, side: int) -> nn.Module:
    """`distinct` with the first seed whose output varies: a ReLU at the end can make it all 0."""
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(9)).double()
    with torch.no_grad():
        for seed in range(1, 21):
            found = distinct(net, seed)
            if float(found(x).std()) > 0:
                return found
    raise AssertionError("the output is constant with every seed")


def kept(dense: Tensor, small: Tensor) -> list[list[int]]:
    """The indices along the dimensions of a weight that are left in a pruned one."""
    places = {value: place for place, value in enumerate(dense.flatten().tolist())}
    assert len(places) == dense.numel()
    flat = torch.tensor([places[value] for value in small.flatten().tolist()])
    index = torch.stack(torch.unravel_index(flat, dense.shape))
    return [sorted({*row.tolist()}) for row in index]


def masked(net: nn.Module, small: nn.Module) -> nn.Module:
    """`net` with zeros in every weight where the pruned one does not read any more."""
    net = copy.deepcopy(net)
    state, left = net.state_dict(), small.state_dict()
    for name, module in net.named_modules():
        weight = state.get(f"{name}.weight")
        if isinstance(module, LAYERS) and weight is not None and weight.dim() > 1:
            into = 0 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 1
            grouped = getattr(module, "groups", 1) > 1
            stay = kept(weight, left[f"{name}.weight"])
            for dim in (*[into] * (not grouped), *range(2, weight.dim())):  # what is read, and taps
                gone = sorted({*range(weight.shape[dim])} - {*stay[dim]})
                weight.index_fill_(dim, torch.tensor(gone, dtype=torch.long), 0.0)
    return net


def difference(net: nn.Module, small: nn.Module, side: int) -> float:
    """Pruned against masked, as a share of the largest output, on a random slice."""
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(9)).double()
    with torch.no_grad():
        expected, got = masked(net, small)(x), small(x)
    assert got.shape == x.shape
    return float((got - expected).abs().max() / expected.abs().max())
