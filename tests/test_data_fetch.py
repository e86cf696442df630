import hashlib
import os
import subprocess
import sys
import venv
import zipfile

import pytest

from compress.data import Unavailable, fetch
from compress.data.fetch import Package, download

METADATA = "Metadata-Version: 2.1\nName: tinyct\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A wheel that pip finds in a folder, without any index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    file = shelf / "tinyct-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("tinyct-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tinyct-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("tinyct-1.0.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Package(name="tinyct", version="1.0", sha256=digest, wheel=True, licence="MIT")


def test_a_package_comes_whatever_the_users_pip_is_told(package, tmp_path, monkeypatch):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("tinyct==2.0\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(constraints))
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    file = download(package, tmp_path)
    assert file.name == "tinyct-1.0-py3-none-any.whl"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == package.sha256


def test_another_hash_is_refused(package, tmp_path):
    other = Package(name="tinyct", version="1.0", sha256="0" * 64, wheel=True, licence="MIT")
    with pytest.raises(Unavailable, match=r"^tinyct 1.0 cannot be fetched: .*HASH"):
        download(other, tmp_path)


def test_a_package_that_is_nowhere(package, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(Unavailable, match=r"^tinyct 1.0 cannot be fetched: .*tinyct==1.0"):
        download(package, tmp_path)


def test_missing_pip_is_said(package, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(Unavailable, match=r"pip is missing, `.*python -m ensurepip` installs it"):
        download(package, tmp_path)


def test_a_hanging_pip_is_given_up(package, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LIMIT", 0.01)
    with pytest.raises(Unavailable, match="timed out"):
        download(package, tmp_path)


def test_source_packages_are_read_in_a_throw_away_environment(tmp_path, monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command)
        if "download" in command:
            (tmp_path / "tinyct/tinyct-1.0.tar.gz").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    source = Package(name="tinyct", version="1.0", sha256="0" * 64, wheel=False, licence="MIT")
    assert download(source, tmp_path).name == "tinyct-1.0.tar.gz"
    build, get = calls
    python = f"--python={tmp_path}/venv/bin/python"
    assert (tmp_path / "venv/bin/python").exists()
    assert python in build
    assert {"install", "--only-binary=:all:", *fetch.BUILD} <= set(build)
    assert python in get
    assert {"download", "--no-deps", "--require-hashes", "--no-build-isolation"} <= set(get)
