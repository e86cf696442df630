"""Which cut of one kernel is fastest on this GPU, measured: a search in steps, see tiling.py.

Kernels are timed inside CUDA graphs, as the engine runs them: a call from Python costs more than
most of DDnet's layers.
"""

import logging
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from compress.engines.kernels.cuda.moves import Move
from compress.engines.kernels.cuda.products import Kind
from compress.engines.kernels.cuda.window import Window, strips
from compress.engines.kernels.jobs import Job
from compress.engines.kernels.session import Cut
from compress.engines.kernels.tiling import Tiling, variations
from compress.engines.kernels.timed import NEVER, milliseconds

log = logging.getLogger(__name__)
STEPS = 3
"""Of the search in tiling.py."""
FAR = 1.2
"""What is this many times slower than the fastest is left: Triton's kernel before its tilings are
searched, an instruction's before its strips are, and a change before the whole network is timed."""
WINDOWS = 2
"""Kernels of CUDA C++ whose strips are measured in all heights: the fastest ones of all, and the
fastest one of each other instruction that is not `FAR` slower than the first."""


@dataclass
class Search:
    """How far the search for a job's cut has come."""

    job: Job
    known: Cut | None
    """What an earlier search found; taken if it still runs."""
    times: dict[Cut, float] = field(default_factory=dict)
    """Milliseconds; infinite for what does not run or is wrong."""
    short: bool = False
    """Whether the time was up before all was tried."""

    @property
    def best(self) -> Cut | None:
        """The fastest cut; where the search starts, if nothing ran."""
        least = self._fastest(Tiling, Window, Move)
        return least or self.known or self.job.first

    @property
    def ms(self) -> float:
        """Its time."""
        return min(self.times.values(), default=NEVER)

    @property
    def tried(self) -> bool:
        """Whether anything was measured."""
        return bool(self.times)

    def cuts(self, step: int) -> list[Cut]:
        """What a step measures: where the search starts, then what tiling.py and window.py have."""
        if step == 0:
            first = [self.job.first] if self.job.first else []
            return [self.known] if self.known else [*first, *self.job.cuda]
        again = [self.job.first] if step == 1 and self.known and self.ms == NEVER else []
        if self.known and self.ms < NEVER:
            return []
        return [cut for cut in again if cut] + self._tilings(step) + self._strips(step)

    def _tilings(self, step: int) -> list[Cut]:
        tiling, job = self._fastest(Tiling) or self.job.first, self.job
        if not job.size or not isinstance(tiling, Tiling):
            return []
        if self.times.get(tiling, NEVER) > FAR * self.ms:
            return []
        return [*variations(step - 1, tiling, job.size, job.out)]

    def _strips(self, step: int) -> list[Cut]:
        windows = self._sorted(Window)
        if step != 1 or not windows:
            return []
        height, limit = self.job.results[0].shape[1], FAR * self.times[windows[0]]
        first = {_kind(one): one for one in reversed(windows)}
        near = [one for one in first.values() if self.times[one] <= limit]
        chosen = dict.fromkeys([*windows[:WINDOWS], *near])
        cuts = [replace(one, strip=rows) for one in chosen for rows in strips(height)]
        return [cut for cut in cuts if cut not in self.times]

    def _fastest(self, *kinds: type) -> Cut | None:
        return next(iter(self._sorted(*kinds)), None)

    def _sorted(self, *kinds: type) -> list[Any]:
        """What ran, the fastest first."""
        ran = [c for c, ms in self.times.items() if isinstance(c, kinds) and ms < NEVER]
        return sorted(ran, key=self.times.__getitem__)

    def without(self, kinds: Set[Kind]) -> "Search":
        """The same without some instructions; itself where none is best, or nothing else ran."""
        if _kind(self.best) not in kinds:
            return self
        return self._but([cut for cut in self.times if _kind(cut) in kinds]) or self

    def another_kind(self) -> "Search | None":
        """Without the instruction of the best cut; None where all others are far slower."""
        kind = _kind(self.best)
        return self._near(self._but([cut for cut in self.times if _kind(cut) == kind]))

    def another_cut(self) -> "Search | None":
        """Without the best cut; None where all others are far slower."""
        return self._near(self._but([cut for cut in self.times if cut == self.best]))

    def _near(self, other: "Search | None") -> "Search | None":
        return other if other and other.ms <= FAR * self.ms else None

    def _but(self, cuts: Sequence[Cut]) -> "Search | None":
        """The same without some cuts; None where nothing else ran."""
        rest = {cut: ms for cut, ms in self.times.items() if cut not in cuts}
        if min(rest.values(), default=NEVER) == NEVER:
            return None
        return replace(self, times=rest, known=None if self.known in cuts else self.known)

    def measure(self, cuts: Sequence[Cut], until: float) -> None:
        """Measure some cuts and keep their times; buffers must hold more than zeros.

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
            stuck = self.tried and self.ms == NEVER and not job.merged
            if time.monotonic() > until and not stuck:
                self.short = True
                break
            self.times[cut] = _measured(job, cut, expected, self.ms)
        if self.ms == NEVER:
            self.known = None
        for one, value in zip(job.results, expected, strict=True):
            one.copy_(value)  # the next layer reads it


def _kind(cut: Cut | None) -> object:
    """The instruction of a kernel in CUDA C++; of the others the class of their cuts."""
    return cut.kind if isinstance(cut, Window) else type(cut)


def _measured(job: Job, cut: Cut, expected: Sequence[Tensor], least: float) -> float:
    """The time of a cut; infinity where it computes something else."""
    for one in job.results:
        one.fill_(float("nan"))
    ms = milliseconds(lambda: job.make(cut), job.results[0].device)
    if ms >= least:
        return ms
    off = max(_off(one, value) for one, value in zip(job.results, expected, strict=True))
    if off <= job.close:
        return ms
    log.warning("fused: a kernel is off by %.2g and is left out: %s", off, cut)
    return NEVER


def _off(found: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the largest value, 0 for equals; infinite where one is NaN."""
    if torch.equal(found, expected):  # zeros, too
        return 0.0
    off = float((found - expected).abs().max() / expected.abs().max())
    return off if off == off else NEVER
