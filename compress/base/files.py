"""Files that are never half written, and their hashes."""

import hashlib
import json
import os
import secrets
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Any

PARTIAL = ".compress-tmp"
"""What a file's name ends in while it is written: no user's file is called so."""


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: COMPRESS_CACHE or the user's cache folder.

    Raises:
        RuntimeError: there is no such folder.
    """
    if named := os.environ.get("COMPRESS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compress"


def write_atomic(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write `data` to `path`; after a crash the old or the new content is there, never a part.

    Args:
        path: the file.
        data: all of its content.
        lasting: after a power cut the new content is there; False leaves that to one
            `sync_folder` after many files.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; `path` is untouched.
    """
    # Not by tempfile, whose files are private: a run folder is shared like any other output.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a folder that refuses the file refuses this, too
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # of a full disk the system names no file
            error.filename = str(path)
        raise
    if lasting:
        sync_folder(path.parent)


def remove_partial(folder: Path, names: Container[str] | None = None) -> None:
    """Remove what killed processes left of files that they were writing into `folder`.

    Args:
        folder: itself, not the folders in it; may be missing.
        names: of the files; all where the folder is this process's alone. What another process
            is writing must not be among them.
    """
    for path in folder.glob(f".*{PARTIAL}"):
        name = path.name[1:].rsplit(".", 2)[0]  # the middle is random
        if names is None or name in names:
            path.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, atomically; keys keep their order, NaN is refused."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nested too deeply for Python.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """The SHA-256 of a JSON-like value: equal values give equal digests on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make all renames in `folder` survive a power cut (POSIX: the folder is a file too)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
