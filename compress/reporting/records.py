"""What report.json holds, and what the parts of a report hand to each other."""

from typing import Any, Literal, TypedDict

Facts = dict[str, Any]
"""JSON that a stage wrote, perhaps of an older version, so that any key may be absent."""


class Number(TypedDict):
    """A figure before compression and at the end."""

    key: str
    """macs, params, bytes, latency or psnr."""
    label: str
    """What it is called on the page."""
    kind: str
    """Unit: count, bytes, milliseconds, times or decibels."""
    before: float | None
    """Of the dense network, in that unit; None where it is not known."""
    after: float | None
    """Of the network at the end, in that unit; None where it is not known."""
    note: str
    """What a reader must know of it; else empty."""


class Removed(TypedDict):
    """Shares of the dense network that went, in [0, 1]; None where they are not known."""

    macs: float | None
    """Of the multiply-accumulates."""
    params: float | None
    """Of the parameters."""


class Costs(TypedDict):
    """What compression did to the size of the network."""

    numbers: list[Number]
    """Figures at the top of the page."""
    removed: Removed
    """Shares that went."""


class Moments(TypedDict):
    """A metric over slices, in its unit; None where it has no value."""

    mean: float | None
    """Mean."""
    sd: float | None
    """Sample standard deviation."""


Metrics = dict[str, dict[str, Moments]]
"""Network -> metric -> moments over slices."""


class Picture(TypedDict):
    """A slice that is shown."""

    slice: str
    """Name of the slice."""
    patient: str
    """Name of the patient."""
    psnr: dict[str, float | None]
    """Network -> PSNR, dB; None where it equals the full dose."""


class Evaluation(TypedDict):
    """The last evaluation."""

    stage: str
    """Name of its stage."""
    slices: int
    """Slices that were measured."""
    data_range_hu: float
    """Range that PSNR and SSIM refer to, HU."""
    file: str | None
    """File in the stage's folder that holds the pictures; None without any."""
    pictures: list[Picture]
    """Slices that are shown."""


class Quality(TypedDict):
    """Image quality by the last evaluation; empty and None without one."""

    quality: Metrics
    """Over all slices."""
    by_patient: dict[str, Metrics]
    """Patient -> over the patient's slices."""
    evaluation: Evaluation | None
    """How it was measured."""


class Stored(TypedDict):
    """A checkpoint file."""

    label: str
    """Which network it holds."""
    bytes: int
    """Its size."""
    share: float
    """Its size as a share of the first one's."""


class SpeedRow(TypedDict):
    """What a benchmark measured of a network; keys as in `bench.records`, None in older files."""

    name: str
    """Name of the folder or file."""
    how: str
    """How it ran, in words."""
    batch: int
    """Slices at once."""
    p50_ms: float
    """Median over calls, milliseconds a slice."""
    p90_ms: float
    """90th percentile over calls, milliseconds a slice."""
    slices_per_second: float
    """One over the mean time of a slice, 1/s."""
    ratio: float
    """How many times as fast as the first row: median over rounds."""
    ratio_min: float
    """The lowest ratio of a round."""
    ratio_max: float
    """The highest ratio of a round."""


class Measured(TypedDict):
    """What a benchmark of the run measured."""

    where: str
    """Name of the GPU, or the CPU with its threads."""
    size: int
    """Side of a slice, pixels."""
    rows: list[SpeedRow]
    """Every network and engine."""
    rounds: int
    """Times that each had its turn."""
    before: SpeedRow
    """The network that the others are compared with."""
    after: SpeedRow
    """The fastest of the same batch."""
    sparse: list[str]
    """What 2:4 alone is worth: a sentence for each pair of equal widths."""


class Speed(Measured):
    """What was measured, and by whom."""

    own: bool
    """Whether the step report measured it on a CPU: then only ratios are shown."""


class Layer(TypedDict):
    """A layer of the network; None where no stage knows."""

    name: str
    """Name of the module or of the group of channels."""
    shape: list[int] | None
    """Shape of the weight."""
    width: int | None
    """Channels of the group before the first pruning."""
    kept: int | None
    """Channels of the group after the last pruning."""
    done: bool | None
    """Whether it has a 2:4 mask."""
    reason: str | None
    """Why not."""
    eligible_backend: bool | None
    """Whether ModelOpt and Apex ASP would take it."""
    eligible_trt: bool | None
    """Whether TensorRT could run it with a sparse kernel."""
    picked: Literal["yes", "no", "unknown"] | None
    """Whether an engine runs it with a sparse kernel."""
    macs: int | None
    """Multiply-accumulates for one slice, see `cost.counted`."""
    share_of_macs: float | None
    """Share of those of the network, in [0, 1]."""
    share_of_time: float | None
    """Share of the layers' time in an engine, in [0, 1]."""


class Undone(TypedDict):
    """Something that the run did not do."""

    what: str
    """What was not done."""
    why: str
    """Why not."""
    command: str
    """Command that would do it; empty where none is known."""


class Sentences(TypedDict):
    """What the figures come to, in words."""

    verdict: str
    """One sentence."""
    notices: list[str]
    """What must be read first."""
    kernels: list[str]
    """What engines tell of sparse kernels."""
    limits: list[str]
    """What holds for every run."""
    undone: list[Undone]
    """What the run did not do."""


class Collected(Costs, Quality):
    """All of a report but its sentences."""

    schema: int
    """Version of this record."""
    name: str
    """Name of the recipe."""
    network: Facts
    """The network that was compressed: name, import and options."""
    device: str | None
    """Name of the GPU, else torch's name of the device."""
    started: str | None
    """Time of the first stage's start, ISO 8601, UTC."""
    stages: list[Facts]
    """Every stage: stage, step, kind, seconds, options, cost."""
    training: list[Facts]
    """What training stages remembered, see `training.facts`, with `stage`."""
    baseline: list[Facts]
    """What baseline stages remembered, which trained the dense network on; as `training`."""
    pruning: list[Facts]
    """What prune stages remembered, see `steps.facts`, with `stage`."""
    sparse24: Facts | None
    """What the last sparsify stage remembered, see `steps.facts`, with `stage`."""
    int8: Facts | None
    """What the last quantize stage remembered, see `steps.facts`, with `stage`."""
    layers: list[Layer]
    """Every layer."""
    storage: list[Stored]
    """Checkpoint files, dense to 2:4; empty where nothing was compressed."""
    speed: Speed | None
    """What a benchmark measured; None without one."""
    physics: Facts | None
    """What the last evaluation found of the physics, see `quality.records`; None without it."""
    engines: list[Facts]
    """Rows of exports, see `engines.records`, with hashes and place of their sidecars."""
    hashes: dict[str, str]
    """What -> its SHA-256 or fingerprint."""
    recipe: str
    """Text of the recipe."""
    manifest: Facts
    """manifest.json, see `run.records`."""


class Report(Collected, Sentences):
    """report.json."""
