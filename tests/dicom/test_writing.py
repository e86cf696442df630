"""The derived object, point by point; dciodvfy finds no error that the source did not have."""

import io
from datetime import datetime

import numpy as np
import pydicom
import pytest
from dicom_files import (
    LOSSLESS,
    body,
    bundled,
    dataset,
    dciodvfy,
    enhanced,
    needs_dciodvfy,
    packed,
    pycerr,
    pydicom_data,
    uid,
)
from pydicom import Dataset
from pydicom.uid import JPEG2000, ExplicitVRBigEndian, ExplicitVRLittleEndian

from compress import __version__
from compress.dicom import Reason, Refused
from compress.dicom.encoding import TOO_FAR
from compress.dicom.reading import read
from compress.dicom.writing import Process, derive

PROCESS = Process(model="ab" * 32, precision="fp32")
NOW = datetime(2024, 2, 3, 4, 5, 6)


def identity(image):
    """What a network that changes nothing gives."""
    return [image.hu(k).clip(-1024, 1900) for k in range(len(image.stored))]


def written(data: bytes, output=identity, process=PROCESS):
    """The derived data set, and what was counted."""
    image = read(data)
    derived = derive(image, output(image), process, NOW)
    return pydicom.dcmread(io.BytesIO(derived.data)), derived


def refused(data: bytes, output, process=PROCESS) -> Reason:
    with pytest.raises(Refused) as caught:
        written(data, output, process)
    return caught.value.reason


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("intercept", [-1024, 0])
def test_identity_gives_the_sources_pixels(syntax, intercept):
    hu = body(40, columns=56)
    hu[0, :9] = -2000 if intercept == 0 else -1024
    hu[1, :9] = 3071
    ds = dataset(hu, intercept=intercept, PixelPaddingValue=int(hu[0, 0]) - intercept)
    data = packed(ds, syntax)
    out, derived = written(data)
    assert np.array_equal(out.pixel_array, read(data).stored[0])
    assert out.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (derived.clipped, derived.padding, derived.copied) == (0, 9, 9)


def test_identity_of_an_enhanced_ct():
    hu = np.stack([body(seed=k) for k in range(2)])
    data = packed(enhanced(hu, [(1, -1024), (0.5, -1100)]))
    out, _ = written(data)
    assert np.array_equal(out.pixel_array, read(data).stored)
    assert out.ImageType == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    shared = out.SharedFunctionalGroupsSequence[0]
    assert shared.CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    source = shared.DerivationImageSequence[0].SourceImageSequence[0]
    evidence = out.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert source.ReferencedSOPInstanceUID == uid("S", 0)
    assert evidence.SeriesInstanceUID == uid("S")
    assert "SourceImageSequence" not in out


def test_pixels_are_rounded_and_clipped_and_counted():
    data = packed(dataset(BitsStored=11, HighBit=10))  # up to 2047, 1023 HU

    def output(image):
        hu = image.hu(0)
        hu[5, 5:9], hu[6, 6], hu[7, 7] = 1500, -999.6, 1023.4
        return [hu]

    out, derived = written(data, output)
    assert derived.clipped == 4
    assert (out.pixel_array[5, 5:9] == 2047).all()
    assert (out.pixel_array[6, 6], out.pixel_array[7, 7]) == (24, 2047)


def test_halves_are_rounded_not_cut_off():
    data = packed(dataset())
    out, _ = written(data, lambda image: [image.hu(0) + 0.6])
    assert np.array_equal(out.pixel_array, read(data).stored[0].astype(int) + 1)


def test_tissue_never_turns_into_padding():
    hu = body()
    hu[0] = -1024
    data = packed(dataset(hu, PixelPaddingValue=0))
    out, derived = written(data, lambda image: [np.maximum(image.hu(0) - 150, -1024)])
    padding = out.pixel_array == 0
    assert derived.padding == 48
    assert padding[0].all()
    assert not padding[1:].any()


