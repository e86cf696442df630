"""The demo set: real chest CT of three patients, 242 slices of 512 x 512.

Patients A and B train, patient C is held out. Three patients make a demonstration, never a clinical
claim. Where the volumes come from: demo_volumes.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from compress.base.around import around
from compress.base.around import spread as evenly
from compress.base.errors import UsageError
from compress.base.files import cache_folder as folder
from compress.base.words import listed
from compress.data import DataOptions, Image, Pairs, Unavailable, demo_volumes
from compress.data.demo_volumes import Volume
from compress.data.lowdose import Exposure, Slice, simulate
from compress.data.realisations import bank

HELD_OUT = ("C",)
"""The patients to measure with, where the recipe names none."""


def load(options: DataOptions, seed: int) -> tuple[Pairs, Pairs]:
    """Training and held-out pairs of the patients that the options name; low dose is simulated.

    Raises:
        Unavailable: the set is not in the cache and cannot be fetched.
        UsageError: more slices are asked for than there are.
    """
    learn, measure = patients(options)
    cache = cache_folder()
    slices = list(_slices(demo_volumes.volumes(cache / "demo")))
    train = [slice_ for slice_ in slices if slice_.patient in learn]
    test = [slice_ for slice_ in slices if slice_.patient in measure]
    beside = _beside(slices, options.neighbours)
    train = spread(train, options.train_slices, "train_slices")
    test = spread(test, options.test_slices, "test_slices")
    given, kept = (Exposure.of(options), seed), cache / "lowdose"
    versions = bank(train, *given, options.realisations, kept)
    learned = simulate(train, *given, kept, beside, "training slices, 1 of 2")
    measured = simulate(test, *given, kept, beside, "held-out slices, 2 of 2")
    return replace(learned, bank=versions), measured


def patients(options: DataOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the patients to train with and to measure with.

    Raises:
        ValueError: no such patient, none at all, or one in both.
    """
    known = tuple(volume.patient for volume in demo_volumes.VOLUMES)
    measure = HELD_OUT if options.test_patients is None else options.test_patients
    others = tuple(name for name in known if name not in measure)
    learn = others if options.train_patients is None else options.train_patients
    for option, names in (("train_patients", learn), ("test_patients", measure)):
        if not names or set(names) - set(known):
            raise ValueError(
                f"{option}: expected some of {listed(known)}, got {listed(names) or 'none'}"
            )
    if both := sorted(set(learn) & set(measure)):
        raise ValueError(f"patient {listed(both)} cannot both train and be measured with")
    return learn, measure


def _beside(slices: Sequence[Slice], neighbours: int) -> dict[str, Sequence[Slice]]:
    """The slices around each in its patient, by name; empty where none are asked for."""
    found: dict[str, Sequence[Slice]] = {}
    for who in sorted({slice_.patient for slice_ in slices} if neighbours else set()):
        own = [slice_ for slice_ in slices if slice_.patient == who]
        found |= {one.name: around(own, place, neighbours) for place, one in enumerate(own)}
    return found


def cache_folder() -> Path:
    """Where fetched and simulated slices are kept: COMPRESS_CACHE or the user's cache folder.

    Raises:
        Unavailable: there is no such folder.
    """
    try:
        return folder()
    except RuntimeError as error:
        raise Unavailable("there is no home folder, COMPRESS_CACHE can name another") from error


def lacking() -> list[str]:
    """The patients whose volumes are not in the cache; their packages would be fetched.

    Raises:
        Unavailable: there is no cache folder.
    """
    folder = cache_folder() / "demo"
    return [v.patient for v in demo_volumes.VOLUMES if not (folder / f"{v.patient}.npy").is_file()]


def spread(slices: Sequence[Slice], count: int | None, option: str) -> list[Slice]:
    """`count` slices from the middle of equal parts, so each patient gives a share; None: all.

    Raises:
        UsageError: there are not so many; the sentence names the `option`.
    """
    if count is None:
        return list(slices)
    if count > len(slices):
        raise UsageError(f"{option}: the demo set has {len(slices)} slices for this, got {count}")
    return evenly(slices, count)


def _slices(pixels: Mapping[Volume, Image]) -> Iterator[Slice]:
    for volume, images in pixels.items():
        for index, image in enumerate(images):
            name = f"{volume.patient}-{index:03d}"
            yield Slice(name=name, patient=volume.patient, spacing=volume.spacing, image=image)
