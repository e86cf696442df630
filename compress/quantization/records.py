"""What is remembered of the layers of a quantised network."""

from typing import TypedDict


class QuantisedLayer(TypedDict):
    """A convolution, deconvolution or linear layer after quantize."""

    name: str
    """Name of the module."""
    int8: bool
    """Whether its input and its weight are INT8."""
    reason: str
    """Why not; empty where they are."""
    error_hu: float | None
    """Root mean square of the change of the output in HU where this layer alone is INT8, on
    calibration crops; None where it cannot be."""
    macs: int
    """Multiply-accumulates for one 512x512 slice."""


class Scale(TypedDict):
    """The scales of an INT8 layer, as `compress inspect` lists them; a step is a range / 127."""

    input_range: float
    """Largest magnitude of an input that is not clipped, in the network's own unit."""
    weight_range: list[float]
    """Least and largest of the weight's ranges, which each output channel has for itself."""
    error_hu: float
    """As `QuantisedLayer` has it, when the layer was quantised."""
