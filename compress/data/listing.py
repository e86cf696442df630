"""The files below a folder, links to folders followed: on shared disks patients are often links."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from compress.base.errors import UsageError

log = logging.getLogger(__name__)

Key = tuple[int, int]
"""Device and inode: what a folder is, by whatever path it is reached."""


def files(root: Path) -> Iterator[Path]:
    """Regular files below `root`, hidden ones and those in hidden folders left out.

    Each folder is read once, whatever links lead to it, so loops end; files come by their path
    through the links.

    Raises:
        UsageError: a folder cannot be read, or a link leads nowhere.
    """
    seen: set[Key] = set()
    tops = [root]
    while tops:
        top = tops.pop(0)
        if _key(top) in seen:
            log.warning("%s leads to a folder that was read already; it is left out", top)
            continue
        for here, folders, names in os.walk(top, onerror=_refuse):
            folder = Path(here)
            if _key(folder) in seen:
                folders.clear()
                continue
            seen.add(_key(folder))
            inside = sorted(folder / name for name in folders if not name.startswith("."))
            tops += [path for path in inside if path.is_symlink()]
            folders[:] = [path.name for path in inside if not path.is_symlink()]
            yield from _regular(folder / name for name in sorted(names) if name[0] != ".")


def _regular(paths: Iterator[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise UsageError(f"{path} is a link to {os.readlink(path)}, which does not exist")
        if path.is_file():
            yield path


def _key(folder: Path) -> Key:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
