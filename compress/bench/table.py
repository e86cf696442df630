"""What `compress bench` found, as a table and in sentences."""

from collections.abc import Iterator, Sequence

from compress.bench.records import Bench, BenchRow
from compress.reporting import formatting, speed

COLUMNS = ("artefact", "runs as", "batch", "p50", "p90", "slices/s", "memory", "times as fast")


def render(found: Bench) -> None:
    """Print what `run` found as a table on standard output; lines are never cut."""
    from rich.console import Console

    console, place = Console(), found["place"]
    where = place["gpu"] or f"CPU, {place['threads']} threads"
    for line in (
        f"{where}, torch {place['torch']}, {found['size']} pixels, ms per slice",
        *_table(found["rows"]),
        *_sparse_sentences(found),
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _table(rows: Sequence[BenchRow]) -> Iterator[str]:
    """A line for each row below a head, columns aligned."""
    lines: list[tuple[str, ...]] = [COLUMNS]
    lines += [(row["name"], row["runs"], str(row["batch"]), *_figures(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        yield "  ".join(cells).rstrip()


def _figures(row: BenchRow) -> tuple[str, ...]:
    """Times per slice, and times as fast as the first with the spread over rounds."""
    times = (formatting.figure(row[key], 3) for key in ("p50_ms", "p90_ms"))
    spread = "-".join(formatting.figure(row[key]) for key in ("ratio_min", "ratio_max"))
    rate, memory = (
        formatting.figure(row["slices_per_second"], 1),
        formatting.size(row["memory_bytes"]),
    )
    return (*times, rate, memory, f"{formatting.figure(row['ratio'])} ({spread})")


def _sparse_sentences(found: Bench) -> Iterator[str]:
    """What 2:4 gave, for each pair of equal widths."""
    for ab in found["sparse_ab"]:
        yield speed.sparse_gain(ab, found["rounds"], (ab["sparse"], ab["dense"]))
