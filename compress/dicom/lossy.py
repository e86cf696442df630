"""Whether encoded pixel data have lost something, as their codestreams say.

Transfer syntaxes only allow a loss: JPEG 2000 (.91) and its high-throughput kind (.203) may be
reversible, near-lossless JPEG-LS (.81) may have no tolerance.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.encoders.base import JPEG2000LosslessEncoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from compress.dicom.headers import code

JPEG, JPEG_LS, J2K, HTJ2K_METHOD = "ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15"
"""Defined terms of LossyImageCompressionMethod (PS3.3 section C.7.6.1.1.5.1)."""
LOSSY = {
    JPEGBaseline8Bit: JPEG, JPEGExtended12Bit: JPEG, JPEGLSNearLossless: JPEG_LS, JPEG2000: J2K,
    HTJ2K: HTJ2K_METHOD,
}  # fmt: skip
"""Transfer syntaxes that allow a loss: believed where a codestream cannot be followed."""
CAPABILITIES, CODING, COMPONENT, TILE, DATA = 0xFF50, 0xFF52, 0xFF53, 0xFF90, 0xFF93
"""Markers CAP, COD, COC, SOT and SOD of JPEG 2000 (ISO/IEC 15444-1 annex A)."""
SCAN, LS_FRAME = 0xFFDA, 0xFFF7
"""SOS of JPEG (ISO/IEC 10918-1 annex B), SOF55 of JPEG-LS (ISO/IEC 14495-1 annex C)."""
LOSSLESS = (0xFFC3, 0xFFC7, 0xFFCB, 0xFFCF)
"""Frame headers SOF of JPEG that are lossless; the others are of the discrete cosine transform."""
NO_FRAME = (0xFFC4, 0xFFC8, 0xFFCC)
"""Markers between those of SOF that are none."""

SHORT = 0.9
"""A reversible codestream of less than this share of what its own pixels need without loss was cut
off by its encoder; encoders differ by a few hundredths."""

Segment = tuple[int, bytes]
"""A marker and what follows its length."""


def history(
    dataset: FileDataset, stored: NDArray[np.integer]
) -> tuple[list[float], list[str]] | None:
    """Ratio and method of a loss that the data set does not tell of; None where there is none.

    Args:
        dataset: as read, its pixel data still encoded.
        stored: what they decode to, (F, H, W).
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_encapsulated or syntax == RLELossless:
        return None
    if code(dataset, "LossyImageCompression") == "01":
        return None
    frames = generate_frames(dataset.PixelData, number_of_frames=len(stored))
    methods = (
        _method(dataset, frame, pixels) for frame, pixels in zip(frames, stored, strict=False)
    )
    method = next(filter(None, methods), "")
    return ([round(stored.nbytes / len(dataset.PixelData), 2)], [method]) if method else None


def _method(dataset: FileDataset, frame: bytes, pixels: NDArray[np.integer]) -> str:
    """What one frame has lost by."""
    allowed = LOSSY.get(dataset.file_meta.TransferSyntaxUID, "")
    try:
        found = lost(frame)
    except (struct.error, IndexError, ValueError):
        return allowed
    reversible = not found and allowed in (J2K, HTJ2K_METHOD)
    return allowed if reversible and _cut_off(dataset, frame, pixels) else found


def _cut_off(dataset: FileDataset, frame: bytes, pixels: NDArray[np.integer]) -> bool:
    """Whether a reversible codestream is clearly shorter than a lossless one of what it holds."""
    about = {
        "rows": pixels.shape[0], "columns": pixels.shape[1], "samples_per_pixel": 1,
        "number_of_frames": 1, "bits_allocated": 16, "bits_stored": int(dataset.BitsStored),
        "pixel_representation": int(pixels.dtype.kind == "i"),
        "photometric_interpretation": "MONOCHROME2",
    }  # fmt: skip
    try:
        again = JPEG2000LosslessEncoder.encode(np.ascontiguousarray(pixels), **about)
    except Exception:  # too small for the encoder's levels: nobody cuts that off
        return False
    return len(frame) < SHORT * len(again)


def lost(frame: bytes) -> str:
    """The method of one frame's codestream where it loses something, else nothing.

    Raises:
        ValueError: it is neither JPEG nor JPEG-LS nor JPEG 2000.
        struct.error, IndexError: it is cut off.
    """
    place = frame.find(b"\xff\x4f\xff\x51")  # SOC and SIZ; a JP2 file has boxes before them
    if place >= 0:
        return _j2k(frame[place:])
    if frame[:2] != b"\xff\xd8":
        raise ValueError("no codestream of a known kind")
    return _jpeg(frame)


def _j2k(stream: bytes) -> str:
    """A loss is an irreversible wavelet transform, in the main header or that of a tile."""
    method, wide, irreversible = J2K, 0, False
    for marker, body in _segments(stream):
        if marker == 0xFF51:
            wide = int(struct.unpack_from(">H", body, 34)[0] > 256)  # components need two bytes
        elif marker == CAPABILITIES and struct.unpack_from(">I", body)[0] & 1 << 17:  # part 15
            method = HTJ2K_METHOD
        elif marker == CODING:
            irreversible |= body[9] == 0
        elif marker == COMPONENT:
            irreversible |= body[7 + wide] == 0
    return method if irreversible else ""


def _jpeg(stream: bytes) -> str:
    """A loss is a cosine transform, a tolerance of JPEG-LS, or bits that were shifted away."""
    kind = 0
    for marker, body in _segments(stream):
        if marker == LS_FRAME or (0xFFC0 <= marker <= 0xFFCF and marker not in NO_FRAME):
            kind = marker
        elif marker == SCAN:
            near, _, approximation = body[1 + 2 * body[0] :][:3]
            if kind == LS_FRAME:
                return JPEG_LS if near or approximation & 15 else ""
            return JPEG if kind not in LOSSLESS or approximation & 15 else ""
    raise ValueError("no scan")


def _segments(stream: bytes) -> Iterator[Segment]:
    """The marker segments of a codestream; the data of JPEG 2000 tiles are passed over."""
    place, tile = 2, 0
    while place + 4 <= len(stream):
        (marker,) = struct.unpack_from(">H", stream, place)
        if marker == 0xFFFF:  # fill byte
            place += 1
        elif marker == DATA:
            if not tile:
                return
            place, tile = tile, 0
        else:
            (length,) = struct.unpack_from(">H", stream, place + 2)
            body = stream[place + 4 : place + 2 + length]
            if marker == TILE:
                (size,) = struct.unpack_from(">I", body, 2)
                tile = place + size if size else 0
            yield marker, body
            place += 2 + length
