"""Slices from the workers through the network and back, in the order of the files.

Decoding runs ahead as far as the arena has slots, the network takes full batches of slices of one
shape, encoding follows. Which slices share a batch depends on their order alone, not on who was
quicker: a run repeats itself. While the GPU computes a batch the one before is handed back.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

from compress.base.errors import Stopped
from compress.base.signals import at_once
from compress.dicom import Reason, Refused
from compress.dicom.headers import Header
from compress.dicom.writing import Process
from compress.imaging.arena import Arena
from compress.imaging.records import FileRow
from compress.imaging.workers import Lost, Pool

if TYPE_CHECKING:  # the workers begin before torch is imported
    from compress.imaging.inference import Flight, Network

TRIES = 3
"""How often a file is begun whose worker ended because of another file."""

GRACE = 0.5
"""Seconds that results which are being written get when a signal has come."""
GLANCE = 0.001
"""Seconds between two looks at the network while it is waited for."""

Entry = tuple[int, int, int]
"""A slice on its way: number of the job, try, frame."""
Result = FileRow | Refused
"""What became of a job: facts for the manifest, or the reason why not."""


@dataclass(frozen=True)
class Job:
    """A file to enhance."""

    header: Header
    target: Path
    """The file of the derived image."""
    around: tuple[str, ...] = ()
    """Files of the slices that the network sees, its own in the middle; empty: it sees one."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices in memory, rows, columns: the frames of the file, or `around`."""
        return len(self.around) or self.header.frames, self.header.rows, self.header.columns


