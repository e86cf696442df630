"""What evaluate remembers: every slice through every network, and moments over slices."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from compress.base.hu import DATA_RANGE
from compress.quality.records import PhysicsFacts


class Moments(TypedDict):
    """A metric over slices, in the unit of the metric."""

    mean: float | None
    """Mean; None where a slice has no value."""
    sd: float | None
    """Sample standard deviation; None where a slice has no value, and of a single slice."""


Summary = dict[str, dict[str, Moments]]
"""Network -> metric -> moments over slices."""


class SliceOf(TypedDict):
    """Which slice through which network a row is of."""

    slice: str
    """Name of the slice."""
    patient: str
    """Name of the patient."""
    network: str
    """input, dense or compressed."""


class SliceRow(SliceOf, total=False):
    """One slice through one network; besides, each metric by window, such as psnr_lung."""

    psnr: float | None
    """Peak signal-to-noise ratio, dB; None where the images are equal."""
    rmse_hu: float | None
    """Root mean square error, HU."""
    ssim: float | None
    """Structural similarity, at most 1."""


class EvaluateFacts(TypedDict):
    """All that evaluate remembers."""

    networks: list[str]
    """Networks that were measured: input, dense, compressed."""
    summary: Summary
    """Moments over all slices."""
    by_patient: dict[str, Summary]
    """Patient -> moments over the patient's slices."""
    rows: list[SliceRow]
    """Every slice through every network."""
    data_range_hu: float
    """Range that PSNR and SSIM refer to, HU."""
    slices: int
    """Slices that were measured."""
    pictures: NotRequired[str]
    """File in the stage's folder that holds slices for the report; absent where none is kept."""
    physics: NotRequired[PhysicsFacts]
    """What noise realisations showed; absent where it was not asked for."""


def facts(networks: list[str], rows: list[SliceRow]) -> EvaluateFacts:
    """What was measured of these networks, and moments over all slices and by patient."""
    by_patient: dict[str, list[SliceRow]] = defaultdict(list)
    for row in rows:
        by_patient[row["patient"]].append(row)
    return {
        "networks": networks,
        "summary": _summary(networks, rows),
        "by_patient": {who: _summary(networks, own) for who, own in by_patient.items()},
        "rows": rows,
        "data_range_hu": DATA_RANGE,
        "slices": len(rows) // len(networks),
    }


def _summary(networks: list[str], rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Network -> metric -> mean and sample standard deviation over slices.

    None where a slice has no value, and as the deviation of a single slice.
    """
    names = [key for key in rows[0] if key not in ("slice", "patient", "network")]
    own = {network: [row for row in rows if row["network"] == network] for network in networks}
    return {
        network: {name: _moments([row[name] for row in found]) for name in names}
        for network, found in own.items()
    }


def _moments(values: list[float | None]) -> Moments:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "sd": None}
    sd = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "sd": sd}
