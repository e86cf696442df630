"""Physics of image quality as pictures: curves, bars with intervals, and maps, PNG.

What is drawn comes from `quality.records.PhysicsFacts`, as plain JSON, and from its file of maps.
"""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from compress.reporting.physics import OBSERVERS, Facts, networks
from compress.reporting.plots import COLOURS, INK

Maps = Mapping[str, np.ndarray]
STYLES = {
    "input": ("#8b95a1", ":"),
    "full": (INK, "--"),
    "dense": (COLOURS[0], "-"),
    "compressed": (COLOURS[1], "-"),
    "model": (COLOURS[0], "-"),
}
SPAN = {"bias": 20.0, "sd": 100.0}
"""HU at the ends of the colours of maps."""


class Figure(TypedDict):
    """A picture of the page."""

    label: str
    """Caption."""
    alt: str
    """What it shows."""
    uri: str
    """PNG as a data URI."""


def figures(facts: Facts, maps: Maps) -> list[Figure]:
    """Curves, bars and maps."""
    return [*_curves(facts), *_bars(facts), *_maps(facts, maps)]


def _style(names: Sequence[str], name: str) -> tuple[str, str]:
    """Colour and line of a network."""
    if name in STYLES:
        return STYLES[name]
    others = [one for one in names if one not in STYLES]
    return COLOURS[(2 + others.index(name)) % len(COLOURS)], "-"


def _curves(facts: Facts) -> Iterator[Figure]:
    names, noise = networks(facts), facts["noise"]
    if noise:
        yield _plot(
            "Noise power spectrum, soft tissue",
            ("Frequency, 1/mm", "NPS, HU² mm²"),
            names, noise["frequency"], noise["curves"], log=True,
        )  # fmt: skip
        full = np.array(noise["curves"]["full"])
        ratios = {n: np.array(c) / np.maximum(full, 1e-12) for n, c in noise["curves"].items()}
        yield _plot(
            "NPS over that of the full dose",
            ("Frequency, 1/mm", "Ratio"),
            names, noise["frequency"], ratios, log=True,
        )  # fmt: skip
    for found in facts["sharpness"]:
        yield _plot(
            f"TTF, disc of {found['contrast']:g} HU",
            ("Frequency, 1/mm", "TTF"),
            names, found["frequency"], found["curves"], half=True,
        )  # fmt: skip


def _plot(
    title: str, axis: tuple[str, str], names: Mapping[str, str], x: Sequence[float],
    curves: Mapping[str, Any], *, log: bool = False, half: bool = False,
) -> Figure:  # fmt: skip
    def draw(axes: Any) -> None:
        for name, label in names.items():
            colour, line = _style([*names], name)
            axes.plot(x, curves[name], color=colour, linestyle=line, linewidth=1.8, label=label)
        if log:
            axes.set_yscale("log")
            axes.set_ylim(top=4 * axes.get_ylim()[1])  # room for the legend
        if half:
            axes.axhline(0.5, color="#dfe3e7", linewidth=1.2)
            axes.set_ylim(-0.05, 1.45)
        axes.set(xlabel=axis[0], ylabel=axis[1], title=title)
        axes.set_xlim(0, x[-1])
        _legend(axes)

    curve_names = ", ".join(names.values())
    return {"label": title, "alt": f"{title}: curves of {curve_names}", "uri": _png(draw)}


def _bars(facts: Facts) -> Iterator[Figure]:
    names, tasks = networks(facts), facts["detection"]
    if not tasks:
        return
    for observer, label in OBSERVERS.items():
        title = f"Detectability, {label}"

        def draw(axes: Any, observer: str = observer, title: str = title) -> None:
            width = 0.8 / len(names)
            for k, (name, text) in enumerate(names.items()):
                found = [task["observers"][observer][name] for task in tasks]
                values = [one["value"] for one in found]
                below = [max(one["value"] - one["low"], 0) for one in found]
                above = [max(one["high"] - one["value"], 0) for one in found]
                places = np.arange(len(tasks)) + (k - (len(names) - 1) / 2) * width
                axes.bar(places, values, width, color=_style([*names], name)[0], label=text)
                axes.errorbar(
                    places, values, (below, above), fmt="none", ecolor="#d13b3b", capsize=2
                )
            discs = [f"{t['diameter']:g} mm\n{t['contrast']:g} HU" for t in tasks]
            axes.set_xticks(range(len(tasks)), discs)
            axes.set(ylabel="d'", title=title)
            axes.margins(y=0.35)
            _legend(axes)

        yield {
            "label": f"{title}, with 95 % intervals",
            "alt": f"{title}: bars by disc for {', '.join(names.values())}",
            "uri": _png(draw),
        }


def _maps(facts: Facts, maps: Maps) -> Iterator[Figure]:
    for name, label in networks(facts).items():
        for kind, text in (("bias", "bias"), ("sd", "noise"), ("nps", "2-D NPS")):
            image = maps.get(f"{kind}-{name}")
            if image is not None and not (kind == "bias" and name == "input"):
                yield _map(kind, f"{label}: {text}", image, facts["slices"][0])


def _map(kind: str, title: str, image: np.ndarray, where: str) -> Figure:
    def draw(axes: Any) -> None:
        shown, ends = image, {"vmin": 0.0, "vmax": SPAN["sd"]}
        if kind == "bias":
            ends = {"vmin": -SPAN["bias"], "vmax": SPAN["bias"]}
        if kind == "nps":
            shown, ends = np.fft.fftshift(image), {"vmin": 0.0, "vmax": float(image.max())}
        colours = {"bias": "RdBu_r", "sd": "magma", "nps": "magma"}[kind]
        found = axes.imshow(shown, cmap=colours, **ends)
        axes.figure.colorbar(found, ax=axes, shrink=0.8, label="HU² mm²" if kind == "nps" else "HU")
        axes.set(xticks=[], yticks=[], title=title)
        axes.spines[:].set_visible(False)
        axes.grid(False)

    alt = f"{title} of slice {where}"
    return {"label": alt, "alt": alt, "uri": _png(draw)}


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=8.5, ncols=2, loc="upper center")


def _png(draw: Callable[[Any], None]) -> str:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.3, 3.4), layout="constrained", dpi=150)
    axes = canvas.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dfe3e7", linewidth=0.8)
    axes.set_axisbelow(True)
    draw(axes)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
