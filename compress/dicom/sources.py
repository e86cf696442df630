"""Where files come from: a folder that is searched through, a zip, or one file.

A zip is never unpacked onto the disk. Its names must stay inside it, and what it claims to hold
is checked before a byte is unpacked: a member that is too large, or packed too densely to be
pixels, is refused.
"""

import errno
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from compress.base.errors import UsageError
from compress.dicom import Reason, Refused

LARGEST = 1 << 30
"""Bytes of the largest file that is read; an Enhanced CT with 1,000 frames has half of that."""
DENSEST = 200
"""Largest ratio of a zip member's size to its packed size above DENSE_FROM bytes; an empty CT
slice reaches about 100, a bomb 1,000."""
DENSE_FROM = 16 << 20
MEMBERS = 1_000_000
"""Most members of a zip that are looked at."""
LOCKED = 0x41
"""Bits of a zip member's flags that say it is encrypted, weakly or strongly."""
PREFIX = 132
"""Bytes of preamble and DICM mark (PS3.10 section 7.1)."""


_DAMAGED_ZIP = "is a damaged zip: its directory cannot be read"


@dataclass(frozen=True)
class Source:
    """An input of the command, and how to read its files by name. Pickles as its path."""

    path: Path
    archive: bool = False
    named: str = "INPUT"
    """What messages call it; with the path as the user typed it."""

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            Refused: NOT_A_FILE, UNREADABLE, TOO_LARGE, ENCRYPTED or DAMAGED.
        """
        if self.archive:
            return self._member(name)
        with self.opened(name) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise Refused(Reason.TOO_LARGE)
        return data

    def prefix(self, name: str) -> bytes:
        """The first PREFIX bytes of a zip's member, without unpacking the rest.

        Raises:
            Refused: as `read`.
        """
        return self._member(name, PREFIX)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """One file of a folder, or the single one, open for reading.

        Nothing but a regular file is opened: a pipe would wait for its other end, a device acts.

        Raises:
            Refused: NOT_A_FILE, or UNREADABLE, in the block too.
        """
        path = self.path if self.path.is_file() else self.path / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise Refused(Reason.NOT_A_FILE)
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                yield file
        except OSError as error:
            raise Refused(Reason.UNREADABLE) from error

    def unlisted(self, error: OSError) -> None:
        """End a search; the folder is not named, as its name may be a patient's.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"a folder in {self.named} cannot be listed: {error.strerror}") from error

    def _member(self, name: str, size: int = -1) -> bytes:
        if not safe(name):
            raise Refused(Reason.UNSAFE_NAME)
        try:
            packed = _open(str(self.path))
            info = packed.getinfo(name)
            _check_member(info)
            with packed.open(info) as file:
                return file.read(size)
        except (Refused, MemoryError):
            raise
        except OSError as error:  # EINVAL: a place before the archive's beginning
            damaged = error.errno == errno.EINVAL
            raise Refused(Reason.DAMAGED if damaged else Reason.UNREADABLE) from error
        except NotImplementedError as error:  # a kind of compression that Python lacks
            raise Refused(Reason.UNREADABLE) from error
        except Exception as error:  # zipfile and its unpackers raise whatever they like
            raise Refused(Reason.DAMAGED) from error


def open_source(path: Path) -> Source:
    """The input at `path`.

    Raises:
        UsageError: there is nothing, or neither a file nor a folder, or a part of a zip.
    """
    if not path.exists():
        raise UsageError(f"INPUT {path} does not exist; it must be a DICOM file, a folder or a zip")
    if not (path.is_file() or path.is_dir()):
        raise UsageError(
            f"INPUT {path} is a pipe, a socket or a device; it must be a file or a folder"
        )
    archive = path.is_file() and zipfile.is_zipfile(path)
    if path.is_file() and not archive and _begins_as_zip(path):
        raise UsageError(f"INPUT {path} {_DAMAGED_ZIP}")
    return Source(path.resolve(), archive=archive, named=f"INPUT {path}")


def names(source: Source, leave_out: Path | None = None) -> list[str]:
    """Names of all files in the source, as POSIX paths inside it, sorted.

    Links to folders are followed. No folder is searched twice, so a search ends; what a link shows
    once more keeps the name that it has without the link.

    Args:
        source: where to look.
        leave_out: a folder that is not searched: the output, where it lies in the input.

    Raises:
        UsageError: a folder cannot be listed, or the zip's directory cannot be read.
    """
    if source.archive:
        return _members(source)
    if source.path.is_file():
        return [source.path.name]
    seen = {_identity(leave_out)} if leave_out and leave_out.exists() else set()
    found, links = list[str](), [source.path]
    while links:
        top = links.pop(0)
        for folder, folders, files in os.walk(top, onerror=source.unlisted):
            if _identity(folder) in seen:
                folders[:] = []
                continue
            seen.add(_identity(folder))
            links += sorted(Path(folder, name) for name in folders if _is_link(folder, name))
            inside = Path(folder).relative_to(source.path).as_posix()
            found += [name if inside == "." else f"{inside}/{name}" for name in files]
    return sorted(found)


def safe(name: str) -> bool:
    """Whether a name stays inside the tree that it is put into."""
    path = PurePosixPath(name)
    bad = "\\" in name or "\0" in name or ":" in name.split("/")[0]
    return not (bad or path.is_absolute() or ".." in path.parts or not path.parts)


def inflate_limited(data: bytes, limit: int = LARGEST) -> None:
    """Check that a raw deflate stream (PS3.5 section A.5) unpacks to at most `limit` bytes.

    Raises:
        Refused: TOO_LARGE, or DAMAGED where it is no such stream.
    """
    stream, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data
    try:
        while rest and not stream.eof:
            total += len(stream.decompress(rest, 1 << 20))
            rest = stream.unconsumed_tail
            if total > limit:
                raise Refused(Reason.TOO_LARGE)
    except zlib.error as error:
        raise Refused(Reason.DAMAGED) from error


def _members(source: Source) -> list[str]:
    try:
        infos = _open(str(source.path)).infolist()
    except Exception as error:  # zipfile raises whatever it likes for a damaged directory
        raise UsageError(f"{source.named} {_DAMAGED_ZIP}") from error
    if len(infos) > MEMBERS:
        raise UsageError(f"{source.named} is a zip with {len(infos)} members, more than {MEMBERS}")
    return sorted({info.filename for info in infos if not info.is_dir()})


@lru_cache(maxsize=1)
def _open(path: str) -> zipfile.ZipFile:
    """Kept open in each process: the directory of a large zip takes seconds to read."""
    return zipfile.ZipFile(path)


def _check_member(info: zipfile.ZipInfo) -> None:
    """Refuse what needs a password, or would unpack to more than any CT image."""
    if info.flag_bits & LOCKED:
        raise Refused(Reason.ENCRYPTED)
    dense = info.file_size > DENSEST * max(info.compress_size, 1)
    if info.file_size > LARGEST or (dense and info.file_size > DENSE_FROM):
        raise Refused(Reason.TOO_LARGE)


def _begins_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\3\4"
    except OSError:  # counted as unreadable later
        return False


def _identity(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _is_link(folder: str, name: str) -> bool:
    return Path(folder, name).is_symlink()
