"""Processes that read, decode, encode and write beside the network.

Each has its own pipe and its own queue. What a worker decodes stays with it until it has encoded
it again: only HU go back and forth, through the arena. A worker that crashes or hangs takes one
file with it and is replaced; what else it held is told as lost, to be done again.

Workers come from a fork server that has imported what they need but neither torch nor CUDA. They
import this file and nothing heavier.
"""

import contextlib
import ctypes
import errno
import gc
import os
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, reduction
from multiprocessing.context import ForkServerProcess
from typing import Any

from compress.dicom import Reason, Refused
from compress.dicom.parsing import quiet
from compress.imaging import forking
from compress.imaging.arena import Arena

MOST = 32
"""Most worker processes: one GPU does not need more."""
LIMIT = 300.0
"""Seconds that one task may take: a decoder that takes longer hangs."""
TICK = 0.25
"""Seconds of one wait for an outcome, after which signals and workers that hang are noticed."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk, or what a user may store on it, is full."""
DEATH = 1
"""The call of Linux's prctl that asks for a signal when the parent ends."""
HEAP, KEPT = (-3, 32 << 20), (-1, 64 << 20)
"""Options of glibc's mallopt: bytes up to which arrays come from the heap, and bytes at its end
that stay with the process when they are free."""
MEMORY = 8 << 30
"""Bytes that a worker may allocate: a file that claims to need more is refused."""
DEPTH = 4
"""Tasks that wait in a worker's queue, so that it never waits for the network's process."""

Key = tuple[str, int]
"""What is done, and the number of the job."""


@dataclass
class Lost:
    """The outcome of tasks whose worker ended before it answered or encoded."""

    guilty: bool
    """Whether the worker was at this one when it ended."""


@dataclass
class _Worker:
    process: ForkServerProcess
    pipe: connection.Connection
    queue: deque[Key] = field(default_factory=deque)
    """Not yet answered, oldest first."""
    holds: set[int] = field(default_factory=set)
    """Jobs that it has decoded and not yet encoded."""
    since: float = 0.0
    """When it began with the oldest."""


