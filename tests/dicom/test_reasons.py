"""Every file that is left aside has the reason that is true of it; none can hold up a run."""

import io
import os
import random
import socket
import zipfile

import numpy as np
import pytest
from dicom_files import LOSSLESS, body, dataset, enhanced, packed, write_series
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
)

from compress.base.errors import UsageError
from compress.dicom import Reason, Refused, headers, parsing, series, sources
from compress.dicom.reading import read
from compress.dicom.sources import open_source


def header(folder, name):
    return headers.examine(open_source(folder), name)


def found(folder, name):
    header_ = header(folder, name)
    return header_.reason, header_.failed


def refused(data: bytes) -> Reason:
    with pytest.raises(Refused) as caught:
        read(data)
    return caught.value.reason


def pixels_at(data: bytes) -> int:
    return max(data.rfind(tag) for tag in parsing.PIXELS)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid(keyword, tmp_path):
    ds = dataset()
    data = packed(ds)
    del ds[keyword]
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert buffer.getvalue() != data
    assert found(tmp_path, "x") == (Reason.NO_UID, True)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
def test_a_header_that_is_cut_off_anywhere_is_damaged(syntax, tmp_path):
    data = packed(dataset(body(40), PixelPaddingValue=0), syntax)
    deflated = syntax == DeflatedExplicitVRLittleEndian
    draw, end = random.Random(0), len(data) if deflated else pixels_at(data)
    for _ in range(80):
        cut = draw.randrange(sources.PREFIX, end - 1)
        (tmp_path / "x").write_bytes(data[:cut])
        reason, failed = found(tmp_path, "x")
        assert failed or reason is None
        # Where the cut lies between two elements nobody can see it: later ones are missing.
        assert reason in (Reason.DAMAGED, Reason.NO_UID, Reason.NO_PIXELS, None), cut
        if reason is None:
            assert refused(data[:cut]) in (Reason.NO_PIXELS, Reason.DAMAGED)


def test_most_cuts_are_within_an_element(tmp_path):
    data = packed(dataset(body(24)))
    reasons = []
    for cut in range(sources.PREFIX, pixels_at(data), 3):
        (tmp_path / "x").write_bytes(data[:cut])
        reasons.append(header(tmp_path, "x").reason)
    assert reasons.count(Reason.DAMAGED) > 0.8 * len(reasons)


def test_a_whole_header_without_pixels(tmp_path):
    data = packed(dataset(body(24), PixelData=None))
    (tmp_path / "x").write_bytes(data)
    assert found(tmp_path, "x") == (Reason.NO_PIXELS, True)
    assert refused(data) == Reason.NO_PIXELS


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEG2000Lossless, RLELossless])
def test_pixels_that_are_cut_off_cannot_be_decoded(syntax):
    data = packed(dataset(body(40)), syntax)
    start = len(data) // 2 if syntax == DeflatedExplicitVRLittleEndian else pixels_at(data)
    expected = (
        {Reason.DAMAGED} if syntax == DeflatedExplicitVRLittleEndian else {Reason.UNDECODABLE}
    )
    assert {refused(data[:cut]) for cut in range(start + 12, len(data) - 9, 37)} == expected


def test_a_cut_file_of_another_class_is_no_failure(tmp_path):
    data = packed(dataset(SOPClassUID=MRImageStorage, Modality="MR"))
    (tmp_path / "x").write_bytes(data[: pixels_at(data) - 30])
    assert found(tmp_path, "x") == (Reason.NOT_CT, False)


