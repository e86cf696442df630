"""What of a network is to be cut into programs: its convolutions and chains, one of each shape.

tune.py measures them, ahead.py compiles for them in other processes; the order is the same there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compress.engines.kernels import launch, plain
from compress.engines.kernels.cuda import compiler, moves
from compress.engines.kernels.cuda import launch as cuda
from compress.engines.kernels.cuda.products import DENSE_INT8, SPARSE
from compress.engines.kernels.cuda.window import Task, Window, candidates
from compress.engines.kernels.plan import Chain, Conv, Pool, Slice, Upsample
from compress.engines.kernels.route import Layer, Unit, merges, singles
from compress.engines.kernels.session import Cut, Key, Session
from compress.engines.kernels.tiling import Tiling, default

CLOSE, CLOSE_INT8 = 1e-2, 5e-2
"""How far a kernel may be from PyTorch, see `Job.close`; in INT8 a value between two steps may be
rounded the other way, and a wrong kernel is off by far more."""
Make = Callable[[Cut], launch.Call]
"""A cut -> the call to be timed."""


@dataclass(frozen=True)
class Job:
    """What has several kernels or cuts: a convolution, two operations in one kernel, a move."""

    make: Make
    plain: Callable[[], object]
    """The same in PyTorch."""
    first: Tiling | None
    """Where the search of Triton's tilings starts; None where Triton has no kernel."""
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
    merged: bool = False
    """Whether it is two operations, which two kernels may compute as well."""
    cuda: tuple[Window | moves.Move, ...] = ()
    """Cuts of kernels in CUDA C++; those of a 5x5 with strips of one height."""
    source: Callable[[Cut], compiler.Source | None] = lambda _: None
    """What has to be compiled for one of them."""
    close: float = CLOSE
    """How far a result may be from PyTorch's, in units of its largest value."""


def jobs(session: Session) -> dict[Key, Job]:
    """What is to be cut, by shape, the costliest first; the order depends on the plan alone."""
    ops: list[Unit] = [
        one for one in singles(session.plan) if not isinstance(one, Conv) or not one.plain
    ]
    ops += merges(session.plan).values()
    first = {session.key(op): op for op in reversed(ops)}
    made = {key: _job(session, op) for key, op in first.items()}
    useful = {key: job for key, job in made.items() if job.first or job.cuda}
    return dict(sorted(useful.items(), key=lambda item: -item[1].work))


def _job(session: Session, op: Unit) -> Job:
    if isinstance(op, Chain):
        return _chain(session, op)
    if isinstance(op, Layer):
        return _layer(session, op)
    return _conv(session, op) if isinstance(op, Conv) else _move(session, op)


def _conv(session: Session, op: Conv) -> Job:
    at = session.buffers[op.source.buffer]
    cuts, source = _windows(session, op, None)
    none = op.int8 or (bool(cuts) and compiler.only_a100())  # then Triton computes no 5x5
    first = default(op.size, op.source.channels, op.out, at.height, len(at.whole))
    return Job(
        make=partial(_either, session, op, cuda.Packed(op, None, session.tensors)),
        plain=_plain(session, op),
        first=None if none else first,
        size=op.size,
        out=op.out,
        results=(_written(session, op.target),),
        work=op.size**2 * op.source.channels * op.out * at.height * at.width,
        kernel=_kernel(session, op, op.source, op.target),
        cuda=cuts,
        source=source,
        close=CLOSE_INT8 if op.int8 else CLOSE,
    )


def _either(session: Session, op: Conv, packed: cuda.Packed, cut: Cut) -> launch.Call:
    given = session.buffers, session.tensors, session.image
    if isinstance(cut, Window):
        return cuda.call(op, None, *given, cut, packed)
    return launch.conv(op, *given, _tiling(cut))


