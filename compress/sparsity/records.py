"""What is recorded of a layer's weight, on the way to reports and the sidecars of engines."""

from typing import Literal, TypedDict

Told = Literal["yes", "no", "unknown"]
"""What an engine tells of a layer; unknown where it does not tell."""


class Group(TypedDict):
    """A group of four input channels with more than two non-zero weights."""

    out: int
    """Output channel."""
    first: int
    """First of the four input channels."""
    tap: list[int]
    """Kernel position (row, column); empty for a linear layer."""
    nonzeros: int
    """Weights of the group that are not zero."""


class WeightRow(TypedDict):
    """What the values of a weight show."""

    shape: list[int]
    """(out, in, *kernel)."""
    zeros: int
    """Weights that are zero."""
    sparse24: bool
    """Whether the weight is 2:4 along its input channels."""
    failing: int | None
    """Groups of four that are not 2:4; None where the input channels are no multiple of four."""
    first: list[Group]
    """The first such groups."""


class EngineColumns(TypedDict, total=False):
    """Columns of a layer that only an engine which tells them has."""

    kernel: str
    """What computes the layer."""
    sparse: bool
    """Whether that kernel skips the zeros of 2:4."""
    us: float | None
    """Time of the layer, microseconds a slice."""
    floor_us: float | None
    """Least time of the layer on an H100, microseconds a slice."""


class LayerRow(WeightRow, EngineColumns):
    """A convolution or a linear layer of a network."""

    name: str
    """Name of the module."""
    kind: str
    """Name of its class."""
    eligible_backend: bool
    """Whether ModelOpt and Apex ASP would take the layer."""
    eligible_trt: bool
    """Whether TensorRT could run the layer with a sparse kernel."""
    reason_backend: str
    """Why ModelOpt and Apex ASP would not; empty where they would."""
    reason_trt: str
    """Why TensorRT could not; empty where it could."""
    eligible_engine: Told
    """Whether the engine could run a sparse kernel for the layer."""
    picked: Told
    """Whether the engine does."""
    macs: int | None
    """Multiply-accumulates for one 512x512 slice; None for a layer out of use."""
    share_of_macs: float | None
    """Share of those of the network, in [0, 1]; None for a layer out of use."""
    share_of_time: float | None
    """Share of the layers' time in the engine, in [0, 1]; None where it does not tell."""
