"""A CT image in HU, out of a file's content, or the reason why it cannot be enhanced.

About half of all damaged files decode without an error, so everything that is later relied on is
checked: bits, shape, range. Sections are those of PS3.3 where no other part is named.
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit, JPEGExtended12Bit

from compress.base.hu import HU_MAX, HU_MIN
from compress.dicom import Reason, Refused, rescale
from compress.dicom.headers import (
    ENHANCED,
    code,
    is_ct,
    is_localizer,
    sop_class,
)
from compress.dicom.multiframe import check_concatenation
from compress.dicom.padding import declared, floor_of, padded
from compress.dicom.parsing import parse, without_pixels
from compress.dicom.rescale import HU, Mask, Scale, Stored
from compress.dicom.sources import LARGEST


@dataclass(frozen=True)
class Image:
    """A CT image: F frames of H x W pixels; F is 1 unless it is an Enhanced CT."""

    dataset: FileDataset
    """As read; its pixel data are still encoded."""
    stored: Stored
    """(F, H, W), in the type of the file."""
    scale: Scale
    kept: Mask
    """(F, H, W): padding and pixels outside [HU_MIN, HU_MAX], which stay as they are."""
    padding: int
    """Pixels of `kept` that are padding."""
    ignored: int
    """Pixels whose value is declared to be padding and that are none, as tissue has it, too."""
    sha256: str
    """Of the file."""

    def hu(self, frame: int) -> HU:
        """One frame for the network, (H, W) float32 HU; padding is air, HU_MIN."""
        hu = np.maximum(rescale.to_hu(self.stored[frame], self.scale, frame), np.float32(HU_MIN))
        hu[padded(self.stored[frame], self.scale, frame)] = HU_MIN
        return hu


def read(data: bytes, *, assume_hu: bool = False) -> Image:
    """Decode a file.

    Args:
        data: its content.
        assume_hu: take stored values as HU where slope and intercept are missing.

    Raises:
        Refused: with the reason; nothing else, whatever the file holds.
    """
    try:
        dataset = parse(data)
        return _checked(dataset, data, assume_hu)
    except Refused:
        raise
    except MemoryError as error:
        raise Refused(Reason.TOO_LARGE) from error
    except Exception as error:  # damaged data make pydicom and its codecs raise whatever they like
        raise Refused(Reason.DAMAGED) from error


def _checked(dataset: FileDataset, data: bytes, assume_hu: bool) -> Image:
    if not is_ct(dataset):
        raise Refused(Reason.NOT_CT)
    if "PixelData" not in dataset:
        raise Refused(without_pixels(data))
    _check_kind(dataset)
    _check_bits(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    shape = (frames, int(dataset.Rows), int(dataset.Columns))
    if min(shape) < 1 or np.prod(shape, dtype=float) * 2 > LARGEST:
        raise Refused(Reason.SHAPE)
    scale = rescale.scale_of(dataset, frames, assume_hu=assume_hu)
    _check_syntax(dataset, frames)
    stored = _decoded(dataset, shape)
    low, high = rescale.limits(dataset)
    if stored.min() < low or stored.max() > high or _masked(dataset, stored):
        raise Refused(Reason.BITS)
    if assume_hu and "RescaleSlope" not in dataset and low == 0:
        raise Refused(Reason.HU_RANGE)  # without an intercept unsigned values cannot hold air
    kept, padding, ignored = _kept(stored, scale)
    return Image(dataset, stored, scale, kept, padding, ignored, hashlib.sha256(data).hexdigest())


def _check_kind(dataset: FileDataset) -> None:
    """Section C.8.2.1: one grey channel, not a localizer, nothing burned in."""
    if is_localizer(dataset):
        raise Refused(Reason.LOCALIZER)
    grey = str(dataset.get("PhotometricInterpretation")) in ("MONOCHROME1", "MONOCHROME2")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not grey:
        raise Refused(Reason.COLOUR)
    if code(dataset, "BurnedInAnnotation") == "YES":
        raise Refused(Reason.BURNED_IN)
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    if sop_class(dataset) in ENHANCED and not all(dataset.get(name) for name in groups):
        raise Refused(Reason.NO_GROUPS)
    check_concatenation(dataset)


def _check_bits(dataset: FileDataset) -> None:
    """Sections C.7.6.3 and C.8.2.1: 16 bits allocated, 9 to 16 of them stored, from bit 0 on."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated == 8 or stored <= 8:
        raise Refused(Reason.EIGHT_BIT)
    high = int(dataset.get("HighBit", stored - 1))
    if allocated != 16 or stored > allocated or high != stored - 1:
        raise Refused(Reason.BITS)
    if int(dataset.PixelRepresentation) not in (0, 1):
        raise Refused(Reason.BITS)


def _check_syntax(dataset: FileDataset, frames: int) -> None:
    """Whether there is a decoder; an 8-bit JPEG would decode, to values that are off by 2,000."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax == JPEGBaseline8Bit:
        raise Refused(Reason.EIGHT_BIT)
    try:
        available = get_decoder(syntax).is_available if syntax else True
    except NotImplementedError:
        available = False
    if not available:
        raise Refused(Reason.SYNTAX)
    if syntax == JPEGExtended12Bit:
        frame = next(generate_frames(dataset.PixelData, number_of_frames=frames))
        if _jpeg_precision(frame) <= 8:
            raise Refused(Reason.EIGHT_BIT)


def _jpeg_precision(frame: bytes) -> int:
    """Bits of a sample, from the frame header (ISO/IEC 10918-1 section B.2.2); 0 if not found."""
    place = 2
    while place + 5 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, place)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            return frame[place + 4]
        place += 2 + length
    return 0


def _decoded(dataset: FileDataset, shape: tuple[int, int, int]) -> Stored:
    """The stored values, (F, H, W)."""
    try:
        pixels = dataset.pixel_array
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # each codec has its own exceptions; Rust's panics are no
        raise Refused(Reason.UNDECODABLE) from error  # Exception
    if pixels.shape != (shape if pixels.ndim == 3 else shape[1:]) or pixels.dtype.kind not in "iu":
        raise Refused(Reason.SHAPE)
    if pixels.ndim == 2 and shape[0] != 1:
        raise Refused(Reason.SHAPE)
    stored: Stored = pixels.reshape(shape)
    return stored


def _masked(dataset: FileDataset, stored: Stored) -> bool:
    """Whether the decoder cut off bits above BitsStored of uncompressed pixels.

    They are an overlay of old times, which a derived image would lose, or the sign of a wrong
    BitsStored, and then the values are wrong.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        return False
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = np.frombuffer(dataset.PixelData, f"{order}{stored.dtype.kind}2", count=stored.size)
    return not np.array_equal(raw.reshape(stored.shape), stored)


def _kept(stored: Stored, scale: Scale) -> tuple[Mask, int, int]:
    """Pixels that no network may change, how many of them are padding, and how many only seem so.

    Gates every frame.
    """
    kept, padding, ignored = np.empty(stored.shape, bool), 0, 0
    for frame, values in enumerate(stored):
        hu, mask = rescale.to_hu(values, scale, frame), padded(values, scale, frame)
        rescale.check_hu(hu, mask)
        kept[frame] = mask | (hu < HU_MIN) | (hu > HU_MAX)
        padding += int(np.count_nonzero(mask))
        if scale.padding and not floor_of(scale, frame):
            ignored += int(np.count_nonzero(declared(values, scale) & ~mask))
    return kept, padding, ignored
