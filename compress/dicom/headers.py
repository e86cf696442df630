"""What a file holds, told from its header alone: the facts that series are found by.

The only place where patient data are looked at is `patient`, and there they become a hash at once.
"""

import io
import re
from dataclasses import dataclass
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from compress.dicom import Reason, Refused, plane, short
from compress.dicom.parsing import PIXELS, Watched, parse, syntax
from compress.dicom.plane import Plane
from compress.dicom.sources import PREFIX, Source

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
"""SOP classes that are enhanced (PS3.4 section B.5)."""
ENHANCED = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
UID_FORM = re.compile(r"[0-9.]{1,64}")
LARGEST_SIDE = 8192
"""Rows or columns; CT has 512 to 2048."""
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "Rows",
    "Columns", "NumberOfFrames", "BodyPartExamined", "ConvolutionKernel", "PatientID",
    "StudyInstanceUID", "PixelSpacing", "ContributingEquipmentSequence", "ImagePositionPatient",
    "ImageOrientationPatient", "SpacingBetweenSlices", "SliceThickness",
]  # fmt: skip
SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
"""Of names that promise a DICOM file: one without content was lost on its way."""
MAKER = "compress"
"""Manufacturer of the equipment that derived images name; its models are MAKER and a command."""


NO_FAILURES = (Reason.NOT_DICOM, Reason.DICOMDIR, Reason.NOT_CT, Reason.NOT_A_FILE)
"""What leaves nothing to enhance behind."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a file before its pixels are decoded."""

    name: str
    """In its source."""
    reason: Reason | None = None
    """Why it is left aside; None for a CT image."""
    failed: bool = False
    """Whether that is a failure; otherwise it is merely nothing to enhance."""
    sop: str = ""
    series: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 1
    body_part: str = ""
    kernel: str = ""
    patient: str = ""
    """A hash that is the same for all images of a patient."""
    plane: Plane | None = None
    """Where it is in the patient."""
    made: frozenset[str] = frozenset()
    """The commands of this program that it has been through: enhance, simulate."""

    @property
    def pixels(self) -> int:
        """In all frames."""
        return self.rows * self.columns * self.frames


def examine(source: Source, name: str) -> Header:
    """The header of one file; never raises for what is in the file."""
    try:
        return _examined(source, name)
    except Refused as error:
        skipped = error.reason in NO_FAILURES or (
            error.reason == Reason.EMPTY and not name.lower().endswith(SUFFIXES)
        )
        return Header(name=name, reason=error.reason, failed=not skipped)
    except Exception:  # damaged headers make pydicom raise whatever they like
        return Header(name=name, reason=Reason.DAMAGED, failed=True)


def valid_uid(value: object) -> str:
    """A UID that is safe as a file name.

    Raises:
        Refused: NO_UID.
    """
    text = str(value or "")
    if not UID_FORM.fullmatch(text) or not text.strip("."):
        raise Refused(Reason.NO_UID)
    return text


def code(dataset: Dataset, keyword: str, default: str = "") -> str:
    """A code string as the standard spells it: some writers add blanks or use small letters."""
    return str(dataset.get(keyword) or default).strip(" \0").upper()


def is_ct(dataset: Dataset) -> bool:
    """Whether SOP class and modality are those of a CT image."""
    return sop_class(dataset) in CT_CLASSES and code(dataset, "Modality", "CT") == "CT"


def is_localizer(dataset: Dataset) -> bool:
    """Whether value 3 of ImageType says so (PS3.3 section C.8.2.1.1.1)."""
    kind = dataset.get("ImageType") or []
    values = [kind] if isinstance(kind, str) else list(kind)
    return any(str(value).strip(" \0").upper() in ("LOCALIZER", "SCOUT") for value in values)


def sop_class(dataset: Dataset) -> UID:
    """The SOP class, from the data set or, where that was lost, from the file's own header."""
    meta = getattr(dataset, "file_meta", None)
    found = dataset.get("SOPClassUID") or (meta and meta.get("MediaStorageSOPClassUID"))
    return UID(str(found or ""))


