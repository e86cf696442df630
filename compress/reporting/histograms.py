"""The scores of each layer as a histogram, with the fitted normal curve and the threshold: PNG."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.reporting.asked import amount, packed
from compress.reporting.plots import COLOURS, INK

Facts = Mapping[str, Any]
COLUMNS, PANEL = 7, (2.15, 1.55)
"""Panels in a row, and the width and height of one in inches."""
FEW, LARGE = 4, (3.1, 2.2)
"""The same where there are no more than COLUMNS groups."""
LETTERS = 12
"""Letters of the title that fit on an inch."""
KEPT, GONE = COLOURS[:2]


def bins(scores: Sequence[float]) -> list[float]:
    """Edges of a layer's bins: about as many as the square root of twice its channels."""
    low, high = min(scores), max(scores)
    if high - low <= 1e-9 * abs(high):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    count = max(4, round(math.sqrt(2 * len(scores))))
    return [low + (high - low) * index / count for index in range(count + 1)]


def kept_first(group: Facts) -> tuple[list[float], list[float]]:
    """The scores of the channels that stay and of those that go; of equal ranks the first stay."""
    order = sorted(range(group["width"]), key=lambda i: (-group["z"][i], i))
    ordered = [group["scores"][i] for i in order]
    return ordered[: group["kept"]], ordered[group["kept"] :]


def normal(x: float, group: Facts, width: float) -> float:
    """Channels that the fitted normal distribution expects in a bin of this width around `x`."""
    z = (x - group["mean"]) / group["sigma"]
    density = math.exp(-z * z / 2) / (group["sigma"] * math.sqrt(2 * math.pi))
    return float(group["width"] * width * density)


def draw(pruning: Facts, path: Path) -> None:
    """Write a picture of every group of channels.

    Args:
        pruning: what `Prune.describe` says of one step.
        path: the PNG file; replaced.
    """
    figure(pruning).savefig(path, format="png")


def figure(pruning: Facts) -> Any:
    """The picture that `draw` writes, of matplotlib."""
    from matplotlib.figure import Figure

    groups = pruning["groups"]
    few = len(groups) <= COLUMNS
    columns = max(1, min(len(groups), FEW)) if few else COLUMNS  # no empty panels on the right
    wide, high = LARGE if few else PANEL
    rows = max(1, math.ceil(len(groups) / columns))
    size = (max(wide * columns, 2 * LARGE[0]), high * rows + 0.8)
    made = Figure(figsize=size, layout="constrained", dpi=110)
    grid = made.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(groups) :]:
        axes.set_visible(False)
    for axes, group in zip(grid, groups, strict=False):
        _panel(axes, group, pruning)
    made.suptitle(textwrap.fill(_title(pruning), int(LETTERS * size[0])), fontsize=11)
    made.supxlabel(f"score of a channel ({pruning['criterion']})", fontsize=9)
    made.supylabel("channels", fontsize=9)
    return made


def _title(pruning: Facts) -> str:
    removed = 100 * pruning["removed"]["macs"]
    asked = f" ({said})" if (said := amount(pruning)) else ""
    rises = ", which rises until enough goes" if asked and not packed(pruning) else ""
    return (
        f"{pruning['criterion']}: {removed:.1f} % of the MACs go with the orange channels{asked}. "
        f"They lie below the dashed threshold{rises}; kept counts are rounded up to "
        f"multiples of {pruning['align']}. Curve: fitted normal distribution."
    )


def _panel(axes: Any, group: Facts, pruning: Facts) -> None:
    edges = bins(group["scores"])
    axes.hist(kept_first(group), bins=edges, stacked=True, color=[KEPT, GONE], rwidth=0.92)
    if group["sigma"] > 0:
        span = edges[-1] - edges[0]
        xs = [edges[0] + span * (i / 80) for i in range(81)]
        width = edges[1] - edges[0]
        axes.plot(xs, [normal(x, group, width) for x in xs], color="#59626d", linewidth=1)
    if group["threshold"] is not None and not group["fixed"]:
        inside = min(max(group["threshold"], edges[0]), edges[-1])  # at the border if beyond
        axes.axvline(inside, color=INK, linestyle="--", linewidth=1)
    room = 0.02 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - room, edges[-1] + room)
    note = "stays" if group["fixed"] else f"{group['kept']}/{group['width']}"
    axes.set_title(f"{_short(group['name'])}  {note}", fontsize=7.5, pad=3)
    axes.tick_params(labelsize=6, length=2, pad=1.5)
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    """blocks.0.1.bottleneck.conv -> 0.1.bottleneck, so that it fits above a panel."""
    short = name.removesuffix(".conv").removeprefix("blocks.")
    return short if len(short) <= 22 else f"…{short[-21:]}"