def _layer(session: Session, op: Layer) -> Job:
    one, other = _job(session, op.first), _job(session, op.second)
    cuts, source = _windows(session, op.conv, op.before, op.pool)
    return Job(
        make=partial(_call, session, op, cuda.Packed(op.conv, op.before, session.tensors)),
        plain=lambda: (one.plain(), other.plain()),
        first=None,
        size=op.conv.size,
        out=other.out,
        results=(*one.results, *other.results) if op.pool else other.results,
        work=one.work + other.work,
        kernel=_kernel(session, op, op.first.source, op.first.target, op.second.target),
        merged=True,
        cuda=cuts,
        source=source,
        close=other.close,
    )


def _call(session: Session, op: Layer, packed: cuda.Packed, cut: Cut) -> launch.Call:
    assert isinstance(cut, Window)
    given = session.buffers, session.tensors, session.image
    return cuda.call(op.conv, op.before, *given, cut, packed, op.pool)


def _windows(
    session: Session, op: Conv, before: Conv | Upsample | None, pool: Pool | None = None
) -> tuple[tuple[Window, ...], Callable[[Cut], compiler.Source | None]]:
    """How a kernel in CUDA C++ may be cut, and its source; none without NVIDIA's packages."""
    task = cuda.task(op, before, lambda name: session.buffers[name].strides[2], pool)
    if task is None or not _cuda(session):
        return (), lambda _: None
    device, at = session.image.device, session.buffers[op.source.buffer]
    kinds = compiler.kinds(device) - (DENSE_INT8 if op.sparse else SPARSE)
    cuts = candidates(task, at.height, at.width, kinds, compiler.room(device))
    return tuple(cuts), partial(_source, task)


def _source(task: Task, cut: Cut) -> compiler.Source | None:
    return compiler.source(task, cut) if isinstance(cut, Window) else None


def _cuda(session: Session) -> bool:
    half = next(iter(session.buffers.values())).whole.dtype == torch.float16
    return half and session.kernels and session.image.is_cuda and compiler.available()


def _move(session: Session, op: Pool | Upsample) -> Job:
    triton: Any = launch.pool if isinstance(op, Pool) else launch.upsample
    move: Any = plain.pool if isinstance(op, Pool) else plain.upsample

    def make(cut: Cut) -> launch.Call:
        if isinstance(cut, moves.Move):
            return moves.call(op, session.buffers, cut)
        made: launch.Call = triton(op, session.buffers)
        return made

    strips = [one for one in moves.STRIPS if one <= session.buffers[op.target.buffer].height]
    return Job(
        make=make,
        plain=partial(move, op, session.buffers),
        first=Tiling(),
        size=0,
        out=op.target.channels,
        results=(_written(session, op.target),),
        work=0,
        kernel=_kernel(session, op, op.source, op.target),
        cuda=tuple(moves.Move(strip=one) for one in strips) if _cuda(session) else (),
        source=lambda _: moves.source(op, session.buffers),
    )


def _chain(session: Session, op: Chain) -> Job:
    one, other = _job(session, op.first), _job(session, op.second)
    pooled = isinstance(op.first, Pool)
    out, at = max(one.out, other.out), session.buffers[op.first.source.buffer]
    cut = default(one.size, op.first.source.channels, out, at.height, len(at.whole))
    slow = (
        isinstance(op.first, Conv) and bool(one.cuda) and compiler.only_a100()
    )  # then Triton computes no 5x5
    return Job(
        make=lambda cut: launch.chain(op, session.buffers, session.tensors, _tiling(cut)),
        plain=lambda: (one.plain(), other.plain()),
        first=None if slow else Tiling(by=4, bx=16) if pooled else cut,
        size=1 if pooled else one.size,
        out=out,
        results=(*one.results, *other.results),
        work=one.work + other.work,
        kernel=_kernel(session, op, op.first.source, op.first.target, op.second.target),
        merged=True,
    )


def _tiling(cut: Cut) -> Tiling:
    assert isinstance(cut, Tiling)
    return cut


def _kernel(session: Session, op: Unit, *slices: Slice) -> str:
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