class Stream:
    """One run over many files.

    Args:
        pool: the workers; the arena is shared with them.
        network: on its device.
        arena: slots that hold the largest job.
        jobs: what to do.
        process: what is written into the derived objects.
        stop: when set, only what is being written is finished.
        done: is told the number of each job that ended, and what became of it.
    """

    def __init__(
        self,
        pool: Pool,
        network: "Network",
        arena: Arena,
        jobs: Sequence[Job],
        process: Process,
        stop: Event,
        done: Callable[[int, Result], None],
    ) -> None:
        self.pool, self.network, self.arena = pool, network, arena
        self.jobs, self.process, self.stop, self.done = jobs, process, stop, done
        self.seconds = dict.fromkeys(("first", "for_workers", "for_network", "network"), 0.0)
        self.start = time.perf_counter()
        self.todo = deque(range(len(jobs)))
        self.free = list(range(arena.slots))
        self.slot: dict[int, int] = {}  # of the jobs under way
        self.order: deque[int] = deque()  # being decoded, in order
        self.ready: dict[int, FileRow] = {}  # decoded -> what is known of the source
        self.line: deque[Entry] = deque()  # slices before the network
        self.flying: deque[tuple[list[Entry], Flight]] = deque()
        self.left: Counter[int] = Counter()  # frames of a job still before or in the network
        self.encoding: set[int] = set()
        self.full = False
        """Whether the disk of the results is: then it ends, too."""
        self.tries: Counter[int] = Counter()

    def run(self) -> None:
        """All jobs, or as many as are done when `stop` is set or the disk full."""
        while self.todo or self.slot:
            if self.stop.is_set() or self.full:
                self._give_up()
                return
            self._feed()
            self._advance()
            launched = self._launch()
            if not launched:
                self._land_done()
            self._collect(idle=not launched)

    def _give_up(self) -> None:
        """Wait a moment for what is being written; the rest is left for the next run."""
        end = time.monotonic() + GRACE
        while self.encoding and self.pool.waiting and time.monotonic() < end:
            answer = self.pool.answer(wait=False, seconds=0.05)
            if answer is not None and answer[0][0] == "encode":
                (_, number), outcome = answer
                self.encoding.discard(number)
                if isinstance(outcome, dict):
                    self._take("encode", number, outcome)

    def _feed(self) -> None:
        """Have files decoded ahead, in order, as long as there are slots."""
        while self.todo and self.free and len(self.order) < self.pool.capacity:
            number = self.todo.popleft()
            job, slot = self.jobs[number], self.free.pop()
            self.slot[number] = slot
            self.order.append(number)
            source = (job.header.name, job.header.sop)
            given = (slot, job.shape, self.process.assume_hu, job.around)
            self.pool.submit("decode", number, *source, *given)

    def _advance(self) -> None:
        """Line up the slices of decoded files, in order."""
        while self.order and self.order[0] in self.ready:
            number = self.order.popleft()
            frames = self.jobs[number].header.frames
            self.left[number] = frames
            self.line.extend((number, self.tries[number], frame) for frame in range(frames))

    def _batch(self) -> list[Entry]:
        """The next batch: slices of one shape, as many as the network takes; [] to wait."""
        batch: list[Entry] = []
        sides = self.jobs[self.line[0][0]].shape[1:] if self.line else ()
        for entry in self.line:
            same = self.jobs[entry[0]].shape[1:] == sides
            if not same or len(batch) == self.network.batch:
                return batch
            batch.append(entry)
        if len(batch) == self.network.batch:
            return batch
        moving = self.order or self.flying or self.encoding
        more = self.order or (self.todo and (self.free or moving))
        return [] if more else batch

    def _launch(self) -> bool:
        """Send a batch into the network, and take the one before out of it."""
        batch = self._batch()
        if not batch:
            return False
        for _ in batch:
            self.line.popleft()
        self.seconds["first"] = self.seconds["first"] or time.perf_counter() - self.start
        views = [self._seen(number, frame) for number, _, frame in batch]
        try:
            with at_once(self.stop, Stopped("enhance: stopped")):  # a CPU takes seconds for a batch
                self.flying.append((batch, self.network.launch(views)))
        except Stopped:
            return False
        self._land(1)
        return True

    def _land(self, flying: int) -> None:
        """Take batches out of the network until so many are left in it."""
        while len(self.flying) > flying:
            batch, flight = self.flying.popleft()
            start = time.perf_counter()
            output, seconds = flight.land()
            self.seconds["for_network"] += time.perf_counter() - start
            self.seconds["network"] += seconds
            for (number, attempt, frame), hu in zip(batch, output, strict=True):
                if number in self.slot and attempt == self.tries[number]:
                    self._view(number)[frame] = hu
                    self._came_back(number)

    def _land_done(self) -> None:
        """Take batches out of the network that it has done, without waiting for it."""
        while self.flying and self.flying[0][1].done():
            self._land(len(self.flying) - 1)

    def _came_back(self, number: int) -> None:
        self.left[number] -= 1
        if not self.left[number]:
            self.encoding.add(number)
            given = (self.slot[number], self.jobs[number].target, self.process)
            self.pool.submit("encode", number, *given)

    def _collect(self, *, idle: bool) -> None:
        """Take in what the workers have done; wait for it where there is nothing else to do."""
        start = time.perf_counter()
        alone = idle and not self.flying and self.pool.waiting > 0
        answer = self.pool.answer(wait=alone, seconds=GLANCE if idle else 0.0)
        whom = "for_network" if self.flying else "for_workers"
        self.seconds[whom] += time.perf_counter() - start
        while answer is not None:
            (task, number), outcome = answer
            self._take(task, number, outcome)
            answer = self.pool.answer(wait=False)

    def _take(self, task: str, number: int, outcome: Any) -> None:
        """Take in what became of one task."""
        if isinstance(outcome, Lost):
            self._lost(number, outcome)
        elif isinstance(outcome, Refused) and outcome.reason == Reason.DISK_FULL:
            self.full = True
            self.encoding.discard(number)
        elif isinstance(outcome, Refused):
            self._end(number, outcome)
        elif task == "decode":
            self.ready[number] = outcome
        else:
            self._end(number, cast("FileRow", {**self.ready[number], **outcome}))

    def _lost(self, number: int, lost: Lost) -> None:
        """Begin a file again whose worker ended, unless the file is to blame."""
        if number not in self.slot:
            return
        self.tries[number] += 1
        if lost.guilty or self.tries[number] >= TRIES:
            self._end(number, Refused(Reason.CRASHED))
            return
        self._forget(number)
        self.todo.append(number)

    def _end(self, number: int, result: Result) -> None:
        self._forget(number)
        self.done(number, result)

    def _forget(self, number: int) -> None:
        self.free.append(self.slot.pop(number))
        self.ready.pop(number, None)
        self.left.pop(number, None)
        self.encoding.discard(number)
        if number in self.order:
            self.order.remove(number)
        self.line = deque(entry for entry in self.line if entry[0] != number)

    def _seen(self, number: int, frame: int) -> Any:
        """What the network sees of a slice: (H, W), or (2 * neighbours + 1, H, W)."""
        view = self._view(number)
        return view if self.jobs[number].around else view[frame]

    def _view(self, number: int) -> Any:
        return self.arena.view(self.slot[number], self.jobs[number].shape)
