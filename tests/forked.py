"""Commands of this program in processes of their own that do not import PyTorch again.

A server has imported what commands import, and forks itself for each of them; it has computed
nothing, so no thread is lost. Imports are up to half of a short command.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

CONTEXT = multiprocessing.get_context("forkserver")
SERVER = forkserver.ForkServer()  # not the one that `enhance` forks its workers from
SERVER.set_forkserver_preload(["warm"])
CONNECT = "connect_to_new_process"
"""The function of multiprocessing's that asks its server for a process."""


class Command:
    """`python -m compress WORDS`, running.

    Args:
        words: behind `compress`.
        folder: where two files are made for its output.
    """

    def __init__(self, *words: str, folder: Path) -> None:
        count = len(list(folder.glob("*.out")))
        self._said = [folder / f"{count}.{end}" for end in ("out", "err")]
        names = [str(file) for file in self._said]
        self._process = CONTEXT.Process(target=_main, args=(words, names, dict(os.environ)))
        path = os.pathsep.join(filter(None, sys.path))  # where the server finds `warm`
        ours = patch.object(forkserver, CONNECT, getattr(SERVER, CONNECT))
        with ours, patch.dict(os.environ, PYTHONPATH=path):
            self._process.start()

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal where it has not ended."""
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it as a machine does that loses its power."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Standard output and standard error, when it has ended."""
        self._process.join()
        out, err = (file.read_text() for file in self._said)
        return out, err


def _main(words: tuple[str, ...], said: list[str], environment: dict[str, str]) -> None:
    """In the forked process: as Python begins with `-m compress`."""
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(said, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["compress", *words]
    runpy.run_module("compress", run_name="__main__", alter_sys=True)
