"""The CT series of an input: which there are, and which one is meant.

Files belong together by their SeriesInstanceUID (PS3.3 section C.7.3.1), never by folder or name.
Between several series nobody guesses: the table shows them, `--series` chooses.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from compress.base.errors import UsageError
from compress.dicom import Reason, Refused, short, told
from compress.dicom.headers import Header
from compress.dicom.sources import Source

KEY = 12
"""Characters of a series' key."""
FEWEST = 4
"""Characters of the shortest beginning of a key that names a series."""
ALL = "all"
"""What `--series` takes besides UIDs and keys."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """What the table says of one series; nothing of the patient."""

    uid: str
    images: int
    """Files."""
    slices: int
    """Frames in all files."""
    matrix: str
    body_part: str
    kernel: str

    @property
    def key(self) -> str:
        """How it is shown and may be named: a hash of its UID."""
        return short(self.uid)


def find(headers: Iterable[Header]) -> list[Series]:
    """The CT series among the headers, in the order of their first file."""
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        if header.reason is None:
            groups[header.series].append(header)
    return [_series(uid, own) for uid, own in groups.items()]


def choose(headers: Sequence[Header], wanted: Sequence[str], named: str = "INPUT") -> list[Header]:
    """The headers, those of other series than the wanted ones marked so.

    Args:
        headers: of all files.
        wanted: UIDs, keys from the table, or ALL; empty where there is but one series.
        named: what messages call the input, see `Source.named`.

    Raises:
        UsageError: there is no series, several and none is named, or a named one is not there or
            not the only one.
    """
    found = find(headers)
    if not found and not any(header.failed for header in headers):
        raise UsageError(f"{named} holds no CT image{_why(headers)}")
    if len(found) > 1 and not wanted:
        raise UsageError(
            f"{named} holds {len(found)} CT series; choose one by --series and a key of the table, "
            "or all by --series all"
        )
    if not wanted or ALL in wanted:
        chosen = {series.uid for series in found}
    else:
        chosen = {_named(found, name, named) for name in wanted}
    return [
        replace(header, reason=Reason.OTHER_SERIES)
        if header.reason is None and header.series not in chosen
        else header
        for header in headers
    ]


def without_results(headers: Iterable[Header], command: str) -> list[Header]:
    """The headers, those marked that `command` of this program, or a later one, has written."""
    return [
        replace(header, reason=Reason.OWN_RESULT)
        if header.reason is None and command in header.made
        else header
        for header in headers
    ]


def contested(headers: Iterable[Header]) -> list[str]:
    """Names of the images whose SOP Instance UID another one has, too."""
    names: dict[str, list[str]] = defaultdict(list)
    for header in headers:
        if header.reason is None:
            names[header.sop].append(header.name)
    return [name for own in names.values() if len(own) > 1 for name in own]


def digests(source: Source, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each file's content; what cannot be read is left out."""
    found = {}
    for name in names:
        with suppress(Refused):
            found[name] = hashlib.sha256(source.read(name)).hexdigest()
    return found


def without_duplicates(headers: Sequence[Header], known: Mapping[str, str]) -> list[Header]:
    """The headers, those marked whose SOP Instance UID came before.

    The same content again is skipped. Other content under the same UID is a failure: nobody can
    tell which of the two is meant, and one would be lost.

    Args:
        headers: of all files.
        known: SHA-256 of the contested ones; a file without is the same as no other.
    """
    first: dict[str, Header] = {}
    result = []
    for header in headers:
        if header.reason is None:
            other = first.setdefault(header.sop, header)
            if other is not header:
                content = known.get(header.name)
                same = content is not None and content == known.get(other.name)
                reason = Reason.DUPLICATE if same else Reason.UID_CONFLICT
                header = replace(header, reason=reason, failed=not same)
        result.append(header)
    return result


def _named(found: Sequence[Series], name: str, source: str) -> str:
    """The UID of the series with this UID or key, or the only one whose key begins so."""
    begun = name.rstrip("….").lower()  # as a narrow terminal may have cut it
    fitting = [series for series in found if name in (series.uid, series.key)] or [
        series for series in found if len(begun) >= FEWEST and series.key.startswith(begun)
    ]
    if not fitting:
        raise UsageError(f"--series names a series that {source} does not hold; see the table")
    if len(fitting) > 1:
        raise UsageError(f"--series {name} names {len(fitting)} series; give more of the key")
    return fitting[0].uid


def shard(headers: Sequence[Header], index: int, count: int) -> list[Header]:
    """The headers, those of other shards than `index` (from 1) of `count` marked so.

    A file's shard follows from its SOP Instance UID alone, so shards need not know each other.
    """
    return [
        replace(header, reason=Reason.OTHER_SHARD)
        if header.reason is None and shard_of(header.sop, count) != index
        else header
        for header in headers
    ]


def shard_of(uid: str, count: int) -> int:
    """The shard of a file, from 1 to `count`."""
    return 1 + int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8]) % count


def render(found: Sequence[Series]) -> None:
    """Print the table of series on standard output; nothing is cut, long words go on below.

    Nothing is printed where there is none: what follows says why.
    """
    if not found:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("series", no_wrap=True, min_width=KEY)
    for name in ("modality", "images", "slices", "matrix", "body part", "kernel"):
        table.add_column(name, overflow="fold")
    for series in found:
        numbers = (str(series.images), str(series.slices))
        words = (series.matrix, series.body_part or "-", series.kernel or "-")
        table.add_row(series.key, "CT", *numbers, *words)
    Console().print(table)


def _series(uid: str, own: Sequence[Header]) -> Series:
    sizes = sorted({(header.rows, header.columns) for header in own})
    shown = [f"{rows} x {columns}" for rows, columns in sizes]
    return Series(
        uid=uid,
        images=len(own),
        slices=sum(header.frames for header in own),
        matrix=shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}",
        body_part=next((header.body_part for header in own if header.body_part), ""),
        kernel=next((header.kernel for header in own if header.kernel), ""),
    )


def _why(headers: Sequence[Header]) -> str:
    """What it holds instead, counted."""
    if not headers:
        return ": no file at all"
    counts = Counter(header.reason for header in headers if header.reason)
    if set(counts) == {Reason.NOT_DICOM}:
        return f": {len(headers)} files, none is DICOM" if len(headers) > 1 else ": no DICOM file"
    return f": {told(counts)}"
