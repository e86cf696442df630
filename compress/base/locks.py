"""Locks between processes of one folder: the kernel lets go of them, however a process ends."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from compress.base.errors import UsageError

BUSY = (errno.EAGAIN, errno.EACCES)
"""What a lock says that another process holds."""


def taken(file: IO[Any]) -> bool:
    """Take the lock of an open file, unless another process holds it; without waiting.

    Whoever inherits the open file holds the lock, too.

    Raises:
        UsageError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            return False
        raise UsageError(
            f"the file system has no locks between processes ({error.strerror}); use a folder on "
            "one that has, such as NFS 4, or Lustre mounted with the option flock"
        ) from error
    return True


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether the lock at `path` was free; it is then held inside the context."""
    with path.open("w") as file:
        yield taken(file)
