"""What a sweep found as pictures: quality, training time and speed, PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
COLOURS = ("#0b63b8", "#b4500c", "#2f7d32", "#7b3fa0", "#8a6d00", "#c2185b", "#00838f", "#5d4037")
MARKERS = "osD^vP*X"
INK = "#15181c"


def sweep(means: Sequence[Row], folder: Path) -> list[Path]:
    """quality.png, seconds.png and speed.png of a sweep; none where no point has ended.

    Args:
        means: as `sweep.rows.summary` gives them.
        folder: where the files go.

    Returns:
        The paths of the files written.
    """
    done = [line for line in means if line["psnr"]["mean"] is not None]
    if not any(line["kind"] == "point" for line in done):
        return []
    x = _Along(done)
    return [
        _quality(x, folder / "quality.png"),
        _seconds(x, folder / "seconds.png"),
        _speed(x, folder / "speed.png"),
    ]


class _Along:
    """What runs along the x axis, and the lines of points that share all other varied options."""

    def __init__(self, means: Sequence[Row]) -> None:
        points = [line for line in means if line["kind"] == "point"]
        keys = list(dict.fromkeys(key for line in points for key in line["values"]))
        numeric = [key for key in keys if all(_number(p["values"].get(key, "")) for p in points)]
        solved = [key for key in numeric if key.endswith((".amount", ".threshold"))]
        self.key = solved[0] if solved else next(iter(numeric), None)
        self._removed = bool(solved) or self.key is None
        self.label = "MACs removed, %" if self._removed else _words(str(self.key))
        self.baselines = [line for line in means if line["kind"] == "baseline"]
        self.lines: dict[str, list[Row]] = {}
        for line in points:
            rest = {k: v for k, v in line["values"].items() if k != self.key}
            name = ", ".join(rest.values()) or "compressed"
            self.lines.setdefault(name, []).append(line)
        for own in self.lines.values():
            own.sort(key=self.of)

    def of(self, line: Row) -> float:
        """Where a line of the table stands on the axis."""
        if self._removed:
            return float(100 * line["macs_removed"]["mean"])
        return float(line["values"].get(self.key, "nan"))

    def flat(self, line: Row) -> bool:
        """Whether a baseline has no place on the axis and holds for all of it."""
        return self._removed or self.key not in line["values"]


def _quality(x: _Along, path: Path) -> Path:
    """PSNR and SSIM with one standard deviation over the repetitions."""
    figure, (left, right) = _figure(10, 4.2, 2)
    for axes, name, label in ((left, "psnr", "PSNR, dB"), (right, "ssim", "SSIM")):
        for index, (series, lines) in enumerate(x.lines.items()):
            _line(axes, x, lines, name, series, index)
        dense = [line for line in x.baselines if not x.flat(line)]
        if dense:
            named = f"{dense[0]['name']}, trained as long"
            _line(axes, x, sorted(dense, key=x.of), name, named, len(x.lines), "#59626d")
        for line in filter(x.flat, x.baselines):
            mean, sd = line[name]["mean"], line[name]["sd"] or 0.0
            named = f"{line['name']}, trained as long"
            axes.axhline(mean, color="#15181c", linestyle="--", linewidth=1.2, label=named)
            axes.axhspan(mean - sd, mean + sd, color="#15181c", alpha=0.10, linewidth=0)
        axes.set(xlabel=x.label, ylabel=label)
        axes.ticklabel_format(axis="y", useOffset=False)
    left.legend(frameon=False, loc="lower left")
    figure.savefig(path)
    return path


def _seconds(x: _Along, path: Path) -> Path:
    """Seconds of dense training (thin, once) and of what compression adds to it."""
    figure, (axes,) = _figure(6, 4.2)
    for index, (series, lines) in enumerate(x.lines.items()):
        _line(axes, x, lines, "seconds_extra", f"{series}: retraining", index)
    dense = [line for lines in x.lines.values() for line in lines]
    if x.key is not None and "epochs" in x.key:
        first = next(iter(x.lines.values()))
        _line(axes, x, first, "seconds_dense", "dense training", len(x.lines), "#59626d")
    else:
        mean = dense[0]["seconds_dense"]["mean"]
        axes.axhline(mean, color="#59626d", linestyle="--", label="dense training, once")
    axes.set(xlabel=x.label, ylabel="training, s")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path)
    return path


def _speed(x: _Along, path: Path) -> Path:
    """Operations for a slice, and how much faster that is where the sweep ran."""
    figure, (left, right) = _figure(10, 4.2, 2)
    for index, (series, lines) in enumerate(x.lines.items()):
        _line(left, x, lines, "macs", series, index, scale=1e-9)
        timed = [line for line in lines if line["times_as_fast"]["mean"] is not None]
        _line(right, x, timed, "times_as_fast", series, index)
    left.set(xlabel=x.label, ylabel="GMAC of a 512x512 slice")
    left.set_ylim(bottom=0)
    right.axhline(1, color="#59626d", linestyle="--", linewidth=1.2, label="dense")
    lines = [m for own in x.lines.values() for m in own if m["times_as_fast"]["mean"] is not None]
    bars = lines and all(m.get("times_as_fast_range") for m in lines)
    told = "\n(bars: lowest and highest round)" if bars else ""
    right.set(xlabel=x.label, ylabel=f"times as fast as the dense network{told}")
    right.legend(frameon=False)
    figure.savefig(path)
    return path


def _line(
    axes: Any, x: _Along, lines: Sequence[Row], name: str, label: str, index: int,
    colour: str = "", scale: float = 1.0,
) -> None:  # fmt: skip
    means = [scale * line[name]["mean"] for line in lines]
    spread = _bars(lines, name, scale)
    axes.errorbar(
        [x.of(line) for line in lines],
        means,
        yerr=spread if any(map(any, spread)) else None,
        color=colour or COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        markersize=4.5,
        linewidth=1.5,
        capsize=3,
        label=label,
    )


def _bars(lines: Sequence[Row], name: str, scale: float) -> list[list[float]]:
    """How far bars go below and above: a standard deviation, of times to the rounds at the ends."""
    ends = [found for line in lines if (found := line.get(f"{name}_range"))]
    if lines and len(ends) == len(lines):
        means = [line[name]["mean"] for line in lines]
        pairs = [(m - low, high - m) for m, (low, high) in zip(means, ends, strict=True)]
        return [[scale * max(0.0, one) for one in side] for side in zip(*pairs, strict=True)]
    sds = [scale * (line[name]["sd"] or 0.0) for line in lines]
    return [sds, sds]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(True, color="#dfe3e7", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def _words(key: str) -> str:
    """steps.train.epochs -> train epochs."""
    return key.removeprefix("steps.").replace(".", " ").replace("_", " ")


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
