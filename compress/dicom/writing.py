"""The derived object of an enhanced image: what changes, what stays, what goes.

A derived image is a new SOP instance in a new series of the same study (PS3.3 sections C.7.6.1.1.3
and C.12.4.1.1). Its UIDs follow from the source's and from what was done to it, so that doing it
again gives the same ones. CT Image Storage stays CT Image Storage; the scanner's equipment block,
positions, times of acquisition and the patient stay as they are. Written in Explicit VR Little
Endian. Sections are those of PS3.3.
"""

import io
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from compress import __version__
from compress.dicom import Reason, Refused, lossy, multiframe, transcode
from compress.dicom.encoding import TOO_FAR, to_stored
from compress.dicom.headers import ENHANCED, MAKER, sop_class, valid_uid
from compress.dicom.padding import among_tissue
from compress.dicom.reading import Image
from compress.dicom.rescale import HU


class Code(NamedTuple):
    """A coded concept (PS3.3 section 8); that of pydicom brings tables of all of them along."""

    value: str
    scheme_designator: str
    meaning: str


SERIES_OFFSET = 1000
"""Added to SeriesNumber, so that viewers list the new series after the scanner's."""
SMOOTHING = Code("113087", "DCM", "Smoothing")
"""Of CID 7203 the nearest: it has no code for denoising by a network."""
SOURCE = Code("121322", "DCM", "Source image for image processing operation")
"""Of CID 7202."""
EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
"""Of CID 7005."""
STALE = (
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries", "IconImageSequence", "DigitalSignaturesSequence",
    "MACParametersSequence", "InstanceCreatorUID", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "EncapsulatedPixelDataValueTotalLength", "PixelDataProviderURL",
)  # fmt: skip
"""True of the source's pixels or bytes only."""
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
"""Go where the source declares a value of tissue and has no padding: tissue would turn into it."""


PURPOSE = "Not for diagnostic use."
"""Ends the derivation description of every image that is written."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """What is done to every image of a run."""

    model: str
    """Hash of the checkpoint or engine, in hexadecimal."""
    precision: str
    """Of the network's arithmetic."""
    assume_hu: bool = False
    strip_private: bool = False
    simulated: str = ""
    """What a low-dose simulation did, in words; empty for the enhancement by a network."""

    @property
    def description(self) -> str:
        """DerivationDescription, an ST: plain ASCII, so that it fits every character set."""
        if self.simulated:
            return f"Low dose simulated: compress {__version__}, {self.simulated}. {PURPOSE}"
        return (
            f"Enhanced by a neural network: compress {__version__}, model sha256 {self.model}, "
            f"{self.precision}. {PURPOSE}"
        )

    @property
    def suffix(self) -> str:
        """Appended to SeriesDescription, an LO of 64 characters at most."""
        return " low dose" if self.simulated else " enhanced"

    @property
    def codes(self) -> list[Code]:
        """DerivationCodeSequence: CID 7203 has no code for added noise."""
        return [] if self.simulated else [SMOOTHING]

    def uid(self, source: str, kind: str) -> str:
        """A UID (PS3.5 section B.2) that follows from the source's and from all that is done."""
        options = (self.assume_hu, self.strip_private, self.simulated)
        words = (kind, source, self.model, self.precision, *options)
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr(words)).int}"

    def sop(self, source: str) -> str:
        """SOP Instance UID of the derived image; its file's name, too."""
        return self.uid(source, "instance")


@dataclass(frozen=True)
class Derived:
    """A derived image, ready to be written."""

    data: bytes
    """The file's content."""
    clipped: int
    """Pixels that did not fit into the stored bits."""
    copied: int
    """Pixels outside the network's range, without padding, that stayed as they were."""
    padding: int
    """Pixels of padding that stayed as they were."""
    unchanged: int
    """Frames that hold nothing but these, and are copied."""


def derive(image: Image, enhanced: Sequence[HU], process: Process, now: datetime) -> Derived:
    """The derived object.

    Args:
        image: the source; its data set is changed.
        enhanced: what the network gave for each frame, (H, W) in HU.
        process: what was done.
        now: the time that it is written as created at.

    Raises:
        Refused: NOT_FINITE or OUTPUT_RANGE of the network's output, NO_UID, or UNWRITABLE.
    """
    too_far = math.inf if process.simulated else TOO_FAR
    pixels, clipped = to_stored(image, enhanced, too_far)
    dataset = image.dataset
    try:
        loss = lossy.history(dataset, image.stored)
        transcode.to_explicit_little_endian(dataset)
        now = transcode.local_time(dataset, now)
        if not image.padding and among_tissue(image.scale):
            for keyword in PADDING:
                dataset.pop(keyword, None)
        _identify(dataset, process, now)
        _explain(dataset, process, now)
        if loss:
            dataset.LossyImageCompression = "01"
            dataset.LossyImageCompressionRatio, dataset.LossyImageCompressionMethod = loss
        data = _packed(dataset, pixels, process)
    except Refused:
        raise
    except Exception as error:  # values that were read but cannot be written
        raise Refused(Reason.UNWRITABLE) from error
    copied = int(np.count_nonzero(image.kept)) - image.padding
    unchanged = int(image.kept.all(axis=(1, 2)).sum())
    return Derived(data, clipped, copied, image.padding, unchanged)


