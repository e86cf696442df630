"""Files, folders and zips: what is found, what is refused before it is unpacked."""

import io
import os
import stat
import zipfile
import zlib
from pathlib import Path

import pytest

from compress.base.errors import UsageError
from compress.dicom import Reason, Refused, sources
from compress.dicom.sources import inflate_limited, open_source, safe


def archive(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content, **options)
    return open_source(path)


def test_a_folder_is_searched_whatever_the_names(tmp_path):
    for name in ("b/x", "a.dcm", "b/.hidden", "out/old"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "b/loop").symlink_to(tmp_path)
    source = open_source(tmp_path)
    assert sources.names(source, tmp_path / "out") == ["a.dcm", "b/.hidden", "b/x"]
    assert source.read("b/x") == b"b/x"


def test_a_single_file(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    source = open_source(tmp_path / "x")
    assert (sources.names(source), source.read("x")) == (["x"], b"1")


def test_a_zip(tmp_path):
    source = archive(tmp_path / "x.zip", {"s/b": b"12", "s/a": b"3", "s/": b""})
    assert sources.names(source) == ["s/a", "s/b"]
    assert (source.read("s/b"), source.prefix("s/b")) == (b"12", b"12")


def test_nothing_there(tmp_path):
    said = rf"^INPUT {tmp_path}/nowhere does not exist; it must be a DICOM file"
    with pytest.raises(UsageError, match=said):
        open_source(tmp_path / "nowhere")


def test_a_missing_input_is_named_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^INPUT scan does not exist; it must be a DICOM file"):
        open_source(Path("scan"))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "c:/x", "a\\..\\x", "", "x\0"])
def test_names_that_lead_out(name):
    assert not safe(name)


def test_names_that_stay_inside():
    assert safe("a/b..c/d")


def test_a_zip_cannot_lead_out(tmp_path):
    source = archive(tmp_path / "x.zip", {"../../evil": b"x"})
    for call in (source.read, source.prefix):
        with pytest.raises(Refused) as caught:
            call("../../evil")
        assert caught.value.reason == Reason.UNSAFE_NAME


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path):
    source = archive(tmp_path / "x.zip", {"bomb": bytes(64 << 20)})
    with pytest.raises(Refused) as caught:
        source.read("bomb")
    assert caught.value.reason == Reason.TOO_LARGE


def test_files_and_zip_members_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 1000)
    (tmp_path / "x").write_bytes(os.urandom(1001))
    packed = archive(tmp_path / "x.zip", {"x": os.urandom(1001)})
    for source in (open_source(tmp_path / "x"), packed):
        with pytest.raises(Refused) as caught:
            source.read("x")
        assert caught.value.reason == Reason.TOO_LARGE


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MEMBERS", 1)
    source = archive(tmp_path / "x.zip", {"a": b"", "b": b""})
    with pytest.raises(
        UsageError, match=r"^INPUT /.*/x\.zip is a zip with 2 members, more than 1$"
    ):
        sources.names(source)


def test_an_encrypted_member(tmp_path):
    path = tmp_path / "x.zip"
    archive(path, {"x": b"secret"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header and in the directory
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(Refused) as caught:
        open_source(path).read("x")
    assert caught.value.reason == Reason.ENCRYPTED


def test_a_damaged_member(tmp_path):
    path = tmp_path / "x.zip"
    archive(path, {"x": os.urandom(1000)})
    data = bytearray(path.read_bytes())
    data[500] ^= 255
    path.write_bytes(data)
    with pytest.raises(Refused) as caught:
        open_source(path).read("x")
    assert caught.value.reason == Reason.DAMAGED


def test_a_damaged_directory(tmp_path):
    path = tmp_path / "x.zip"
    archive(path, {"x": b"1"})
    data = path.read_bytes().replace(b"PK\1\2", b"PK\6\6")
    path.write_bytes(data)
    with pytest.raises(
        UsageError, match=r"^INPUT /.*/x\.zip is a damaged zip: its directory cannot be read$"
    ):
        sources.names(open_source(path))


def test_a_dangling_link_is_unreadable(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refused) as caught:
        open_source(tmp_path).read("gone")
    assert caught.value.reason == Reason.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root can list everything")
def test_folders_that_cannot_be_listed(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(UsageError, match=rf"^a folder in INPUT {tmp_path} cannot be listed: Perm"):
        sources.names(open_source(tmp_path))
    (tmp_path / "closed").chmod(stat.S_IRWXU)


def test_deflated_bombs_and_rubbish():
    def deflated(data):
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(data) + packer.flush()

    inflate_limited(deflated(bytes(3000)), 3000)
    for data, reason in (
        (deflated(bytes(3001)), Reason.TOO_LARGE),
        (io.BytesIO(b"\xff" * 90).read(), Reason.DAMAGED),
    ):
        with pytest.raises(Refused) as caught:
            inflate_limited(data, 3000)
        assert caught.value.reason == reason
