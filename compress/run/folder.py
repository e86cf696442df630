"""The run folder before work starts: can it be written, is there room, is it ours alone."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.base.errors import UsageError
from compress.base.locks import claimed

LOCK = ".lock"
"""File whose lock says that a run is at work."""
ROOM = 200 * 2**20
"""Bytes that must be free: checkpoints of a few MB a stage, engines, pictures and reports."""


def prepare(out: Path) -> None:
    """Make the folder `out` and try it, before hours of training find it wanting.

    Raises:
        UsageError: it cannot be made or written, or its disk has too little room.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"x")
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"the output folder {out} cannot be written: {reason}") from error
    free = shutil.disk_usage(out).free
    if free < ROOM:
        need, have = ROOM // 2**20, free // 2**20
        raise UsageError(f"the disk of {out} has {have} MiB free, a run needs {need} MiB")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the run folder; the lock goes with the process, however it ends.

    Raises:
        UsageError: another process runs a recipe in it, or its file system has no locks.
    """
    with claimed(out / LOCK) as mine:
        if not mine:
            raise UsageError(f"another run is at work in {out}; wait for it or give another --out")
        yield
