"""What a physics evaluation remembers: typed records, with meaning and unit of each key.

Networks are input (low dose), dense, compressed and full (simulated full dose). None is a number
that could not be measured: no such tissue, no place for a disc, or piq is not installed.
"""

from typing import TypedDict

Curves = dict[str, list[float]]
"""Network -> values at `frequency`."""


class TissueRow(TypedDict):
    """One tissue through one network."""

    bias: float | None
    """Mean of output minus full-dose slice, HU."""
    bias_rms: float | None
    """Root mean square of the bias map, HU."""
    sd: float | None
    """Noise: root mean variance over realisations, HU."""


class Noise(TypedDict):
    """Noise power spectrum of soft tissue."""

    frequency: list[float]
    """1/mm."""
    curves: Curves
    """Radial NPS, HU^2 mm^2."""
    mean_frequency: dict[str, float | None]
    """Network -> 1/mm."""
    peak_frequency: dict[str, float | None]
    """Network -> 1/mm."""
    to_full: dict[str, float | None]
    """Network -> mean frequency over that of the full dose."""
    places: int
    """Regions that were averaged."""


class Sharpness(TypedDict):
    """Discs of one contrast."""

    contrast: float
    """Of the inserted disc, HU."""
    diameter: float
    """Of the inserted disc, mm."""
    places: int
    """Discs."""
    frequency: list[float]
    """1/mm."""
    curves: Curves
    """TTF, 1 at zero."""
    f50: dict[str, float | None]
    """Network -> frequency where the TTF is a half, 1/mm; None where it stays above."""
    recovery: dict[str, float | None]
    """Network -> contrast in the disc over the inserted one."""
    cnr: dict[str, float | None]
    """Network -> contrast in the disc over the noise there."""


class Estimate(TypedDict):
    """A number with its 95 % bootstrap interval."""

    value: float
    """The estimate."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class Detection(TypedDict):
    """One detection task."""

    contrast: float
    """Of the inserted disc, HU."""
    diameter: float
    """Of the inserted disc, mm."""
    places: int
    """Discs."""
    observers: dict[str, dict[str, Estimate]]
    """Observer (npwe, cho) -> network -> d'."""


class Losses(TypedDict):
    """What compression costs a network beside the dense one; None where it has no value."""

    bias_hu: float | None
    """Largest change of a tissue's mean HU, over tissues."""
    dprime_loss: Estimate | None
    """Mean over tasks of 1 - d' / d'(dense), of the observer that loses more."""
    nps_shift: float | None
    """Relative change of the mean frequency of noise, without sign."""


class PhysicsFacts(TypedDict):
    """All of a physics evaluation."""

    realisations: int
    """Noise realisations K of each slice."""
    slices: list[str]
    """Names of the slices."""
    patients: list[str]
    """Their patients, each named once."""
    photons: float
    """Photons per ray of the low dose."""
    dose_ratio: float
    """Photons of the full dose over those of the low dose."""
    networks: list[str]
    """In the order of tables."""
    tissues: dict[str, dict[str, TissueRow]]
    """Network -> tissue -> bias and noise."""
    noise: Noise | None
    """None without a place."""
    sharpness: list[Sharpness]
    """By contrast; those without a place are left out."""
    detection: list[Detection]
    """By task; those without a place are left out."""
    indices: dict[str, dict[str, float | None]]
    """Network -> index of `similarity.LABELS` -> mean over slices."""
    losses: dict[str, Losses]
    """Network -> what it loses beside the first, dense one; empty of a single network."""
    file: str
    """File in the stage's folder with the maps."""
    seconds: dict[str, float]
    """Network, or simulation -> seconds that it took."""
    notices: list[str]
    """What was left out, and why."""
