"""Damaged and made-up files: a reason or a result, never another exception, never a hang."""

import contextlib
import io
import random
import struct
import zipfile
from datetime import datetime

import dicom_desks
import numpy as np
import pydicom
import pytest
from dicom_files import body, bundled, dataset, enhanced, packed, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from compress.base.errors import CompressError, UsageError
from compress.dicom import Reason, Refused, headers, lossy, sources
from compress.dicom.reading import read
from compress.dicom.writing import Process, derive
from compress.imaging import command, inference
from compress.imaging.command import Options, run

PROCESS = Process(model="ab" * 32, precision="fp32")
NOW = datetime(2024, 1, 1)
MUTANTS = 420
"""Of each of the ten files."""


def seeds() -> dict[str, bytes]:
    """Small files of ten kinds."""
    frames = np.stack([body(20, k) for k in range(2)])
    parts = enhanced(frames, [(1, -1024), (0.5, -1100)])
    parts.ConcatenationUID = parts.SOPInstanceUIDOfConcatenationSource = "1.2.3"
    parts.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence = [pydicom.Dataset()]
    words = dataset(body(20), intercept=0, PixelPaddingValue=0, TimezoneOffsetFromUTC="+0900")
    words.SpecificCharacterSet, words.RescaleType = "ISO_IR 13", "Houndsfield Unit"
    words.SeriesDescription, words.PatientName = "\uff94\uff8f\uff80", "\uff94\uff8f\uff80"
    words.ContributingEquipmentSequence = [equipment()]
    floats = dataset(body(20), RequestAttributesSequence=[pydicom.Dataset()])
    for into in (floats, floats.RequestAttributesSequence[0]):
        into.add_new((0x0009, 0x0010), "LO", "MAKER")
        into.add_new((0x0009, 0x1001), "OF", bytes(24))
    return {
        "plain": packed(dataset(body(20), PixelPaddingValue=0)),
        "deflated": packed(dataset(body(20)), DeflatedExplicitVRLittleEndian),
        "rle": packed(dataset(body(24)), RLELossless),
        "j2k": packed(dataset(body(40)), JPEG2000Lossless),
        "enhanced": packed(enhanced(frames, [(1, -1024), (0.5, -1100)])),
        "concatenation": packed(parts),
        "words": packed(words, ImplicitVRLittleEndian),
        "big": packed(floats, ExplicitVRBigEndian),
        "lossy": lossy_file(),
        "background": packed(dataset(np.full((20, 20), -2000, np.int16), intercept=0)),
    }


def equipment() -> pydicom.Dataset:
    """Of a result of this program."""
    item = pydicom.Dataset()
    item.Manufacturer, item.ManufacturerModelName = "compress", "compress enhance"
    return item


def lossy_file() -> bytes:
    """Irreversible JPEG 2000 that does not say so."""
    ds = dataset(body(40))
    ds = pydicom.dcmread(io.BytesIO(packed(ds)))
    ds.compress(JPEG2000, j2k_cr=[4], generate_instance_uid=False)
    for name in ("", "Ratio", "Method"):
        ds.pop(f"LossyImageCompression{name}", None)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def mutant(data: bytes, draw: random.Random) -> bytes:
    """The file cut off, with flipped bytes in its header, or in its pixel data."""
    changed = bytearray(data)
    kind = draw.choice(("header", "header", "cut", "pixels"))
    if kind == "cut":
        return bytes(changed[: draw.randrange(len(changed))])
    pixels = max(changed.rfind(b"\xe0\x7f\x10\x00"), 140)
    start, end = (128, pixels + 12) if kind == "header" else (pixels, len(changed))
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(start, min(end, len(changed)))] = draw.randrange(256)
    return bytes(changed)


def through(data: bytes) -> Reason | None:
    """Header, pixels and derived object of a file; None or the reason why not."""
    try:
        image = read(data)
        output = [image.hu(k).clip(-1024, 1900) for k in range(len(image.stored))]
        derived = derive(image, output, PROCESS, NOW)
    except Refused as error:
        return error.reason
    again = read(derived.data)
    assert np.array_equal(again.stored, image.stored)
    assert again.stored.size < 1e7
    return None


def test_a_panic_of_a_codec_is_a_reason(monkeypatch):
    """The Rust decoder of RLE panics at some files: an exception that is no Exception."""

    class Panic(BaseException):
        pass

    def decode(_dataset):
        raise Panic

    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(decode))
    assert through(packed(dataset())) == Reason.UNDECODABLE


@pytest.mark.parametrize("name", seeds())
def test_mutants_have_a_result_or_a_reason(name, tmp_path):
    data, draw = seeds()[name], random.Random(name)
    found = set()
    path = tmp_path / "x"
    source = sources.Source(path)
    for _ in range(MUTANTS):
        changed = mutant(data, draw)
        found.add(through(changed))
        path.write_bytes(changed)
        assert headers.examine(source, "x").name == "x"
    assert None in found
    assert len(found) > 2


