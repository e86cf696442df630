"""From the bytes of a file to a pydicom data set, silently, and what was cut off of it."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
)

from compress.dicom import Reason
from compress.dicom.sources import inflate_limited

LOGGERS = ("pydicom", "openjpeg", "libjpeg", "rle", "pylibjpeg", "PIL")
"""Of pydicom and its codecs."""
PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
"""The tag of pixel data, in both byte orders."""


def quiet() -> None:
    """Let pydicom read what it can and say nothing from now on: its warnings quote headers.

    For a process that does nothing else; `silent` is for a part of one.
    """
    warnings.simplefilter("ignore")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextmanager
def silent() -> Iterator[None]:
    """`quiet` until the end of the block."""
    settings = pydicom.config.settings
    before = settings.reading_validation_mode, settings._writing_validation_mode
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            settings.reading_validation_mode, settings._writing_validation_mode = before
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def parse(data: bytes, **options: Any) -> FileDataset:
    """A data set out of a file's content.

    Raises:
        Refused: TOO_LARGE for a deflated one that unpacks beyond the limit.
        Exception: whatever pydicom raises for damaged data.
    """
    stream = io.BytesIO(data)
    if syntax(stream) == DeflatedExplicitVRLittleEndian:
        inflate_limited(data[stream.tell() :])
    stream.seek(0)
    return pydicom.dcmread(stream, **options)


def without_pixels(data: bytes) -> Reason:
    """Why a file has no pixel data: it has none, or was cut off before or within them."""
    stream = Watched(io.BytesIO(data))
    pydicom.dcmread(stream, stop_before_pixels=True)
    if stream.short:
        return Reason.DAMAGED
    return Reason.UNDECODABLE if stream.read(4) in PIXELS else Reason.NO_PIXELS


class Watched:
    """A stream that notices where it ends within an element, over which pydicom passes silently.

    Args:
        stream: what is read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.short = stream, False
        self._size = stream.seek(0, io.SEEK_END)
        self.seek, self.tell = self._seek, stream.tell
        stream.seek(0)

    def read(self, size: int = -1) -> bytes:
        """As of the stream; only the head of an element, 8 bytes, may find its end."""
        data = self._stream.read(size)
        self.short |= len(data) < size and not (size == 8 and not data)
        return data

    def _seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        place = self._stream.seek(place, whence)
        self.short |= place > self._size
        return place


def syntax(stream: BinaryIO) -> str:
    """The transfer syntax; leaves `stream` where the data set begins (PS3.10 section 7.1)."""
    read_preamble(stream, False)
    return str(_read_file_meta_info(stream).get("TransferSyntaxUID", ""))
