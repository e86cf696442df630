"""Processes that tests start: what is below them, and none outlives its test."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Every process under `pid`."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in children.read_text().split()] if children.exists() else []
    return [*found, *(below for child in found for below in descendants(child))]


@contextmanager
def ending(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Kill what has not ended of these processes and those below, as after a timeout."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                for pid in (*descendants(process.pid), process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
