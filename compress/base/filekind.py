"""What a file is by its first bytes, for sentences about files that are not what they should be."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

POINTER = "a Git LFS pointer"
ARCHIVE = "a PyTorch archive"
SCRIPT = "a TorchScript archive"
PICKLE = "a Python pickle"
FOLDER = "a folder"
EMPTY = "an empty file"
PAGE = "a web page"
ZIP = "a zip archive"
MARKS: Mapping[bytes, str] = {
    b"version https://git-lfs.github.com/spec/": POINTER,
    b"PK\x03\x04": ZIP,
    b"\x80\x02": PICKLE,
    b"\x80\x03": PICKLE,
    b"\x80\x04": PICKLE,
    b"\x80\x05": PICKLE,
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"<!doctype": PAGE,
    b"<html": PAGE,
}
INSIDE: Mapping[str, str] = {
    "constants.pkl": SCRIPT,
    "data.pkl": ARCHIVE,
    ".npy": "a NumPy archive",
}
"""End of a member of a zip archive -> what the archive is; the first that fits."""
NEVER = (EMPTY, PAGE, FOLDER)
"""What no file that is asked for can be, whatever it is called."""


def kind(path: Path) -> str:
    """What a file is, such as `a Git LFS pointer`; empty where it is not known.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return FOLDER
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return EMPTY
    found = next(
        (name for mark, name in MARKS.items() if start.lower().startswith(mark.lower())), ""
    )
    return _archive(path) if found == ZIP else found


def wrong_kind(path: Path) -> str:
    """A clause on a file that cannot be what it is taken for; empty where nothing tells."""
    try:
        found = kind(path)
    except OSError:
        return ""
    if found == POINTER:
        return f"it is {POINTER}: fetch the file itself with `git lfs pull`"
    return f"it is {found}" if found in NEVER else ""


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return f"{ZIP} that was cut off"
    ends = (what for end, what in INSIDE.items() if any(name.endswith(end) for name in names))
    return next(ends, ZIP)
