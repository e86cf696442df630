"""What a source of another encoding needs before it is written in Explicit VR Little Endian.

Texts keep their bytes, whatever the character set: decoding and encoding loses what the tables of
pydicom or the writer of the file had wrong, such as katakana in ISO_IR 13. Words of a big-endian
source are turned round. Sections are those of PS3.5.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import numpy as np
from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
"""Bytes of a word of the value representations that pydicom keeps as bytes (section 6.2)."""
ASCII = b"\x1b(B"
"""The escape sequence of ISO/IEC 2022 after which bytes are ASCII again (section 6.1.2.5.3)."""
MINUTES = range(-12 * 60, 14 * 60 + 1)
"""Of TimezoneOffsetFromUTC (PS3.3 section C.12.1.1.8)."""

Kept = tuple[Dataset, RawDataElement]


def to_explicit_little_endian(dataset: Dataset) -> None:
    """Make the elements of a data set, as read, fit to be written in that encoding.

    Args:
        dataset: is changed; its pixel data are left as they are.
    """
    implicit, little = dataset.original_encoding
    if (implicit, little) in ((False, True), (None, None)):
        return
    items: list[Dataset] = []
    kept = list(_converted(dataset, items, big=not little))
    correct_ambiguous_vr(dataset, True)
    for item, raw in kept:
        item[raw.tag] = raw
    for item in items:
        item.set_original_encoding(False, True, item._character_set)


def append(dataset: Dataset, keyword: str, words: str, most: int, joint: str = "") -> None:
    """Put ASCII words behind a text; what is there keeps its bytes, cut at a whole character.

    Args:
        dataset: where the text is; it is made where it is missing or blank.
        keyword: of the text.
        words: what is added.
        most: characters that its last value may have.
        joint: goes before the words where there is a text.
    """
    tag = Tag(tag_for_keyword(keyword) or 0)
    before = _bytes(dataset, tag).strip(b" \0")
    if not before:
        setattr(dataset, keyword, words.strip())
        return
    encodings = dataset._character_set or convert_encodings("")
    codes = [encodings] if isinstance(encodings, str) else list(encodings)
    added = joint + words
    before = _cut(before, codes, most - len(added))
    if b"\x1b" in before and before[before.rindex(b"\x1b") :][:3] not in (ASCII, b"\x1b(J"):
        before += ASCII
    value = before + added.encode("ascii")
    value += b" " * (len(value) % 2)
    raw = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    dataset[tag] = raw


def local_time(dataset: Dataset, now: datetime) -> datetime:
    """A moment as the clock shows it that the data set's times are of (PS3.3 section C.12.1.1.8).

    Args:
        dataset: its TimezoneOffsetFromUTC says so; without it times are those of this machine.
        now: the moment; without a zone it is of this machine.
    """
    text = str(dataset.get("TimezoneOffsetFromUTC") or "").strip()
    if len(text) != 5 or text[0] not in "+-" or not (text[1:].isascii() and text[1:].isdigit()):
        return now
    minutes = int(text[0] + "1") * (60 * int(text[1:3]) + int(text[3:]))
    if minutes not in MINUTES:
        return now
    return now.astimezone(timezone(timedelta(minutes=minutes)))


def _converted(dataset: Dataset, items: list[Dataset], *, big: bool) -> Iterator[Kept]:
    """Convert all elements but texts, in sequences too, and yield the texts as they were read."""
    items.append(dataset)
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                yield from _converted(item, items, big=big)
        elif element.VR in CUSTOMIZABLE_CHARSET_VR and isinstance(raw, RawDataElement):
            value = raw.value or b""
            value += b" " * (len(value) % 2)
            yield dataset, raw._replace(VR=element.VR, value=value, length=len(value))
        elif big and element.VR in WORDS and element.keyword != "PixelData":
            _swap(element)


def _swap(element: DataElement) -> None:
    """Turn the words of a big-endian element round; a part of a word stays as it is."""
    size, value = WORDS[element.VR], bytes(element.value or b"")
    whole = len(value) // size * size
    turned = np.frombuffer(value, f"V{size}", whole // size).view(np.uint8).reshape(-1, size)
    element.value = turned[:, ::-1].tobytes() + value[whole:]


def _bytes(dataset: Dataset, tag: BaseTag) -> bytes:
    """A text as it lies in the file."""
    if tag not in dataset:
        return b""
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        return element.value or b""
    values = dataset[tag].value
    text = values if isinstance(values, str) else "\\".join(str(value) for value in values or ())
    return encode_string(text, convert_encodings(dataset.get("SpecificCharacterSet", "")))


def _cut(value: bytes, encodings: list[str], most: int) -> bytes:
    """The longest beginning whose last value has at most so many characters."""
    text = decode_bytes(value, encodings, set())
    for end in range(len(value), 0, -1):
        begun = decode_bytes(value[:end], encodings, set())
        if text.startswith(begun) and len(begun) - begun.rfind("\\") - 1 <= most:
            return value[:end]
    return b""
