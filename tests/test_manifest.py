"""Run manifest: the commit is that of this package's code, never of a repository around it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import compress

PACKAGE = Path(compress.__file__).parent


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(place: Path, **more: str) -> str:
    """What the copy of the package in `place` gives as its commit."""
    code = "from compress.run import manifest; print(manifest.__file__, manifest.commit())"
    environment = {key: value for key, value in os.environ.items() if key != "COMPRESS_COMMIT"}
    environment |= {"PYTHONPATH": str(place), **more}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=place
    )
    file, said = done.stdout.split()
    assert Path(file).is_relative_to(place)
    return said


@pytest.fixture
def copy(tmp_path: Path):
    """Copies the package's Python files below a folder."""

    def copied(place: Path) -> Path:
        ignored = shutil.ignore_patterns("__pycache__", "*.cu")
        shutil.copytree(PACKAGE, place / "compress", ignore=ignored)
        return place

    return copied


def test_a_repository_around_an_installed_package_is_not_its_own(tmp_path: Path, copy) -> None:
    site = copy(tmp_path / ".venv" / "site-packages")
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    assert commit(site) == "None"
    git(tmp_path, "add", "--force", ".")
    git(tmp_path, "commit", "-m", "with the environment")
    assert commit(site) == "None"
    assert commit(site, COMPRESS_COMMIT="stated") == "stated"


def test_a_clone_of_the_package_has_a_commit(tmp_path: Path, copy) -> None:
    clone = copy(tmp_path)
    git(clone, "init")
    git(clone, "add", ".")
    git(clone, "commit", "-m", "ours")
    head = git(clone, "rev-parse", "HEAD")
    assert commit(clone) == head
    (clone / "compress" / "__init__.py").write_text('__version__ = "0"\n')
    assert commit(clone) == f"{head}-dirty"
