"""The DICOM format: CT images are found, read to HU and written as derived images.

sources.py     files of a folder, of a zip or a single one, read within limits
parsing.py     bytes -> a data set, silently, and what was cut off
headers.py     what kind of object a file holds, from its header alone
series.py      the CT series that were found; which of them is meant
spacing.py     the side of a pixel in mm
rescale.py     stored values <-> HU
padding.py     which pixels are padding
reading.py     a CT image in HU, or the reason why not
encoding.py    enhanced HU back to stored values
writing.py     the derived object of an enhanced image
multiframe.py  the derivation of the frames of an Enhanced CT
lossy.py       whether a codestream has lost something
transcode.py   texts, times and words on their way to Explicit VR Little Endian
position.py    where an image is in its patient
plane.py       the plane of an image, which slices are put in order by
beside.py      the slices beside each slice of a series

Nothing here logs, prints or names a file by what a header says of a patient: reasons are codes,
UIDs and paths are shown as hashes, texts of exceptions from decoders are dropped.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why a file was skipped or failed; the value is the code in the manifest."""

    NOT_DICOM = "not-dicom"
    DICOMDIR = "dicomdir"
    NOT_CT = "not-ct"
    LOCALIZER = "localizer"
    OTHER_SERIES = "other-series"
    OTHER_SHARD = "other-shard"
    DUPLICATE = "duplicate"
    OWN_RESULT = "own-result"
    NOT_A_FILE = "not-a-file"
    EMPTY = "empty"
    UNREADABLE = "unreadable"
    DAMAGED = "damaged"
    UNSAFE_NAME = "unsafe-name"
    ENCRYPTED = "encrypted"
    TOO_LARGE = "too-large"
    NO_UID = "no-uid"
    UID_CONFLICT = "uid-conflict"
    NO_PIXELS = "no-pixels"
    BITS = "bits"
    COLOUR = "colour"
    EIGHT_BIT = "8-bit"
    NO_RESCALE = "no-rescale"
    NOT_HU = "not-hu"
    SPACING = "spacing"
    BURNED_IN = "burned-in"
    SYNTAX = "transfer-syntax"
    UNDECODABLE = "undecodable"
    NO_GROUPS = "no-groups"
    SHAPE = "shape"
    HU_RANGE = "hu-range"
    NOT_FINITE = "not-finite"
    OUTPUT_RANGE = "output-range"
    UNWRITABLE = "unwritable"
    DISK_FULL = "disk-full"
    ENGINE_SIZE = "engine-size"
    NO_NEIGHBOURS = "no-neighbours"
    CRASHED = "crashed"


SENTENCES = {
    Reason.NOT_DICOM: "no DICOM file",
    Reason.DICOMDIR: "a directory of files, which are found without it",
    Reason.NOT_CT: "no CT image, such as MR, a report, a segmentation",
    Reason.LOCALIZER: "a localizer",
    Reason.OTHER_SERIES: "of a series that was not asked for",
    Reason.OTHER_SHARD: "the work of another shard",
    Reason.DUPLICATE: "the same file as another one",
    Reason.OWN_RESULT: "written by this program; --include-results takes it",
    Reason.NOT_A_FILE: "a pipe, a socket or a device",
    Reason.EMPTY: "the file is empty",
    Reason.UNREADABLE: "the file cannot be read",
    Reason.DAMAGED: "the file is damaged",
    Reason.UNSAFE_NAME: "its name in the zip leads out of the zip",
    Reason.ENCRYPTED: "encrypted",
    Reason.TOO_LARGE: "larger than any CT image, or packed too densely",
    Reason.NO_UID: "SOP or series instance UID missing or malformed",
    Reason.UID_CONFLICT: "another file has the same SOP instance UID and other content",
    Reason.NO_PIXELS: "no pixel data",
    Reason.BITS: "bits allocated, stored and high bit contradict each other or the pixels",
    Reason.COLOUR: "colour or palette instead of one grey channel",
    Reason.EIGHT_BIT: "8-bit pixels cannot hold HU",
    Reason.NO_RESCALE: "rescale slope or intercept missing",
    Reason.NOT_HU: "pixels are not in HU",
    Reason.SPACING: "pixel spacing missing, not square, or too wide for the simulated scanner",
    Reason.BURNED_IN: "text is burned into the image, and the network would alter it",
    Reason.SYNTAX: "no decoder for this transfer syntax",
    Reason.UNDECODABLE: "pixel data cannot be decoded",
    Reason.NO_GROUPS: "an Enhanced CT without its functional groups",
    Reason.SHAPE: "decoded pixels have another shape than the header says",
    Reason.HU_RANGE: "values are not those of a CT image in HU",
    Reason.NOT_FINITE: "the network gave NaN or infinity",
    Reason.OUTPUT_RANGE: "the network changed the image beyond any denoising",
    Reason.UNWRITABLE: "the result cannot be encoded or written",
    Reason.DISK_FULL: "no space was left for the result",
    Reason.ENGINE_SIZE: "larger than the engine's slices: export one of a larger --size",
    Reason.NO_NEIGHBOURS: "its neighbours cannot be told: no position, that of another "
    "slice, or several frames",
    Reason.CRASHED: "the decoder crashed or took too long",
}
"""What each code means, for the person who reads the summary."""


def told(reasons: Mapping[Reason, int]) -> str:
    """Reasons and how often they occurred as a list in words: 2 damaged (the file is damaged)."""
    found = sorted(reasons.items())
    return ", ".join(f"{count} {reason} ({SENTENCES[reason]})" for reason, count in found)


class Refused(Exception):
    """A file cannot be used. Carries a code and nothing of the file's content."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(SENTENCES[reason])
        self.reason = reason

    def __reduce__(self) -> tuple[type["Refused"], tuple[Reason]]:
        """Travels between processes as its code."""
        return Refused, (self.reason,)


def short(text: str) -> str:
    """The first 12 hexadecimal digits of a SHA-256: how UIDs and paths are shown."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
