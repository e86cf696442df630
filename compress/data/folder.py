"""Pairs of slices that lie on disk, matched by name; DICOM by position, too, see `partners`.

    DIR/low/NAME      DIR/full/NAME        or LQ and HQ instead of low and full
    DIR/train/...     DIR/test/...         each with such folders; val where test is missing

NAME may be in subfolders, which may be links, and is an npy, TIFF or DICOM file, see `images`.

Where train and test are not given apart, the last of several patients is held out; of a single one
a tenth of the slices, those with the smallest hash of the name. The patient is the PatientID of
DICOM, which is shown as a number, else the first subfolder. Values are rounded to whole HU, those
below -1024 (padding) raised.
"""

import hashlib
from dataclasses import replace
from os.path import isdir  # unlike Path.is_dir, no error where one may not look
from pathlib import Path

from compress.base.errors import UsageError
from compress.base.progress import track
from compress.data import Image, Pairs, images, units
from compress.data.images import PatientID, listed, read
from compress.data.partners import match
from compress.data.volumes import windows

SIDES = (("low", "full"), ("LQ", "HQ"))
NONE = Pairs(low=(), full=(), names=(), patients=())
UNKNOWN = "unknown"
"""The patient where nothing tells."""
MOST = 3
"""Folders with pairs that an error names at most."""


def load(root: Path, neighbours: int = 0) -> tuple[Pairs, Pairs]:
    """Training and held-out pairs, sorted by name.

    Args:
        root: the folder.
        neighbours: slices on each side that a network sees, too; see `volumes`.

    Raises:
        UsageError: a folder, a partner or a file is missing or not usable; the first one is named.
    """
    if not (existing(root) / "train").is_dir():
        return _unnamed(*_split(_pairs(root, neighbours), root))
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None:
        raise UsageError(f"{root} has a folder train, but none called test or val")
    return _unnamed(_pairs(root / "train", neighbours), _pairs(test, neighbours))


def held_out(root: Path, neighbours: int = 0) -> Pairs:
    """Pairs to measure with: those of `test` or `val` where there is `train`, else all.

    Args:
        root: the folder.
        neighbours: as for `load`.

    Raises:
        UsageError: as `load`.
    """
    if (root / "train").is_dir():
        return load(root, neighbours)[1]
    return _unnamed(_pairs(existing(root), neighbours), NONE)[0]


def shape(root: Path) -> tuple[int, int]:
    """Height and width in pixels of the first slice to train with; no other is read.

    That every slice has its partner is seen from the names.

    Raises:
        UsageError: as `load`, as far as that slice goes.
    """
    there = existing(root)
    low, full = _sides(there / "train" if (there / "train").is_dir() else there)
    files = listed(full)
    match(low, full, listed(low), files)
    if not files:
        raise UsageError(f"{full} holds no npy, TIFF or DICOM file")
    image, _ = read(files[min(files)])
    return image.shape[0], image.shape[1]


def _pairs(folder: Path, neighbours: int) -> Pairs:
    """All pairs of one folder."""
    low, full = _sides(folder)
    partners = match(low, full, listed(low), listed(full))
    if not partners:
        raise UsageError(f"{low} holds no npy, TIFF or DICOM file")
    names = list(partners)
    loaded = [_pair(*partners[name]) for name in track(names, f"reading {folder.name}")]
    for side, own in ((low, [pair[0] for pair in loaded]), (full, [pair[1] for pair in loaded])):
        units.check_all(own, side)
    lows = tuple(pair[0] for pair in loaded)
    patients = tuple(
        patient or (name.split("/")[0] if "/" in name else UNKNOWN)
        for name, (_, _, patient) in zip(names, loaded, strict=True)
    )
    files = [partners[name][0] for name in names]
    return Pairs(
        low=lows,
        full=tuple(pair[1] for pair in loaded),
        names=tuple(names),
        patients=patients,
        around=windows(names, patients, files, lows, neighbours),
        spacings=tuple(images.spacing(full_file) for _, full_file in partners.values()),
    )


def existing(root: Path) -> Path:
    """`root`, a folder that is there.

    Raises:
        UsageError: it is not.
    """
    if not root.is_dir():
        raise UsageError(f"there is no data folder {root}")
    return root


def _sides(folder: Path) -> tuple[Path, Path]:
    for low, full in SIDES:
        there = [name for name in (low, full) if (folder / name).is_dir()]
        if len(there) == 2:
            return folder / low, folder / full
        if there:
            missing = full if there == [low] else low
            raise UsageError(f"{folder} has a folder {there[0]}, but none called {missing}")
    raise UsageError(f"{folder} has neither folders low and full nor LQ and HQ{_nearby(folder)}")


def _nearby(folder: Path) -> str:
    """Which folders inside, or the one around, hold pairs, as the end of an error."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:  # it is said already what is wrong
        inside = []
    found = [str(one) for one in (*inside, folder.parent) if _holds_pairs(one)]
    return f"; try {' or '.join(found[:MOST])}" if found else ""


def _holds_pairs(folder: Path) -> bool:
    tops = (folder, folder / "train")
    return any(all(isdir(top / side) for side in sides) for top in tops for sides in SIDES)


def _pair(low: Path, full: Path) -> tuple[Image, Image, str | None]:
    (one, _), (other, patient) = read(low), read(full)
    if one.shape != other.shape:
        sizes = [f"{height} x {width}" for height, width in (one.shape, other.shape)]
        raise UsageError(f"{low} has {sizes[0]} pixels, its partner {full} has {sizes[1]}")
    return one, other, patient


def _split(pairs: Pairs, root: Path) -> tuple[Pairs, Pairs]:
    """Training and held-out part."""
    patients = sorted(set(pairs.patients))
    held_out = set()
    if len(patients) > 1:
        held_out = {
            n for n, p in zip(pairs.names, pairs.patients, strict=True) if p == patients[-1]
        }
    elif len(pairs.names) > 1:
        ranked = sorted(pairs.names, key=lambda name: hashlib.sha256(name.encode()).digest())
        held_out = set(ranked[: max(1, round(len(ranked) / 10))])
    else:
        raise UsageError(f"{root} holds a single pair, at least one more must be held out")
    return _only(pairs, set(pairs.names) - held_out), _only(pairs, held_out)


def _unnamed(train: Pairs, test: Pairs) -> tuple[Pairs, Pairs]:
    """The same pairs; DICOM patients are numbered, in the order of what their headers say."""
    known = {who for who in (*train.patients, *test.patients) if isinstance(who, PatientID)}
    number: dict[str, str] = {who: f"patient-{k}" for k, who in enumerate(sorted(known), 1)}

    def renamed(pairs: Pairs) -> Pairs:
        return replace(pairs, patients=tuple(number.get(who, who) for who in pairs.patients))

    return renamed(train), renamed(test)


def _only(pairs: Pairs, names: set[str]) -> Pairs:
    kept = [index for index, name in enumerate(pairs.names) if name in names]
    return Pairs(
        low=tuple(pairs.low[k] for k in kept),
        full=tuple(pairs.full[k] for k in kept),
        names=tuple(pairs.names[k] for k in kept),
        patients=tuple(pairs.patients[k] for k in kept),
        around=tuple(pairs.around[k] for k in kept if pairs.around),
        spacings=tuple(pairs.spacings[k] for k in kept),
    )
