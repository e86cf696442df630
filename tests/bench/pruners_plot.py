"""Quality over measured milliseconds, means over seeds, a panel for each engine: of `pruners.py`.

python tests/bench/pruners_plot.py OUT/rows.json pareto.png
"""

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress.base.files import read_json
from compress.reporting.plots import COLOURS, INK, MARKERS

COLUMNS = {
    "fused_b16_ms": "fused, 16 slices",
    "fused_b1_ms": "fused, one slice",
    "compiled_b1_ms": "torch.compile, one slice",
}
"""Columns of times, and what they are of."""
Row = Mapping[str, Any]


class Point(NamedTuple):
    """An arm, the mean over its seeds."""

    ms: float
    psnr: float
    sd: float
    """Of PSNR over the seeds; 0 for one seed."""


def points(rows: Sequence[Row], column: str) -> dict[str, list[Point]]:
    """Arms by kind: macs-60-0, macs-60-1 and macs-75-0 are two points of macs."""
    arms = defaultdict[str, list[Row]](list)
    for row in rows:
        if row["status"] == "done" and row.get(column):
            arms[row["name"].removesuffix(f"-{row['seed']}")].append(row)
    found = defaultdict[str, list[Point]](list)
    for name, own in arms.items():
        kind = "-".join(word for word in name.split("-") if not word.isdigit())
        ms, psnr = [row[column] for row in own], [row["psnr"] for row in own]
        sd = statistics.stdev(psnr) if len(psnr) > 1 else 0.0
        found[kind].append(Point(statistics.fmean(ms), statistics.fmean(psnr), sd))
    return dict(found)


def front(some: Iterable[Point]) -> list[Point]:
    """Points that no other is faster and better than, the fastest first."""
    found = list[Point]()
    for point in sorted(some, key=lambda one: (one.ms, -one.psnr)):
        if not found or point.psnr > found[-1].psnr:
            found.append(point)
    return found


def plot(rows: Sequence[Row], path: Path) -> list[str]:
    """Write the picture; the columns of times that it shows, none where there are no times."""
    shown = [column for column in COLUMNS if any(row.get(column) for row in rows)]
    if not shown:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(shown), figsize=(5 * len(shown), 4.2), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, column in zip(axes[0], shown, strict=True):
        _panel(axis, rows, column)
    axes[0][0].set_ylabel("PSNR, dB")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return shown


def _panel(axis: Any, rows: Sequence[Row], column: str) -> None:
    found = points(rows, column)
    kinds = dict.fromkeys(kind for every in COLUMNS for kind in points(rows, every))
    for index, kind in enumerate(kinds):
        ms, psnr, sd = zip(*found.get(kind, ()), strict=True) if found.get(kind) else ((), (), ())
        axis.errorbar(
            ms, psnr, sd, label=kind, color=COLOURS[index % len(COLOURS)], linestyle="none",
            marker=MARKERS[(index + index // len(COLOURS)) % len(MARKERS)], markersize=7,
            elinewidth=0.8,
        )  # fmt: skip
    best = front(point for some in found.values() for point in some)
    axis.step(
        [one.ms for one in best], [one.psnr for one in best], where="post", color=INK, linewidth=0.8
    )
    axis.set_xlabel("ms a slice, 512x512")
    axis.set_title(COLUMNS[column], fontsize=10, color=INK)
    axis.grid(alpha=0.25)


if __name__ == "__main__":
    plot(read_json(Path(sys.argv[1])), Path(sys.argv[2]))
