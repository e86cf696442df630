"""Along which dimensions of its weight a layer makes and reads channels: known here only.

Convolutions and linear layers store (out, in, ...), deconvolutions (in, out, ...). With several
groups the second dimension is that of one group, so channels lie along the first alone: outputs of
a convolution, and of a depthwise deconvolution the inputs, whose outputs go with them.
"""

from torch import Tensor, nn


def transposed(layer: nn.Module) -> bool:
    """Whether a layer is a deconvolution, which stores its inputs first."""
    return isinstance(layer, nn.modules.conv._ConvTransposeNd)


def order(*, transposed: bool) -> tuple[int, int]:
    """The dimensions of a weight of one group along which outputs and inputs lie."""
    return (1, 0) if transposed else (0, 1)


def axes(layer: nn.Module) -> tuple[int, int | None]:
    """The dimensions along which outputs and inputs of a layer lie; no inputs of several groups."""
    if getattr(layer, "groups", 1) > 1:
        return 0, None
    return order(transposed=transposed(layer))


def by_output(layer: nn.Module) -> Tensor:
    """The weight of a layer as (out, in, ...); of several groups as it is stored."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return outputs_first(layer, weight)


def outputs_first(layer: nn.Module, values: Tensor) -> Tensor:
    """Values of the shape of a layer's weight, arranged as `by_output` arranges that."""
    out, _ = axes(layer)
    return values.transpose(0, out)