def commands(dataset: Dataset) -> frozenset[str]:
    """The commands of this program that an image has been through, from its equipment."""
    items = dataset.get("ContributingEquipmentSequence") or []
    models = [
        str(item.get("ManufacturerModelName") or "")
        for item in items
        if str(item.get("Manufacturer") or "").strip() == MAKER
    ]
    return frozenset(model.split()[-1] for model in models if model.startswith(f"{MAKER} "))


def _examined(source: Source, name: str) -> Header:
    dataset, fault = _read_header(source, name)
    kind = sop_class(dataset)
    if kind == MediaStorageDirectoryStorage:
        raise Refused(Reason.DICOMDIR)
    other = kind.name != kind and kind not in CT_CLASSES  # has a name: it is not cut off
    if not kind or (fault == Reason.DAMAGED and not other):
        raise Refused(Reason.DAMAGED)
    if not is_ct(dataset):
        raise Refused(Reason.NOT_CT)
    series, sop = (valid_uid(dataset.get(f"{name}InstanceUID")) for name in ("Series", "SOP"))
    if is_localizer(dataset):
        return Header(name=name, reason=Reason.LOCALIZER, series=series)
    if fault is not None:
        raise Refused(fault)
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if min(rows, columns, frames) < 1 or max(rows, columns) > LARGEST_SIDE:
        raise Refused(Reason.SHAPE)
    return Header(
        name=name,
        sop=sop,
        series=series,
        rows=rows,
        columns=columns,
        frames=frames,
        body_part=_word(dataset.get("BodyPartExamined")),
        kernel=_word(dataset.get("ConvolutionKernel")),
        patient=short(str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or series)),
        made=commands(dataset),
        plane=plane.of(dataset),
    )


def _check_prefix(prefix: bytes, name: str) -> None:
    """Whether the file is DICOM; one that is called so and holds less or zeros was lost."""
    if not prefix:
        raise Refused(Reason.EMPTY)
    if prefix[PREFIX - 4 :] != b"DICM":
        lost = len(prefix) < PREFIX or not any(prefix)
        named = name.lower().endswith(SUFFIXES)
        raise Refused(Reason.DAMAGED if lost and named else Reason.NOT_DICOM)


def _read_header(source: Source, name: str) -> tuple[FileDataset, Reason | None]:
    """Up to the pixels, and what is wrong at its end; a folder's file is not read beyond it.

    That is opened once: on a network's disk each time is a question to its server. Only a deflated
    one, which is rare, is opened again and read whole, as its end is found by unpacking it.
    """
    if source.archive:
        _check_prefix(source.prefix(name), name)
    else:
        with source.opened(name) as file:
            _check_prefix(file.read(PREFIX), name)
            file.seek(0)
            if syntax(file) != DeflatedExplicitVRLittleEndian:
                return _to_pixels(file)
    data = source.read(name)
    if syntax(io.BytesIO(data)) == DeflatedExplicitVRLittleEndian:  # zlib notices a wrong end
        return parse(data, stop_before_pixels=True, specific_tags=TAGS), None
    return _to_pixels(io.BytesIO(data))


def _to_pixels(file: BinaryIO) -> tuple[FileDataset, Reason | None]:
    stream = Watched(file)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=TAGS)
    if stream.short:
        return dataset, Reason.DAMAGED
    return dataset, None if stream.read(4) in PIXELS else Reason.NO_PIXELS


def _word(value: object) -> str:
    """A short code for the table; free text, which could name somebody, is left out."""
    parts = value if isinstance(value, list | pydicom.multival.MultiValue) else [value or ""]
    text = str(parts[0]).strip() if parts else ""
    return text if re.fullmatch(r"[A-Za-z0-9_+./-]{1,16}", text) else ""
