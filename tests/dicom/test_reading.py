"""HU out of every kind of CT image, and a reason for every image that has none."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import (
    LOSSLESS,
    body,
    bundled,
    dataset,
    encapsulated,
    enhanced,
    packed,
    pydicom_data,
)
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MRImageStorage,
)

from compress.dicom import Reason, Refused, reading, sources
from compress.dicom.reading import read


def refused(data: bytes, **options) -> Reason:
    with pytest.raises(Refused) as caught:
        read(data, **options)
    return caught.value.reason


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("intercept", [-1024, 0])
def test_every_lossless_syntax_gives_the_same_hu(syntax, intercept):
    hu = body(40, columns=56)
    image = read(packed(dataset(hu, intercept=intercept), syntax))
    assert np.array_equal(image.hu(0), hu)
    assert image.hu(0).dtype == np.float32
    assert not image.kept.any()


def test_slope_and_intercept():
    ds = dataset(RescaleSlope="0.5", RescaleIntercept="-1000.25")
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(48, 48)
    np.testing.assert_allclose(read(packed(ds)).hu(0), stored * 0.5 - 1000.25)


def test_negative_slope():
    hu = body()
    ds = dataset(hu, RescaleSlope="-1", RescaleIntercept="3000", PixelPaddingValue=4095)
    ds.PixelData = (3000 - hu.astype(int)).astype("<u2").tobytes()
    image = read(packed(ds))
    assert np.array_equal(image.hu(0), hu)
    assert not image.kept.any()


def test_monochrome1_is_how_it_is_shown_not_what_it_means():
    assert np.array_equal(read(packed(dataset(PhotometricInterpretation="MONOCHROME1"))).hu(0),
                          body())  # fmt: skip


def padded(value, stored_as=None, **changes):
    """A signed image with a padded first row."""
    hu = body()
    hu[0] = value
    ds = dataset(hu, intercept=0, PixelPaddingValue=stored_as or value, **changes)
    ds["PixelPaddingValue"].VR = "SS" if (stored_as or value) < 0 else "US"
    return read(packed(ds))


@pytest.mark.parametrize("stored_as", [-2000, 63536])
def test_padding_is_air_for_the_network_and_kept(stored_as):
    image = padded(-2000, stored_as)
    assert (image.hu(0)[0] == -1024).all()
    assert image.padding == 48
    assert image.kept[0, 0].all()
    assert image.kept.sum() == 48


def test_lossy_undershoots_of_padding_are_padding():
    hu = body()
    hu[0, :] = -2000
    hu[0, 5] = -2971
    image = read(packed(dataset(hu, intercept=0, PixelPaddingValue=-2000)))
    assert (image.hu(0)[0] == -1024).all()
    assert image.padding == 48


def test_a_range_of_padding():
    hu = body()
    hu[0] = np.arange(48) - 3000
    limits = {"PixelPaddingValue": -3000, "PixelPaddingRangeLimit": -2980}
    image = read(packed(dataset(hu, intercept=0, **limits)))
    assert image.padding == 21


def test_padding_inside_the_range_of_tissue_is_equality_only():
    hu = body()
    hu[hu == 40] = 41
    hu[0] = 40
    image = read(packed(dataset(hu, intercept=0, PixelPaddingValue=40)))
    assert image.padding == 48


def test_undeclared_padding_and_metal_are_kept():
    hu = body()
    hu[0], hu[1, :3] = -2048, 3071
    image = read(packed(dataset(hu, intercept=0)))
    assert (image.padding, image.kept.sum()) == (0, 51)


def test_missing_rescale_is_refused_unless_it_is_said_to_be_hu():
    ds = dataset(intercept=0, RescaleSlope=None, RescaleIntercept=None, RescaleType=None)
    assert refused(packed(ds)) == Reason.NO_RESCALE
    assert np.array_equal(read(packed(ds), assume_hu=True).hu(0), body())


def test_unsigned_values_are_never_assumed_to_be_hu():
    """They cannot hold air; it is a CT whose intercept was lost, off by 1024 HU."""
    ds = dataset(RescaleSlope=None, RescaleIntercept=None)
    assert refused(packed(ds), assume_hu=True) == Reason.HU_RANGE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"RescaleSlope": "0"}, Reason.NO_RESCALE),
        ({"RescaleSlope": ""}, Reason.NO_RESCALE),
        ({"RescaleSlope": "1e-300"}, Reason.HU_RANGE),
        ({"RescaleSlope": "1e30"}, Reason.HU_RANGE),
        ({"RescaleIntercept": "-1e9"}, Reason.HU_RANGE),
        ({"RescaleSlope": "nan"}, Reason.NO_RESCALE),
        ({"RescaleIntercept": None}, Reason.NO_RESCALE),
        ({"RescaleType": "US"}, Reason.NOT_HU),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, Reason.NOT_HU),
        ({"RescaleIntercept": "20000"}, Reason.HU_RANGE),
        ({"RescaleIntercept": "-20000"}, Reason.HU_RANGE),
        ({"BitsStored": 8, "HighBit": 7}, Reason.EIGHT_BIT),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, Reason.EIGHT_BIT),
        ({"BitsStored": 17}, Reason.BITS),
        ({"HighBit": 15}, Reason.BITS),
        ({"BitsAllocated": 32}, Reason.BITS),
        ({"BitsStored": 10, "HighBit": 9}, Reason.BITS),
        ({"PixelRepresentation": 2}, Reason.BITS),
        ({"SamplesPerPixel": 3}, Reason.COLOUR),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"PixelData": None}, Reason.NO_PIXELS),
        ({"PixelData": b"1234"}, Reason.UNDECODABLE),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER),
        ({"Modality": "MR"}, Reason.NOT_CT),
        ({"SOPClassUID": MRImageStorage}, Reason.NOT_CT),
        ({"NumberOfFrames": 2}, Reason.UNDECODABLE),
        ({"Rows": 50000, "Columns": 50000}, Reason.SHAPE),
        ({"Rows": None}, Reason.DAMAGED),
        ({"PixelPaddingValue": []}, None),
    ],
)
def test_refusals(changes, reason):
    data = packed(dataset(**changes))
    if reason is None:
        read(data)
    else:
        assert refused(data) == reason


def test_number_of_frames_that_is_no_number():
    """As in badVR.dcm."""
    ds = dataset()
    ds.add_new("NumberOfFrames", "IS", "1")
    data = packed(ds).replace(b"IS\x02\x001 ", b"IS\x02\x001A")
    assert refused(data) == Reason.DAMAGED


def test_empty_padding_value_is_none():
    ds = dataset()
    ds.add_new("PixelPaddingValue", "US", None)
    assert read(packed(ds)).padding == 0


SPELLINGS = (
    "HU", "hu", "Hu ", "H.U.", "Hounsfield", "HOUNSFIELD", "Hounsfield Unit", "Hounsfield Units",
    "hounsfield_units", "Houndsfield Unit", "Hounsfield Units (HU)", "[hnsf'U]", " ", None,
)  # fmt: skip
OTHERS = ("US", "HU_MOD", "OD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "HU*10", "HU/1000", "1/HU",
          "mHU", "HU\\US", "UNSPECIFIED", "ml/100ml/s")  # fmt: skip


@pytest.mark.parametrize("kind", SPELLINGS)
def test_spellings_of_hounsfield_units(kind):
    assert np.array_equal(read(packed(dataset(RescaleType=kind))).hu(0), body())
    hu = np.stack([body(seed=k) for k in range(2)])
    assert np.array_equal(read(packed(enhanced(hu, [(1, -1024)] * 2, kind=kind))).hu(1), hu[1])


@pytest.mark.parametrize("kind", OTHERS)
def test_other_units_are_refused(kind):
    assert refused(packed(dataset(RescaleType=kind))) == Reason.NOT_HU


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("Modality", "ct", None),
        ("BurnedInAnnotation", "Yes", Reason.BURNED_IN),
        ("ImageType", ["ORIGINAL", "PRIMARY", "Localizer"], Reason.LOCALIZER),
    ],
)
def test_code_strings_in_small_letters(keyword, value, reason):
    data = packed(dataset(**{keyword: value}))
    if reason is None:
        read(data)
    else:
        assert refused(data) == reason


def test_enhanced_ct_without_functional_groups_is_refused_at_once():
    """Slope and intercept at the top level: a result could not say what it is derived from."""
    line = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "RescaleType": "HU"}
    hu = np.stack([body(seed=k) for k in range(2)])
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for empty in (False, True):
            ds = enhanced(hu, [(1, -1024)] * 2)
            for name, value in line.items():
                setattr(ds, name, value)
            if empty:
                setattr(ds, keyword, [])
            else:
                del ds[keyword]
            assert refused(packed(ds)) == Reason.NO_GROUPS


def test_enhanced_ct_with_a_line_for_each_frame():
    hu = np.stack([body(seed=k) for k in range(3)])
    image = read(packed(enhanced(hu, [(1, -1024), (0.5, -1024), (2, -1100)])))
    for k in range(3):
        np.testing.assert_allclose(image.hu(k), hu[k], atol=1)
        assert abs(np.median(image.hu(k)) - np.median(hu[k])) <= 1, "never off by 1024"


def test_enhanced_ct_with_a_shared_line():
    hu = np.stack([body(seed=k) for k in range(2)])
    image = read(packed(enhanced(hu, [(1, -1024)] * 2, shared=True)))
    assert np.array_equal(image.hu(1), hu[1])


def test_enhanced_ct_without_a_line_or_in_other_units():
    hu = np.stack([body(seed=k) for k in range(2)])
    lines = [(1, -1024)] * 2
    ds = enhanced(hu, lines)
    del ds.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence
    assert refused(packed(ds)) == Reason.NO_RESCALE
    assert refused(packed(enhanced(hu, lines, kind="US"))) == Reason.NOT_HU
    ds = enhanced(hu, lines)
    del ds.PerFrameFunctionalGroupsSequence[1]
    assert refused(packed(ds)) == Reason.SHAPE


def test_baseline_jpeg_is_refused():
    assert refused(encapsulated(dataset(), b"\xff\xd8", JPEGBaseline8Bit)) == Reason.EIGHT_BIT


@pytest.mark.parametrize(("precision", "reason"), [(8, Reason.EIGHT_BIT), (12, Reason.UNDECODABLE)])
def test_extended_jpeg_is_refused_where_it_holds_8_bits(precision, reason):
    frame = bytes.fromhex("ffd8 ffe0 0004 0000 ffc1 000b") + bytes([precision]) + bytes(20)
    assert refused(encapsulated(dataset(), frame, JPEGExtended12Bit)) == reason


JPEG = Path(__file__).with_name("jpeg")
"""Made phantoms, packed by dcmcjpeg of DCMTK 3.6.7 (+el, and +ee +bt); the array by dcmdjpeg."""


def test_jpeg_lossless_of_any_prediction():
    image = read((JPEG / "lossless_57.dcm").read_bytes())
    assert image.dataset.file_meta.TransferSyntaxUID == JPEGLossless
    assert np.array_equal(image.hu(0), body(40, columns=56))


def test_extended_jpeg_of_12_bits_is_what_another_decoder_makes_of_it():
    image = read((JPEG / "extended_51.dcm").read_bytes())
    assert image.dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    stored = np.load(JPEG / "extended_51.npy").astype(int)
    assert image.dataset.RescaleIntercept == -2043  # of the encoder, which rescales
    assert np.abs(image.stored[0] - stored).max() <= 1
    inside = ~image.kept[0]
    assert np.abs(image.hu(0) - (stored - 2043))[inside].max() <= 1
    assert 0 < np.abs(image.hu(0) - body(40, columns=56)).max() < 30  # something was lost


def test_syntaxes_without_a_decoder():
    for syntax in ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55", "1.2.3"):
        data = encapsulated(dataset(), b"12", pydicom.uid.UID(syntax))
        assert refused(data) == Reason.SYNTAX


def test_a_codestream_of_another_size_is_refused():
    small, large = packed(dataset(body(40)), JPEG2000Lossless), dataset(body(48))
    frame = next(generate_frames(pydicom.dcmread(io.BytesIO(small)).PixelData, number_of_frames=1))
    assert refused(encapsulated(large, frame, JPEG2000Lossless)) in (
        Reason.SHAPE, Reason.UNDECODABLE,
    )  # fmt: skip


def test_a_deflated_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(sources.inflate_limited, "__defaults__", (1000,))
    assert refused(packed(dataset(), DeflatedExplicitVRLittleEndian)) == Reason.TOO_LARGE


def test_no_memory_is_a_reason(monkeypatch):
    def broken(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(reading.rescale, "scale_of", broken)
    assert refused(packed(dataset())) == Reason.TOO_LARGE


def test_jpeg_ls_of_another_modality_as_ct():
    """Nothing here encodes JPEG-LS, so the codestream is borrowed from an MR image."""
    mr = pydicom.dcmread(io.BytesIO(bundled("MR_small_jpeg_ls_lossless.dcm")))
    frame = next(generate_frames(mr.PixelData, number_of_frames=1))
    hu = np.zeros((mr.Rows, mr.Columns), np.int16)
    about = {name: mr[name].value for name in ("BitsStored", "HighBit", "PixelRepresentation")}
    image = read(encapsulated(dataset(hu, **about), frame, JPEGLSLossless))
    raw = pydicom.dcmread(io.BytesIO(bundled("MR_small.dcm"))).pixel_array
    assert np.array_equal(image.hu(0), raw.astype(int) - 1024)


def test_near_lossless_jpeg_ls_of_16_bits():
    other = pydicom.dcmread(io.BytesIO(bundled("JPEGLSNearLossless_16.dcm")))
    frame = next(generate_frames(other.PixelData, number_of_frames=1))
    hu = np.zeros((other.Rows, other.Columns), np.int16)
    line = {"RescaleSlope": "0.05", "RescaleIntercept": "-1024"}  # into the range of CT
    data = encapsulated(dataset(hu, BitsStored=16, HighBit=15, **line), frame, JPEGLSNearLossless)
    expected = other.pixel_array * 0.05 - 1024
    np.testing.assert_allclose(read(data).hu(0), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "rows", "padding"),
    [("CT_small.dcm", 128, 0), ("693_J2KI.dcm", 512, 34556), ("J2K_pixelrep_mismatch.dcm", 512, 0)],
)
def test_bundled_files(name, rows, padding):
    image = read(bundled(name))
    assert (image.stored.shape[1], image.padding) == (rows, padding)
    tissue = image.hu(0)[~image.kept[0]]
    assert image.hu(0).min() >= -3024
    assert tissue.min() >= -1024
    assert -200 < np.median(tissue[tissue > -200]) < 120


@pytest.mark.network
def test_the_same_slice_in_three_syntaxes():
    folder = pydicom_data()
    plain, exact = (read((folder / f"693_{name}.dcm").read_bytes()) for name in ("UNCR", "J2KR"))
    lossy, plain_lossy = read(bundled("693_J2KI.dcm")), read((folder / "693_UNCI.dcm").read_bytes())
    assert np.array_equal(plain.hu(0), exact.hu(0))
    assert np.array_equal(lossy.stored, plain_lossy.stored)
    assert (lossy.hu(0) >= -1024).all()
    assert plain.padding == 55772


@pytest.mark.network
def test_a_perfusion_map_is_no_hu():
    """Slope 1 and intercept -1024 in its functional groups, but the unit is ml/100ml/s."""
    assert refused((pydicom_data() / "eCT_Supplemental.dcm").read_bytes()) == Reason.NOT_HU


@pytest.mark.network
def test_the_same_file_as_hu_has_its_intercept():
    ds = pydicom.dcmread(pydicom_data() / "eCT_Supplemental.dcm")
    groups = ds.SharedFunctionalGroupsSequence[0]
    groups.PixelValueTransformationSequence[0].RescaleType = "HU"
    raw = ds.pixel_array
    buffer = io.BytesIO()
    ds.save_as(buffer)
    image = read(buffer.getvalue())
    assert np.array_equal(image.hu(1), raw[1].astype(int) - 1024)


@pytest.mark.network
def test_jpeg_lossless_and_a_bad_sequence():
    data = (pydicom_data() / "bad_sequence.dcm").read_bytes()
    image = read(data)
    assert np.array_equal(image.hu(0), image.dataset.pixel_array.astype(int) - 1024)
    assert image.dataset.file_meta.TransferSyntaxUID == JPEGLosslessSV1


@pytest.mark.network
def test_explicit_vr_with_un():
    image = read((pydicom_data() / "explicit_VR-UN.dcm").read_bytes())
    assert (image.hu(0).min(), image.hu(0).max()) == (-1024, 1186)
