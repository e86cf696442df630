"""Whether a layer computes what PyTorch's class computes, with the weight that it stores."""

from collections import Counter

from torch import nn

METHODS = ("forward", "_conv_forward")
"""What a class replaces to compute something else with its weight."""
CLASSES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def own_forward(layer: nn.Module) -> bool:
    """Whether the class of a convolution, deconvolution or linear layer has a forward of its own.

    Standardised, scaled or quantised weights are such: the stored one is not what is multiplied.
    """
    plain = next(kind for kind in CLASSES if isinstance(layer, kind))
    return any(getattr(type(layer), m, None) is not getattr(plain, m, None) for m in METHODS)


def computed(layer: nn.Module) -> bool:
    """Whether a parametrization computes the weight of a layer while it runs."""
    return "weight" not in layer._parameters


def owners(net: nn.Module) -> Counter[int]:
    """How many modules of `net` have each parameter, by its id: several where it is shared."""
    return Counter(id(p) for module in net.modules() for p in module.parameters(recurse=False))


def hooked(layer: nn.Module) -> bool:
    """Whether hooks may change or keep what goes into a layer or comes out of it."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
