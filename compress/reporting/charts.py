"""Numbers as SVG inside the page: the page's style sheet gives the colours, light and dark."""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from compress.reporting.formatting import scientific
from compress.reporting.histograms import bins, kept_first, normal

WIDTH, HEIGHT = 760, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 40
"""Margins of the training chart for its tick labels and stage names, in SVG units."""


def training(stages: Sequence[Mapping[str, Any]], between: dict[str, str]) -> Markup:
    """The loss over the epochs of all training stages, logarithmic, as an <svg>.

    Args:
        stages: [{stage, loss: [mean of each epoch]}], in order.
        between: name of a training stage -> what was done to the network just before it.
    """
    losses = [value for stage in stages for value in stage["loss"]]
    positive = [value for value in losses if value > 0] or [1.0]  # a logarithm has no zero
    ticks = _ticks(min(positive), max(positive))
    low, decades = math.log10(ticks[0]), math.log10(ticks[-1] / ticks[0])

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * epoch / len(losses)

    def y(loss: float) -> float:
        share = (math.log10(max(loss, ticks[0])) - low) / decades
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [_horizontal(y(tick), scientific(tick, 0)) for tick in ticks]
    parts += [_below(x(epoch), 16, epoch) for epoch in _epochs(len(losses))]
    parts.append(_below((LEFT + WIDTH - RIGHT) / 2, 34, "epoch"))
    start = 0
    for stage in stages:
        parts += _stage(stage, start, x, y, between.get(stage["stage"], ""))
        start += len(stage["loss"])
    label = f"Training loss by epoch, from {losses[0]:.2e} to {losses[-1]:.2e}"
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(WIDTH, HEIGHT, label, Markup("").join(parts))


def strip(values: Sequence[float], kept: int, threshold: float, scale: str) -> Markup:
    """The channels of a layer as dots along the axis that decides, with the threshold, an <svg>.

    Args:
        values: rank of each channel.
        kept: how many of the highest stay (of equal ones those with the lower index).
        threshold: where the line stands.
        scale: what `values` are: "z" (drawn from -3.5 to 3.5), "place" in [0, 1], or "score",
            drawn from the lowest to the highest.
    """
    own = (min(values), max(values) or 1.0)
    low, high = {"z": (-3.5, 3.5), "place": (0.0, 1.0)}.get(scale, own)
    high = max(high, low + 1e-12)

    def x(value: float) -> float:
        return 4 + 172 * (min(max(value, low), high) - low) / (high - low)

    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    dots = [
        Markup('<circle class="{}" cx="{:.1f}" cy="9" r="2.6"/>').format(
            "kept" if place < kept else "gone", x(values[channel])
        )
        for place, channel in enumerate(order)
    ]
    line = Markup('<path class="threshold" d="M{:.1f} 1V17"/>').format(x(threshold))
    body = Markup("").join([*dots, line])
    axis = Markup('<path class="axis" d="M4 9H176"/>')
    return Markup('<svg class="strip" viewBox="0 0 180 18">{}{}</svg>').format(axis, body)


def histogram(group: Mapping[str, Any]) -> Markup:
    """The scores of a layer's channels, the fitted normal curve and the threshold, an <svg>.

    Args:
        group: name, width, kept, z, scores, mean, sigma, threshold, as prune's facts have them.
    """
    edges = bins(group["scores"])
    width, high = edges[1] - edges[0], 40.0
    kept, gone = (_counts(scores, edges) for scores in kept_first(group))
    curve = [edges[0] + (edges[-1] - edges[0]) * i / 40 for i in range(41)]
    heights = [normal(x, group, width) if group["sigma"] > 0 else 0.0 for x in curve]
    scale = (high - 2) / max(*(a + b for a, b in zip(kept, gone, strict=True)), *heights)

    def x(score: float) -> float:
        share = (score - edges[0]) / (edges[-1] - edges[0])
        return 4 + 172 * min(max(share, 0.0), 1.0)

    bar = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    parts = []
    for edge, a, b in zip(edges, kept, gone, strict=False):
        left, across = x(edge) + 0.5, x(edge + width) - x(edge) - 1
        parts.append(bar.format("bar-kept", left, high - a * scale, across, a * scale))
        parts.append(bar.format("bar-gone", left, high - (a + b) * scale, across, b * scale))
    points = " ".join(
        f"{x(px):.1f},{high - py * scale:.1f}" for px, py in zip(curve, heights, strict=True)
    )
    parts.append(Markup('<polyline class="curve" points="{}"/>').format(points))
    if group["threshold"] is not None:
        line = Markup('<path class="threshold" d="M{:.1f} 1V{}"/>')
        parts.append(line.format(x(group["threshold"]), high))
    svg = Markup('<svg class="histogram" viewBox="0 0 180 42">{}</svg>')
    return svg.format(Markup("").join(parts))


