"""Kernels compiled by several processes before they are needed.

Triton takes half a second for a kernel and a search wants some hundreds. Worker processes launch
each of them once, which leaves it in Triton's cache on disk; this process then finds it there. On
its own it does the same work, only later, so whatever fails here is left to it.
"""

import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from compress.engines.kernels.jobs import Job, jobs
from compress.engines.kernels.plan import Plan
from compress.engines.kernels.session import Key, Session
from compress.engines.kernels.tiling import Tiling

log = logging.getLogger(__name__)
WORKERS = 16
"""At most; each takes a CUDA context."""
ROOM = 2 * 2**30
"""Bytes of free GPU memory for each worker."""
_jobs: list[Job] = []
"""Of a worker process."""


class Compile(Protocol):
    """Tilings to be compiled by shape, until a time of time.monotonic -> how many were."""

    def __call__(  # noqa: D102
        self, cuts: Mapping[Key, Sequence[Tiling]], until: float
    ) -> int: ...


@contextmanager
def compilers(session: Session, workers: int | None = None) -> Iterator[Compile]:
    """Worker processes for the kernels of a session; none where they would not help.

    Args:
        session: what `jobs` makes jobs of.
        workers: how many; by cores and free GPU memory if None.
    """
    count = _count(session.image.device) if workers is None else workers
    if count < 2:
        yield _nothing
        return
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        # By file: what a new process is told through its pipe keeps this one waiting for its start.
        about = Path(folder) / "session.pickle"
        about.write_bytes(pickle.dumps(_About.of(session)))
        begin = functools.partial(_start, about)
        pool = ProcessPoolExecutor(count, spawn, initializer=begin)
        try:
            yield _Pool(pool, session)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _About:
    """What a worker makes its own session of."""

    plan: Plan
    tensors: dict[str, np.ndarray]
    sides: tuple[int, int]
    device: str

    @classmethod
    def of(cls, session: Session) -> "_About":
        _, _, height, width = session.image.shape
        arrays = {name: one.cpu().numpy() for name, one in session.tensors.items()}
        return cls(session.plan, arrays, (height, width), str(session.image.device))


class _Pool:
    def __init__(self, pool: ProcessPoolExecutor, session: Session) -> None:
        self.pool = pool
        self.jobs = {key: (at, job.kernel) for at, (key, job) in enumerate(jobs(session).items())}

    def __call__(self, cuts: Mapping[Key, Sequence[Tiling]], until: float) -> int:
        asked = [(*self.jobs[key], cut) for key, some in cuts.items() for cut in some]
        wanted = {(kernel, cut): at for at, kernel, cut in asked}
        try:
            futures = [self.pool.submit(_compile, at, cut) for (_, cut), at in wanted.items()]
            done, late = wait(futures, max(0.0, until - time.monotonic()))
            for future in late:
                future.cancel()
            return sum(future.result() for future in done)
        except BrokenProcessPool as error:
            log.debug("kernels are not compiled ahead: %s", error)
            return 0


def _nothing(
    cuts: Mapping[Key, Sequence[Tiling]],
    until: float,
) -> int:
    return 0


def _count(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return min(WORKERS, len(os.sched_getaffinity(0)) - 1, free // ROOM)


def _start(file: Path) -> None:
    """In a worker: the same jobs for one slice, which have the same kernels."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    about: _About = pickle.loads(file.read_bytes())
    tensors = {name: torch.from_numpy(one).to(about.device) for name, one in about.tensors.items()}
    _jobs.extend(jobs(Session(about.plan, tensors, (1, *about.sides))).values())


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _compile(at: int, cut: Tiling) -> bool:
    try:
        _jobs[at].make(cut)()
    except Exception as error:  # no room on this GPU: the search finds that out, too
        log.debug("a tiling does not compile: %s", error)
        return False
    return True
