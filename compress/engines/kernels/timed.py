"""Times on the GPU: of one kernel, and of ways to compute a whole network, in turns.

Both inside CUDA graphs, as the engine runs them.
"""

import logging
import statistics
from collections.abc import Callable
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
GAIN = 0.998
"""Largest share of the time of the way so far that another way is taken at: less is by chance."""
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


class Race:
    """Ways to compute a whole network, each against the fastest one so far.

    Args:
        session: the network, its batch and size; not changed. On a CPU nothing is timed.
        first: kernels and cuts of the way to be beaten.
    """

    def __init__(self, session: Session, first: Choices) -> None:
        self._session, self._first = session, first
        self._best: Session | None = None
        self._over = not session.image.is_cuda
        self.raced = 0

    def won_by(self, other: Choices) -> bool:
        """Whether another way takes less time; it is the one to be beaten then."""
        if self._over:
            return False
        self.raced += 1
        try:
            return self._won_by(other)
        except LOST:
            raise
        except Exception as error:  # no room for both: the layers' own times then decide
            log.warning("fused: whole networks are not compared: %s", error)
            self._over = True
            return False

    def _won_by(self, other: Choices) -> bool:
        self._best = self._best or self._captured(self._first)
        rival = self._captured(other)
        rounds = [(_least(self._best), _least(rival)) for _ in range(ROUNDS)]
        before, now = (statistics.median(times) for times in zip(*rounds, strict=True))
        won = bool(now <= GAIN * before)
        self._best = rival if won else self._best
        return won

    def _captured(self, choices: Choices) -> Session:
        batch, _, height, width = self._session.image.shape
        plan, tensors = self._session.plan, self._session.tensors
        made = Session(plan, tensors, (batch, height, width), choices=choices)
        made.image.copy_(self._session.image)
        made.capture()
        return made


def _least(session: Session) -> float:
    assert session.graph is not None
    return min(_replayed(session.graph) for _ in range(REPLAYS))


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