def _identify(dataset: Dataset, process: Process, now: datetime) -> None:
    """Sections C.12.1, C.7.3.1, C.8.2.1.1.1: new identity, derived, in a series of its own."""
    source_class = sop_class(dataset)
    item = Dataset()
    item.ReferencedSOPClassUID = source_class
    item.ReferencedSOPInstanceUID = valid_uid(dataset.get("SOPInstanceUID"))
    item.PurposeOfReferenceCodeSequence = [_code(SOURCE)]
    if source_class in ENHANCED:
        _mark_frames(dataset, item, process)
    else:
        dataset.SourceImageSequence = [*(dataset.get("SourceImageSequence") or []), item]
    dataset.SOPClassUID = source_class
    dataset.SOPInstanceUID = process.sop(str(item.ReferencedSOPInstanceUID))
    dataset.SeriesInstanceUID = process.uid(valid_uid(dataset.get("SeriesInstanceUID")), "series")
    dataset.ImageType = _derived(dataset.get("ImageType"), source_class in ENHANCED)
    number = dataset.get("SeriesNumber")
    if number is not None and abs(int(number)) < 1 << 30:
        dataset.SeriesNumber = int(number) + SERIES_OFFSET
    transcode.append(dataset, "SeriesDescription", process.suffix, 64)
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S.%f")


def _mark_frames(dataset: Dataset, source: Dataset, process: Process) -> None:
    """Sections C.7.6.16.2.6 and C.8.15.3.2: Enhanced CT says it in its functional groups."""
    derivation = Dataset()
    derivation.DerivationDescription = process.description
    derivation.DerivationCodeSequence = [_code(code) for code in process.codes]
    shared = dataset.SharedFunctionalGroupsSequence
    for groups in (*shared, *dataset.PerFrameFunctionalGroupsSequence):
        for item in groups.get("CTImageFrameTypeSequence") or []:
            item.FrameType = _derived(item.get("FrameType"), True)
    multiframe.derive_frames(dataset, source, derivation)
    if "ConcatenationUID" in dataset:
        whole = valid_uid(dataset.ConcatenationUID)
        dataset.ConcatenationUID = process.uid(whole, "concatenation")
    if "SOPInstanceUIDOfConcatenationSource" in dataset:
        before = valid_uid(dataset.SOPInstanceUIDOfConcatenationSource)
        dataset.SOPInstanceUIDOfConcatenationSource = process.sop(before)


def _derived(kind: object, enhanced: bool) -> list[str]:
    """ImageType or FrameType: DERIVED, value 3 and later ones kept.

    Value 2 is SECONDARY (no longer the examination's own pixels); Enhanced CT allows PRIMARY only.
    """
    values = [kind] if isinstance(kind, str) else list(kind or [])  # type: ignore[call-overload]
    rest = [str(value).strip() for value in values[2:]] or ["VOLUME" if enhanced else "AXIAL"]
    second = str(values[1]).strip() if enhanced and len(values) > 1 else "SECONDARY"
    return ["DERIVED", "PRIMARY" if enhanced and not second else second, *rest]


def _explain(dataset: Dataset, process: Process, now: datetime) -> None:
    """Sections C.7.6.1.1.3 and C.12.1.1.5: how it was derived, and by which equipment."""
    if sop_class(dataset) not in ENHANCED:
        transcode.append(dataset, "DerivationDescription", process.description, 1024, "; ")
        codes = list(dataset.get("DerivationCodeSequence") or [])
        codes += [_code(code) for code in process.codes]
        if codes:
            dataset.DerivationCodeSequence = codes
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [_code(EQUIPMENT)]
    item.Manufacturer = MAKER
    item.ManufacturerModelName = f"{MAKER} {'simulate' if process.simulated else 'enhance'}"
    item.SoftwareVersions = __version__
    item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f")
    item.ContributionDescription = process.description
    equipment = list(dataset.get("ContributingEquipmentSequence") or [])
    dataset.ContributingEquipmentSequence = [*equipment, item]


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _packed(dataset: FileDataset, pixels: NDArray[np.integer], process: Process) -> bytes:
    """The file's content; its meta information (PS3.10 section 7.1) is made afresh."""
    for keyword in STALE:
        if keyword in dataset:
            del dataset[keyword]
    if process.strip_private:
        dataset.remove_private_tags()
    little = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = little
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OW", False
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.preamble = bytes(128)  # what stands there could be run as a program
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
