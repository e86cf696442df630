"""The table of the precisions that engines compute in; light at import, for the command line.

A new one is its name and line here, a cast in subject.py where `Module.to` cannot make it, and the
formats that take it: `precisions` in base.py, or of a class of its own as in fused.py. The number
formats of training are another table: training/precision.py.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Precision = Literal["fp32", "fp16", "bf16"]
"""Arithmetic inside an engine."""


class Arithmetic(NamedTuple):
    """What is known of a precision."""

    dtype: str
    """Name of the type in torch."""
    max_hu: float
    """Largest difference inside the body that an engine may have from the network, in HU."""
    mean_hu: float
    """The same on average."""


ARITHMETIC: Mapping[Precision, Arithmetic] = {
    "fp32": Arithmetic("float32", 1.0, 0.1),
    "fp16": Arithmetic("float16", 20.0, 1.0),
    "bf16": Arithmetic("bfloat16", 150.0, 8.0),  # 8 bits of mantissa, three fewer than fp16
}
INT8 = Arithmetic("float32", 20.0, 1.0)
"""Of networks with INT8 layers, whatever is between those: where sums differ in their last bit, a
value between two steps is rounded to the other one, and a step can be several HU."""