@pytest.mark.parametrize(
    ("name", "content", "reason", "failed"),
    [
        ("x.dcm", b"", Reason.EMPTY, True),
        ("x.DCM", b"", Reason.EMPTY, True),
        ("x.ima", b"", Reason.EMPTY, True),
        ("DONE", b"", Reason.EMPTY, False),
        (".lock", b"", Reason.EMPTY, False),
        ("x.dcm", bytes(4096), Reason.DAMAGED, True),
        ("x.dcm", b"\1" * 90, Reason.DAMAGED, True),
        ("x.dcm", b"no image, but a text that somebody called so" * 9, Reason.NOT_DICOM, False),
        ("x", bytes(4096), Reason.NOT_DICOM, False),
    ],
)
def test_files_without_content(name, content, reason, failed, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert found(tmp_path, name) == (reason, failed)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(name, content)
    assert found(tmp_path / "a.zip", name) == (reason, failed)


def test_pipes_sockets_devices_and_links_to_them(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe.dcm").symlink_to(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    end = socket.socket(socket.AF_UNIX)
    where = os.getcwd()
    os.chdir(tmp_path)  # a socket's path has 108 bytes at most
    end.bind("socket")
    os.chdir(where)
    source = open_source(tmp_path)
    all_names = ["gone", "itself", "pipe", "socket", "to_pipe.dcm", "zeros"]
    assert sources.names(source) == all_names
    for name in all_names:
        lost = name in ("gone", "itself")
        reason = Reason.UNREADABLE if lost else Reason.NOT_A_FILE
        assert found(tmp_path, name) == (reason, lost), name
        with pytest.raises(Refused) as caught:
            source.read(name)
        assert caught.value.reason == reason
    end.close()


def test_a_pipe_as_input(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        UsageError, match=r"^INPUT /.*/pipe is a pipe, a socket or a device; it must be"
    ):
        open_source(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_without_permission(tmp_path):
    (tmp_path / "x").write_bytes(packed(dataset()))
    (tmp_path / "x").chmod(0)
    assert found(tmp_path, "x") == (Reason.UNREADABLE, True)


def test_a_file_that_the_disk_does_not_give(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(packed(dataset()))

    def broken(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", broken)
    assert found(tmp_path, "x") == (Reason.UNREADABLE, True)


def locked(path, bit):
    """A zip whose member is marked as encrypted in its local header and in the directory."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.dcm", packed(dataset()))
    data = bytearray(path.read_bytes())
    data[6] |= bit
    data[data.index(b"PK\1\2") + 8] |= bit
    path.write_bytes(data)


@pytest.mark.parametrize("bit", [0x01, 0x41])
def test_a_zip_with_a_password(bit, tmp_path):
    locked(tmp_path / "a.zip", bit)
    assert found(tmp_path / "a.zip", "x.dcm") == (Reason.ENCRYPTED, True)


def test_a_zip_with_a_compression_that_python_lacks(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x", packed(dataset()))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[8], data[data.index(b"PK\1\2") + 10] = 9, 9  # Deflate64
    (tmp_path / "a.zip").write_bytes(data)
    assert found(tmp_path / "a.zip", "x") == (Reason.UNREADABLE, True)


def test_parts_of_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for k in range(6):
            file.writestr(f"x{k}", packed(dataset(index=k)))
    data = (tmp_path / "a.zip").read_bytes()
    for cut in (30, len(data) // 2, len(data) - 30):
        (tmp_path / "half.zip").write_bytes(data[:cut])
        with pytest.raises(
            UsageError, match=r"^INPUT /.*/half\.zip is a damaged zip: its directory cannot be"
        ):
            sources.names(open_source(tmp_path / "half.zip"))
    (tmp_path / "end.zip").write_bytes(data[len(data) // 2 :])
    try:
        source = open_source(tmp_path / "end.zip")
        reasons = [headers.examine(source, name).reason for name in sources.names(source)]
    except UsageError as error:
        assert "damaged zip" in str(error)
    else:
        assert Reason.DAMAGED in reasons


def test_links_to_folders_are_followed_once(tmp_path):
    write_series(tmp_path / "elsewhere/p1", 2, side=16)
    (tmp_path / "in/p2").mkdir(parents=True)
    (tmp_path / "in/p2/x").write_bytes(b"x")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/p2")  # named before what it shows again
    (tmp_path / "in/p1").symlink_to(tmp_path / "elsewhere/p1")
    (tmp_path / "in/p2/loop").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere/p1/other").symlink_to(tmp_path / "elsewhere")
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    (tmp_path / "in/out").symlink_to(out)
    expected = ["p1/IM0000", "p1/IM0001", "p2/x"]
    assert sources.names(open_source(tmp_path / "in"), out) == expected


def equipped(index, *models, maker="compress"):
    items = []
    for model in models:
        item = pydicom_dataset()
        item.Manufacturer, item.ManufacturerModelName = maker, model
        items.append(item)
    return dataset(index=index, ContributingEquipmentSequence=items)


def pydicom_dataset():
    from pydicom import Dataset

    return Dataset()


def test_own_results_are_told_by_their_equipment(tmp_path):
    files = {
        "source": dataset(index=0),
        "enhanced": equipped(1, "compress enhance"),
        "low": equipped(2, "compress simulate"),
        "both": equipped(3, "compress simulate", "compress enhance"),
        "later": equipped(4, "compress enhance", "other"),
        "foreign": equipped(5, "compress enhance", maker="Maker"),
        "nameless": equipped(6, ""),
    }
    for name, ds in files.items():
        (tmp_path / name).write_bytes(packed(ds))
    source = open_source(tmp_path)
    known = [headers.examine(source, name) for name in sources.names(source)]

    def left_aside(command):
        marked = series.without_results(known, command)
        return {h.name for h in marked if h.reason == Reason.OWN_RESULT and not h.failed}

    assert left_aside("enhance") == {"enhanced", "both", "later"}
    assert left_aside("simulate") == {"low", "both"}


def test_an_enhanced_ct_without_groups_is_a_reason_of_its_own():
    hu = np.stack([body(20, k) for k in range(2)])
    ds = enhanced(hu, [(1, -1024)] * 2)
    del ds.SharedFunctionalGroupsSequence
    assert refused(packed(ds)) == Reason.NO_GROUPS
