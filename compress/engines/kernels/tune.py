"""Which tiling of each convolution is fastest on this GPU, measured; and one kernel or two.

Kernels are timed inside CUDA graphs, as the engine runs them: a call from Python costs more than
most of DDnet's layers.
"""

import logging
import time
from collections.abc import Callable, Iterator

import torch

from compress.engines.kernels import launch
from compress.engines.kernels.plan import Conv, Dense
from compress.engines.kernels.session import Choices, Key, Session
from compress.engines.kernels.tiling import Tiling, default, variations

log = logging.getLogger(__name__)
CALLS, REPEATS = 10, 5
"""Calls in a graph, and how often it is replayed; the least time counts."""
STEPS = 3
"""Of the search in tiling.py."""
Make = Callable[[Tiling], launch.Call]
"""A tiling -> the call to be timed."""


def milliseconds(call: launch.Call, device: torch.device) -> float:
    """The time of a call on the GPU; infinity where this GPU cannot run it."""
    try:
        call()  # compiles
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                call()
        return min(_replayed(graph) for _ in range(REPEATS)) / CALLS
    except Exception as error:  # out of shared memory or registers: Triton has types of its own
        log.debug("a tiling does not run: %s", error)
        return float("inf")


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def search(
    make: Make, first: Tiling, size: int, out: int, device: torch.device, until: float
) -> tuple[Tiling, float]:
    """The fastest tiling found, and its time in ms; the first one where nothing else was tried.

    Args:
        make: builds the call of a tiling.
        first: where the search starts.
        size: k of the convolution.
        out: output channels in memory.
        device: the GPU.
        until: when to stop, on the clock of time.monotonic.
    """
    best, least = first, milliseconds(make(first), device)
    for step in range(STEPS):
        for cut in variations(step, best, size, out):
            if time.monotonic() > until:
                return best, least
            ms = milliseconds(make(cut), device)
            if ms < least:
                best, least = cut, ms
    return best, least


def tune(session: Session, seconds: float) -> Choices:
    """Measured choices for every convolution of a session; the costliest ones first.

    Args:
        session: on a GPU; its buffers are used.
        seconds: when to stop; what was not measured keeps its default.
    """
    until = time.monotonic() + seconds
    convs, pairs, times = dict[Key, Tiling](), dict[Key, Tiling](), dict[Key, float]()
    device = session.image.device
    for op in sorted(session.plan.convs(), key=lambda one: -_work(session, one)):
        key = session.key(op)
        if key in convs or op.plain or time.monotonic() > until:
            continue
        convs[key], times[key] = search(*_conv(session, op), device, until)
        log.info("fused: %s %.4f ms, %s", key, times[key], convs[key])
    for dense in _dense(session):
        key, parts = session.key(dense), _parts(session, dense)
        if key in times or not all(part in times for part in parts):
            continue
        if time.monotonic() < until:
            cut, times[key] = search(*_pair(session, dense), device, until)
            if times[key] < sum(times[part] for part in parts):
                pairs[key] = cut
    return Choices(conv=convs, pair=pairs)


def _conv(session: Session, op: Conv) -> tuple[Make, Tiling, int, int]:
    def make(cut: Tiling) -> launch.Call:
        return launch.conv(op, session.buffers, session.tensors, session.image, cut)

    side = session.buffers[op.source.buffer].height
    return make, default(op.size, op.source.channels, op.out, side), op.size, op.out


def _pair(session: Session, op: Dense) -> tuple[Make, Tiling, int, int]:
    def make(cut: Tiling) -> launch.Call:
        return launch.pair(op, session.buffers, session.tensors, cut)

    return make, Tiling(gy=2, gx=2, by=4, bx=16, warps=4), op.growth.size, op.growth.out


def _dense(session: Session) -> Iterator[Dense]:
    for op in session.plan.operations:
        if isinstance(op, Dense) and not op.bottleneck.plain and not op.growth.plain:
            yield op


def _parts(session: Session, op: Dense) -> tuple[Key, Key]:
    return session.key(op.bottleneck), session.key(op.growth)


def _work(session: Session, op: Conv) -> int:
    """Multiply-accumulates of a convolution, for one slice."""
    at = session.buffers[op.source.buffer]
    return op.size**2 * op.source.channels * op.out * at.height * at.width
