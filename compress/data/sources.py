"""Sources of pairs of low- and full-dose slices, from whichever source a recipe names.

    demo     real chest CT of three patients, fetched once; low dose by noise insertion
    phantom  procedural chest slices; low dose likewise; needs no network
    folder   pairs that lie on disk: DICOM, TIFF or npy

All pixels are int16 HU. A new source is a file beside this one, its name in `SourceName` and its
line in `SOURCES`, which run/sides.py and the report read, too. Light at import: a source is
imported when it is used.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from compress.base.errors import UsageError
from compress.base.renamed import Renamed
from compress.data.pairs import Data, Pairs

log = logging.getLogger(__name__)

SourceName = Literal["demo", "phantom", "folder"]

MOST = 16
"""Most neighbours on each side."""
VERSIONS = 64
"""Most low-dose versions of a slice."""


class Unavailable(UsageError):
    """The demo set cannot be downloaded; phantoms may replace it."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which slices to train and to measure with, and how their low dose is simulated."""

    RENAMED: ClassVar[Mapping[str, Renamed]] = {"size": Renamed("image_size")}

    source: SourceName = "demo"
    """Real chest CT fetched once, procedural slices, or pairs in a folder of your own."""
    path: str | None = None
    """Folder of the pairs; for source folder, which takes all pairs and simulates nothing."""
    train_slices: int | None = 24
    """Slices to train with; null: all of the demo set, 24 phantoms."""
    test_slices: int | None = 6
    """Held-out slices to measure with; null: all of the demo set, 6 phantoms."""
    train_patients: tuple[str, ...] | None = None
    """Patients A, B or C of the demo set to train with; null: those that are not held out."""
    test_patients: tuple[str, ...] | None = None
    """Patients of the demo set to measure with; null: C. Choose options on B, with A alone to train
    with, and confirm them on C."""
    photons: float = 1e5
    """Photons per ray that leave the simulated source."""
    electronic: float = math.sqrt(10)
    """Standard deviation of the simulated detector's electronic noise, in photons."""
    views: int = 720
    """Views in one turn of the simulated scanner."""
    realisations: int = 1
    """Low-dose versions of each training slice, with noise of their own. From three on each draw
    mixes three of them, so that its noise is new and has the same mean and covariance."""
    image_size: int = 512
    """Side of the phantom slices in pixels."""
    neighbours: int = 0
    """Low-dose slices on each side that the network sees as channels of its input: it maps
    (N, 2 * neighbours + 1, H, W) to (N, 1, H, W). Beyond the end of a volume, and at a gap in it,
    the last slice is repeated."""

    def __post_init__(self) -> None:
        """Refuse values that no scanner and no data set can have."""
        for name in ("train_slices", "test_slices", "photons", "views"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= self.neighbours <= MOST:
            raise ValueError(f"neighbours must lie in [0, {MOST}], got {self.neighbours}")
        self._check_realisations()
        if not self.electronic >= 0:
            raise ValueError(f"electronic must not be negative, got {self.electronic}")
        if self.image_size < 16:
            raise ValueError(f"image_size must be at least 16 pixels, got {self.image_size}")
        self._check_patients()
        if self.source == "folder" and self.path is None:
            raise ValueError("path is missing; source folder needs the folder of the pairs")
        if self.source != "folder" and self.path is not None:
            raise ValueError(f"path is for source folder, got {self.path!r} with {self.source}")

    def _check_realisations(self) -> None:
        count = self.realisations
        if not 1 <= count <= VERSIONS:
            raise ValueError(f"realisations must lie in [1, {VERSIONS}], got {count}")
        if count > 1 and self.source == "folder":
            raise ValueError("realisations needs simulated low dose; source folder has its own")
        if count > 1 and self.neighbours:
            raise ValueError("give realisations or neighbours, not both")

    def _check_patients(self) -> None:
        names = ("train_patients", "test_patients")
        given = [name for name in names if getattr(self, name) is not None]
        if given and self.source != "demo":
            raise ValueError(f"{given[0]} is for source demo, got it with {self.source}")
        if given:
            from compress.data import demo

            demo.patients(self)


class Source(NamedTuple):
    """What is known of a source without its slices, and how they are had."""

    load: Callable[[DataOptions, int], tuple[Pairs, Pairs]]
    """Training and held-out pairs, of the options and the seed."""
    shape: Callable[[DataOptions], tuple[int, int] | None] = lambda _: None
    """Height and width of its slices in pixels; None: known once they are read."""
    simulated: bool = False
    """Whether its low dose is made of the full dose."""
    phantoms: bool = False
    """Whether its slices are of no patient."""


def _demo(options: DataOptions, seed: int) -> tuple[Pairs, Pairs]:
    from compress.data import demo

    return demo.load(options, seed)


def _phantom(options: DataOptions, seed: int) -> tuple[Pairs, Pairs]:
    from compress.data import phantom

    return phantom.load(options, seed)


def _folder(options: DataOptions, _seed: int) -> tuple[Pairs, Pairs]:
    from compress.data import folder

    assert options.path is not None  # DataOptions asks for it
    return folder.load(Path(options.path), options.neighbours)


SOURCES: Mapping[SourceName, Source] = {
    "demo": Source(_demo, lambda _: (512, 512), simulated=True),
    "phantom": Source(_phantom, lambda o: (o.image_size,) * 2, simulated=True, phantoms=True),
    "folder": Source(_folder),
}


def load(options: DataOptions, *, seed: int, fallback: bool = True) -> Data:
    """Load the slices of a recipe; fetch and simulate what is not in the cache.

    Args:
        options: the recipe's `data` section.
        seed: of noise and phantoms; each slice has its own generator, made of seed and name.
        fallback: whether phantoms may stand in for a demo set that cannot be fetched.

    Raises:
        UsageError: a folder or what lies in it is not usable, or the demo set cannot be fetched
            and there is no fallback.
    """
    told: list[str] = []
    notices: list[str] = []
    try:
        train, test = SOURCES[options.source].load(options, seed)
    except Unavailable as error:
        reason = f"the demo set cannot be downloaded: {error}"
        if not fallback:
            raise UsageError(reason) from error
        notice = f"{reason}; phantoms are used instead, so the results say nothing about real CT"
        log.warning("%s; --no-fallback stops instead", notice)  # making phantoms takes a minute
        told.append(notice)
        options = replace(options, source="phantom", train_patients=None, test_patients=None)
        train, test = SOURCES[options.source].load(options, seed)
    if shared := sorted(set(train.patients) & set(test.patients)):
        notices.append(
            f"training and held-out slices are of the same patients ({', '.join(shared)}): "
            f"the results are better than on a new patient{_apart(shared)}"
        )
    if options.source == "folder":
        notices += [said for pairs in (train, test) if (said := _unlike(pairs))]
    for notice in notices:
        log.warning("%s", notice)
    return Data(train, test, options.source, _fingerprint(train, test), (*told, *notices))


def _apart(patients: Sequence[str]) -> str:
    """What tells patients apart, where nothing does."""
    from compress.data.folder import UNKNOWN

    remedy = "; if there are several, give each a subfolder in low and in full"
    return remedy if UNKNOWN in patients else ""


def _unlike(pairs: Pairs) -> str:
    from compress.data.partners import unlike

    return unlike(pairs)


def _fingerprint(*sets: Pairs) -> str:
    digest = hashlib.sha256()
    for pairs in sets:
        digest.update(f"{len(pairs.names)} pairs\n".encode())
        for name, patient, *images in zip(
            pairs.names, pairs.patients, pairs.low, pairs.full, strict=True
        ):
            digest.update(repr((name, patient, [image.shape for image in images])).encode())
            for image in images:
                digest.update(np.ascontiguousarray(image).data.cast("B"))
        for image in (image for images in (*pairs.around, *pairs.bank) for image in images):
            digest.update(np.ascontiguousarray(image).data.cast("B"))
    return digest.hexdigest()
