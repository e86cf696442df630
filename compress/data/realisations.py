"""Noise realisations: the same slice at low dose again and again, each time with new noise.

Formula and physics are those of `lowdose`. All realisations are reconstructed
together. The noise is that of the slice as it is, also where a disc is inserted: one
of 12 mm and 300 HU would raise it by up to 4 %, one of 10 HU by 0.1 %.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from compress.base.hu import HU_MAX, HU_MIN
from compress.base.progress import track
from compress.data import Image
from compress.data.fanbeam import reconstruct_many
from compress.data.lowdose import (
    CPU,
    Exposure,
    Scanner,
    Slice,
    generator,
    keep,
    key,
    line_integrals,
    noisy,
    read,
    sinogram_noise,
)
from compress.data.scanner import Array

TOGETHER = 8
"""Sinograms reconstructed at once on the CPU: 17 MB each with their filtered copy."""
WIDE = 8192
"""Largest HU in a bank, either sign: sums of three with factors up to 1 fit 16 bits."""


def noise(
    slice_: Slice,
    p: Array,
    exposure: Exposure,
    count: int,
    seed: int,
    scanner: Scanner = CPU,
) -> Array:
    """Noise of `count` scans of one slice.

    Args:
        slice_: at full dose.
        p: its line integrals, as `lowdose.line_integrals` gives them for the same scanner.
        exposure: the physics.
        count: realisations K.
        seed: of the noise, with the slice's name and the realisation's number.
        scanner: what projects and reconstructs.

    Returns:
        (K, H, W) float32 in HU, to be added to the slice.

    Raises:
        ValueError: the slice reaches as far as the source.
    """
    draws = [generator(seed, f"{slice_.name} realisation {k}") for k in range(count)]
    found = np.empty((count, *slice_.image.shape), np.float32)
    for start in range(0, count, TOGETHER):
        own = draws[start : start + TOGETHER]
        rows = np.stack([sinogram_noise(p, exposure, one)[0] for one in own]).astype(np.float32)
        found[start : start + len(own)] = _images(rows, slice_, exposure, scanner)
    found *= np.float32(1000 / exposure.water)
    return found


def bank(
    slices: Sequence[Slice], exposure: Exposure, seed: int, versions: int, kept: Path | None
) -> tuple[tuple[Image, ...], ...]:
    """Low-dose versions of slices, to be mixed.

    They are not clipped to the network range, so that mixtures can be: clipped noise in air would
    have another mean and covariance once it is mixed.

    Args:
        slices: at full dose.
        exposure: the physics.
        seed: of the noise.
        versions: of each.
        kept: folder where they are kept and looked for; None keeps nothing.

    Returns:
        For each slice so many images (H, W) int16 HU in [-WIDE, WIDE], nothing for one version. The
        first is the one of `lowdose.simulate`; each is the same, however many there are.
    """
    if versions == 1:
        return ()
    shown = track(slices, "simulating further noise", len(slices))
    return tuple(_versions(slice_, exposure, seed, versions, kept) for slice_ in shown)


def _versions(
    slice_: Slice, exposure: Exposure, seed: int, versions: int, kept: Path | None
) -> tuple[Image, ...]:
    names = [key(slice_, exposure, seed, version) for version in range(1, versions + 1)]
    paths = [kept and kept / f"{name}.npz" for name in names]
    found = [image for path in paths if (image := read(path)) is not None]
    if len(found) == versions:
        return tuple(found)
    p = line_integrals(slice_, exposure)
    noises = noise(slice_, p, exposure, versions - 1, seed)
    all_ = (noisy(slice_, p, exposure, seed), *(slice_.image + one for one in noises))
    images = tuple(np.rint(one.clip(-WIDE, WIDE)).astype(np.int16) for one in all_)
    for path, image in zip(paths, images, strict=True):
        keep(path, image)
    return images


def brighter(exposure: Exposure, times: float) -> Exposure:
    """The same scanner with so many times the photons."""
    return replace(exposure, photons=exposure.photons * times)


def as_scanned(hu: Array) -> Array:
    """HU as a scanner stores them: whole numbers in the network range, float32."""
    stored: Array = np.rint(hu.clip(HU_MIN, HU_MAX)).astype(np.float32)
    return stored


def _images(rows: Array, slice_: Slice, exposure: Exposure, scanner: Scanner) -> Array:
    shape, spacing = slice_.image.shape, slice_.spacing
    if scanner is CPU:
        return reconstruct_many(rows, shape, spacing, exposure.fan)
    return np.stack([scanner.reconstruct(r, shape, spacing, exposure.fan) for r in rows])
