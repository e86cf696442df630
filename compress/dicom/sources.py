"""Where files come from: a folder that is searched through, a zip, or one file.

A zip is never unpacked onto the disk. Its names must stay inside it, and what it claims to hold
is checked before a byte is unpacked: a member that is too large, or packed too densely to be
pixels, is refused.
"""

import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

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
PREFIX = 132
"""Bytes of preamble and DICM mark (PS3.10 section 7.1)."""


@dataclass(frozen=True)
class Source:
    """An input of the command, and how to read its files by name. Pickles as its path."""

    path: Path
    archive: bool = False

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            Refused: TOO_LARGE, ENCRYPTED or DAMAGED.
        """
        try:
            return self._member(name) if self.archive else _read(_place(self.path, name), LARGEST)
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, KeyError) as error:
            # zipfile raises RuntimeError where a password is needed.
            encrypted = isinstance(error, RuntimeError) and "encrypted" in str(error)
            raise Refused(Reason.ENCRYPTED if encrypted else Reason.DAMAGED) from error

    def prefix(self, name: str) -> bytes:
        """The first PREFIX bytes, cheaply.

        Raises:
            Refused: as `read`.
        """
        if self.archive:
            return self._member(name, PREFIX)
        try:
            with _place(self.path, name).open("rb") as file:
                return file.read(PREFIX)
        except OSError as error:
            raise Refused(Reason.DAMAGED) from error

    def _member(self, name: str, size: int = -1) -> bytes:
        if not safe(name):
            raise Refused(Reason.UNSAFE_NAME)
        packed = _open(str(self.path))
        info = packed.getinfo(name)
        dense = info.file_size > DENSEST * max(info.compress_size, 1)
        if info.file_size > LARGEST or (dense and info.file_size > DENSE_FROM):
            raise Refused(Reason.TOO_LARGE)
        try:
            with packed.open(info) as file:
                return file.read(size)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
            raise Refused(Reason.DAMAGED) from error


def open_source(path: Path) -> Source:
    """The input at `path`.

    Raises:
        UsageError: there is nothing.
    """
    if not path.exists():
        raise UsageError("INPUT does not exist; it must be a DICOM file, a folder or a zip")
    return Source(path.resolve(), archive=path.is_file() and zipfile.is_zipfile(path))


def names(source: Source, leave_out: Path | None = None) -> list[str]:
    """Names of all files in the source, as POSIX paths inside it, sorted.

    Links to folders are not followed, so that a search ends and stays in its tree.

    Args:
        source: where to look.
        leave_out: a folder that is not searched: the output, where it lies in the input.

    Raises:
        UsageError: a folder cannot be listed, or the zip's directory cannot be read.
    """
    if source.archive:
        return _members(source.path)
    if source.path.is_file():
        return [source.path.name]
    skip = leave_out.resolve() if leave_out else None
    found = []
    for folder, folders, files in os.walk(source.path, onerror=_unlisted):
        folders[:] = [name for name in folders if Path(folder, name) != skip]
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


def _members(path: Path) -> list[str]:
    try:
        infos = _open(str(path)).infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError("INPUT is a damaged zip: its directory cannot be read") from error
    if len(infos) > MEMBERS:
        raise UsageError(f"INPUT is a zip with {len(infos)} members, more than {MEMBERS}")
    return sorted({info.filename for info in infos if not info.is_dir()})


@lru_cache(maxsize=1)
def _open(path: str) -> zipfile.ZipFile:
    """Kept open in each process: the directory of a large zip takes seconds to read."""
    return zipfile.ZipFile(path)


def _place(root: Path, name: str) -> Path:
    return root if root.is_file() else root / name


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Refused(Reason.TOO_LARGE)
    return data


def _unlisted(error: OSError) -> None:
    raise UsageError(f"a folder of INPUT cannot be listed: {error.strerror}") from error
