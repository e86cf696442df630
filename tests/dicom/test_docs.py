"""docs/dicom.md says what the code does: reasons, classes, syntaxes, removed attributes."""

import re
from pathlib import Path

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS

from compress.dicom import SENTENCES
from compress.dicom.headers import CT_CLASSES
from compress.dicom.writing import EQUIPMENT, SMOOTHING, SOURCE, STALE

TEXT = (Path(__file__).parents[2] / "docs/dicom.md").read_text(encoding="utf-8")


def test_every_reason_is_listed_with_its_meaning():
    table = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", TEXT, re.MULTILINE))
    assert table == {str(reason): sentence for reason, sentence in SENTENCES.items()}


def test_every_class_and_syntax_is_listed():
    for uid in CT_CLASSES:
        assert f"| {uid} |" in TEXT
    decoders = {
        str(uid) for uid, (decoder, *_) in _PIXEL_DATA_DECODERS.items() if decoder.is_available
    }
    decoders.discard("1.2.840.10008.1.2.4.50")  # 8 bits: refused
    listed = set(re.findall(r"1\.2\.840\.10008\.1\.2(?:\.[0-9]+)*", TEXT))
    assert listed == decoders


def test_removed_attributes_are_listed():
    row = next(line for line in TEXT.splitlines() if line.startswith("| removed"))
    for keyword in STALE:
        name = dictionary_description(tag_for_keyword(keyword))
        words = set(re.findall(r"\w+", name)) - {"in", "Lengths"}
        assert words <= set(re.findall(r"\w+", row)), name


def test_codes_are_listed():
    for code in (SMOOTHING, SOURCE, EQUIPMENT):
        assert f'({code.value}, DCM, "{code.meaning}")' in TEXT
