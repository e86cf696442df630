"""What a derived object says of losses, texts, times and frames, whatever encoding it came in."""

import io
import struct
import time
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from dicom_files import (
    body,
    bundled,
    dataset,
    dciodvfy,
    encapsulated,
    enhanced,
    needs_dciodvfy,
    packed,
    uid,
)
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.tag import Tag
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from compress.dicom import Reason, Refused, lossy, transcode
from compress.dicom.reading import read
from compress.dicom.writing import Process, derive

PROCESS = Process(model="ab" * 32, precision="fp32")
NOW = datetime(2024, 2, 3, 4, 5, 6)
PLAIN = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)  # fmt: skip


def derived(data: bytes, now=NOW) -> pydicom.FileDataset:
    image = read(data)
    output = [image.hu(k).clip(-1024, 1900) for k in range(len(image.stored))]
    return pydicom.dcmread(io.BytesIO(derive(image, output, PROCESS, now).data))


# --- losses ----------------------------------------------------------------------------------


def frame_of(data: bytes) -> bytes:
    return next(generate_frames(pydicom.dcmread(io.BytesIO(data)).PixelData, number_of_frames=1))


def noisy():
    return np.clip(body(64).astype(int) * 3, -1000, 1800).astype(np.int16)


def j2k(ratio: float | None) -> bytes:
    """The codestream of a noisy image: reversible, or with so much loss."""
    ds = dataset(noisy())
    data = packed(ds)
    if ratio is None:
        return frame_of(packed(dataset(noisy()), JPEG2000Lossless))
    ds = pydicom.dcmread(io.BytesIO(data))
    ds.compress(JPEG2000, j2k_cr=[ratio], generate_instance_uid=False)
    return next(generate_frames(ds.PixelData, number_of_frames=1))


@pytest.mark.parametrize("declared", [None, "00", "01"])
@pytest.mark.parametrize("syntax", [JPEG2000, HTJ2K], ids=["91", "203"])
@pytest.mark.parametrize("ratio", [None, 4.0])
def test_jpeg_2000_is_lossy_where_its_codestream_is(ratio, syntax, declared):
    ds = dataset(noisy(), LossyImageCompression=declared)
    out = derived(encapsulated(ds, j2k(ratio), syntax))
    if declared == "01":  # whoever said so knew
        assert (out.LossyImageCompression, "LossyImageCompressionMethod" in out) == ("01", False)
    elif ratio is None:
        assert out.get("LossyImageCompression") == declared
    else:
        assert (out.LossyImageCompression, out.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
        assert 3 < out.LossyImageCompressionRatio < 7


def test_a_reversible_codestream_that_was_cut_off_is_lossy():
    """Its wavelet is reversible, and 1,421 bytes for a slice of 512 x 512 are not."""
    frame = frame_of(bundled("693_J2KI.dcm"))
    assert lossy.lost(frame) == ""
    ds = pydicom.dcmread(io.BytesIO(bundled("693_J2KI.dcm")))
    for declared in ("00", None):
        for name in ("", "Ratio", "Method"):
            ds.pop(f"LossyImageCompression{name}", None)
        if declared:
            ds.LossyImageCompression = declared
        buffer = io.BytesIO()
        ds.save_as(buffer)
        assert derived(buffer.getvalue()).LossyImageCompression == "01"


@pytest.mark.parametrize("declared", [None, "00"])
@pytest.mark.parametrize(
    ("name", "method"),
    [("MR_small_jpeg_ls_lossless.dcm", None), ("JPEGLSNearLossless_16.dcm", "ISO_14495_1")],
)
@pytest.mark.parametrize("syntax", [JPEGLSNearLossless, JPEGLSLossless], ids=["81", "80"])
def test_jpeg_ls_is_lossy_where_it_has_a_tolerance(syntax, name, method, declared):
    other = pydicom.dcmread(io.BytesIO(bundled(name)))
    about = {key: other[key].value for key in ("BitsStored", "HighBit", "PixelRepresentation")}
    hu = np.zeros((other.Rows, other.Columns), np.int16)
    line = {"RescaleSlope": "0.05", "RescaleIntercept": "-900"}
    ds = dataset(hu, LossyImageCompression=declared, **about, **line)
    frame = next(generate_frames(other.PixelData, number_of_frames=1))
    out = derived(encapsulated(ds, frame, syntax))
    assert out.get("LossyImageCompression") == ("01" if method else declared)
    assert out.get("LossyImageCompressionMethod") == method


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">HH", marker, 2 + len(content)) + content


