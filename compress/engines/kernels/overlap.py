"""Kernels that begin while the one before them ends: programmatic dependent launch.

From compute capability 9.0 on a kernel may be put on the GPU early, work out where it will read and
wait there for the kernel before it. Between some fifty kernels of a few microseconds that is a
good part of the time. `tune.py` takes it where it is measured to be faster.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs, ignore-errors

import inspect

import triton

__all__ = ["SERVED", "gdc_launch_dependents", "gdc_wait"]

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

    # Triton 3.4 has them and cannot call them.
    SERVED = "_semantic" in inspect.signature(gdc_wait).parameters
except ImportError:  # older still
    SERVED = False

    @triton.jit
    def gdc_launch_dependents():
        """Nothing: never called."""

    @triton.jit
    def gdc_wait():
        """Nothing: never called."""
