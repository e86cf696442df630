"""Kinds of kernels of a 5x5 or 3x3, and how those in INT8 share its taps out to products."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["mma", "mma.sp", "wgmma", "wgmma.sp", "stem", "int8", "int8.sp"]
SPARSE: frozenset[Kind] = frozenset({"mma.sp", "wgmma.sp", "int8.sp"})
"""Kinds for 2:4 weights."""
DENSE_INT8: frozenset[Kind] = frozenset({"int8"})
"""Not measured for 2:4 weights: twice the products, and all else is the same."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """How the taps of a convolution in INT8 are shared out to products; see window_int8.cu."""

    k: int
    """Channels of all taps of a product."""
    taps: int
    """Taps of a product."""
    across: int
    """Products of a row of taps, for each step of channels."""
    down: int
    """Products of the last column of taps; 0 where `across` covers it."""
    steps: int
    """Steps of channels."""
    side: int
    """Taps in a row."""

    @property
    def count(self) -> int:
        """All of them, for 16 output channels."""
        return self.across * self.steps * self.side + self.down

    @property
    def spare(self) -> int:
        """Taps to the right of the last one, whose weights are zero."""
        return 0 if self.down else max(0, self.across * self.taps - self.side)


def products(side: int, inside: int, kind: Kind) -> Products:
    """The products of a convolution of `side` and `inside` channels in INT8."""
    k = 64 if kind == "int8.sp" else 32
    taps = max(1, k // inside)
    last = taps > 1 and (side - 1) % taps == 0
    return Products(
        k=k, taps=taps, side=side, steps=max(1, inside // k),
        across=(side - 1) // taps if last else -(-side // taps),
        down=(side - 1) // taps + 1 if last else 0,
    )  # fmt: skip
