"""What the manifest.json of `compress enhance` and of `compress simulate` holds."""

from typing import TypedDict


class FileRow(TypedDict, total=False):
    """One file, or what is added to its row; all but the first five keys only where they apply."""

    file: int
    """Number in the order of names, from 0."""
    path_sha256: str
    """Hash of the file's path, so that the manifest names no patient."""
    series: str | None
    """First 12 digits of the hash of the series' UID; None where the file has none."""
    status: str
    """enhanced, simulated, existing, skipped, failed or stopped."""
    reason: str | None
    """Code of the reason, see `dicom.Reason`; None where nothing was in the way."""
    source_sha256: str
    """Hash of the file that was read."""
    output: str
    """Name of the file that was written, without its folder."""
    output_sha256: str
    """Hash of that file."""
    slices: int
    """Slices of the image."""
    clipped: int
    """Pixels that did not fit into the stored bits, and were clipped."""
    copied: int
    """Pixels outside the network's range, without padding, that stay as they were."""
    padding: int
    """Pixels of padding, which stay as they were."""
    padding_ignored: int
    """Pixels with the value that is declared to be padding that were taken for tissue."""
    unchanged: int
    """Slices that hold nothing but padding and background, and were copied."""
    neighbours_repeated: int
    """Slices beside it that the network saw twice: at an end of the series, at a gap in it, or
    because a file could not be read."""


class Counts(TypedDict, total=False):
    """How many files, by what became of them."""

    status: dict[str, int]
    """Status -> files."""
    reason: dict[str, int]
    """Code of the reason -> files."""
    slices: int
    """Slices that were written."""
    unchanged: int
    """Slices that were copied; absent where there are none."""
    padding_ignored: int
    """Pixels taken for tissue in spite of their value; absent where there are none."""
    neighbours_repeated: int
    """Slices beside others that were repeated; absent where there are none."""


class Enhanced(TypedDict):
    """manifest.json of `compress enhance`."""

    schema: int
    """Version of this record."""
    version: str
    """Version of this package."""
    model: str
    """Hash of the network's weights."""
    precision: str
    """Arithmetic of the network."""
    device: str
    """Where the network ran."""
    shard: list[int]
    """Number of this part, and how many parts there are."""
    counts: Counts
    """Files by what became of them."""
    seconds: dict[str, float]
    """Part of the work -> its time, seconds."""
    files: list[FileRow]
    """Every file."""


class Simulated(TypedDict):
    """manifest.json of `compress simulate`."""

    schema: int
    """Version of this record."""
    version: str
    """Version of this package."""
    simulation: str
    """The settings, in words."""
    counts: Counts
    """Files by what became of them."""
    files: list[FileRow]
    """Every file."""
