"""What `compress bench` measures, as it prints it with --json."""

from typing import TypedDict

from compress.base.timing import TimedRow
from compress.engines.records import Place


class Graph(TypedDict):
    """How a call was issued."""

    cuda_graph: bool
    """Whether it was replayed as one CUDA graph."""
    cuda_graph_why: str
    """Why not, where a graph was tried; else empty."""


class Execution(Graph):
    """Where and how an artefact ran."""

    device: str
    """torch's name of the device, such as cuda:0."""
    memory_bytes: int | None
    """GPU memory that it took, bytes; None on a CPU."""


class BenchRow(TimedRow, Execution):
    """One artefact at one batch."""


class SparsePair(TypedDict):
    """Two artefacts of equal widths, run alike, with and without 2:4 sparsity."""

    batch: int
    """Slices at once."""
    how: str
    """The mode, or format and precision."""
    dense: str
    """Name of the one without."""
    sparse: str
    """Name of the one with."""
    layers: int
    """Its layers that are 2:4."""
    of: int
    """All its layers."""
    ratio: float
    """How many times as fast the sparse one is: median over rounds."""
    ratio_min: float
    """The lowest ratio of a round."""
    ratio_max: float
    """The highest ratio of a round."""


class BenchPlace(Place):
    """Where it was measured."""

    threads: int
    """CPU threads of torch."""
    versions: dict[str, str]
    """Package -> installed version."""
    commit: str | None
    """Git commit of this package; None outside its clone."""


class Bench(TypedDict):
    """All that a benchmark measured."""

    schema: int
    """Version of this record."""
    place: BenchPlace
    """Where it was measured."""
    size: int
    """Side of a slice, pixels."""
    rounds: int
    """Times that every artefact had its turn."""
    seconds: float
    """Time of each artefact over all rounds, about, in seconds."""
    rows: list[BenchRow]
    """Every artefact at every batch; ratios refer to the first of a batch."""
    clocks_mhz: dict[str, list[dict[str, str]]]
    """Batch -> what nvidia-smi tells before and after: clocks in MHz, temperature in C."""
    sparse_ab: list[SparsePair]
    """What 2:4 alone gave."""