def scatter(points: Sequence[tuple[str, float, float]]) -> Markup:
    """PSNR over GMACs, a named dot for each run, an <svg>; nothing for fewer than two.

    Args:
        points: (name, GMACs, dB).
    """
    if len(points) < 2:
        return Markup("")
    low, high = (extreme(quality for _, _, quality in points) for extreme in (min, max))
    room = 0.15 * (high - low) or 0.5
    low, high, right = low - room, high + room, 1.08 * max(cost for _, cost, _ in points)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / right

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [_horizontal(y(tick), f"{tick:g}") for tick in _linear(low, high)]
    parts += [_below(x(tick), 16, f"{tick:g}") for tick in _linear(0, right)]
    parts.append(_below((LEFT + WIDTH - RIGHT) / 2, 34, "GMACs"))
    together: dict[tuple[int, int], list[str]] = {}  # names of dots that cover each other
    for name, cost, quality in points:
        together.setdefault((round(x(cost) / 6), round(y(quality) / 6)), []).append(name)
        title = f"{name}: {cost:.2f} GMACs, {quality:.2f} dB"
        dot = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>')
        parts.append(dot.format(x(cost), y(quality), title))
    for (left, top), names in together.items():
        side = -10 if 6 * left > WIDTH / 2 else 10
        text = Markup('<text class="{}" x="{}" y="{}" dy=".35em">{}</text>')
        name = ", ".join(names)
        parts.append(
            text.format("before" if side < 0 else "behind", 6 * left + side, 6 * top, name)
        )
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    label = "PSNR in dB over GMACs; the tables below hold the numbers"
    return svg.format(WIDTH, HEIGHT, label, Markup("").join(parts))


def _counts(scores: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many scores lie in each bin; the last one holds its upper edge."""
    last = len(edges) - 2
    places = [min(max(bisect_right(edges, score) - 1, 0), last) for score in scores]
    return [places.count(index) for index in range(last + 1)]


def _stage(
    stage: Mapping[str, Any],
    start: int,
    x: Callable[[float], float],
    y: Callable[[float], float],
    before: str,
) -> list[Markup]:
    """One training stage: name, what went before it, line and a dot for every epoch."""
    losses, name = stage["loss"], stage["stage"]
    left, right = x(start), x(start + len(losses))
    parts = []
    if start:
        path = Markup('<path class="boundary" d="M{:.1f} {}V{}"/>')
        parts.append(path.format(left, TOP, HEIGHT - BOTTOM))
    label = f"{before}, {name}" if before else name
    if right - left > 6.2 * len(label):
        text = Markup('<text class="name" x="{:.1f}" y="{}">{}</text>')
        parts.append(text.format((left + right) / 2, TOP - 9, label))
    points = [(x(start + i + 0.5), y(loss)) for i, loss in enumerate(losses)]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    parts.append(Markup('<polyline class="line" points="{}"/>').format(line))
    for i, (px, py) in enumerate(points):
        dot = Markup(
            '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="2.5"><title>{}</title></circle>'
        )
        parts.append(dot.format(px, py, f"{name}, epoch {i + 1}: {losses[i]:.3e}"))
    return parts


def _horizontal(y: float, label: str) -> Markup:
    return Markup(
        '<path class="grid" d="M{left} {y:.1f}H{right}"/>'
        '<text class="left" x="{before}" y="{y:.1f}" dy=".35em">{label}</text>'
    ).format(left=LEFT, right=WIDTH - RIGHT, before=LEFT - 8, y=y, label=label)


def _below(x: float, distance: int, label: object) -> Markup:
    text = Markup('<text x="{:.1f}" y="{}">{}</text>')
    return text.format(x, HEIGHT - BOTTOM + distance, label)


def _ticks(low: float, high: float) -> list[float]:
    """1-2-5 values (whole decades where there are three or more) that enclose [low, high]."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0,) if last - first >= 3 else (1.0, 2.0, 5.0)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    below = max(value for value in values if value <= low * (1 + 1e-9))
    above = min((value for value in values if value > low and value >= high), default=values[-1])
    return [value for value in values if below <= value <= above]


def _linear(low: float, high: float) -> list[float]:
    """About five round values in [low, high]."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(power * s for s in (1, 2, 5, 10) if (high - low) / (power * s) <= 6)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _epochs(count: int) -> range:
    """Epoch numbers on the axis: from 0, about ten of them."""
    step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if count <= 12 * s * 10**p)
    return range(0, count + 1, step)
