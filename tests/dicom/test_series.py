"""Which series there are, which one is meant, and what is never shown."""

import pytest
from click.testing import CliRunner
from dicom_files import (
    SECRETS,
    bundled,
    dataset,
    headers_of,
    packed,
    pycerr,
    pydicom_data,
    uid,
    write_series,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    MRImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from compress.base.errors import UsageError
from compress.cli import main
from compress.dicom import SENTENCES, Reason, Refused, series, short
from compress.dicom.headers import valid_uid


@pytest.fixture
def mixed(tmp_path):
    """Two CT series and what lies beside them on a disk."""
    write_series(tmp_path / "one", 3)
    write_series(tmp_path / "two", 2, side=32, series="T", ConvolutionKernel=["LUNG", "x"])
    others = {
        "scout": dataset(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "mr": dataset(SOPClassUID=MRImageStorage, Modality="MR"),
        "seg": dataset(SOPClassUID=SegmentationStorage, Modality="SEG"),
        "dose": dataset(SOPClassUID=XRayRadiationDoseSRStorage, Modality="SR", PixelData=None),
        "nouid": dataset(SeriesInstanceUID=None),
        "path": dataset(SOPInstanceUID="../../etc/passwd"),
        "flat": dataset(Rows=0),
    }
    for name, ds in others.items():
        (tmp_path / name).write_bytes(packed(ds))
    (tmp_path / "README.txt").write_text("no image")
    (tmp_path / "nomark").write_bytes(packed(dataset())[132:])
    (tmp_path / "DICOMDIR").write_bytes(bundled("dicomdirtests/DICOMDIR"))
    (tmp_path / "cut").write_bytes(packed(dataset())[:200])
    return tmp_path


def test_files_are_told_apart_with_a_reason(mixed):
    _, headers = headers_of(mixed)
    found = {h.name: (h.reason, h.failed) for h in headers if h.reason}
    assert found == {
        "scout": (Reason.LOCALIZER, False), "mr": (Reason.NOT_CT, False),
        "seg": (Reason.NOT_CT, False), "dose": (Reason.NOT_CT, False),
        "nouid": (Reason.NO_UID, True), "path": (Reason.NO_UID, True),
        "flat": (Reason.SHAPE, True), "README.txt": (Reason.NOT_DICOM, False),
        "nomark": (Reason.NOT_DICOM, False), "DICOMDIR": (Reason.DICOMDIR, False),
        "cut": (Reason.DAMAGED, True),
    }  # fmt: skip


def test_the_table_shows_no_patient_data(mixed, capsys):
    _, headers = headers_of(mixed)
    found = series.find(headers)
    assert [(s.images, s.matrix, s.body_part, s.kernel) for s in found] == [
        (3, "48 x 48", "CHEST", "B30f"),
        (2, "32 x 32", "CHEST", "LUNG"),
    ]
    series.render(found)
    shown = capsys.readouterr().out
    assert "48 x 48" in shown
    assert found[0].key in shown
    for secret in (*SECRETS, uid("S"), str(mixed)):
        assert secret not in shown
    assert not [header for header in headers if SECRETS[1] in repr(header)]


def test_free_text_in_short_codes_is_left_out(tmp_path):
    write_series(tmp_path, 1, BodyPartExamined="Jane Doe 1931", ConvolutionKernel="")
    (found,) = series.find(headers_of(tmp_path)[1])
    assert (found.body_part, found.kernel) == ("", "")


def test_nobody_guesses_between_series(mixed):
    _, headers = headers_of(mixed)
    with pytest.raises(
        UsageError,
        match=r"^INPUT holds 2 CT series; choose one by --series and a key of the table, or",
    ):
        series.choose(headers, ())
    for name in (uid("T"), short(uid("T"))):
        chosen = series.choose(headers, [name])
        assert [h.name for h in chosen if h.reason is None] == ["two/IM0000", "two/IM0001"]
        assert sum(h.reason == Reason.OTHER_SERIES for h in chosen) == 3
    assert sum(h.reason is None for h in series.choose(headers, ["all"])) == 5


def test_a_key_of_the_table_chooses(mixed, capsys):
    _, headers = headers_of(mixed)
    series.render(series.find(headers))
    words = capsys.readouterr().out.split()
    key = next(word for word in words if word == short(uid("T")))
    chosen = series.choose(headers, [key])
    assert {h.name for h in chosen if h.reason is None} == {"two/IM0000", "two/IM0001"}


def test_without_a_series_there_is_no_table(capsys):
    series.render([])
    assert capsys.readouterr().out == ""


def test_a_single_series_needs_no_choice(tmp_path):
    write_series(tmp_path, 2)
    assert all(h.reason is None for h in series.choose(headers_of(tmp_path)[1], ()))


def test_a_series_that_is_not_there(mixed):
    with pytest.raises(UsageError, match=r"^--series names a series that INPUT does not hold"):
        series.choose(headers_of(mixed)[1], ["1.2.3"])


def test_nothing_to_enhance_says_what_there_is(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "mr").write_bytes(packed(dataset(SOPClassUID=MRImageStorage, Modality="MR")))
    said = r"^INPUT holds no CT image: 1 not-ct \(no CT image, .*\), 1 not-dicom \(no DICOM file\)$"
    with pytest.raises(UsageError, match=said):
        series.choose(headers_of(tmp_path)[1], ())
    with pytest.raises(UsageError, match=r"^INPUT here holds no CT image: no file at all$"):
        series.choose([], (), "INPUT here")


def test_files_of_which_none_is_dicom_are_counted(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"^INPUT holds no CT image: no DICOM file$"):
        series.choose(headers_of(tmp_path)[1], ())
    (tmp_path / "b.npy").write_bytes(b"y")
    with pytest.raises(UsageError, match=r"^INPUT holds no CT image: 2 files, none is DICOM$"):
        series.choose(headers_of(tmp_path)[1], ())


def test_messages_name_the_input_as_typed(mixed):
    headers = headers_of(mixed)[1]
    with pytest.raises(UsageError, match=r"^INPUT here holds 2 CT series; choose one by --series"):
        series.choose(headers, (), "INPUT here")
    with pytest.raises(UsageError, match=r"^--series names a series that INPUT here does not hold"):
        series.choose(headers, ["1.2.3"], "INPUT here")


def test_the_commands_name_what_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/x").touch()
    write_series(tmp_path / "scan", 1, side=16)
    for words, said in (
        ("simulate empty -o out", "INPUT empty holds no CT image: no file at all"),
        ("simulate scan -o used", "PAIRS used is not empty"),
        ("simulate scan -o scan", "PAIRS scan is INPUT; give another folder"),
    ):
        result = CliRunner().invoke(main.main, words.split())
        assert (result.exit_code, said in result.stderr) == (2, True), result.output


def test_duplicates_and_conflicts(tmp_path):
    write_series(tmp_path / "a", 2)
    copy = (tmp_path / "a/IM0000").read_bytes()
    (tmp_path / "copy").write_bytes(copy)
    (tmp_path / "other").write_bytes(packed(dataset(index=1, InstanceNumber=9)))
    source, headers = headers_of(tmp_path)
    known = series.digests(source, series.contested(headers))
    marked = series.without_duplicates(headers, known)
    assert {h.name: (h.reason, h.failed) for h in marked if h.reason} == {
        "copy": (Reason.DUPLICATE, False),
        "other": (Reason.UID_CONFLICT, True),
    }


def test_shards_are_a_partition(tmp_path):
    write_series(tmp_path, 12)
    _, headers = headers_of(tmp_path)
    parts = [series.shard(headers, k, 3) for k in (1, 2, 3)]
    own = [{h.name for h in part if h.reason is None} for part in parts]
    assert set.union(*own) == {h.name for h in headers}
    assert sum(map(len, own)) == 12
    assert all(own)


@pytest.mark.parametrize("value", ["", None, ".", "1/2", "1.2.a", "1" * 65, "..", "1.2\n"])
def test_uids_that_are_no_file_names(value):
    with pytest.raises(Refused):
        valid_uid(value)


def test_deflated_headers(tmp_path):
    write_series(tmp_path, 1, syntax=DeflatedExplicitVRLittleEndian)
    assert headers_of(tmp_path)[1][0].rows == 48


def test_every_reason_has_a_sentence():
    assert set(SENTENCES) == set(Reason)
    assert str(Refused(Reason.BITS)) == SENTENCES[Reason.BITS]


def test_a_real_localizer(tmp_path):
    (tmp_path / "x").write_bytes(bundled("dicomdirtests/98892001/CT2N/6293"))
    assert headers_of(tmp_path)[1][0].reason == Reason.LOCALIZER


@pytest.mark.network
def test_real_series():
    _, headers = headers_of(pycerr())
    found = series.find(headers)
    assert sorted(s.images for s in found) == [41, 46, 56, 60]
    assert not any(h.failed for h in headers)


@pytest.mark.network
def test_real_odds_and_ends():
    _, headers = headers_of(pydicom_data())
    ct = {h.name for h in headers if h.reason is None}
    assert {"693_UNCR.dcm", "693_J2KR.dcm", "eCT_Supplemental.dcm", "explicit_VR-UN.dcm"} <= ct
    assert {h.name for h in headers if h.failed} == {"bad_sequence.dcm"}  # it has no series
