"""Stored values <-> HU. Arrays are (F, H, W): frames, rows, columns.

HU = stored * RescaleSlope + RescaleIntercept (PS3.3 section C.11.1.1.2). In Enhanced CT both lie
in functional groups and may differ from frame to frame (PS3.3 section C.7.6.16.2.9). MONOCHROME1
says how an image is shown, not what its values mean, so it changes nothing here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from compress.base.hu import HU_MAX, HU_MIN
from compress.dicom import Reason, Refused

Stored = NDArray[np.integer]
HU = NDArray[np.float32]
Mask = NDArray[np.bool_]

FINEST, COARSEST = 0.002, 100.0
"""HU per stored unit. float32 in the network range resolves 0.0003 HU, so a finer unit would not
come back as it was; the range of 16 bits in units of 0.05 HU is 3,000 HU, so nobody needs one."""
FARTHEST = 1e5
"""HU of the stored value 0."""
HIGHEST = 3500.0
"""12-bit CT ends at 3071 HU; above it is metal in extended scale, a small part of a slice."""
FEW = 0.1
"""Share of the pixels that may lie above HIGHEST, and that must lie in the network range."""
DEEPEST = -4096.0
"""Pixels below the network range are background down to here; still lower they must be flat."""
FLAT = 100.0
"""HU within which lossy coding leaves a flat background."""
UNITS = re.compile(r"hu|hnsfu|houn[dt]?sf(ield|iled|eld)s?(units?)?(hu)?")
"""Hounsfield units as scanners spell them, in lower case without separators; "[hnsf'U]" is UCUM."""


@dataclass(frozen=True)
class Scale:
    """Slope and intercept of every frame, (F,), and the stored values that mean padding."""

    slope: NDArray[np.float64]
    """HU per stored unit; never zero."""
    intercept: NDArray[np.float64]
    """HU of the stored value 0."""
    padding: tuple[int, int] | None = None
    """Lowest and highest stored value of padding; None where the image declares none."""
    ends: tuple[int, int] = (-(1 << 15), (1 << 16) - 1)
    """Lowest and highest stored value that the image can hold."""


def scale_of(dataset: Dataset, frames: int, *, assume_hu: bool = False) -> Scale:
    """How the stored values of an image map to HU.

    Args:
        dataset: the image; nothing is read from its pixels.
        frames: their number.
        assume_hu: take stored values as HU where slope and intercept are missing.

    Raises:
        Refused: NO_RESCALE, NOT_HU, or HU_RANGE for a slope or intercept of no CT.
    """
    if "ModalityLUTSequence" in dataset:  # PS3.3 section C.11.1: a table instead of a line
        raise Refused(Reason.NOT_HU)
    pairs = [_line(item, assume_hu) for item in _transformations(dataset, frames)]
    slope, intercept = np.array(pairs, dtype=np.float64).T
    if not (np.isfinite(slope).all() and np.isfinite(intercept).all() and slope.all()):
        raise Refused(Reason.NO_RESCALE)
    steep = (np.abs(slope) < FINEST) | (np.abs(slope) > COARSEST)
    if steep.any() or (np.abs(intercept) > FARTHEST).any():
        raise Refused(Reason.HU_RANGE)
    return Scale(slope, intercept, _padding(dataset), limits(dataset))


def to_hu(stored: Stored, scale: Scale, frame: int) -> HU:
    """One frame, (H, W), in HU."""
    slope, intercept = scale.slope[frame], scale.intercept[frame]
    # In float32 every 16-bit product with a whole slope is exact, and half the traffic of float64.
    return stored * np.float32(slope) + np.float32(intercept)


def to_stored(hu: HU, scale: Scale, frame: int) -> NDArray[np.float64]:
    """One frame, (H, W): HU to the nearest whole stored values, not yet clipped."""
    exact: NDArray[np.float64] = hu.astype(np.float64) - scale.intercept[frame]
    exact /= scale.slope[frame]
    return np.rint(exact, out=exact)


def check_hu(hu: HU, padding: Mask) -> None:
    """The gate before the network, for one frame (H, W).

    A frame may hold nothing but padding and background: beside the patient there is nothing else.

    Raises:
        Refused: HU_RANGE where hardly a pixel that is no background lies in the network range, or
            many lie above metal.
    """
    inside = np.count_nonzero((hu >= HU_MIN) & (hu <= HU_MAX) & ~padding)
    others = hu.size - np.count_nonzero(padding)
    if inside < FEW * others:  # seldom, and a median takes its time
        others -= _background(hu[(hu < HU_MIN) & ~padding])
    if inside < FEW * others or np.count_nonzero(hu > HIGHEST) > FEW * hu.size:
        raise Refused(Reason.HU_RANGE)


def _background(low: HU) -> int:
    """How many of the pixels below the network range, (N,), are background and no wrong unit."""
    near = np.abs(low - np.median(low)) <= FLAT if low.size else low > 0
    flat = np.count_nonzero(near) >= (1 - FEW) * low.size
    return low.size if flat else int(np.count_nonzero(low >= DEEPEST))


def _transformations(dataset: Dataset, frames: int) -> Sequence[Dataset]:
    """For every frame the data set that holds slope and intercept."""
    if "SharedFunctionalGroupsSequence" not in dataset:
        return [dataset] * frames
    name = "PixelValueTransformationSequence"
    shared = dataset.SharedFunctionalGroupsSequence[0].get(name)
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(own) != frames:
        raise Refused(Reason.SHAPE)
    groups = [group.get(name) or shared for group in own]
    if not all(groups):
        raise Refused(Reason.NO_RESCALE)
    return [group[0] for group in groups]


def _line(item: Dataset, assume_hu: bool) -> tuple[float, float]:
    """Slope and intercept."""
    kind = re.sub(r"[\s\0._'()\[\]-]", "", str(item.get("RescaleType") or "HU")).lower()
    if not UNITS.fullmatch(kind or "hu"):  # section C.11.1.1.2: US is unspecified, as in perfusion
        raise Refused(Reason.NOT_HU)
    slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
    if slope is None or intercept is None:
        if not assume_hu or slope is not None or intercept is not None:
            raise Refused(Reason.NO_RESCALE)
        return 1.0, 0.0
    try:
        return float(slope), float(intercept)
    except (TypeError, ValueError) as error:
        raise Refused(Reason.NO_RESCALE) from error


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    try:
        ends = [_signed(int(v), dataset) for v in (value, value if limit is None else limit)]
    except (TypeError, ValueError) as error:
        raise Refused(Reason.DAMAGED) from error
    return min(ends), max(ends)


def _signed(value: int, dataset: Dataset) -> int:
    """The value in the pixels' own representation: some writers store -2000 as 63536."""
    bits = int(dataset.BitsAllocated)
    if dataset.PixelRepresentation and value >= 1 << (bits - 1):
        return value - (1 << bits)
    if not dataset.PixelRepresentation and value < 0:
        return value + (1 << bits)
    return value


def limits(dataset: Dataset) -> tuple[int, int]:
    """Lowest and highest value that BitsStored and PixelRepresentation allow."""
    bits = int(dataset.BitsStored)
    if dataset.PixelRepresentation:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1
