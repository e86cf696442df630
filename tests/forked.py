"""Commands of Python in processes of their own that do not import PyTorch again.

A server has imported what commands import, and forks itself for each of them; it has computed
nothing, so no thread is lost. Imports are up to half of a short command.
"""

import json
import multiprocessing
import os
import runpy
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

CONTEXT = multiprocessing.get_context("forkserver")
SERVER = forkserver.ForkServer()  # not the one that `enhance` forks its workers from
SERVER.set_forkserver_preload(["warm"])
CONNECT = "connect_to_new_process"
"""The function of multiprocessing's that asks its server for a process."""
ASK = Path(__file__).with_name("forked_ask.py")
ONE = threading.Lock()


class Python:
    """`python WORDS`, running, where WORDS begin with `-c`, `-m` or a file.

    Args:
        words: behind `python`.
        folder: where two files are made for its output.
        environment: on top of this process's.
    """

    def __init__(self, *words: str, folder: Path, environment: dict[str, str] | None = None):
        count = len(list(folder.glob("*.out")))
        self._said = [folder / f"{count}.{end}" for end in ("out", "err")]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        streams = [os.open(file, flags) for file in self._said]
        known = {**os.environ, **(environment or {})}
        self._process = started(words, os.getcwd(), known, streams)

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

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error, when it has ended.

        Raises:
            TimeoutError: it has not, after so many seconds.
        """
        self._process.join(timeout)
        if self.poll() is None:
            raise TimeoutError(f"{self._said[0].with_suffix('')}: still running")
        out, err = (file.read_text() for file in self._said)
        return out, err

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.join()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As `poll`."""
        return self.poll()


class Command(Python):
    """`python -m compress WORDS`, running."""

    def __init__(self, *words: str, folder: Path) -> None:
        super().__init__("-m", "compress", *words, folder=folder)


def started(
    words: Sequence[str],
    folder: str,
    known: dict[str, str],
    streams: Sequence[int],
    itself: str = "",
) -> multiprocessing.process.BaseProcess:
    """A forked process, running.

    Args:
        words: behind `python`.
        folder: where it runs.
        known: its environment.
        streams: its standard streams from the last one back, as descriptors, which are closed here.
        itself: `sys.executable` in it; empty leaves it as it is.
    """
    given = [Connection(one) for one in streams]
    process = CONTEXT.Process(target=_main, args=(words, folder, known, given, itself))
    path = os.pathsep.join(filter(None, sys.path))  # where the server finds `warm`
    ours = patch.object(forkserver, CONNECT, getattr(SERVER, CONNECT))
    with ONE, ours, patch.dict(os.environ, PYTHONPATH=path):
        process.start()
    for one in given:
        one.close()
    return process


def _main(
    words: Sequence[str], folder: str, known: dict[str, str], given: list[Connection], itself: str
) -> None:
    """In the forked process: as Python begins."""
    os.environ.clear()
    os.environ.update(known)
    os.chdir(folder)
    for number, one in enumerate(given, 3 - len(given)):
        os.dup2(one.fileno(), number)
    sys.executable = itself or sys.executable
    first, *rest = words
    path = [one for one in known.get("PYTHONPATH", "").split(os.pathsep) if one]
    sys.path[:0] = [folder if first in ("-c", "-m") else str(Path(first).resolve().parent), *path]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*words]
        runpy.run_path(first, run_name="__main__")


@contextmanager
def standing_in(file: Path) -> Iterator[None]:
    """While this lasts, `file` is a `python` for scripts, whose processes are forked.

    Options of Python's other than `-c` and `-m` get a Python that is not forked.
    """
    with TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
        address = f"{name}/asked"
        real, ask = shlex.quote(sys.executable), shlex.quote(str(ASK))
        file.write_text(
            f'#!/bin/sh\ncase "$1" in -c|-m|[!-]*) ;; *) exec {real} "$@" ;; esac\n'
            f'exec {real} -S -E {ask} {address} "$@"\n'
        )
        file.chmod(0o755)
        server.bind(address)
        server.listen()
        threading.Thread(target=_serve, args=(server, str(file)), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket, file: str) -> None:
    """Give each that asks a process, until the socket is shut."""
    with suppress(OSError):
        while True:
            asking = server.accept()[0]
            threading.Thread(target=_answer, args=(asking, file), daemon=True).start()


def _answer(asking: socket.socket, file: str) -> None:
    """Run what one asks for: pass signals on, tell it the exit status, end where it has gone."""
    with asking:
        length, streams, *_ = socket.recv_fds(asking, 8, 3)
        asked = asking.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
        process = started(*json.loads(asked), streams, file)
        while process.sentinel not in wait([process.sentinel, asking]):
            number = asking.recv(1)
            with suppress(ProcessLookupError):
                os.kill(process.pid, number[0] if number else signal.SIGKILL)
            if not number:
                break
        process.join()
        with suppress(OSError):
            asking.sendall(str(process.exitcode).encode())