SIZE = segment(0xFF51, bytes(34) + struct.pack(">H", 1) + bytes([11, 1, 1]))
CODED = segment(0xFF52, bytes(9) + b"\1")
COSINE = segment(0xFF52, bytes(9) + b"\0")
HIGH_THROUGHPUT = segment(0xFF50, struct.pack(">IH", 1 << 17, 0))


def tile(header: bytes, data: bytes = b"\xff\x52\0\0") -> bytes:
    """A part of a tile; its data look like a marker."""
    size = 12 + len(header) + 2 + len(data)
    return segment(0xFF90, struct.pack(">HIBB", 0, size, 0, 1)) + header + b"\xff\x93" + data


@pytest.mark.parametrize(
    ("parts", "method"),
    [
        ((SIZE, CODED, tile(b"")), ""),
        ((SIZE, COSINE, tile(b"")), "ISO_15444_1"),
        ((SIZE, HIGH_THROUGHPUT, COSINE, tile(b"")), "ISO_15444_15"),
        ((SIZE, HIGH_THROUGHPUT, CODED, tile(b"")), ""),
        ((SIZE, CODED, tile(b""), tile(COSINE)), "ISO_15444_1"),
        ((SIZE, CODED, segment(0xFF53, bytes(7) + b"\0"), tile(b"")), "ISO_15444_1"),
    ],
)
def test_codestreams_of_jpeg_2000(parts, method):
    stream = b"\xff\x4f" + b"".join(parts) + b"\xff\xd9"
    assert lossy.lost(stream) == method
    assert lossy.lost(b"\0\0\0\x0cjP  box" + stream) == method


def scan(near: int, approximation: int) -> bytes:
    return segment(0xFFDA, bytes([1, 1, 0, near, 0, approximation]))


@pytest.mark.parametrize(
    ("frame", "three", "method"),
    [
        (0xFFF7, (0, 0), ""), (0xFFF7, (2, 0), "ISO_14495_1"), (0xFFF7, (0, 1), "ISO_14495_1"),
        (0xFFC3, (1, 0), ""), (0xFFC3, (7, 2), "ISO_10918_1"), (0xFFC1, (0, 0), "ISO_10918_1"),
        (0xFFC0, (0, 0), "ISO_10918_1"),
    ],
)  # fmt: skip
def test_codestreams_of_jpeg(frame, three, method):
    tables = segment(0xFFC4, bytes(20)) + b"\xff"  # a table, and a fill byte
    stream = b"\xff\xd8" + tables + segment(frame, bytes(9)) + scan(*three) + b"12"
    assert lossy.lost(stream) == method


# --- texts -----------------------------------------------------------------------------------

KANA = bytes([0xD4, 0xCF, 0xC0, 0xDE, 0xC0, 0xDB, 0xB3])
KANJI = b"\x1b$B;3ED\x1b(B"
TEXTS = {
    "latin": ("ISO_IR 100", "Schädel".encode("latin1")),
    "undeclared": (None, "Schädel".encode("latin1")),
    "katakana": ("ISO_IR 13", KANA),
    "kanji": (["", "ISO 2022 IR 87"], KANJI),
    "kanji that stay on": (["", "ISO 2022 IR 87"], KANJI[:-3]),
    "utf8": ("ISO_IR 192", "Schädel 头".encode()),
    "wrong": ("ISO_IR 192", b"Sch\xe4del"),
    "unknown": ("ISO_IR 999", b"Sch\xe4del"),
    "gb": ("GB18030", "头部".encode("gb18030")),
    "values": ("ISO_IR 100", b"Lung 2.5 venous\\Axial"),
}
KEYWORDS = ("PatientName", "InstitutionName", "StudyDescription", "ImageComments", "StudyID")