def test_what_identifies_it():
    out, derived = written(packed(dataset()))
    again, _ = written(packed(dataset()))
    assert out.SOPInstanceUID == again.SOPInstanceUID == PROCESS.sop(uid("S", 0))
    assert out.SeriesInstanceUID == again.SeriesInstanceUID != uid("S")
    assert out.file_meta.MediaStorageSOPInstanceUID == out.SOPInstanceUID
    assert out.SOPInstanceUID.is_valid
    assert out.SOPInstanceUID.startswith("2.25.")
    assert derived.data[:128] == bytes(128)
    other, _ = written(packed(dataset(index=1)))
    assert other.SeriesInstanceUID == out.SeriesInstanceUID
    assert other.SOPInstanceUID != out.SOPInstanceUID
    for process in (
        Process(model="cd" * 32, precision="fp32"),
        Process(model="ab" * 32, precision="fp16"),
        Process(model="ab" * 32, precision="fp32", strip_private=True),
    ):
        changed, _ = written(packed(dataset()), process=process)
        assert changed.SOPInstanceUID != out.SOPInstanceUID
        assert changed.SeriesInstanceUID != out.SeriesInstanceUID


def test_what_explains_it():
    out, _ = written(packed(dataset()))
    assert out.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert PROCESS.model in out.DerivationDescription
    assert "Not for diagnostic use" in out.DerivationDescription
    assert out.DerivationCodeSequence[0].CodeValue == "113087"
    (source,) = out.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == uid("S", 0)
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    (equipment,) = out.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert equipment.SoftwareVersions == __version__
    assert (out.SeriesNumber, out.SeriesDescription) == (1003, "THORAX enhanced")
    assert (out.InstanceCreationDate, out.InstanceCreationTime) == ("20240203", "040506.000000")


def test_what_stays():
    before, (out, _) = dataset(), written(packed(dataset()))
    for keyword in (
        "StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "PixelSpacing",
        "ImageOrientationPatient", "InstanceNumber", "PatientName", "PatientID", "Manufacturer",
        "WindowCenter", "ContentDate", "StudyDate", "RescaleSlope", "RescaleIntercept",
        "BitsStored", "PixelRepresentation", "SOPClassUID", "PhotometricInterpretation",
    ):  # fmt: skip
        assert out[keyword].value == before[keyword].value, keyword


def test_what_was_there_is_added_to():
    item = Dataset()
    item.Manufacturer = "first"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113076", "DCM", "Segmentation"
    ds = dataset(
        ContributingEquipmentSequence=[item], DerivationCodeSequence=[code],
        DerivationDescription="earlier " * 130, SeriesDescription="x" * 64,
    )  # fmt: skip
    out, _ = written(packed(ds))
    assert [e.Manufacturer for e in out.ContributingEquipmentSequence] == ["first", "compress"]
    assert [c.CodeValue for c in out.DerivationCodeSequence] == ["113076", "113087"]
    assert out.DerivationDescription.startswith("earlier earlier")
    assert out.DerivationDescription.endswith("Not for diagnostic use.")
    assert len(out.DerivationDescription) <= 1024
    assert len(out.SeriesDescription) == 64


def test_stale_attributes_go():
    ds = dataset(
        IconImageSequence=[Dataset()], DigitalSignaturesSequence=[Dataset()],
        MACParametersSequence=[Dataset()], InstanceCreatorUID="1.2.3",
    )  # fmt: skip
    ds.add_new("SmallestImagePixelValue", "US", 1)
    ds.add_new("LargestImagePixelValue", "US", 9)
    out, _ = written(packed(ds))
    for keyword in (
        "IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence",
        "SmallestImagePixelValue", "LargestImagePixelValue", "InstanceCreatorUID",
    ):  # fmt: skip
        assert keyword not in out


def test_an_executable_preamble_does_not_survive():
    data = packed(dataset())
    out = written(b"MZ" + bytes(126) + data[128:])[1]
    assert out.data[:128] == bytes(128)


