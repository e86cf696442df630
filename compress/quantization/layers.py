"""Which layers can be quantised, and why the others cannot."""

from collections.abc import Sequence

from torch import Tensor, nn

from compress.base.words import matched
from compress.graph import plain
from compress.graph.cost import compressible


def refusal(module: nn.Module) -> str:
    """Why a layer of `cost.compressible` cannot be quantised; empty where it can."""
    if isinstance(module, nn.ConvTranspose2d):
        # ModelOpt and TensorRT scale its weight by input channel, not by output channel.
        return "deconvolution that is no convolution: its scales would be of the wrong channels"
    if plain.computed(module):
        return "its weight is computed by a parametrization"
    if plain.own_forward(module):
        return f"its class {type(module).__name__} has a forward of its own"
    return ""


def zero(module: nn.Module) -> str:
    """Why there is nothing to calibrate in a layer of `cost.compressible`; empty where there is."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return "" if weight.detach().any() else "all its weights are zero"


def others(net: nn.Module, only: Sequence[str]) -> dict[str, str]:
    """Why layers stay in half precision that none of the patterns in `only` names.

    Raises:
        UsageError: a pattern names no layer.
    """
    names = list(compressible(net))
    found = matched(names, only, "quantize: only: no layer")
    return {name: "not among `only`" for name in names if name not in found}


def asked(net: nn.Module, keep: Sequence[str]) -> dict[str, str]:
    """Why layers stay in half precision that one of the patterns in `keep` names.

    Raises:
        UsageError: a pattern names no layer.
    """
    found = matched(list(compressible(net)), keep, "quantize: keep: no layer")
    return {name: f"kept by {pattern!r}" for name, pattern in found.items()}
