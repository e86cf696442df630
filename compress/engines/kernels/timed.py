"""Times on the GPU: of one kernel, and of ways to compute a whole network, in turns.

Both inside CUDA graphs, as the engine runs them.
"""

import logging
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from compress.base.cuda_graph import capture
from compress.engines.kernels import launch
from compress.engines.kernels.session import Choices, Session

log = logging.getLogger(__name__)
CALLS, REPEATS = 10, 5
"""Calls of a kernel in a graph, and how often it is replayed; the least time counts."""
ROUNDS, REPLAYS = 7, 3
"""Turns of whole networks, of which the median counts; replays in each, of which the least does."""
LOST: Any = getattr(torch, "AcceleratorError", ())
"""Raised where memory was touched that is not there; nothing runs in this process after it."""
NEVER = float("inf")
"""The time of what does not run."""


def milliseconds(make: Callable[[], launch.Call], device: torch.device) -> float:
    """The time of a call on the GPU; infinity where this GPU cannot run it.

    Args:
        make: makes the call.
        device: the GPU.
    """
    try:
        call = make()
        call()  # compiles
        torch.cuda.synchronize(device)
        graph = capture(lambda: [call() for _ in range(CALLS)], device, warm=0)
        return min(_replayed(graph) for _ in range(REPEATS)) / CALLS
    except LOST:
        raise
    except Exception as error:  # out of shared memory or registers: Triton has types of its own
        log.debug("a cut does not run: %s", error)
        return NEVER


def fastest(session: Session, ways: Sequence[Choices]) -> int:
    """The index of the way that takes least time; 0 where that cannot be measured.

    Args:
        session: the network, its batch and size; not changed.
        ways: kernels and cuts of it.
    """
    try:
        times = _in_turns(session, ways) if session.image.is_cuda else []
    except LOST:
        raise
    except Exception as error:  # no room for all of them: the layers' own times then decide
        log.warning("fused: whole networks are not compared: %s", error)
        times = []
    return min(range(len(times)), key=times.__getitem__, default=0)


def _in_turns(session: Session, ways: Sequence[Choices]) -> list[float]:
    """The milliseconds of each way as one CUDA graph; needs the buffers of all at once."""
    batch, _, height, width = session.image.shape
    given = session.plan, session.tensors, (batch, height, width)
    graphs = list[torch.cuda.CUDAGraph]()
    sessions = [Session(*given, choices=one) for one in ways]
    for one in sessions:
        one.image.copy_(session.image)
        one.capture()
        assert one.graph is not None
        graphs.append(one.graph)
    rounds = [[_least(graph) for graph in graphs] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def _least(graph: torch.cuda.CUDAGraph) -> float:
    return min(_replayed(graph) for _ in range(REPLAYS))


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
