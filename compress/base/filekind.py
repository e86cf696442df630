"""What a file is by its first bytes, for sentences about files that are not what they should be."""

from collections.abc import Mapping
from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/"
"""How a Git LFS pointer begins: what a clone without LFS has in place of a large file."""
MARKS: Mapping[bytes, str] = {
    POINTER: "a Git LFS pointer",
    b"PK\x03\x04": "a zip archive",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"\x08\x08\x12": "an ONNX model",
}
ARCHIVE = "a PyTorch archive"
SAVED = ("data.pkl", "/version")
"""Ends of members that torch.save puts into its zip archive."""
FETCH = "fetch the file itself with `git lfs pull`"


def kind(path: Path) -> str:
    """What a file is, such as `a Git LFS pointer`; empty where it is not known.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file"
    found = next((name for mark, name in MARKS.items() if start.startswith(mark)), "")
    return ARCHIVE if found == "a zip archive" and b"data.pkl" in start else found


def wrong_kind(path: Path) -> str:
    """What to say of a file that cannot be what its name says; empty where there is nothing."""
    try:
        found = kind(path)
    except OSError:
        return ""
    if found == "a Git LFS pointer":
        return f"it is {found}; {FETCH}"
    return f"it is {found}" if found in ("an empty file", "a web page", "a folder") else ""
