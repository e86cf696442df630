"""The files of a sweep: sweep.csv, sweep.json and sweep.md."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from compress.base.files import write_atomic, write_json
from compress.base.words import listed
from compress.reporting.formatting import DASH
from compress.sweep.rows import QUALITY, Row, gather, summary

SCHEMA = 1
COLUMNS = (
    "point", "kind", "status", "reason", "macs_removed", "params_removed", "channels_removed",
    "zeros", "macs", "params", "align", "eligible_backend", "eligible_trt", "convolutions",
    *(column for name in QUALITY for column in (name, f"{name}_sd", f"delta_{name}")),
    "slices", "seconds_dense", "seconds_extra", "latency_ms", "times_as_fast", "times_as_fast_min",
    "times_as_fast_max", "seconds",
    "device", "commit",
    "recipe", "command", "key", "baseline_key", "without", "jobs",
)  # fmt: skip
"""Columns of sweep.csv after the varied options."""


def write(out: Path, command: str) -> list[Row]:
    """Write sweep.csv, sweep.json and sweep.md into `out`; returns the rows."""
    found = gather(out)
    means = summary(found)
    write_json(
        out / "sweep.json", {"schema": SCHEMA, "command": command, "rows": found, "summary": means}
    )
    write_atomic(out / "sweep.csv", _csv(found).encode())
    write_atomic(out / "sweep.md", markdown(means).encode())
    return found


def markdown(means: Sequence[Row]) -> str:
    """The means as a Markdown table; +- is one standard deviation over the repetitions."""
    keys = _keys(means)
    head = [
        "network", *(key.removeprefix("steps.") for key in keys), "runs", "MACs removed",
        "params removed", "convolutions eligible for 2:4", "PSNR, dB", "difference, dB",
        "SSIM", "difference", "RMSE, HU", "first training, s", "retraining, s",
        "times as fast (lowest to highest round)",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in means:
        values = [line["values"].get(key, DASH) for key in keys]
        lines.append("| " + " | ".join([line["name"], *values, *_cells(line)]) + " |")
    notes = (line for note in _same(means) for line in ("", note))
    return "\n".join([*lines, *notes]) + "\n"


def _same(means: Sequence[Row]) -> Iterator[str]:
    """Of which points pruning left the same widths, where they differ in what it was asked for."""
    alike: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], list[Row]] = defaultdict(list)
    for line in means:
        if line["kind"] == "point" and line.get("widths"):
            others = tuple(item for item in line["values"].items() if "prune." not in item[0])
            alike[tuple(line["widths"]), others].append(line)
    for (_, others), lines in alike.items():
        if len(lines) > 1:
            where = f" at {_options(dict(others))}" if others else ""
            yield (
                f"{listed([_options(_pruning(line)) for line in lines])}{where} came to the same "
                "widths: networks of one size and speed, so that `times as fast` differs by chance."
            )


def _pruning(line: Row) -> dict[str, str]:
    return {key: value for key, value in line["values"].items() if "prune." in key}


def _options(values: Mapping[str, str]) -> str:
    return ", ".join(f"`{key.removeprefix('steps.')}={value}`" for key, value in values.items())


def _cells(line: Row) -> list[str]:
    if line["psnr"]["mean"] is None:
        return [str(line["count"]), *[DASH] * 10, "; ".join(line["reasons"])]
    extra, dense = line["seconds_extra"]["mean"], line["seconds_dense"]["mean"]
    return [
        str(line["count"]),
        f"{100 * line['macs_removed']['mean']:.1f} %",
        f"{100 * line['params_removed']['mean']:.1f} %",
        _eligible(line),
        _plus_minus(line["psnr"], 2),
        _plus_minus(line["delta_psnr"], 2),
        _plus_minus(line["ssim"], 4),
        _plus_minus(line["delta_ssim"], 4),
        _plus_minus(line["rmse_hu"], 2),
        f"{dense:.1f}",
        f"{extra:.1f}",
        DASH if _is_dense(line) else _times(line),
    ]


def _eligible(line: Row) -> str:
    of = line["convolutions"]["mean"]
    return f"{line['eligible_backend']['mean']:.0f}" + (f" of {of:.0f}" if of is not None else "")


def _is_dense(line: Row) -> bool:
    """Whether it is the dense network, trained longer: its times differ from it by chance alone.

    A point from which nothing was removed may be 2:4 or INT8.
    """
    removed = line["macs_removed"]["mean"] or line["params_removed"]["mean"]
    return line["kind"] == "baseline" and not removed


def _times(line: Row) -> str:
    found = _plus_minus(line["times_as_fast"], 2)
    ends = line.get("times_as_fast_range")
    return f"{found} ({ends[0]:.2f} to {ends[1]:.2f})" if ends else found


def _plus_minus(moments: Mapping[str, float | None], digits: int) -> str:
    mean, sd = moments["mean"], moments["sd"]
    if mean is None:
        return DASH
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def _csv(rows: Sequence[Row]) -> str:
    keys = _keys(rows)
    text = io.StringIO()
    table = csv.DictWriter(text, [*keys, *COLUMNS], extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(row | row["values"] for row in rows)
    return text.getvalue()


def _keys(rows: Iterable[Row]) -> list[str]:
    """The varied options of all rows, in order."""
    return list(dict.fromkeys(key for row in rows for key in row["values"]))
