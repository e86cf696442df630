"""Which kernel and cut of each convolution is fastest on this GPU, measured; and one kernel or two.

Kernels are timed inside CUDA graphs, as the engine runs them: a call from Python costs more than
most of DDnet's layers. The search goes through all layers in steps, see tiling.py, so that what a
step needs can be compiled by several processes before it is measured by this one, see ahead.py.
"""

import logging
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from compress.engines.base import NotBuilt
from compress.engines.kernels import ahead
from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.cuda.moves import Move
from compress.engines.kernels.cuda.products import Kind
from compress.engines.kernels.cuda.window import Window, strips
from compress.engines.kernels.jobs import Job, jobs
from compress.engines.kernels.plan import Chain
from compress.engines.kernels.route import Layer, Unit, cheapest
from compress.engines.kernels.session import Choices, Cut, Key, Session
from compress.engines.kernels.tiling import Tiling, variations
from compress.engines.kernels.timed import NEVER, fastest, milliseconds

log = logging.getLogger(__name__)
STEPS = 3
"""Of the search in tiling.py."""
FAR = 1.2
"""A Triton kernel this many times slower than the other one before its search is not searched."""
WINDOWS = 2
"""Kernels of CUDA C++ whose strips are measured in all heights, the fastest ones."""
Known = MutableMapping[Key, Cut]
"""The shape of a convolution, chain or layer -> the cut that was fastest."""


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
        least = self._fastest(Tiling, Window)
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
        windows = sorted(
            (c for c in self.times if isinstance(c, Window)), key=self.times.__getitem__
        )
        if step != 1:
            return []
        height = self.job.results[0].shape[1]
        cuts = [replace(c, strip=rows) for c in windows[:WINDOWS] for rows in strips(height)]
        return [cut for cut in cuts if cut not in self.times]

    def _fastest(self, *kinds: type) -> Cut | None:
        ran = [c for c, ms in self.times.items() if isinstance(c, kinds) and ms < NEVER]
        return min(ran, key=self.times.__getitem__, default=None)

    def without(self, kind: Kind) -> "Search":
        """The same without an instruction, where anything else ran; itself where it is not best.

        A layer that is fastest alone, its data in the caches, need not be so in the network.
        """
        if not isinstance(self.best, Window) or self.best.kind != kind:
            return self
        rest = {c: ms for c, ms in self.times.items() if not _is(c, kind)}
        known = None if _is(self.known, kind) else self.known
        return (
            replace(self, times=rest, known=known)
            if min(rest.values(), default=NEVER) < NEVER
            else self
        )

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


def _is(cut: Cut | None, kind: Kind) -> bool:
    return isinstance(cut, Window) and cut.kind == kind


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


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found."""

    choices: Choices
    units: list[tuple[Unit, Cut | None, float]]
    """What each kernel computes, how it is cut, and its time in ms; in order."""


def tune(session: Session, seconds: float, known: Known | None = None) -> Found:
    """Measured choices for every convolution of a session; the costliest ones first.

    Args:
        session: on a GPU; its buffers are used.
        seconds: when to stop, without the time for compiling CUDA C++; what was not measured keeps
            its default.
        known: cuts of earlier searches on this kind of GPU, which are taken again; whole
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
            begun = time.monotonic()
            _compile_windows(searches, cuts, session.image.device)
            until += time.monotonic() - begun  # once on a machine: the kernels are kept
            tilings = {key: _tilings(some) for key, some in cuts.items()}
            for key, one in searches.items():  # before Triton compiles: they are ready
                one.measure([cut for cut in cuts[key] if cut not in tilings[key]], until)
            compiled(tilings, until)
            for key, one in searches.items():
                one.measure(tilings[key], until)
    found = _found(session, searches)
    dense = {key: one.without("mma.sp") for key, one in searches.items()}
    if dense != searches:
        other = _found(session, dense)
        if fastest(session, (found.choices, other.choices)):
            log.info("fused: the network is faster without 2:4 kernels")
            searches, found = dense, other
    known.update(_whole(searches))
    return found


def _compile_windows(
    searches: Mapping[Key, Search], cuts: Mapping[Key, Sequence[Cut]], device: torch.device
) -> None:
    """Have the kernels of CUDA C++ compiled, side by side."""
    made = [searches[key].job.source(cut) for key, some in cuts.items() for cut in some
            if not isinstance(cut, Tiling)]  # fmt: skip
    compiler.ahead([one for one in made if one], device)


def _tilings(cuts: Sequence[Cut]) -> list[Tiling]:
    return [cut for cut in cuts if isinstance(cut, Tiling)]


def _whole(searches: Mapping[Key, Search]) -> dict[Key, Cut]:
    """What is worth being remembered."""
    for key, one in searches.items():
        log.info("fused: %s %.4f ms, %s", key, one.ms, one.best)
    ran = {key: one.best for key, one in searches.items() if one.ms < NEVER and not one.short}
    return {key: best for key, best in ran.items() if best}


def _found(session: Session, searches: Mapping[Key, Search]) -> Found:
    """The fastest cuts, and the fastest way to merge operations.

    Raises:
        NotBuilt: nothing runs.
    """
    convs, merged, moved = dict[Key, Cut](), dict[Key, Cut](), dict[Key, Move]()
    for key, one in searches.items():
        if isinstance(one.best, Move):
            moved[key] = one.best
        if one.job.merged or not one.tried or not one.job.size:
            continue
        if one.ms == NEVER or one.best is None:
            what = f"{one.job.size}x{one.job.size}"
            raise NotBuilt(f"no tiling of a {what} convolution runs on this GPU")
        convs[key] = one.best
    units = [(one, *_of(session, searches, one)) for one in _units(session, searches)]
    for unit, cut, _ in units:
        if isinstance(unit, Chain | Layer) and cut:
            merged[session.key(unit)] = cut
    chains = {key: cut for key, cut in merged.items() if isinstance(cut, Tiling)}
    layers = {key: cut for key, cut in merged.items() if isinstance(cut, Window)}
    return Found(choices=Choices(conv=convs, chain=chains, layer=layers, move=moved), units=units)


def _units(session: Session, searches: Mapping[Key, Search]) -> list[Unit]:
    """The cheapest way through the plan; where a time is missing, operations stay by themselves."""

    def cost(unit: Unit) -> float:
        _, ms = _of(session, searches, unit)
        alone = NEVER if isinstance(unit, Chain | Layer) else 1e6
        return ms if ms < NEVER else alone

    return cheapest(session.plan, cost)


def _of(session: Session, searches: Mapping[Key, Search], unit: Unit) -> tuple[Cut | None, float]:
    """How a unit is cut, and its time."""
    found = searches.get(session.key(unit))
    return (None, NEVER) if found is None else (found.best, found.ms)