words = st.one_of(
    st.none(), st.just(""), st.text(max_size=8), st.integers(-(1 << 40), 1 << 40).map(str),
    st.floats().map(str),
)  # fmt: skip
numbers = st.one_of(st.none(), st.integers(0, 65535))
ATTRIBUTES = {
    "RescaleSlope": words, "RescaleIntercept": words, "RescaleType": words,
    "NumberOfFrames": words, "BitsAllocated": numbers, "BitsStored": numbers,
    "HighBit": numbers, "PixelRepresentation": numbers, "SamplesPerPixel": numbers,
    "Rows": numbers, "Columns": numbers, "PhotometricInterpretation": words,
    "PixelPaddingValue": numbers, "PixelPaddingRangeLimit": numbers, "ImageType": words,
    "SOPInstanceUID": words, "SeriesInstanceUID": words, "SeriesNumber": words,
    "SeriesDescription": words, "Modality": words, "BurnedInAnnotation": words,
    "DerivationDescription": words, "LossyImageCompression": words, "PatientName": words,
    "WindowCenter": words, "InstanceNumber": words, "TimezoneOffsetFromUTC": words,
    "SpecificCharacterSet": words, "ConcatenationUID": words, "SOPClassUID": words,
    "StudyInstanceUID": words,
}  # fmt: skip


META = packed(dataset())[: 132 + 12 + int.from_bytes(packed(dataset())[140:144], "little")]
"""Preamble, mark and file meta information of a CT image in Explicit VR Little Endian."""


def element(tag: int, vr: str, value: bytes) -> bytes:
    """An element as it lies in a file, whatever its value; pydicom would not write most of them."""
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    long = struct.pack("<HI", 0, len(value)) if vr == "OW" else struct.pack("<H", len(value))
    return head + long + value


@st.composite
def data_sets(draw):
    """Files of a CT image with some attributes that hold anything, and pixels of any length."""
    whole = dataset(body(16))
    elements = {}
    for known in whole:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, known)
        elements[int(known.tag)] = buffer.getvalue()
    for name in draw(st.lists(st.sampled_from(sorted(ATTRIBUTES)), max_size=4, unique=True)):
        tag, value = tag_for_keyword(name), draw(ATTRIBUTES[name])
        if value is None:
            elements.pop(tag, None)
        elif isinstance(value, int):
            elements[tag] = element(tag, "US", struct.pack("<H", value))
        else:
            elements[tag] = element(tag, dictionary_VR(tag), value.encode("utf-8", "replace"))
    if draw(st.booleans()):
        elements[0x7FE00010] = element(0x7FE00010, "OW", draw(st.binary(max_size=600)))
    return META + b"".join(elements[tag] for tag in sorted(elements))


@settings(
    max_examples=500, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data_sets())
def test_made_up_data_sets(data):
    through(data)


def test_mutants_of_codestreams_have_a_method_or_an_error():
    streams = [
        next(generate_frames(pydicom.dcmread(io.BytesIO(data)).PixelData, number_of_frames=1))
        for data in (lossy_file(), bundled("JPEGLSNearLossless_16.dcm"), seeds()["j2k"])
    ]
    draw, found = random.Random(0), set()
    for _ in range(MUTANTS):
        changed = bytearray(draw.choice(streams))
        for _ in range(draw.choice((1, 2, 8))):
            changed[draw.randrange(min(200, len(changed)))] = draw.randrange(256)
        try:
            found.add(lossy.lost(bytes(changed[: draw.choice((len(changed), 40, 90))])))
        except (ValueError, IndexError, struct.error):
            found.add(None)
    assert found >= {None, "", lossy.J2K, lossy.JPEG_LS}


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=300), st.sampled_from((b"\xff\xd8", b"\xff\x4f\xff\x51", b"")))
def test_made_up_codestreams(data, start):
    with contextlib.suppress(ValueError, IndexError, struct.error):
        lossy.lost(start + data)


def test_mutants_of_zips_have_headers_or_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("a", "b.dcm"):
            file.writestr(name, packed(dataset(body(20))))
    data, draw, found = (tmp_path / "whole.zip").read_bytes(), random.Random(0), set()
    for k in range(MUTANTS):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 2, 8))):
            changed[-draw.randrange(1, 260) if draw.random() < 0.7 else draw.randrange(90)] ^= (
                1 << draw.randrange(8)
            )
        cut = len(changed) if draw.random() < 0.8 else draw.randrange(len(changed))
        path = tmp_path / f"{k}.zip"
        path.write_bytes(changed[:cut])
        try:
            source = sources.open_source(path)
            found |= {headers.examine(source, name).reason for name in sources.names(source)}
        except UsageError:
            found.add("usage")
        path.unlink()
    assert found >= {None, "usage", Reason.DAMAGED, Reason.ENCRYPTED}


def test_the_whole_command_on_damaged_files(tmp_path, monkeypatch, capfd):
    """A folder of good and damaged files: code 1, the good ones done, nothing half written."""
    draw = random.Random(0)
    folder = write_series(tmp_path / "in", 10, side=20)
    for name, data in seeds().items():
        for k in range(12):
            (folder / f"{name}{k}").write_bytes(mutant(data, draw))
    for name in ("badVR.dcm", "no_meta.dcm", "UN_sequence.dcm", "README.txt", "rtplan.dcm"):
        (folder / name).write_bytes(bundled(name))
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    with pytest.raises(CompressError) as caught:
        run(Options(source=folder, model=tmp_path, out=tmp_path / "out", series=("all",)))
    assert caught.value.exit_code == 1
    done = list((tmp_path / "out").glob("*.dcm"))
    assert len(done) >= 10
    for path in done:
        assert read(path.read_bytes()).stored.any()
    assert not list((tmp_path / "out").glob(".*"))
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "Jane" not in said.out + said.err
    assert command.log.name == "compress.imaging.command"