def with_bytes(charset, texts: dict[str, bytes], syntax) -> bytes:
    """A file with these bytes as its texts, at the top level and in a sequence."""
    ds = dataset(SpecificCharacterSet=charset, RequestAttributesSequence=[Dataset()])
    ds.RequestAttributesSequence[0].RequestedProcedureDescription = "x"
    ds = pydicom.dcmread(io.BytesIO(packed(ds, syntax)))
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian

    def put(into, keyword, value):
        value += b" " * (len(value) % 2)
        tag = Tag(tag_for_keyword(keyword))
        kind = dictionary_VR(tag)
        into[tag] = RawDataElement(tag, kind, len(value), value, 0, implicit, little)

    for keyword, value in texts.items():
        put(ds, keyword, value)
    first = next(iter(texts.values()))
    item = ds.RequestAttributesSequence[0]
    put(item, "RequestedProcedureDescription", first)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def bytes_of(ds, keyword):
    return ds.get_item(Tag(tag_for_keyword(keyword))).value.rstrip(b" ")


@pytest.mark.parametrize("syntax", PLAIN, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("name", TEXTS)
def test_texts_keep_their_bytes(name, syntax):
    charset, value = TEXTS[name]
    texts = dict.fromkeys((*KEYWORDS, "SeriesDescription"), value)
    texts["DerivationDescription"] = value
    out = derived(with_bytes(charset, texts, syntax))
    for keyword in KEYWORDS:
        assert bytes_of(out, keyword) == value, keyword
    item = out.RequestAttributesSequence[0]
    assert bytes_of(item, "RequestedProcedureDescription") == value
    back = b"\x1b(B" if name == "kanji that stay on" else b""
    assert bytes_of(out, "SeriesDescription") == value + back + b" enhanced"
    described = bytes_of(out, "DerivationDescription")
    assert described.startswith(value + back + b"; Enhanced by a neural network")
    assert out.get("SpecificCharacterSet", "") == dataset(SpecificCharacterSet=charset or "").get(
        "SpecificCharacterSet", ""
    )


@pytest.mark.parametrize(
    ("charset", "value", "kept"),
    [
        ("ISO_IR 192", "头".encode() * 60, "头".encode() * 55),
        ("ISO_IR 100", b"x" * 64, b"x" * 55),
        (["", "ISO 2022 IR 87"], b"\x1b$B" + b";3" * 60 + b"\x1b(B", None),
        ("ISO_IR 100", b"a" * 30 + b"\\" + b"b" * 60, b"a" * 30 + b"\\" + b"b" * 55),
        ("ISO_IR 100", b"a" * 60 + b"\\" + b"b" * 20, b"a" * 60 + b"\\" + b"b" * 20),
    ],
)
def test_a_long_description_is_cut_at_a_whole_character(charset, value, kept):
    out = derived(with_bytes(charset, {"SeriesDescription": value}, ExplicitVRLittleEndian))
    found = bytes_of(out, "SeriesDescription")
    if kept is not None:
        assert found == kept + b" enhanced"
    words = out.SeriesDescription
    last = words if isinstance(words, str) else words[-1]
    assert len(last) <= 64
    assert last.endswith(" enhanced")
    assert "�" not in last


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_no_description(blank):
    assert derived(packed(dataset(SeriesDescription=blank))).SeriesDescription == "enhanced"


# --- times -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "date", "clock"),
    [
        ("+0900", "20240201", "083000.000000"), ("-0330", "20240131", "200000.000000"),
        ("+0000", "20240131", "233000.000000"), ("+1400", "20240201", "133000.000000"),
    ],
)  # fmt: skip
def test_times_are_in_the_offset_of_the_source(offset, date, clock):
    now = datetime(2024, 1, 31, 23, 30, tzinfo=UTC)
    out = derived(packed(dataset(TimezoneOffsetFromUTC=offset)), now)
    assert (out.InstanceCreationDate, out.InstanceCreationTime) == (date, clock)
    assert out.ContributingEquipmentSequence[-1].ContributionDateTime == date + clock


