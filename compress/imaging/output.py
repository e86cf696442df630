"""Whether OUT can take results, found out before any work is done."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from compress.base.errors import UsageError

PROBE = 1 << 16
"""Bytes that are written to see whether there is any space."""


def check(out: Path, source: Path, name: str = "OUT") -> None:
    """Write and remove a file without a name where `out` is, or will be made.

    Args:
        out: the folder for results; it is not made.
        source: the input.
        name: of `out` in the command's help.

    Raises:
        UsageError: it is the input itself, no folder, not writable, or its disk is full.
    """
    if out.is_dir() and source.is_dir() and out.samefile(source):
        raise UsageError(f"{name} {out} is INPUT; give another folder, so that results stay apart")
    place = out.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"{name} {out} cannot be written: {error.strerror}") from error


def above(target: Path, out: Path) -> Iterator[Path]:
    """The folders that a result's name depends on, up to the one that `out` lies in."""
    for folder in target.parents:
        yield folder
        if folder == out.parent:
            return


def blocked(folder: Path) -> bool:
    """Whether something that is no folder lies where a folder must be."""
    return any(path.exists() and not path.is_dir() for path in (folder, *folder.parents))
