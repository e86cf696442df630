"""Several runs on one page: what each came to, side by side, from what their stages left."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compress.base.errors import UsageError
from compress.base.files import write_atomic
from compress.quality.metrics import METRICS, columns
from compress.reporting import charts, collect, page
from compress.reporting.records import Facts, Report
from compress.reporting.sentences import source

LAST = "~"
"""Sorts behind every stage's folder."""
MAIN = next(iter(METRICS))
"""The metric that is compared in every window, the others in the full range."""
COMPARED = [column for column in columns() if not column.window or column.metric == MAIN]


def write(runs: Sequence[Path], file: Path) -> Path:
    """Write the page that compares `runs`, at least two, to `file`; return `file`.

    Raises:
        UsageError: fewer than two runs, one is named twice, or a folder holds none.
        OSError: the disk is full or `file` cannot be written.
    """
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        raise UsageError("a comparison needs two or more different run folders")
    found = compare(runs)
    chart = charts.scatter(_points(found["rows"]))
    shown = [c for c in COMPARED if any(row[c.key]["mean"] is not None for row in found["rows"])]
    write_atomic(file, page.comparison(found, shown, chart).encode())
    return file


def compare(runs: Sequence[Path]) -> Facts:
    """One row for each run, and what stands in the way of comparing them.

    Returns:
        rows [{run, name, device, verdict, notices, macs, params, bytes, latency, sparse24,
        convolutions, engines, seconds, psnr_input, psnr_dense, and COMPARED as {mean, sd}}] in the
        order of `runs`; notices: sentences to be read first.
    """
    reports = [collect.collect(run, before=LAST) for run in runs]
    labels = _labels(runs)
    rows = [_row(label, report) for label, report in zip(labels, reports, strict=True)]
    return {"rows": rows, "notices": [*_notices(labels, reports)]}


def _labels(runs: Sequence[Path]) -> list[str]:
    """The folders' names, with their parents' where names repeat."""
    names = [run.resolve().name for run in runs]
    if len({*names}) == len(names):
        return names
    return [f"{run.resolve().parent.name}/{run.resolve().name}" for run in runs]


def _row(label: str, report: Report) -> Facts:
    numbers = {number["key"]: number["after"] for number in report["numbers"]}
    timed = report["speed"] and not report["speed"]["own"]  # else it is a ratio of one machine
    numbers["latency"] = numbers["latency"] if timed else None
    quality: Any = report["quality"]
    own = quality.get("compressed", quality.get("dense", {}))
    sparse = report["sparse24"] or {}
    built = [engine["format"] for engine in report["engines"] if engine["status"] == "built"]
    return {
        "run": label,
        **{key: report[key] for key in ("name", "device", "verdict", "notices")},
        **{key: numbers[key] for key in ("macs", "params", "bytes", "latency")},
        "sparse24": sparse.get("done"),
        "convolutions": sparse.get("convolutions"),
        "engines": list(dict.fromkeys(built)),
        "seconds": sum(stage["seconds"] for stage in report["stages"]),
        "psnr_input": quality.get("input", {}).get("psnr", {}).get("mean"),
        "psnr_dense": quality.get("dense", {}).get("psnr", {}).get("mean"),
        **{c.key: own.get(c.key, {"mean": None, "sd": None}) for c in COMPARED},
    }


def _notices(labels: list[str], reports: list[Report]) -> Iterator[str]:
    """Why numbers of these runs may not be compared."""
    data = {report["manifest"].get("data", {}).get("fingerprint") for report in reports}
    if len(data) > 1:
        yield "These runs did not use the same data: their image quality cannot be compared."
    evaluations = [report["evaluation"] for report in reports]
    slices = {one["slices"] for one in evaluations if one} - {None}
    if len(data) == 1 and len(slices) > 1:
        yield "Image quality was measured on different numbers of slices."
    timed = [report["speed"] for report in reports if report["speed"]]
    devices = {speed["where"] for speed in timed if not speed["own"]}
    if len(devices) > 1:
        yield "Latencies are of different machines."
    for label, report in zip(labels, reports, strict=True):
        if source(report).phantoms:
            yield f"{label} used phantoms, not CT of patients."
        if not report["quality"]:
            yield f"{label} was not evaluated for image quality."


def _points(rows: list[Facts]) -> list[tuple[str, float, float]]:
    """(run, MACs, PSNR in dB) of the runs where both are known."""
    known = [row for row in rows if row["macs"] and row["psnr"]["mean"] is not None]
    return [(row["run"], row["macs"] / 1e9, row["psnr"]["mean"]) for row in known]
