"""What of a network is to be cut into programs: its convolutions and chains, one of each shape.

tune.py measures them, ahead.py compiles for them in other processes; the order is the same there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from compress.engines.kernels import launch, plain
from compress.engines.kernels.plan import Chain, Conv, Pool, Slice
from compress.engines.kernels.session import Key, Session
from compress.engines.kernels.tiling import Tiling, default

Make = Callable[[Tiling], launch.Call]
"""A tiling -> the call to be timed."""


@dataclass(frozen=True)
class Job:
    """A convolution, or a chain of two in one kernel, to be cut; a max-pool, which has one cut."""

    make: Make
    plain: Callable[[], object]
    """The same in PyTorch."""
    first: Tiling
    """Where the search starts."""
    size: int
    """k of the convolution; 0 where there is nothing to be searched."""
    out: int
    """Output channels in memory."""
    results: tuple[Tensor, ...]
    """What it writes, views of buffers."""
    work: int
    """Multiply-accumulates, for one slice."""
    kernel: str
    """Jobs of one name are computed by the same compiled kernels, whatever the size and batch."""
    parts: tuple[Key, ...] = ()
    """Of a chain: the two that do the same."""


def jobs(session: Session) -> dict[Key, Job]:
    """What is to be cut, by shape, the costliest first; the order depends on the plan alone."""
    ops: list[Conv | Chain | Pool] = []
    for one in session.plan.operations:
        if isinstance(one, Chain):
            ops += [one.first, one.second, one]
        elif isinstance(one, Conv):
            ops.append(one)
    first = {session.key(op): op for op in reversed(ops) if isinstance(op, Pool) or not op.plain}
    made = {key: _job(session, op) for key, op in first.items()}
    return dict(sorted(made.items(), key=lambda item: -item[1].work))


def _job(session: Session, op: Conv | Chain | Pool) -> Job:
    if isinstance(op, Chain):
        return _chain(session, op)
    return _pool(session, op) if isinstance(op, Pool) else _conv(session, op)


def _conv(session: Session, op: Conv) -> Job:
    at = session.buffers[op.source.buffer]
    return Job(
        make=partial(launch.conv, op, session.buffers, session.tensors, session.image),
        plain=_plain(session, op),
        first=default(op.size, op.source.channels, op.out, at.height, len(at.whole)),
        size=op.size,
        out=op.out,
        results=(_written(session, op.target),),
        work=op.size**2 * op.source.channels * op.out * at.height * at.width,
        kernel=_kernel(session, op, op.source, op.target),
    )


def _pool(session: Session, op: Pool) -> Job:
    return Job(
        make=lambda _: launch.pool(op, session.buffers),
        plain=_plain(session, op),
        first=Tiling(),
        size=0,
        out=op.target.channels,
        results=(_written(session, op.target),),
        work=0,
        kernel=_kernel(session, op, op.source, op.target),
    )


def _chain(session: Session, op: Chain) -> Job:
    one, other = _job(session, op.first), _job(session, op.second)
    pooled = isinstance(op.first, Pool)
    out, at = max(one.out, other.out), session.buffers[op.first.source.buffer]
    cut = default(one.size, op.first.source.channels, out, at.height, len(at.whole))
    return Job(
        make=partial(launch.chain, op, session.buffers, session.tensors),
        plain=lambda: (one.plain(), other.plain()),
        first=Tiling(by=4, bx=16) if pooled else cut,
        size=1 if pooled else one.size,
        out=out,
        results=(*one.results, *other.results),
        work=one.work + other.work,
        kernel=_kernel(session, op, op.first.source, op.first.target, op.second.target),
        parts=(session.key(op.first), session.key(op.second)),
    )


def _kernel(session: Session, op: Conv | Chain | Pool, *slices: Slice) -> str:
    """A shape's name without height, width and batch, and how far its pixels lie apart."""
    apart = [session.buffers[one.buffer].strides[2] for one in slices]
    return f"{session.key(op).rsplit(' ', 2)[0]} {apart}"


def _plain(session: Session, op: Conv | Pool) -> Callable[[], object]:
    if isinstance(op, Pool):
        return partial(plain.pool, op, session.buffers)
    return partial(plain.conv, op, session.buffers, session.tensors, session.image)


def _written(session: Session, target: Slice) -> Tensor:
    inside = session.buffers[target.buffer].inside
    return inside[..., target.start : target.start + target.channels]
