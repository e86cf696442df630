"""All tasks of a command through an engine, until each is done, failed, or a signal came."""

import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.exit_codes import STOPPED, USAGE
from compress.base.signals import at_once, interruptible
from compress.base.words import listed
from compress.cluster import engines
from compress.cluster.task import Cluster, Engine, Outcome, Running, Task

log = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between two looks at the tasks."""
TRIES = 5
"""How often a task is begun whose machine is lost, or that a signal on its machine stops."""
LOST = (None, STOPPED, -signal.SIGKILL, -signal.SIGTERM)
"""Exit statuses of tasks that did not end by themselves."""
PATIENCE = 120.0
"""Seconds that tasks get to save and end after a signal."""
NAMED = 3
"""Most failed tasks that a message names."""


def settings() -> tuple[tuple[str, str], ...]:
    """Environment variables of this program, which tasks get, too."""
    return tuple((key, value) for key, value in os.environ.items() if key.startswith("COMPRESS_"))


def opened(cluster: Cluster, logs: Path, device: str | None) -> Engine:
    """The engine that `--cluster` names.

    Args:
        cluster: what was asked for.
        logs: a folder that all machines share; it is made.
        device: of `--device`.

    Raises:
        UsageError: it is not there, or its package is not installed.
        Stopped: a signal came meanwhile.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with (
        interruptible("stopping") as stop,
        at_once(stop, Stopped("stopped before a task began; run again to go on")),
    ):
        return engines.engine(cluster, logs, device)


def through(engine: Engine, tasks: Sequence[Task], place: str) -> None:
    """Run all tasks; those whose machine is lost are begun again.

    Args:
        engine: of `opened`; it is closed.
        tasks: with names of their own.
        place: where the logs are, for messages.

    Raises:
        UsageError: a task says that the command is wrong; no more were begun.
        CompressError: tasks failed; all others are done.
        Stopped: a signal came; run again to go on.
    """
    try:
        with interruptible("no more tasks begin; those that run save and end") as stop:
            _Spread(engine, tasks, place, stop).run()
    finally:
        engine.close()


class _Spread:
    """The tasks of `through`, by what became of them."""

    def __init__(self, engine: Engine, tasks: Sequence[Task], place: str, stop: Event) -> None:
        self.engine, self.place, self.stop = engine, place, stop
        self.waiting, self.count = deque(tasks), len(tasks)
        self.running = dict[str, tuple[Task, Running]]()
        self.tries = Counter[str]()
        self.done, self.failed = 0, list[str]()

    def run(self) -> None:
        """Until nothing waits and nothing runs."""
        try:
            self._through()
        except UsageError:  # of a task, or an engine takes no more: none is left behind
            self._end()
            raise

    def _through(self) -> None:
        log.info("%d tasks for %s", self.count, self.engine.name)
        while self.waiting or self.running:
            if self.stop.is_set():
                self._end()
                left = self.count - self.done - len(self.failed)
                raise Stopped(
                    f"stopped: {self.done} of {self.count} tasks are done; run again to go on with "
                    f"the other {left}"
                )
            self._begin()
            self._look()
            self.stop.wait(TICK)
        if self.failed:
            raise CompressError(f"{len(self.failed)} of {self.count} tasks failed: {self._why()}")

    def _begin(self) -> None:
        most = self.engine.at_once
        while self.waiting and not (most and len(self.running) >= most):
            task = self.waiting.popleft()
            self.tries[task.name] += 1
            self.running[task.name] = task, self.engine.submit(task)

    def _look(self) -> None:
        for task, run in [*self.running.values()]:
            outcome = run.outcome()
            if outcome is not None:
                del self.running[task.name]
                self._ended(task, outcome)

    def _ended(self, task: Task, outcome: Outcome) -> None:
        tries = self.tries[task.name]
        if outcome.status == 0:
            self.done += 1
            log.info("%d of %d done: %s, %s", self.done, self.count, task.name, outcome.note)
        elif outcome.status == USAGE:
            raise UsageError(f"{_last_words(task, outcome)} (more in {self._log(task.name)})")
        elif outcome.status in LOST and tries < TRIES and not self.stop.is_set():
            log.warning("%s was lost (%s); it is begun again", task.name, _why(outcome))
            self.waiting.append(task)
        else:
            self.failed.append(task.name)
            log.warning("%s failed (%s); see its log", task.name, _why(outcome))

    def _end(self) -> None:
        """Begin nothing more; let what runs save and end."""
        self.waiting.clear()
        for _, run in self.running.values():
            run.cancel()
        until = time.monotonic() + PATIENCE
        while self.running and time.monotonic() < until:
            for task, run in [*self.running.values()]:
                outcome = run.outcome()
                if outcome is not None:
                    del self.running[task.name]
                    self.done += outcome.status == 0
            time.sleep(TICK)

    def _why(self) -> str:
        more = len(self.failed) - NAMED
        names = listed([*self.failed[:NAMED], *([f"{more} more"] if more > 0 else [])])
        return f"{names}; {self._log(self.failed[0])} says why"

    def _log(self, name: str) -> str:
        """Where the log of a task is, for messages."""
        return f"{name}.log in {self.place}"


def _why(outcome: Outcome) -> str:
    """What happened to a task, for the log."""
    if outcome.status is None:
        return outcome.note
    if outcome.status == STOPPED:
        return f"stopped by a signal on {outcome.note}"
    if outcome.status < 0:
        return f"ended by {signal.Signals(-outcome.status).name} on {outcome.note}"
    return f"exit status {outcome.status} on {outcome.note}"


def _last_words(task: Task, outcome: Outcome) -> str:
    """The error that a command ended with, from its log; else the note."""
    try:
        lines = task.log.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    said = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return said[-1] if said else outcome.note