class Pool:
    """Worker processes.

    Args:
        make: makes, in each worker, the object whose methods are the tasks; pickled, so a class
            or function of a module, with its arguments.
        count: number of processes.
    """

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Any], count: int) -> None:
        forking.begin((forking.NEEDED[0], make.__module__))
        self._make, self._arguments = make, tuple(arguments)
        self._arena: Arena | None = None
        self._poll, self._busy = select.poll(), dict[int, _Worker]()  # by handle of the pipe
        self._ready: deque[_Worker] = deque()
        self._workers = [self._start() for _ in range(count)]
        self._lost: deque[tuple[Key, Lost]] = deque()

    @property
    def capacity(self) -> int:
        """Tasks that keep all workers busy."""
        return DEPTH * len(self._workers)

    @property
    def waiting(self) -> int:
        """Tasks without an answer."""
        return sum(len(worker.queue) for worker in self._workers) + len(self._lost)

    def share(self, arena: Arena) -> None:
        """Give all workers, later ones too, the memory for slices."""
        self._arena = arena
        for worker in self._workers:
            self._hand_arena(worker, arena)

    def submit(self, task: str, number: int, *arguments: Any) -> None:
        """Have a task done: by who holds the job, else by who has least to do."""
        holder = next((w for w in self._workers if number in w.holds), None)
        worker = holder or min(self._workers, key=lambda w: len(w.queue) + len(w.holds))
        if not worker.queue:
            worker.since = time.monotonic()
            self._busy[worker.pipe.fileno()] = worker
            self._poll.register(worker.pipe, select.POLLIN)
        worker.queue.append((task, number))
        if task == "decode":
            worker.holds.add(number)
        with contextlib.suppress(OSError):  # it has ended; `answer` finds out
            worker.pipe.send((task, number, arguments))

    def answer(self, *, wait: bool, seconds: float = 0.0) -> tuple[Key, Any] | None:
        """The next outcome: what a task returned, the Refused that it raised, or Lost.

        Args:
            wait: for an outcome, TICK at most; otherwise None is returned where there is none yet.
            seconds: how long to look out for one without `wait`.
        """
        while not self._lost:
            worker = self._next(TICK if wait else seconds)
            if worker is not None:
                try:
                    return self._done(worker, worker.pipe.recv())
                except (EOFError, OSError):
                    self._replace(worker)
            elif not self._end_hanging():
                return None
        return self._lost.popleft()

    def each(self, task: str, jobs: Mapping[int, Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Have a task done for many jobs: number and outcome of each, as they come.

        Args:
            task: its name.
            jobs: the arguments of each number.
        """
        todo = deque(jobs)
        while todo or self.waiting:
            while todo and self.waiting < self.capacity:
                number = todo.popleft()
                self.submit(task, number, *jobs[number])
            answer = self.answer(wait=True)
            if answer is not None:
                yield answer[0][1], answer[1]

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        end = time.monotonic() + TICK
        for worker in self._workers:  # one that waits for a dead disk ends when that comes back
            worker.process.join(max(0.0, end - time.monotonic()))

    def _start(self) -> _Worker:
        ours, theirs = forking.CONTEXT.Pipe()
        process = forking.CONTEXT.Process(
            target=_serve, args=(theirs, self._make, self._arguments), daemon=True
        )
        process.start()  # a server that has died starts again here
        theirs.close()
        worker = _Worker(process, ours)
        if self._arena is not None:
            self._hand_arena(worker, self._arena)
        return worker

    def _hand_arena(self, worker: _Worker, arena: Arena) -> None:
        with contextlib.suppress(OSError):
            worker.pipe.send(("share", 0, (arena.slots, arena.size)))
            reduction.send_handle(worker.pipe, arena.handle, worker.process.pid)

    def _next(self, seconds: float) -> _Worker | None:
        """A worker that has answered or ended; all that are found at once come one by one.

        What is waited for stays registered: to hand all pipes to the system anew takes longer than
        an answer, and on many cores all workers wait for this process.
        """
        if not self._ready:
            self._ready.extend(self._busy[handle] for handle, _ in self._poll.poll(1000 * seconds))
        return self._ready.popleft() if self._ready else None

    def _rest(self, worker: _Worker) -> None:
        """Look out for its answers no longer, until it has something to do."""
        del self._busy[worker.pipe.fileno()]
        self._poll.unregister(worker.pipe)

    def _done(self, worker: _Worker, outcome: Any) -> tuple[Key, Any]:
        key = worker.queue.popleft()
        worker.since = time.monotonic()
        if not worker.queue:
            self._rest(worker)
        if key[0] == "encode" or isinstance(outcome, Refused):
            worker.holds.discard(key[1])
        return key, outcome

    def _end_hanging(self) -> bool:
        """End workers that have been at one task for too long."""
        now = time.monotonic()
        late = [w for w in self._workers if w.queue and now - w.since > LIMIT]
        for worker in late:
            worker.process.kill()
            self._replace(worker)
        return bool(late)

    def _replace(self, worker: _Worker) -> None:
        """A new worker for one that has ended; its first task is to blame."""
        worker.process.kill()
        worker.process.join()
        self._rest(worker)
        worker.pipe.close()
        guilty = worker.queue[0]
        waiting = {number for _, number in worker.queue}
        held = [("decode", number) for number in sorted(worker.holds - waiting)]
        for key in (*worker.queue, *held):
            self._lost.append((key, Lost(guilty=key == guilty)))
        self._workers[self._workers.index(worker)] = self._start()


def processes() -> int:
    """One for each core but the network's own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min((cores or 1) - 1, MOST))


def _serve(pipe: connection.Connection, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """The life of a worker: one task after the other, until its pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they mean the command, which ends its workers
    _end_with_server()
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    _keep_pages()
    gc.freeze()  # a look through all that was imported would copy the pages that it shares
    quiet()
    desk = make(*arguments)
    mute = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # codecs in C and Rust write to them past Python
        os.dup2(mute, stream)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task, number, given = pipe.recv()
            if task == "share":
                desk.arena = Arena(given[0], given[1], reduction.recv_handle(pipe))
                continue
            pipe.send(_outcome(desk, task, number, given))


def _end_with_server() -> None:
    """End with the fork server, even within a decoder that hangs; the server ends with the command.

    For that no worker may hold the pipe open by whose end the server learns of the command's.
    Elsewhere than on Linux a worker ends when it asks for its next task.
    """
    with contextlib.suppress(AttributeError, TypeError, OSError):
        os.close(getattr(forkserver, "_forkserver")._forkserver_alive_fd)  # noqa: B009
        ctypes.CDLL(None).prctl(DEATH, signal.SIGKILL)


def _keep_pages() -> None:
    """Use the memory of one slice's arrays for the next slice's.

    By itself glibc gives it back to the system when an array goes, and each page that it gets
    anew costs an interrupt and is filled with zeros, some 6 % of what a slice takes.
    """
    with contextlib.suppress(AttributeError, TypeError, OSError):  # another library than glibc
        change = ctypes.CDLL(None).mallopt
        for option in (HEAP, KEPT):
            change(*option)


def _outcome(desk: Any, task: str, number: int, given: Sequence[Any]) -> Any:
    try:
        return getattr(desk, task)(number, *given)
    except Refused as error:
        return Refused(error.reason)  # without the cause, which may quote the file
    except MemoryError:
        return Refused(Reason.TOO_LARGE)
    except OSError as error:
        return Refused(Reason.DISK_FULL if error.errno in FULL else Reason.UNWRITABLE)
    except Exception:  # a file must not end a worker, and its exceptions may quote it
        return Refused(Reason.DAMAGED)
