"""Physics of image quality, gathered slice by slice from noise realisations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from compress.quality import detectability, nps, similarity, sites, tissues, ttf
from compress.quality.detectability import Outputs
from compress.quality.nps import Doubles, Radial

REACH = 0.8
"""Highest frequency of curves, 1/mm: the Nyquist frequency of pixels of 0.63 mm."""
Images = NDArray[np.float32]


class Task(NamedTuple):
    """A disc to insert."""

    diameter: float
    """mm."""
    contrast: float
    """HU."""
    detect: bool
    """For d'; else for TTF, contrast and CNR."""


EDGES = tuple(Task(12.0, contrast, False) for contrast in (15.0, 40.0, 300.0))
DISCS = tuple(Task(*both, True) for both in ((4.0, 40.0), (6.0, 25.0), (8.0, 15.0), (10.0, 10.0)))
TASKS = (*EDGES, *DISCS)


class Placed(NamedTuple):
    """A disc in a slice."""

    task: Task
    site: sites.Site
    shape: Doubles
    """Its share of each pixel of the region, (side, side)."""


@dataclass(frozen=True)
class Scene:
    """A slice with the discs that are inserted."""

    index: int
    """Number of the slice among those measured."""
    full: Images
    """(H, W) HU."""
    spacing: float
    """mm."""
    discs: Sequence[Placed]

    @property
    def side(self) -> int:
        """Side of a region in pixels."""
        return sites.patch(self.full.shape)

    def inserted(self) -> Images:
        """The slice with all its discs, (H, W) HU."""
        image = self.full.copy()
        for task, site, shape in self.discs:
            sites.region(image, site, self.side)[:] += (task.contrast * shape).astype(np.float32)
        return image


def place(index: int, full: NDArray[np.number[Any]], spacing: float, first: int) -> Scene:
    """A scene with discs at the places of a slice, tasks in turns from number `first` on."""
    side = sites.patch(full.shape)
    found = [
        Placed(task, site, ttf.disc(side, task.diameter / 2 / spacing))
        for k, site in enumerate(sites.places(full))
        for task in (TASKS[(first + k) % len(TASKS)],)
    ]
    return Scene(index, full.astype(np.float32), spacing, found)


@dataclass
class Gathered:
    """What one network, or one dose, gives over all scenes."""

    reach: float
    """Highest frequency, 1/mm: not above the Nyquist frequency of any scene."""
    by_tissue: dict[str, tissues.Tissue] = field(default_factory=dict)
    noise: Radial = field(init=False)
    transfers: dict[Task, ttf.Transfer] = field(default_factory=dict)
    contrasts: dict[Task, list[tuple[float, float]]] = field(default_factory=dict)
    """Contrast that is left in HU and noise in HU, at each place."""
    seen: dict[tuple[Task, str], list[tuple[int, Doubles, Doubles]]] = field(default_factory=dict)
    """Task and observer -> slice and channel outputs without and with the disc, at each place."""
    indices: list[dict[str, float | None]] = field(default_factory=list)
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """An empty spectrum."""
        self.noise = Radial(self.reach)

    def add(self, scene: Scene, absent: Images, present: Images) -> None:
        """Realisations of a scene, (K, H, W) HU each, without and with its discs."""
        found = tissues.moments(absent, scene.full)
        for name, mask in tissues.masks(scene.full).items():
            self.by_tissue.setdefault(name, tissues.Tissue()).add(found, mask)
        pair = (torch.from_numpy(absent[0]), torch.from_numpy(scene.full))
        self.indices.append(similarity.indices(*pair))
        spectra = []
        for disc in scene.discs:
            own = [sites.region(images, disc.site, scene.side) for images in (absent, present)]
            spectra.append(nps.power(own[0], scene.spacing))
            self.noise.add(spectra[-1], scene.spacing)
            self._disc(scene, disc, *own)
        if not self.maps:
            self.maps = {"bias": found.bias.astype(np.float32)}
            self.maps["sd"] = np.sqrt(found.variance).astype(np.float32)
            if spectra:
                self.maps["nps"] = np.mean(spectra, axis=0).astype(np.float32)

    def _disc(
        self, scene: Scene, disc: Placed, absent: NDArray[np.floating],
        present: NDArray[np.floating],
    ) -> None:  # fmt: skip
        task, spacing = disc.task, scene.spacing
        signal = (present - absent).mean(axis=0, dtype=np.float64)
        if not task.detect:
            response = signal / task.contrast
            transfer = self.transfers.setdefault(task, ttf.Transfer(self.reach))
            transfer.add(response, disc.shape, spacing)
            left = ttf.contrast(response, disc.shape) * task.contrast
            self.contrasts.setdefault(task, []).append((left, ttf.noise(absent, disc.shape)))
            return
        width = detectability.WIDTH * task.diameter / 2 / spacing
        channels = {
            "npwe": detectability.npwe(signal, spacing)[None],
            "cho": detectability.laguerre_gauss(scene.side, width),
        }
        for observer, own in channels.items():
            one, other = (detectability.outputs(images, own) for images in (absent, present))
            self.seen.setdefault((task, observer), []).append((scene.index, one, other))

    def outputs(self, task: Task, observer: str) -> tuple[list[int], Outputs]:
        """Slice of each place, and the channel outputs of all places."""
        index, absent, present = zip(*self.seen[task, observer], strict=True)
        return list(index), Outputs(np.stack(absent), np.stack(present))

    def mean_index(self, key: str) -> float | None:
        """Mean of an index over slices; None where a slice has none."""
        values = [own[key] for own in self.indices]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None


def number(value: float | None) -> float | None:
    """The number as JSON takes it: None for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


def reach(spacings: Sequence[float]) -> float:
    """Highest frequency that all slices have, 1/mm, and at most `REACH`."""
    return min(REACH, *(1 / (2 * spacing) for spacing in spacings))


def by_network(found: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers by network as JSON takes them."""
    return {name: number(value) for name, value in found.items()}
