"""Compress CT enhancement networks: prune channels, make weights 2:4 sparse, retrain, export.

The functions of `compress.api` are here by their names, such as `compress.prune`; torch is imported
when the first of them is used.

api.py      those functions
context.py  what a step is, and what it is given
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.api import (
        Cost,
        Engine,
        Neighbouring,
        Quality,
        cost,
        enhance,
        evaluate,
        export,
        hold_sparsity,
        load,
        prune,
        quantize,
        sparsify,
    )

__version__ = "0.2.0"
__all__ = [
    "Cost", "Engine", "Neighbouring", "Quality", "cost", "enhance", "evaluate", "export",
    "hold_sparsity", "load", "prune", "quantize", "sparsify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A name of the Python entry, imported on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    from compress import api

    return getattr(api, name)
