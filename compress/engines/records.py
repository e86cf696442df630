"""What is recorded of engines: what `inspect` gives, rows of an export, sidecars."""

from typing import TypedDict

from compress.sparsity.records import LayerRow


class Totals(TypedDict):
    """What the layers of a network or an engine add up to."""

    layers: int
    """Convolutions and linear layers."""
    sparse24: int
    """Layers whose weights are 2:4."""
    eligible_backend: int
    """Layers that ModelOpt and Apex ASP would take."""
    eligible_trt: int
    """Layers that TensorRT could run with sparse kernels."""
    eligible_engine: int | str
    """Layers that the engine could run with sparse kernels, or unknown."""
    picked: int | str
    """Layers that the engine runs with sparse kernels, or unknown."""
    weights: int
    """Weights of all layers."""
    zeros: int
    """Weights that are zero."""
    macs: int
    """Multiply-accumulates for one 512x512 slice."""
    share_of_weights: float
    """Share of the weights that lie in 2:4 layers, in [0, 1]."""
    share_of_macs: float
    """Share of the multiply-accumulates in 2:4 layers, in [0, 1]."""


class Inspection(TypedDict):
    """What `compress inspect` finds in a checkpoint or an engine."""

    schema: int
    """Version of this record."""
    path: str
    """What was inspected, as the user named it."""
    kind: str
    """checkpoint or engine."""
    about: dict[str, object]
    """Facts on the whole."""
    nonfinite: dict[str, int] | None
    """Tensor -> values that are NaN or infinite; None for an engine whose weights are not read."""
    totals: Totals
    """Sums over the layers."""
    layers: list[LayerRow]
    """Every convolution and linear layer."""
