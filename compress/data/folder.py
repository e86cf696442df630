"""Pairs of slices that lie on disk, matched by name.

    DIR/low/NAME      DIR/full/NAME        or LQ and HQ instead of low and full
    DIR/train/...     DIR/test/...         each with such folders; val where test is missing

NAME may lie in subfolders and is one of
    *.npy           (H, W) HU
    *.tif, *.tiff   HU after ImageJ's calibration (c0 and c1 in tag 270) where there is one
    DICOM           any other file with the DICM mark, brought to HU by its RescaleSlope

Where train and test are not given apart, the last of several patients is held out; of a single one
a tenth of the slices, those with the smallest hash of the name. The patient is the PatientID of
DICOM, which is shown as a number, else the first subfolder. Values are rounded to whole HU, those
below -1024 (padding) raised.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.base.errors import UsageError
from compress.base.hu import HU_MIN
from compress.base.progress import track
from compress.data import Image, Pairs

SIDES = (("low", "full"), ("LQ", "HQ"))
NONE = Pairs(low=(), full=(), names=(), patients=())
UNKNOWN = "unknown"
"""The patient where nothing tells."""


class PatientID(str):
    """What a DICOM header calls its patient: to tell patients apart, never to be shown."""


Values = NDArray[np.generic]
Content = tuple[Values, str | None]
"""HU of any number type, and the patient where the file says."""


def load(root: Path) -> tuple[Pairs, Pairs]:
    """Training and held-out pairs, sorted by name.

    Raises:
        UsageError: a folder, a partner or a file is missing or not usable; the first one is named.
    """
    if not (_existing(root) / "train").is_dir():
        return _unnamed(*_split(_pairs(root), root))
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None:
        raise UsageError(f"{root} has a folder train, but none called test or val")
    return _unnamed(_pairs(root / "train"), _pairs(test))


def held_out(root: Path) -> Pairs:
    """Pairs to measure with: those of `test` or `val` where there is `train`, else all.

    Raises:
        UsageError: as `load`.
    """
    if (root / "train").is_dir():
        return load(root)[1]
    return _unnamed(_pairs(_existing(root)), NONE)[0]


def _pairs(folder: Path) -> Pairs:
    """All pairs of one folder."""
    low, full = _sides(folder)
    lows, fulls = _files(low), _files(full)
    for name in sorted(lows.keys() ^ fulls.keys()):
        there, missing = (low, full) if name in lows else (full, low)
        raise UsageError(f"{there / name} has no partner {missing / name}")
    if not lows:
        raise UsageError(f"{low} holds no npy, TIFF or DICOM file")
    names = sorted(lows)
    read = [_pair(lows[name], fulls[name]) for name in track(names, f"reading {folder.name}")]
    return Pairs(
        low=tuple(pair[0] for pair in read),
        full=tuple(pair[1] for pair in read),
        names=tuple(names),
        patients=tuple(
            patient or (name.split("/")[0] if "/" in name else UNKNOWN)
            for name, (_, _, patient) in zip(names, read, strict=True)
        ),
    )


def _existing(root: Path) -> Path:
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
    raise UsageError(f"{folder} has neither folders low and full nor LQ and HQ")


def _files(folder: Path) -> Mapping[str, Path]:
    """The images below a folder by their name in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path
        for path in files
        if not path.name.startswith(".") and (path.suffix.lower() in READERS or _is_dicom(path))
    }


def _pair(low: Path, full: Path) -> tuple[Image, Image, str | None]:
    (one, _), (other, patient) = _read(low), _read(full)
    if one.shape != other.shape:
        sizes = [f"{height} x {width}" for height, width in (one.shape, other.shape)]
        raise UsageError(f"{low} has {sizes[0]} pixels, its partner {full} has {sizes[1]}")
    return one, other, patient


def _read(path: Path) -> tuple[Image, str | None]:
    """A slice, (H, W) int16 HU, and its patient."""
    try:
        values, patient = READERS.get(path.suffix.lower(), _dicom)(path)
        return _image(values), patient
    except Exception as error:  # decoders of damaged files raise whatever they like
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(f"{path} is not usable: {reason}") from error


def _image(values: Values) -> Image:
    """Whole HU, padding raised to HU_MIN."""
    if values.ndim != 2:
        raise ValueError(f"it holds an array of shape {values.shape}, not one slice")
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if values.dtype.kind == "f" and 0 <= values.min() < values.max() <= 1:
        raise ValueError("its values lie between 0 and 1, they must be HU")
    hu: Image = np.rint(values.clip(HU_MIN, np.iinfo(np.int16).max)).astype(np.int16)
    return hu


def _npy(path: Path) -> Content:
    return np.load(path, allow_pickle=False), None


def _tiff(path: Path) -> Content:
    """ImageJ writes c0=offset and c1=slope on lines of the image description, tag 270."""
    # Pillow reads compressed big-endian files, which ImageJ writes, with their bytes exchanged.
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise ValueError(f"it holds {len(file.pages)} images, not one slice")
        values, description = file.asarray(), file.pages.first.description
    found = dict(re.findall(r"^(c[01])=\s*(\S+)", description, re.MULTILINE))
    return values * float(found.get("c1", 1)) + float(found.get("c0", 0)), None


def _dicom(path: Path) -> Content:
    from compress.dicom import headers, reading

    with headers.silent():
        image = reading.read(path.read_bytes())
    frames = [image.hu(frame) for frame in range(len(image.stored))]
    values = frames[0] if len(frames) == 1 else np.stack(frames)
    who = str(image.dataset.get("PatientID") or "")
    return values, PatientID(who) if who else None


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


READERS: Mapping[str, Callable[[Path], Content]] = {".npy": _npy, ".tif": _tiff, ".tiff": _tiff}


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
    )
