"""Which layers can be 2:4 sparse, and why the others cannot."""

from typing import Literal, get_args

from torch import Tensor, nn

from compress.graph import plain, uses
from compress.graph.cost import compressible
from compress.graph.rewrite import is_plain
from compress.sparsity.pattern import unaligned

Rule = Literal["backend", "trt"]
"""Whose rule says which layers can be 2:4: that of ModelOpt and ASP, or TensorRT's wider one."""


RULES: tuple[Rule, ...] = get_args(Rule)
FROZEN = (
    "its weight is not trained (requires_grad is False), so training could not make up for zeros"
)
BORROWED = "the network's code takes its weight for a function, which may change it"


def refusal(module: nn.Module, rule: Rule = "backend") -> str:
    """Why a layer cannot be made 2:4; empty where it can.

    Args:
        module: a convolution, deconvolution or linear layer.
        rule: "backend": what ModelOpt and ASP take, out % 8 and in % 16; "trt": what TensorRT could
            run, in % 4.
    """
    if isinstance(module, nn.ConvTranspose2d):
        kind = "with stride" if set(module.stride) != {1} else "that equals no convolution"
        if is_plain(module):
            kind = "that was not rewritten as a convolution"
        return f"deconvolution {kind}: neither ModelOpt, ASP nor TensorRT makes it 2:4"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return "grouped convolution"
    weight = module.weight
    assert isinstance(weight, Tensor)
    if plain.computed(module):
        return "its weight is computed by a parametrization"
    if plain.own_forward(module):
        name = type(module).__name__
        return f"its class {name} has a forward of its own, which may change the weight"
    out, into = weight.shape[:2]
    if rule == "trt":
        return unaligned(into, "input", 4) if into % 4 else ""
    if into % 16:
        return unaligned(into, "input", 16)
    return unaligned(out, "output", 8) if out % 8 else ""


def reasons(net: nn.Module, rule: Rule = "backend") -> dict[str, str]:
    """Why `sparsify` leaves each layer of a network dense; empty where it makes it 2:4.

    Args:
        net: the network.
        rule: as for `refusal`.
    """
    found = {name: left(layer, rule) for name, layer in compressible(net).items()}
    able = [name for name, why in found.items() if not why]
    return found | dict.fromkeys(uses.borrowed(net, able), BORROWED)


def left(module: nn.Module, rule: Rule = "backend") -> str:
    """Why a layer by itself is left dense; empty where nothing is against it; as `refusal`."""
    return refusal(module, rule) or (FROZEN if frozen(module) else "")


def frozen(module: nn.Module) -> bool:
    """Whether the weight of a layer is not trained."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return not weight.requires_grad
