"""Which low-dose file belongs to which full-dose file.

By name, as far as DICOM headers agree: partners are of one patient, one place and one grid. Where
DICOM names do not agree, or the two doses have other names, the place alone decides.
"""

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.base.errors import UsageError
from compress.data import Image, Pairs
from compress.data.images import READERS

if TYPE_CHECKING:
    from compress.dicom.position import Place

log = logging.getLogger(__name__)

Files = Mapping[str, Path]
"""Name below the folder of one dose -> file."""
Partners = dict[str, tuple[Path, Path]]
"""Name of the full-dose file -> low and full dose."""
BLOCK = 8
"""Side in pixels of the blocks whose means are compared: noise averages out, anatomy does not."""
CONTRAST = 100.0
"""HU that the means of blocks must differ by, so that there is something to recognise."""
ALIKE = 0.9
"""Correlation of the means; neighbouring slices have more, noise of a low dose leaves it there."""


def match(low: Path, full: Path, lows: Files, fulls: Files) -> Partners:
    """Every full-dose file with its low-dose partner, sorted by name.

    Args:
        low: folder of the low dose, for sentences.
        full: folder of the full dose.
        lows: images of the low dose.
        fulls: images of the full dose.

    Raises:
        UsageError: a file has no partner, or one of another patient, place or grid; names the
            first.
    """
    dicom = [{name: path for name, path in side.items() if path.suffix.lower() not in READERS}
             for side in (lows, fulls)]  # fmt: skip
    by_place: Partners = {}
    if all(dicom):
        by_place = _dicom(*dicom)
        lows, fulls = ({n: p for n, p in side.items() if n not in own}
                       for side, own in zip((lows, fulls), dicom, strict=True))  # fmt: skip
    if alone := sorted(lows.keys() ^ fulls.keys()):
        name, number = alone[0], _number(alone, lows, fulls)
        there, missing = (low, full) if name in lows else (full, low)
        raise UsageError(f"{there / name} has no partner {missing / name}{number}")
    by_name = {name: (lows[name], fulls[name]) for name in lows}
    return dict(sorted((by_place | by_name).items()))


def unlike(pairs: Pairs) -> str:
    """A sentence on pairs that hardly show the same slice; empty where all do.

    What no header tells, of npy and TIFF, pixels do: block means of two doses of one slice agree.
    """
    names = [name for name, low, full in zip(pairs.names, pairs.low, pairs.full, strict=True)
             if _correlation(low, full) < ALIKE]  # fmt: skip
    if not names:
        return ""
    return (
        f"{len(names)} of {len(pairs.names)} pairs hardly show the same slice in both doses, "
        f"the first is {names[0]}: are their partners the right ones?"
    )


def _dicom(lows: Files, fulls: Files) -> Partners:
    """Partners among DICOM files: by name where names and headers agree, else by place."""
    from compress.dicom.position import misfit, read

    low_places = {path: read(path) for path in lows.values()}
    full_places = {path: read(path) for path in fulls.values()}
    if lows.keys() != fulls.keys():
        return _by_place(lows, fulls, low_places, full_places, "names are not the same")
    for name, path in sorted(fulls.items()):
        if why := misfit(low_places[lows[name]], full_places[path]):
            wrong = f"{lows[name]} and {path} are not the same slice: {why}"
            return _by_place(lows, fulls, low_places, full_places, wrong)
    return {name: (lows[name], path) for name, path in fulls.items()}


def _by_place(
    lows: Files,
    fulls: Files,
    low_places: Mapping[Path, "Place"],
    full_places: Mapping[Path, "Place"],
    why: str,
) -> Partners:
    """Partners by patient and place; every file must have exactly one.

    Raises:
        UsageError: `why` names do not do, the first file that has no partner, and how many.
    """
    from compress.dicom.position import misfit

    taken: dict[Path, Path] = {}
    alone: list[Path] = []
    columns = _columns(low_places)
    for path in fulls.values():
        low = _nearest(full_places[path], columns)
        if low is None or misfit(low_places[low], full_places[path]):
            alone.append(path)
            continue
        if low in taken:
            both = f"{taken[low]} and {path} are at the same position"
            raise UsageError(f"{_reason(why, lows, fulls)}; {both}")
        taken[low] = path
    if alone := [*alone, *(path for path in lows.values() if path not in taken)]:
        raise UsageError(_lonely(alone, why, lows, fulls))
    log.warning("%s; pairs are made by patient and position", why)
    partner = {full: low for low, full in taken.items()}
    return {name: (partner[path], path) for name, path in fulls.items()}


def _lonely(alone: Sequence[Path], why: str, lows: Files, fulls: Files) -> str:
    """The sentence on files without a partner by position; the first by name, too, is named."""
    unnamed = {(lows.get(name) or fulls[name]) for name in lows.keys() ^ fulls.keys()}
    number = _number(alone, lows, fulls)
    if both := [path for path in alone if path in unnamed]:
        return f"{both[0]} has no partner of that name and none by position{number}"
    return f"{_reason(why, lows, fulls)}; {alone[0]} has no partner by position{number}"


def _number(alone: Sequence[object], lows: Files, fulls: Files) -> str:
    """How many files have no partner, as the end of a sentence."""
    return f" ({len(alone)} of {len(lows) + len(fulls)} files)"


def _reason(why: str, lows: Files, fulls: Files) -> str:
    """`why`, with the first file that has no partner by name."""
    for name in sorted(lows.keys() ^ fulls.keys()):
        return f"{(lows.get(name) or fulls[name])} has no partner of that name"
    return why


Column = Sequence[tuple[float, Path]]
"""Images of one patient with their heights in mm, from the lowest to the highest."""


def _columns(places: Mapping[Path, "Place"]) -> Mapping[str, Column]:
    found: dict[str, list[tuple[float, Path]]] = defaultdict(list)
    for path, place in places.items():
        if place.known:
            found[place.patient].append((place.height(), path))
    return {patient: sorted(column) for patient, column in found.items()}


def _nearest(place: "Place", columns: Mapping[str, Column]) -> Path | None:
    """The image of the same patient whose plane is the nearest."""
    column = columns.get(place.patient)
    if not column or not place.known:
        return None
    height = place.height()
    index = bisect_left(column, (height, Path()))
    near = column[max(0, index - 1) : index + 1]
    return min(near, key=lambda entry: abs(entry[0] - height))[1]


def _correlation(low: Image, full: Image) -> float:
    """Of block means, in [-1, 1]; 1 where the slice has no contrast to compare."""
    one, other = _blocks(low), _blocks(full)
    if one.size < 4 or other.std() < CONTRAST:
        return 1.0
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm else 0.0


def _blocks(image: Image) -> NDArray[np.float64]:
    rows, columns = (side // BLOCK for side in image.shape)
    cut = image[: rows * BLOCK, : columns * BLOCK].astype(np.float64)
    means: NDArray[np.float64] = cut.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))
    return means
