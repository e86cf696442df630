"""Which tiling of each convolution is fastest on this GPU, measured; and one kernel or two.

Kernels are timed inside CUDA graphs, as the engine runs them: a call from Python costs more than
most of DDnet's layers.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compress.engines import NotBuilt
from compress.engines.kernels import launch, plain
from compress.engines.kernels.plan import Conv, Dense, Slice
from compress.engines.kernels.session import Choices, Key, Session
from compress.engines.kernels.tiling import Tiling, default, variations

log = logging.getLogger(__name__)
CALLS, REPEATS = 10, 5
"""Calls in a graph, and how often it is replayed; the least time counts."""
STEPS = 3
"""Of the search in tiling.py."""
LOST: Any = getattr(torch, "AcceleratorError", ())
"""Raised where memory was touched that is not there; nothing runs in this process after it."""
CLOSE = 1e-2
"""How far a tiling's result may be from PyTorch's, in units of its largest value."""
Make = Callable[[Tiling], launch.Call]
"""A tiling -> the call to be timed."""
Known = MutableMapping[Key, Tiling]
"""The shape of a convolution or dense layer -> the tiling that was fastest."""


@dataclass(frozen=True)
class Job:
    """A convolution, or a dense layer in one kernel, to be cut."""

    make: Make
    plain: Callable[[], object]
    """The same in PyTorch."""
    first: Tiling
    """Where the search starts."""
    size: int
    """k of the convolution."""
    out: int
    """Output channels in memory."""
    result: Tensor
    """What it writes, a view of its buffer."""


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    cut: Tiling
    ms: float
    """Its time; infinite where no tiling runs here."""
    whole: bool = False
    """Whether all there is was tried; the time may have been up before."""


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
    except LOST:
        raise
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


def search(job: Job, until: float, known: Tiling | None = None) -> Found:
    """The fastest tiling found; the first one where nothing else was tried.

    One that this GPU has no room for is left out, and one that computes something else than
    PyTorch, which is the compiler's fault.

    Args:
        job: what is cut; its input must hold more than zeros.
        until: when to stop, on the clock of time.monotonic.
        known: what an earlier search of this shape found: nothing else is tried if it still runs.
    """
    job.result.zero_()
    job.plain()
    expected = job.result.clone()
    found = Found(known or job.first, float("inf"))
    if known:
        found = Found(known, _measured(job, known, expected, float("inf")), whole=True)
    if found.ms == float("inf"):
        found = _tried(job, until, expected)
    job.result.copy_(expected)  # the next layer reads it
    return found


def _tried(job: Job, until: float, expected: Tensor) -> Found:
    """The search in three steps, each from the best so far."""
    best, least, whole = job.first, _measured(job, job.first, expected, float("inf")), True
    for step in range(STEPS):
        for cut in variations(step, best, job.size, job.out):
            if time.monotonic() > until and least < float("inf"):
                whole = False
                break
            ms = _measured(job, cut, expected, least)
            if ms < least:
                best, least = cut, ms
    return Found(best, least, whole)


def _measured(job: Job, cut: Tiling, expected: Tensor, least: float) -> float:
    """The time of a tiling; infinity where it computes something else."""
    job.result.fill_(float("nan"))
    ms = milliseconds(job.make(cut), job.result.device)
    if ms >= least:
        return ms
    off = float((job.result - expected).abs().max())
    if off <= CLOSE * float(expected.abs().max()):
        return ms
    log.warning("fused: a tiling is off by %.2g and is left out: %s", off, cut)
    return float("inf")


def tune(session: Session, seconds: float, known: Known | None = None) -> Choices:
    """Measured choices for every convolution of a session; the costliest ones first.

    A dense layer is tried as one kernel as soon as both of its parts have been measured.

    Args:
        session: on a GPU; its buffers are used.
        seconds: when to stop; what was not measured keeps its default.
        known: tilings of earlier searches on this kind of GPU, which are taken again; whole
            searches are added.

    Raises:
        NotBuilt: a convolution has no tiling that runs here.
    """
    until = time.monotonic() + seconds
    done = _Log(until, {} if known is None else known)
    convs, pairs = dict[Key, Tiling](), dict[Key, Tiling]()
    session.image.normal_(std=0.1)
    for buffer in session.buffers.values():
        buffer.inside.normal_(std=0.1)
    for op in sorted(session.plan.convs(), key=lambda one: -_work(session, one)):
        key = session.key(op)
        if key in convs or op.plain or time.monotonic() > until:
            continue
        convs[key] = done.best(key, _conv(session, op))
        if done.times[key] == float("inf"):
            raise NotBuilt(f"no tiling of a {op.size}x{op.size} convolution runs on this GPU")
        pairs |= _pairs(session, done)
    choices = Choices(conv=convs, pair=pairs)
    return replace(choices, early=_early(session, choices))


@dataclass
class _Log:
    """What the searches of one build have found."""

    until: float
    known: Known
    times: dict[Key, float] = field(default_factory=dict)

    def best(self, key: Key, job: Job) -> Tiling:
        """Search, and write down the time; a whole search is remembered."""
        found = search(job, self.until, self.known.get(key))
        self.times[key] = found.ms
        if found.whole and found.ms < float("inf"):
            self.known[key] = found.cut
        log.info("fused: %s %.4f ms, %s", key, found.ms, found.cut)
        return found.cut


def _pairs(session: Session, done: _Log) -> dict[Key, Tiling]:
    """Tilings of the dense layers that can be timed now, where one kernel is faster than two."""
    pairs, times = {}, done.times
    for dense in _ready(session, times):
        if time.monotonic() < done.until:
            key, parts = session.key(dense), _parts(session, dense)
            cut = done.best(key, _pair(session, dense))
            if times[key] < sum(times[part] for part in parts):
                pairs[key] = cut
    return pairs


def _conv(session: Session, op: Conv) -> Job:
    def make(cut: Tiling) -> launch.Call:
        return launch.conv(op, session.buffers, session.tensors, session.image, cut)

    at = session.buffers[op.source.buffer]
    first = default(op.size, op.source.channels, op.out, at.height, len(at.whole))
    return Job(make, _plain(session, op), first, op.size, op.out, _written(session, op.target))


def _pair(session: Session, op: Dense) -> Job:
    def make(cut: Tiling) -> launch.Call:
        return launch.pair(op, session.buffers, session.tensors, cut)

    first = Tiling(gy=2, gx=2, by=4, bx=16, warps=4)
    growth = op.growth
    halves = _plain(session, op.bottleneck), _plain(session, growth)
    result = _written(session, growth.target)
    return Job(make, lambda: [half() for half in halves], first, growth.size, growth.out, result)


def _plain(session: Session, op: Conv) -> Callable[[], object]:
    return partial(plain.conv, op, session.buffers, session.tensors, session.image)


def _written(session: Session, target: Slice) -> Tensor:
    inside = session.buffers[target.buffer].inside
    return inside[..., target.start : target.start + target.channels]


def _early(session: Session, choices: Choices) -> bool:
    """Whether the network is faster with kernels that begin early, and gives the same bits."""
    device = session.image.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    from compress.engines.kernels.overlap import SERVED

    x = torch.rand_like(session.image)
    shape = (len(x), *x.shape[2:])
    graphs, outputs = [], []
    try:
        for early in (False, True) if SERVED else ():
            made = replace(choices, early=early)
            one = Session(session.plan, session.tensors, shape, choices=made)
            outputs.append(one(x))
            graphs.append(one)
    except LOST:
        raise
    except Exception as error:
        log.debug("kernels cannot begin early: %s", error)
        return False
    return bool(graphs) and torch.equal(*outputs) and _faster(graphs[1], graphs[0])


def _faster(one: Session, other: Session) -> bool:
    """Whether one session takes less time than the other, in turns; the least counts."""
    assert one.graph is not None
    assert other.graph is not None
    turns = [(_replayed(one.graph), _replayed(other.graph)) for _ in range(4 * REPEATS)]
    return min(mine for mine, _ in turns) < min(its for _, its in turns)


def _ready(session: Session, times: Mapping[Key, float]) -> Iterator[Dense]:
    """Dense layers, one of each shape, whose parts have been timed and they themselves not yet."""
    for op in session.plan.operations:
        if not isinstance(op, Dense) or op.bottleneck.plain or op.growth.plain:
            continue
        if session.key(op) not in times and all(part in times for part in _parts(session, op)):
            yield op


def _parts(session: Session, op: Dense) -> tuple[Key, Key]:
    return session.key(op.bottleneck), session.key(op.growth)


def _work(session: Session, op: Conv) -> int:
    """Multiply-accumulates of a convolution, for one slice."""
    at = session.buffers[op.source.buffer]
    return op.size**2 * op.source.channels * op.out * at.height * at.width
