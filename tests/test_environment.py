"""Where a run took place: the commit of its code, wherever the code lies."""

import subprocess

import pytest

from compress.run import manifest


@pytest.mark.parametrize(
    ("status", "told", "found"),
    [(0, "", "0123abcd-dirty"), (128, "", None), (128, "told", "told"), (0, "told", "told")],
)
def test_commit(monkeypatch: pytest.MonkeyPatch, status: int, told: str, found: str | None) -> None:
    monkeypatch.setenv("COMPRESS_COMMIT", told)
    done = subprocess.CompletedProcess([], status, stdout="0123abcd-dirty\n", stderr="")
    monkeypatch.setattr(manifest.subprocess, "run", lambda *_a, **_k: done)
    assert manifest.commit() == found