def test_private_tags_stay_or_go():
    ds = dataset()
    ds.private_block(0x0099, "MAKER", create=True).add_new(1, "LO", "x")
    out, _ = written(packed(ds))
    assert out[0x0099, 0x1001].value == "x"
    process = Process(model="ab", precision="fp32", strip_private=True)
    out, _ = written(packed(ds), process=process)
    assert (0x0099, 0x1001) not in out


def test_lossy_stays_lossy():
    out, _ = written(packed(dataset(LossyImageCompression="01", LossyImageCompressionRatio="7")))
    assert (out.LossyImageCompression, out.LossyImageCompressionRatio) == ("01", 7)
    out, _ = written(bundled("693_J2KI.dcm"))
    assert out.LossyImageCompression == "01"
    out, _ = written(packed(dataset()))
    assert "LossyImageCompression" not in out


def test_a_lossy_source_that_does_not_say_so():
    ds = pydicom.dcmread(io.BytesIO(bundled("693_J2KI.dcm")))
    for keyword in [e.keyword for e in ds if e.keyword.startswith("Lossy")]:
        del ds[keyword]
    buffer = io.BytesIO()
    ds.save_as(buffer)
    assert ds.file_meta.TransferSyntaxUID == JPEG2000
    out, _ = written(buffer.getvalue())
    assert (out.LossyImageCompression, out.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert out.LossyImageCompressionRatio > 2


def test_words_of_a_big_endian_source():
    ds = dataset()
    ds.add_new((0x6000, 0x3000), "OW", bytes([1, 2]) * 8)
    out, _ = written(packed(ds, ExplicitVRBigEndian))
    assert out[0x6000, 0x3000].value == bytes([2, 1]) * 8


def nan(image):
    hu = image.hu(0)
    hu[3, 3] = np.nan
    return [hu]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (nan, Reason.NOT_FINITE),
        (lambda image: [image.hu(0) + TOO_FAR + 1], Reason.OUTPUT_RANGE),
        (lambda image: [image.hu(0) - 500], Reason.OUTPUT_RANGE),
        (lambda image: [image.hu(0)[:40]], Reason.SHAPE),
        (lambda image: [], Reason.SHAPE),
    ],
)
def test_the_gate_after_the_network(output, reason):
    assert refused(packed(dataset()), output) == reason


def test_no_uid_no_derived_object():
    assert refused(packed(dataset(SeriesInstanceUID=None)), identity) == Reason.NO_UID


def test_values_that_cannot_be_written():
    data = packed(dataset())
    image = read(data)
    image.dataset.add_new("TableHeight", "US", "not a number")
    with pytest.raises(Refused) as caught:
        derive(image, identity(image), PROCESS, NOW)
    assert caught.value.reason == Reason.UNWRITABLE


def sources():
    yield packed(dataset())
    yield packed(dataset(PixelPaddingValue=0), ExplicitVRBigEndian)
    yield packed(enhanced(np.stack([body(seed=k) for k in range(2)]), [(1, -1024)] * 2))
    for name in ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"):
        yield bundled(name)


def no_new_error(data: bytes, folder) -> None:
    before = dciodvfy(data, folder)
    image = read(data)
    after = dciodvfy(derive(image, identity(image), PROCESS, NOW).data, folder)
    assert not set(after) - set(before)
    assert len(after) <= len(before)


@needs_dciodvfy
@pytest.mark.parametrize("data", list(sources()), ids=range(6))
def test_dciodvfy(data, tmp_path):
    no_new_error(data, tmp_path)


@needs_dciodvfy
@pytest.mark.network
def test_dciodvfy_on_real_files(tmp_path):
    names = ("693_UNCR.dcm", "693_J2KR.dcm", "explicit_VR-UN.dcm")
    files = [pydicom_data() / name for name in names]
    for folder in sorted(pycerr().iterdir()):
        files += sorted(folder.rglob("*.dcm"))[:1]
    for file in files:
        data = file.read_bytes()
        try:
            read(data)
        except Refused:  # a structure set among pyCERR's
            continue
        no_new_error(data, tmp_path)
