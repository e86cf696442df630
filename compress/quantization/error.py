"""What quantising costs in HU, and which layers stay in half precision for it."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from compress.base.hu import DATA_RANGE
from compress.quantization import quantisers


def of(net: nn.Module, names: Collection[str], x: Tensor, exact: Tensor) -> float:
    """Root mean square in HU of what quantising these layers changes; they stay quantised.

    Args:
        net: what `quantisers.calibrated` returns.
        names: layers to quantise, no others.
        x: (N, C, H, W) in network range.
        exact: what the network gives for `x` where nothing is quantised.
    """
    quantisers.only(net, names)
    with torch.no_grad():
        difference = (net(x) - exact).double()
    return float(difference.square().mean().sqrt()) * DATA_RANGE


def each(net: nn.Module, names: Collection[str], x: Tensor, exact: Tensor) -> dict[str, float]:
    """`of` each of these layers alone, by its name."""
    return {name: of(net, [name], x, exact) for name in names}


def order(errors: Mapping[str, float], macs: Mapping[str, int]) -> list[str]:
    """Layers in the order in which they are kept in half precision: the cheapest first.

    The price of a layer are its multiply-accumulates, which then are not INT8; what is bought is
    the square of its error, because errors of different layers add up in squares.
    """
    return sorted(errors, key=lambda name: -(errors[name] ** 2) / max(1, macs[name]))


def kept(
    net: nn.Module,
    errors: Mapping[str, float],
    macs: Mapping[str, int],
    x: Tensor,
    exact: Tensor,
    budget: float,
) -> tuple[list[str], float]:
    """Layers to keep in half precision so that the others cost at most `budget` HU together.

    Squares of errors are added for a first set, which then grows until the error that is measured
    is within the budget. A layer that comes late may buy so much that earlier ones were kept for
    nothing: those go back to INT8 where the budget bears it, the ones with most MACs first.

    Args:
        net: what `quantisers.calibrated` returns; in the end the other layers are quantised.
        errors: HU, of each layer alone.
        macs: multiply-accumulates of each layer.
        x: (N, C, H, W) in network range.
        exact: what the network gives for `x` where nothing is quantised.
        budget: root mean square in HU.

    Returns:
        The layers kept, in order, and the error of the rest in HU.
    """
    waiting, found = order(errors, macs), list[str]()
    left = sum(value**2 for value in errors.values())
    while waiting and left > budget**2:
        found.append(waiting.pop(0))
        left -= errors[found[-1]] ** 2
    while (error := of(net, waiting, x, exact)) > budget and waiting:
        found.append(waiting.pop(0))
    for name in sorted(found, key=lambda name: -macs[name]):
        if errors[name] <= budget and (more := of(net, [*waiting, name], x, exact)) <= budget:
            waiting, error = [*waiting, name], more
    quantisers.only(net, waiting)
    return [name for name in found if name not in waiting], error