def test_a_moment_without_a_zone_is_one_of_this_machine(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        ds = dataset(TimezoneOffsetFromUTC="+0900")
        assert transcode.local_time(ds, datetime(2024, 1, 31, 20)).strftime("%d %H") == "01 10"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("offset", [None, "", "9", "+9", "+2500", "-1300", "+09:00", "x0900"])
def test_no_offset_or_a_wrong_one(offset):
    ds = dataset(TimezoneOffsetFromUTC=offset)
    assert transcode.local_time(ds, NOW) == NOW


# --- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"), [("OW", 2), ("OF", 4), ("OL", 4), ("OD", 8), ("OV", 8), ("OB", 1)]
)
def test_words_of_a_big_endian_source_are_turned_by_their_size(kind, size):
    value = bytes(range(32))

    def source():
        ds, item = dataset(), Dataset()
        for into in (ds, item):
            into.add_new((0x0009, 0x0010), "LO", "MAKER")
            into.add_new((0x0009, 0x1001), kind, value)
        ds.RequestAttributesSequence = [item]
        return ds

    out = derived(packed(source(), ExplicitVRBigEndian))
    expected = b"".join(value[k : k + size][::-1] for k in range(0, 32, size))
    assert bytes(out[0x0009, 0x1001].value) == expected
    assert bytes(out.RequestAttributesSequence[0][0x0009, 0x1001].value) == expected
    again = derived(packed(source(), ExplicitVRLittleEndian))
    assert bytes(again[0x0009, 0x1001].value) == value


def test_a_part_of_a_word_stays():
    ds = dataset()
    ds.add_new((0x0009, 0x0010), "LO", "MAKER")
    ds.add_new((0x0009, 0x1001), "OF", bytes(range(6)))
    out = derived(packed(ds, ExplicitVRBigEndian))
    assert bytes(out[0x0009, 0x1001].value) == bytes([3, 2, 1, 0, 4, 5])


def test_numbers_of_every_kind_survive_a_big_endian_source():
    ds = dataset()
    values = {"US": 513, "SS": -513, "UL": 67305985, "SL": -67305985, "FL": 0.5, "FD": 0.1,
              "UV": 1 << 40, "SV": -(1 << 40), "AT": 0x00100020}  # fmt: skip
    ds.add_new((0x0009, 0x0010), "LO", "MAKER")
    for place, (kind, value) in enumerate(values.items(), 0x1001):
        ds.add_new((0x0009, place), kind, value)
    out = derived(packed(ds, ExplicitVRBigEndian))
    for place, value in enumerate(values.values(), 0x1001):
        assert out[0x0009, place].value == value


# --- frames ----------------------------------------------------------------------------------


def frames(count=3):
    hu = np.stack([body(seed=k) for k in range(count)])
    return enhanced(hu, [(1, -1024)] * count)


def earlier(instance, word):
    """A derivation that the source has behind it."""
    item, source = Dataset(), Dataset()
    item.DerivationDescription = word
    source.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    source.ReferencedSOPInstanceUID = instance
    item.SourceImageSequence = [source]
    return item


def test_the_parts_of_a_concatenation_stay_together_under_new_uids():
    parts = []
    for number in (1, 2):
        ds = frames()
        ds.SOPInstanceUID = uid("part", number)
        ds.ConcatenationUID, ds.SOPInstanceUIDOfConcatenationSource = uid("all"), uid("whole")
        ds.InConcatenationNumber = number
        parts.append(derived(packed(ds)))
    one, other = parts
    assert one.ConcatenationUID == other.ConcatenationUID != uid("all")
    assert one.SOPInstanceUIDOfConcatenationSource == PROCESS.sop(uid("whole"))
    assert other.InConcatenationNumber == 2
    shared = [ds.SharedFunctionalGroupsSequence[0] for ds in parts]
    assert shared[0] == shared[1], "shared groups are those of the whole"
    for number, ds in enumerate(parts, 1):
        for place, groups in enumerate(ds.PerFrameFunctionalGroupsSequence, 1):
            (derivation,) = groups.DerivationImageSequence
            (source,) = derivation.SourceImageSequence
            assert source.ReferencedSOPInstanceUID == uid("part", number)
            assert source.ReferencedFrameNumber == place


@pytest.mark.parametrize("keyword", ["ConcatenationUID", "SOPInstanceUIDOfConcatenationSource"])
def test_a_concatenation_without_usable_uids_is_refused_before_the_network(keyword):
    ds = frames()
    setattr(ds, keyword, "../x")
    with pytest.raises(Refused) as caught:
        read(packed(ds))
    assert caught.value.reason == Reason.NO_UID


def test_an_earlier_derivation_of_all_frames_is_appended_to():
    ds = frames()
    ds.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [earlier("1.2.3", "first")]
    out = derived(packed(ds))
    found = out.SharedFunctionalGroupsSequence[0].DerivationImageSequence
    assert [item.SourceImageSequence[0].ReferencedSOPInstanceUID for item in found] == [
        "1.2.3", uid("S", 0),
    ]  # fmt: skip
    assert found[0].DerivationDescription == "first"
    assert found[1].DerivationDescription == PROCESS.description


