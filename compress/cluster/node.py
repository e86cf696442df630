"""A task where it runs. Imports nothing heavy: the command is a process of its own."""

import os
import platform
import signal
import subprocess
import sys
import time
from threading import Event

from compress.base.errors import CompressError
from compress.base.exit_codes import STOPPED, USAGE
from compress.base.locks import taken
from compress.base.signals import interruptible
from compress.cluster.task import Outcome, Task

TICK = 0.1
"""Seconds between two looks at the command."""


class Command:
    """A task's command, run when it is called.

    No task runs twice at the same time: its command holds a lock as long as it lives. A machine may
    be taken for lost while its command still runs; what was begun in its place waits for the lock.

    Args:
        task: what to run.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> Outcome:
        """Run the command to its end; a signal to this process is passed on to it."""
        host = platform.node()
        if not (self.task.folder.is_dir() and self.task.logs.is_dir()):
            return Outcome(
                status=USAGE,
                note=f"{host} does not have the folders of this command; start it in, and write "
                "to, folders that all machines share",
            )
        try:
            return Outcome(status=self._locked(), note=host)
        except CompressError as error:
            return Outcome(status=error.exit_code, note=f"{host}: {error}")

    def _locked(self) -> int:
        path = self.task.log.with_name(f".{self.task.log.name}.lock")
        with interruptible() as stop, path.open("w") as lock:
            while not taken(lock):
                if stop.wait(TICK):
                    return STOPPED
            with self.task.log.open("ab") as log:
                self.child = subprocess.Popen(
                    self._words(),
                    cwd=self.task.folder,
                    env={**os.environ, **dict(self.task.settings)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lock.fileno()],  # the lock is the command's, too
                    start_new_session=True,  # Ctrl-C in a terminal comes once, from here
                )
            return self._watched(self.child, stop)

    def _words(self) -> list[str]:
        words = [str(os.getpid()), *self.task.words]
        return [sys.executable, "-m", "compress.cluster.tied", *words]

    def _watched(self, child: "subprocess.Popen[bytes]", stop: Event) -> int:
        """The exit status of the command; it is told once when this process is."""
        try:
            while child.poll() is None:
                if stop.is_set():
                    child.send_signal(signal.SIGTERM)
                    return child.wait()
                time.sleep(TICK)
        except BaseException:
            if not stop.is_set():  # a second signal would end it without saving
                child.send_signal(signal.SIGTERM)
            raise
        return child.returncode

    def end(self, seconds: float) -> None:
        """Let the command save and end; wait for it so long at most."""
        if self.child is None:
            return
        self.child.send_signal(signal.SIGTERM)
        until = time.monotonic() + seconds
        while _alive(self.child.pid) and time.monotonic() < until:
            time.sleep(TICK)


def _alive(pid: int) -> bool:
    """Whether a child of this process still runs; it is left to be waited for."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def run(task: Task) -> Outcome:
    """Run a task here."""
    return Command(task)()
