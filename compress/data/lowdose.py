"""Low-dose slices by noise insertion.

    low = HU + 1000 / water * FBP(-ln(N / photons) - p)
    N   = max(1, Poisson(photons * exp(-p)) + Gaussian(0, electronic))

p are the line integrals of the slice. Only the noise goes through the reconstruction, which is
linear: to project the slice and reconstruct it again would blur it by 14 to 17 HU, and a network
would learn that as an effect of the dose. After Yu et al., Journal of Computer Assisted Tomography
36(4), 2012, and Zeng et al., IEEE Transactions on Nuclear Science 62(5), 2015.
"""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from compress.base.files import write_atomic
from compress.base.hu import HU_MAX, HU_MIN
from compress.base.progress import track
from compress.data import DataOptions, Image, Pairs
from compress.data.fanbeam import project, reconstruct
from compress.data.scanner import Array, FanBeam

log = logging.getLogger(__name__)

VERSION = 1
"""Of the simulation; a new one leaves what older ones cached aside."""


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """The physics of a simulated low-dose scan."""

    photons: float
    """Photons per ray that leave the source."""
    electronic: float
    """Standard deviation of the electronic noise in photons."""
    water: float = 0.0192
    """Attenuation of water in 1/mm, at about 70 keV."""
    fan: FanBeam = field(default_factory=FanBeam)
    """The scanner."""

    @classmethod
    def of(cls, options: DataOptions) -> Self:
        """What a recipe's `data` section asks for."""
        fan = FanBeam(views=options.views)
        return cls(photons=options.photons, electronic=options.electronic, fan=fan)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A full-dose slice to be simulated."""

    name: str
    patient: str
    spacing: float
    """Side of a pixel in mm."""
    image: Image


def simulate(
    slices: Iterable[Slice],
    exposure: Exposure,
    seed: int,
    kept: Path | None,
    beside: Mapping[str, Sequence[Slice]] | None = None,
    which: str = "slices",
) -> Pairs:
    """Slices with their simulated low-dose partners.

    Args:
        slices: what to simulate, names unique.
        exposure: the physics.
        seed: every slice draws from a generator of its own, made of this and of its name.
        kept: folder where results are kept and looked for; None keeps nothing.
        beside: for each slice, by name, the slices i-k to i+k of its volume, which the network
            sees; None: the slice alone.
        which: what the slices are, for the person who waits.
    """
    given, beside = tuple(slices), beside or {}
    wanted = {s.name: s for s in (*given, *(s for s in given for s in beside.get(s.name, ())))}
    found = track(wanted.values(), f"simulating low dose, {which}", len(wanted))
    low = {slice_.name: _kept(slice_, exposure, seed, kept) for slice_ in found}
    return Pairs(
        low=tuple(low[s.name] for s in given),
        around=tuple(tuple(low[s.name] for s in beside[own.name]) for own in given if beside),
        full=tuple(s.image for s in given),
        names=tuple(s.name for s in given),
        patients=tuple(s.patient for s in given),
        spacings=tuple(s.spacing for s in given),
        exposure=exposure,
    )


class Scanner(Protocol):
    """What projects and reconstructs: the functions of `fanbeam`, or `fanbeam_torch`'s on a GPU."""

    def project(self, image: Array, spacing: float, fan: FanBeam) -> Array:
        """As `fanbeam.project`."""
        ...

    def reconstruct(
        self, sinogram: Array, shape: tuple[int, int], spacing: float, fan: FanBeam
    ) -> Array:
        """As `fanbeam.reconstruct`."""
        ...


class _CPU:
    """The scanner in numba."""

    project = staticmethod(project)
    reconstruct = staticmethod(reconstruct)


CPU: Scanner = _CPU()


def insert_noise(slice_: Slice, exposure: Exposure, seed: int, scanner: Scanner = CPU) -> Image:
    """The slice at low dose, (H, W) int16 HU, clipped to [HU_MIN, HU_MAX].

    Args:
        slice_: at full dose.
        exposure: the physics.
        seed: of the noise, with the slice's name; the draws do not depend on the scanner.
        scanner: what projects and reconstructs.

    Raises:
        ValueError: the slice reaches as far as the source.
    """
    p = line_integrals(slice_, exposure, scanner)
    low = noisy(slice_, p, exposure, seed, scanner)
    rounded: Image = np.rint(low.clip(HU_MIN, HU_MAX)).astype(np.int16)
    return rounded


def noisy(slice_: Slice, p: Array, exposure: Exposure, seed: int, scanner: Scanner = CPU) -> Array:
    """The same before it is rounded and clipped, of the slice's line integrals `p`."""
    noise, starved = sinogram_noise(p, exposure, generator(seed, slice_.name))
    log.debug("%s: %.4f %% of rays starved", slice_.name, 100 * starved)
    shape = slice_.image.shape
    change = scanner.reconstruct(noise, shape, slice_.spacing, exposure.fan)
    low: Array = slice_.image + 1000 / exposure.water * change
    return low


def line_integrals(slice_: Slice, exposure: Exposure, scanner: Scanner = CPU) -> Array:
    """The noise-free sinogram of a slice, (views, detectors), without unit.

    Raises:
        ValueError: the slice reaches as far as the source.
    """
    attenuation = np.maximum(exposure.water * (1 + slice_.image.astype(np.float32) / 1000), 0)
    return scanner.project(attenuation, slice_.spacing, exposure.fan)


def sinogram_noise(p: Array, exposure: Exposure, draw: np.random.Generator) -> tuple[Array, float]:
    """One draw of noise on line integrals `p`, and the share of rays that no photon passes."""
    quanta = draw.poisson(exposure.photons * np.exp(-p.astype(np.float64)))
    counts = quanta + draw.normal(0, exposure.electronic, p.shape)
    return -np.log(np.maximum(counts, 1) / exposure.photons) - p, float(np.mean(counts < 1))


def generator(seed: int, name: str) -> np.random.Generator:
    """A random generator that depends on a seed and a name, and on no order of work."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16])])


def _kept(slice_: Slice, exposure: Exposure, seed: int, folder: Path | None) -> Image:
    """The slice at low dose, from `folder` where it lies there undamaged."""
    path = folder and folder / f"{key(slice_, exposure, seed)}.npz"
    low = read(path)
    if low is None:
        low = insert_noise(slice_, exposure, seed)
        keep(path, low)
    return low


def read(path: Path | None) -> Image | None:
    """A low-dose slice that `keep` wrote; None where there is none, or a damaged one."""
    if path is None:
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return np.asarray(file["low"], np.int16)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def keep(path: Path | None, low: Image) -> None:
    """Write a low-dose slice; where that fails, it is said once."""
    if path is None:
        return
    buffer = io.BytesIO()
    np.savez(buffer, low=low)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        _warn(f"simulated slices are not kept in {path.parent}: {error.strerror}")


@cache
def _warn(message: str) -> None:
    """Once per message."""
    log.warning("%s", message)


def key(slice_: Slice, exposure: Exposure, seed: int, version: int = 0) -> str:
    """A hash of all that the low-dose slice, or a further version of it, depends on."""
    facts = [VERSION, slice_.name, slice_.spacing, slice_.image.shape, asdict(exposure), seed]
    facts += [version] if version else []  # the first one as it was kept before there were more
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(np.ascontiguousarray(slice_.image).data.cast("B"))
    return digest.hexdigest()
