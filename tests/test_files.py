"""Atomic files: killed at any moment, the old or the new content is there."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.base import files

WRITER = """
import sys
from pathlib import Path
from compress.base.files import write_atomic
path, turn = Path(sys.argv[1]), 0
while True:
    write_atomic(path, bytes([turn % 256]) * 4_000_000)
    turn += 1
"""

DYING = f"""
import os
from pathlib import Path
Path.replace = lambda *_: os.kill(os.getpid(), 9)
{WRITER}"""


def test_a_read_only_disk_is_named_by_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        files.write_atomic(tmp_path / "report.html", b"content")
    assert caught.value.filename == str(tmp_path / "report.html")


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for pause in (0.05, 0.11, 0.17, 0.23, 0.31):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(pause)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 4_000_000
        assert len(set(content)) == 1


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_are_as_private_as_the_user_has_it(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, own = os.umask(mask), os.umask
    try:
        # Asking for it changes it for a moment, in which other threads' files would be open to all.
        monkeypatch.setattr(os, "umask", lambda _mask: pytest.fail("the mask was changed"))
        files.write_atomic(tmp_path / "file", b"content")
    finally:
        own(former)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_atomic(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Killed when all is written but the name."""
    for name in ("a.json", "a.dcm"):
        words = [sys.executable, "-c", DYING, str(tmp_path / name)]
        assert subprocess.run(words, check=False).returncode == -9
    (tmp_path / ".keep").touch()
    (tmp_path / ".user.abc.tmp").touch()
    assert len(list(tmp_path.iterdir())) == 4
    files.remove_partial(tmp_path, {"a.dcm"})
    (left,) = tmp_path.glob(f".*{files.PARTIAL}")
    assert left.name.startswith(".a.json.")
    files.remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", ".user.abc.tmp"]
    files.remove_partial(tmp_path / "missing")


def test_json_refuses_nan_and_keeps_order(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"b": 1, "a": [1.5, None]})
    assert list(files.read_json(path)) == ["b", "a"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})


def test_digest_ignores_the_order_of_keys() -> None:
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})


def test_json_that_is_nested_too_deeply_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.read_json(tmp_path / "deep.json")
