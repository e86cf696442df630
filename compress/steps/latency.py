"""The table of times that `prune` with target latency plans by: from a file, or measured here."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from compress.engines import layer_times
from compress.engines.kernels import single
from compress.graph import kernels
from compress.pruning import latency
from compress.pruning.families import wanted
from compress.pruning.options import PruneOptions
from compress.steps.facts import LatencyFacts

STEP = 16
"""Channels between measured shapes where `round_to` is null."""


def table(options: PruneOptions, nets: Sequence[nn.Module], device: torch.device) -> latency.Table:
    """Times of all layers that some networks have, of narrower ones and of those with less taps.

    Args:
        options: of the step.
        nets: the networks, the one that is to be pruned first.
        device: where layers are timed, unless a file has their times.

    Raises:
        UsageError: the file is none, or the layers cannot be timed.
    """
    if options.latency_table is not None:
        return latency.read(Path(options.latency_table))
    how, size = options.latency_from, (options.latency_size, options.latency_size)
    step, most = options.round_to or STEP, layer_times.LIMITS[how].shapes
    shapes = wanted(nets, size, step, most)
    if options.kernels != "keep":
        own, others = shapes, kernels.smaller(nets[0], options.min_kernel)
        shapes = wanted([*nets, *others], size, step, most)
        shapes = single.served(shapes, own) if how == "fused" else shapes
    return layer_times.measured(shapes, how, device)


def facts(options: PruneOptions, found: latency.Prediction) -> LatencyFacts:
    """What a step remembers of a plan's times; a measured table is kept as a file."""
    table = found.table
    path = options.latency_table or layer_times.keep(table)
    return {
        "device": table.device,
        "engine": table.engine,
        "torch": table.torch,
        "arithmetic": table.arithmetic,
        "note": table.note,
        "size": options.latency_size,
        "shapes": table.shapes,
        "sha256": table.sha256,
        "table": None if path is None else str(path),
        "before_ms": found.before_ms,
        "after_ms": found.after_ms,
        "budget_ms": found.budget_ms,
    }
