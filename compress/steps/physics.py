"""Physics of image quality: every network on noise realisations of the same slices, with discs.

Each slice gets K realisations of simulated low-dose noise, without and with inserted discs; all
networks see the same ones. The full dose is simulated with more photons. What the numbers mean is
in the modules of `compress.quality`: tissues, nps, ttf, detectability, similarity.
"""

import io
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from compress.base.around import spread
from compress.base.errors import QualityError, Stopped, UsageError
from compress.base.files import write_atomic
from compress.base.hu import to_hu, to_network
from compress.base.progress import meter
from compress.context import Work
from compress.data.fanbeam_torch import TorchScanner
from compress.data.lowdose import CPU, Exposure, Scanner, Slice, line_integrals
from compress.data.realisations import as_scanned, brighter, noise
from compress.data.scanner import Array
from compress.data.sources import DataOptions
from compress.quality import similarity
from compress.quality.records import PhysicsFacts
from compress.steps import physics_facts as facts
from compress.steps.physics_stats import DISCS, TASKS, Gathered, Images, Scene, Task, place, reach

FILE = "physics.npz"
SMALLEST = 128
"""Side in pixels that a slice must have: discs need regions around them."""
Net = Callable[[Tensor], Tensor]
"""(N, 1, H, W) float32 in network range -> the same."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    realisations: int = 24
    """K of each slice."""
    slices: int = 6
    """Slices, evenly spread over those held out; all where there are fewer."""
    dose_ratio: float = 4.0
    """Photons of the simulated full dose over those of the low dose."""
    batch: int = 4
    """Slices through a network at once."""


@dataclass
class _Run:
    """What all networks share."""

    work: Work
    settings: Settings
    slices: list[Slice]
    scenes: list[Scene]
    exposure: Exposure
    advance: Callable[[int], None]
    seconds: dict[str, float] = field(default_factory=dict)

    def scanner(self) -> Scanner:
        return CPU if self.work.device.type == "cpu" else TorchScanner(self.work.device)

    def noise(self, index: int, p: Array, exposure: Exposure, seed: int) -> Images:
        self.stop()
        with self.clock("simulation"):
            count = self.settings.realisations
            return noise(self.slices[index], p, exposure, count, seed, self.scanner())

    def line_integrals(self, index: int) -> Array:
        with self.clock("simulation"):
            return line_integrals(self.slices[index], self.exposure, self.scanner())

    def stop(self) -> None:
        if self.work.stop.is_set():
            raise Stopped("evaluate: stopped; run again to go on")

    @contextmanager
    def clock(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


def check(work: Work, settings: Settings) -> None:
    """Refuse held-out slices that cannot be measured, before anything is.

    Raises:
        UsageError: slices are too small, or the side of a pixel is not known.
    """
    _chosen(work, settings.slices)


def measure(networks: Mapping[str, Net | None], work: Work, settings: Settings) -> PhysicsFacts:
    """Measure networks on noise realisations of the held-out slices; writes maps to `FILE`.

    Args:
        networks: name -> network; None is the untouched low dose.
        work: device, held-out slices, seed and stage folder.
        settings: how much is measured.

    Raises:
        UsageError: slices are too small, or the side of a pixel is not known.
        QualityError: a network gives NaN or infinity.
        Stopped: a signal came.
    """
    slices = _chosen(work, settings.slices)
    scenes = _scenes(slices)
    exposure = work.data.test.exposure or Exposure.of(DataOptions())
    names = [*networks, "full"]
    found = {n: Gathered(reach([one.spacing for one in slices])) for n in names}
    total = 2 * settings.realisations * len(slices) * len(names)
    with meter(total, "images") as advance:
        run = _Run(work, settings, slices, scenes, exposure, advance)
        for index in range(len(slices)):
            _slice(run, index, networks, found)
    return _facts(run, found)


def _chosen(work: Work, count: int) -> list[Slice]:
    """Slices evenly spread over those held out."""
    test = work.data.test
    if test.channels > 1:
        alone = f"a network that sees a slice alone; this one sees {test.channels}"
        raise UsageError(f"evaluate: physics measures {alone}")
    return [_as_slice(work, index) for index in spread(range(len(test.full)), count)]


def _as_slice(work: Work, index: int) -> Slice:
    test = work.data.test
    name, image = test.names[index], test.full[index]
    spacing = test.spacings[index] if test.spacings else None
    if spacing is None:
        why = "the side of a pixel is not known; DICOM pairs have it in their header"
        raise UsageError(f"evaluate: physics cannot measure slice {name}: {why}")
    if min(image.shape) < SMALLEST:
        least = f"slices of at least {SMALLEST}x{SMALLEST} pixels"
        raise UsageError(f"evaluate: physics needs {least}; {name} has {image.shape}")
    return Slice(name=name, patient=test.patients[index], spacing=spacing, image=image)


def _scenes(slices: list[Slice]) -> list[Scene]:
    """Every slice with its discs; tasks take turns over places and slices."""
    scenes: list[Scene] = []
    first = 0
    for index, one in enumerate(slices):
        scenes.append(place(index, one.image, one.spacing, first))
        first += len(scenes[-1].discs)
    return scenes


def _slice(
    run: _Run, index: int, networks: Mapping[str, Net | None], found: Mapping[str, Gathered]
) -> None:
    """All networks and doses on one slice."""
    scene, seed = run.scenes[index], run.work.seed
    with_discs = scene.inserted()
    p = run.line_integrals(index)
    low = run.noise(index, p, run.exposure, seed)
    pair = [as_scanned(image + low) for image in (scene.full, with_discs)]
    for name, net in networks.items():
        with run.clock(name):
            absent, present = (_through(run, name, net, images) for images in pair)
            found[name].add(scene, absent, present)
    more = run.noise(index, p, brighter(run.exposure, run.settings.dose_ratio), seed + 1)
    with run.clock("full"):
        for_full = [as_scanned(image + more) for image in (scene.full, with_discs)]
        found["full"].add(scene, *for_full)
        run.advance(2 * len(more))


def _through(run: _Run, name: str, net: Net | None, images: Images) -> Images:
    """(K, H, W) HU through a network, clipped to the network range as results are."""
    if net is None:
        run.advance(len(images))
        return images
    result = np.empty_like(images)
    for start in range(0, len(images), run.settings.batch):
        run.stop()
        part = torch.from_numpy(images[start : start + run.settings.batch, None])
        with torch.inference_mode():
            y = net(to_network(part).to(run.work.device)).float()
        if not y.isfinite().all():
            raise QualityError(f"evaluate: the {name} network gives NaN or infinity")
        result[start : start + len(part)] = to_hu(y.clamp(0, 1))[:, 0].cpu().numpy()
        run.advance(len(part))
    return result


def _facts(run: _Run, found: Mapping[str, Gathered]) -> PhysicsFacts:
    rows = facts.tissue_rows(found)
    spectra = facts.noise(found, sum(len(scene.discs) for scene in run.scenes))
    by_task = facts.all_samples(found, run.work.seed)
    arrays = {**facts.maps(found), "full": run.scenes[0].full}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(run.work.stage / FILE, buffer.getvalue())
    return {
        "realisations": run.settings.realisations,
        "slices": [one.name for one in run.slices],
        "patients": [*dict.fromkeys(one.patient for one in run.slices)],
        "photons": run.exposure.photons,
        "dose_ratio": run.settings.dose_ratio,
        "networks": [*found],
        "tissues": rows,
        "noise": spectra,
        "sharpness": facts.sharpness(found),
        "detection": facts.detection(by_task, found),
        "indices": facts.indices(found),
        "losses": facts.losses(rows, spectra, by_task),
        "file": FILE,
        "seconds": run.seconds,
        "notices": _notices(run, by_task),
    }


def _notices(run: _Run, by_task: Collection[Task]) -> list[str]:
    """What was left out, and what was assumed."""
    notices = [why] if (why := similarity.lacking()) else []
    used = {disc.task for scene in run.scenes for disc in scene.discs}
    used -= {task for task in DISCS if task not in by_task}
    if missing := [task for task in TASKS if task not in used]:
        discs = ", ".join(f"{t.diameter:g} mm and {t.contrast:g} HU" for t in missing)
        notices.append(f"Too few places in soft tissue, or realisations, for discs of {discs}.")
    if run.work.data.test.exposure is None:
        photons = f"{run.exposure.photons:,.0f}"
        notices.append(f"The noise is simulated at {photons} photons, not that of the given pairs.")
    return notices
