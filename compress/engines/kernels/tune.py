"""Which tiling of each convolution is fastest on this GPU, measured; and one kernel or two.

Kernels are timed inside CUDA graphs, as the engine runs them: a call from Python costs more than
most of DDnet's layers. The search goes through all layers in steps, see tiling.py, so that what a
step needs can be compiled by several processes before it is measured by this one, see ahead.py.
"""

import logging
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compress.base.cuda_graph import capture
from compress.engines.base import NotBuilt
from compress.engines.kernels import ahead, launch
from compress.engines.kernels.jobs import Job, jobs
from compress.engines.kernels.session import Choices, Key, Session
from compress.engines.kernels.tiling import Tiling, variations

log = logging.getLogger(__name__)
CALLS, REPEATS = 10, 5
"""Calls in a graph, and how often it is replayed; the least time counts."""
STEPS = 3
"""Of the search in tiling.py."""
LOST: Any = getattr(torch, "AcceleratorError", ())
"""Raised where memory was touched that is not there; nothing runs in this process after it."""
CLOSE = 1e-2
"""How far a tiling's result may be from PyTorch's, in units of its largest value."""
NEVER = float("inf")
"""The time of what does not run."""
Known = MutableMapping[Key, Tiling]
"""The shape of a convolution or chain -> the tiling that was fastest."""


@dataclass
class Search:
    """How far the search for a job's tiling has come."""

    job: Job
    known: Tiling | None
    """What an earlier search found; taken if it still runs."""
    best: Tiling = field(init=False)
    ms: float = NEVER
    tried: bool = False
    short: bool = False
    """Whether the time was up before all was tried."""

    def __post_init__(self) -> None:
        self.best = self.known or self.job.first

    def cuts(self, step: int) -> list[Tiling]:
        """What a step measures: where the search starts, then what tiling.py has."""
        if step == 0:
            return [self.best]
        if self.known or not self.job.size:
            return []
        again = [self.job.first] if step == 1 and self.ms == NEVER else []
        return again + variations(step - 1, self.best, self.job.size, self.job.out)

    def measure(self, cuts: Sequence[Tiling], until: float) -> None:
        """Measure some tilings and keep the fastest; buffers must hold more than zeros.

        One that this GPU has no room for is left out, and one that computes something else than
        PyTorch, which is the compiler's fault.

        Args:
            cuts: to be measured.
            until: when to stop, on the clock of time.monotonic; a convolution that was begun goes
                on until some tiling runs, which it cannot do without.
        """
        if not cuts:
            return
        job = self.job
        for one in job.results:
            one.zero_()
        job.plain()
        expected = [one.clone() for one in job.results]
        for cut in cuts:
            stuck = self.tried and self.ms == NEVER and not job.parts
            if time.monotonic() > until and not stuck:
                self.short = True
                break
            self.tried = True
            ms = _measured(job, cut, expected, self.ms)
            if ms < self.ms:
                self.best, self.ms = cut, ms
        if self.ms == NEVER:
            self.known, self.best = None, job.first
        for one, value in zip(job.results, expected, strict=True):
            one.copy_(value)  # the next layer reads it


def milliseconds(call: launch.Call, device: torch.device) -> float:
    """The time of a call on the GPU; infinity where this GPU cannot run it."""
    try:
        call()  # compiles
        torch.cuda.synchronize(device)
        graph = capture(lambda: [call() for _ in range(CALLS)], device, warm=0)
        return min(_replayed(graph) for _ in range(REPEATS)) / CALLS
    except LOST:
        raise
    except Exception as error:  # out of shared memory or registers: Triton has types of its own
        log.debug("a tiling does not run: %s", error)
        return NEVER


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _measured(job: Job, cut: Tiling, expected: Sequence[Tensor], least: float) -> float:
    """The time of a tiling; infinity where it computes something else."""
    for one in job.results:
        one.fill_(float("nan"))
    ms = milliseconds(job.make(cut), job.results[0].device)
    if ms >= least:
        return ms
    off = max(_off(one, value) for one, value in zip(job.results, expected, strict=True))
    if off <= CLOSE:
        return ms
    log.warning("fused: a tiling is off by %.2g and is left out: %s", off, cut)
    return NEVER


def _off(found: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the largest value, 0 for equals; infinite where one is NaN."""
    if torch.equal(found, expected):  # zeros, too
        return 0.0
    off = float((found - expected).abs().max() / expected.abs().max())
    return off if off == off else NEVER


def tune(session: Session, seconds: float, known: Known | None = None) -> Choices:
    """Measured choices for every convolution of a session; the costliest ones first.

    Args:
        session: on a GPU; its buffers are used.
        seconds: when to stop; what was not measured keeps its default.
        known: tilings of earlier searches on this kind of GPU, which are taken again; whole
            searches are added.

    Raises:
        NotBuilt: a convolution has no tiling that runs here.
    """
    until = time.monotonic() + seconds
    known = {} if known is None else known
    searches = {key: Search(job, known.get(key)) for key, job in jobs(session).items()}
    session.image.normal_(std=0.1)
    for buffer in session.buffers.values():
        buffer.inside.normal_(std=0.1)
    all_known = all(one.known for one in searches.values())
    with ahead.compilers(session, 0 if all_known else None) as compiled:
        for step in range(STEPS + 1):
            cuts = {key: one.cuts(step) for key, one in searches.items()}
            compiled(cuts, until)
            for key, one in searches.items():
                one.measure(cuts[key], until)
    known.update(_whole(searches))
    return _choices(searches)


def _whole(searches: Mapping[Key, Search]) -> dict[Key, Tiling]:
    """What is worth being remembered."""
    for key, one in searches.items():
        log.info("fused: %s %.4f ms, %s", key, one.ms, one.best)
    return {key: one.best for key, one in searches.items() if one.ms < NEVER and not one.short}


def _choices(searches: Mapping[Key, Search]) -> Choices:
    """The fastest tilings, and one kernel for a chain where it beats its two parts.

    Raises:
        NotBuilt: nothing runs.
    """
    convs, chains = dict[Key, Tiling](), dict[Key, Tiling]()
    for key, one in searches.items():
        if one.job.parts:
            if one.ms < sum(searches[part].ms for part in one.job.parts) < NEVER:
                chains[key] = one.best
        elif one.tried and one.job.size:
            convs[key] = one.best
            if one.ms == NEVER:
                raise NotBuilt(
                    f"no tiling of a {one.job.size}x{one.job.size} convolution runs on this GPU"
                )
    return Choices(conv=convs, chain=chains)