@pytest.mark.parametrize("shared", [False, True])
def test_earlier_derivations_of_frames_are_appended_to(shared):
    """A group is either shared or of each frame, never both."""
    ds = frames()
    ds.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence = [earlier("1.2.3", "one")]
    if shared:
        ds.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [earlier("1.2.4", "all")]
    out = derived(packed(ds))
    assert "DerivationImageSequence" not in out.SharedFunctionalGroupsSequence[0]
    words = [
        [item.DerivationDescription.split()[0] for item in groups.DerivationImageSequence]
        for groups in out.PerFrameFunctionalGroupsSequence
    ]
    first = ["all"] if shared else []
    assert words == [[*first, "Enhanced"], ["one", "Enhanced"], [*first, "Enhanced"]]


def test_earlier_evidence_is_appended_to():
    ds, reference = frames(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840", "1.2.3"
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = uid("before"), [reference]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = uid("study"), [series]
    ds.SourceImageEvidenceSequence = [study]
    (found,) = derived(packed(ds)).SourceImageEvidenceSequence
    assert [item.SeriesInstanceUID for item in found.ReferencedSeriesSequence] == [
        uid("before"), uid("S"),
    ]  # fmt: skip
    instances = found.ReferencedSeriesSequence[1].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in instances] == [uid("S", 0)]


def test_earlier_sources_of_a_single_frame_are_appended_to():
    before = Dataset()
    before.ReferencedSOPClassUID, before.ReferencedSOPInstanceUID = "1.2.840", "1.2.3"
    out = derived(packed(dataset(SourceImageSequence=[before])))
    assert [item.ReferencedSOPInstanceUID for item in out.SourceImageSequence] == [
        "1.2.3", uid("S", 0),
    ]  # fmt: skip


# --- what an independent validator says ---------------------------------------------------------


def concatenated() -> bytes:
    ds = frames()
    ds.ConcatenationUID, ds.SOPInstanceUIDOfConcatenationSource = uid("all"), uid("whole")
    ds.InConcatenationNumber, ds.ConcatenationFrameOffsetNumber = 1, 0
    return packed(ds)


def derived_before(*, shared: bool) -> bytes:
    ds = frames()
    groups = (
        [ds.SharedFunctionalGroupsSequence[0]] if shared else ds.PerFrameFunctionalGroupsSequence
    )
    for group in groups:
        group.DerivationImageSequence = [earlier("1.2.3", "first")]
    return packed(ds)


def water_padded() -> bytes:
    ds = dataset(body(), intercept=0)
    ds.add_new("PixelPaddingValue", "SS", int(body()[24, 24]))
    return packed(ds)


KINDS = {
    "concatenation": concatenated,
    "derived before": lambda: derived_before(shared=True),
    "frames derived before": lambda: derived_before(shared=False),
    "katakana": lambda: with_bytes(
        "ISO_IR 13", {"SeriesDescription": KANA}, ImplicitVRLittleEndian
    ),
    "kanji": lambda: with_bytes(
        ["", "ISO 2022 IR 87"], {"SeriesDescription": KANJI}, ExplicitVRBigEndian
    ),
    "lossy": lambda: encapsulated(dataset(noisy()), j2k(4.0), JPEG2000),
    "reversible": lambda: encapsulated(dataset(noisy()), j2k(None), HTJ2K),
    "offset": lambda: packed(dataset(TimezoneOffsetFromUTC="+0900")),
    "padding in water": water_padded,
    "background": lambda: packed(dataset(np.full((24, 24), -2000, np.int16), intercept=0)),
}


@needs_dciodvfy
@pytest.mark.parametrize("name", KINDS)
def test_dciodvfy_finds_no_more_errors_than_in_the_source(name, tmp_path):
    data = KINDS[name]()
    before = dciodvfy(data, tmp_path)
    image = read(data)
    output = [image.hu(k).clip(-1024, 1900) for k in range(len(image.stored))]
    after = dciodvfy(derive(image, output, PROCESS, NOW).data, tmp_path)
    assert len(after) <= len(before), set(after) - set(before)
