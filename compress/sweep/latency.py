"""How much faster a point's network is than the dense one, timed in turns on the sweep's device."""

import logging

import torch
from torch import nn

from compress.base import timing
from compress.base.reasons import reason
from compress.base.timing import Budget, Case
from compress.bench import targets
from compress.engines.base import Shape
from compress.graph.slices import channels

log = logging.getLogger(__name__)

BUDGET = Budget(rounds=5, seconds=0.5)
KEYS = ("latency_ms", "times_as_fast", "times_as_fast_min", "times_as_fast_max")
"""What is said of a network that was timed."""


def latency(dense: nn.Module, net: nn.Module, device: torch.device) -> dict[str, float | None]:
    """Time both networks side by side: on a GPU in fp16, one CUDA graph, 16 slices of 512x512.

    On the CPU in float32, one slice of 128x128, because a sweep there must not wait for it; the
    ratio says more than the milliseconds.

    Args:
        dense: the network before anything was removed; its weights do not matter.
        net: the point's network.
        device: where both run.

    Returns:
        latency_ms (milliseconds per slice, median) and times_as_fast (dense / compressed, median
        over rounds, with the lowest and the highest); None where a network cannot run so, which is
        no reason to lose its point.
    """
    try:
        return _timed(dense, net, device)
    except RuntimeError as error:  # out of memory too
        log.warning("no latency: %s", reason(error))
        return dict.fromkeys(KEYS)


def _timed(dense: nn.Module, net: nn.Module, device: torch.device) -> dict[str, float | None]:
    gpu = device.type == "cuda"
    batch, size = (16, 512) if gpu else (1, 128)
    shape = Shape(batch=batch, size=size, channels=channels(net))
    x, mode = shape.example(device), "eager-fp16" if gpu else "eager-fp32"
    with torch.inference_mode():
        runners = [targets.network(one, mode, device) for one in (dense, net)]
        calls = [targets.called(run, x, graph=gpu)[0] for run in runners]
        cases = [Case(call=c, batch=shape.batch, clock=timing.clock(device)) for c in calls]
        first, own = timing.rounds(cases, BUDGET)
    found = timing.summary(own, first)
    values = found["p50_ms"], found["ratio"], found["ratio_min"], found["ratio_max"]
    return dict(zip(KEYS, values, strict=True))
