"""Physics of image quality for people: one table, and what is to be said of it.

What is shown comes from `quality.records.PhysicsFacts`, as plain JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from compress.quality.similarity import LABELS
from compress.reporting.formatting import figure, signed

Facts = Mapping[str, Any]
NAMES = {
    "input": "Low dose",
    "full": "Full dose (simulated)",
    "dense": "Dense",
    "compressed": "Compressed",
    "model": "Network",
}
"""Networks and doses in the order of the table, and what they are called."""
OBSERVERS = {"npwe": "NPW with eye filter", "cho": "channelised Hotelling"}
LIMITS = (
    "What cannot be claimed: the noise is simulated, of one scanner model; the slices are of "
    "{people}; the discs are where the observers know them to be, on a background that they know; "
    "no reader took part. A higher d' than the low dose's is no gained information, as a model "
    "observer is not the ideal one. TTF and contrast are those of the network alone, not of the "
    "scanner."
)


class Group(TypedDict):
    """Rows of the table under one head."""

    head: str
    """What is measured, with its unit."""
    rows: list[tuple[str, dict[str, str]]]
    """Label, and text by network."""


def networks(facts: Facts) -> dict[str, str]:
    """What was measured, in the order of the table."""
    first = [name for name in NAMES if name in facts["networks"]]
    return {name: NAMES.get(name, name) for name in dict.fromkeys((*first, *facts["networks"]))}


def limits(facts: Facts) -> str:
    """What cannot be claimed."""
    count = len(facts["patients"])
    people = "one patient" if count == 1 else f"{count} patients"
    return LIMITS.format(people=people)


def about(facts: Facts) -> str:
    """How it was measured, in a sentence."""
    return (
        f"{facts['realisations']} noise realisations of each of {len(facts['slices'])} slices at "
        f"{facts['photons']:,.0f} photons a ray; the full dose has {facts['dose_ratio']:g} times "
        "as many. All networks see the same noise and the same inserted discs. Intervals hold 95 % "
        "of bootstrap samples over realisations."
    )


def costs(facts: Facts) -> list[str]:
    """What compression costs each network, in a sentence."""
    names = networks(facts)
    return [_cost(names[name], found) for name, found in facts["losses"].items()]


def _cost(name: str, found: Facts) -> str:
    parts = []
    if found["bias_hu"] is not None:
        parts.append(f"the mean of a tissue changes by up to {figure(found['bias_hu'])} HU")
    if found["nps_shift"] is not None:
        parts.append(f"the mean frequency of noise by {figure(100 * found['nps_shift'], 1)} %")
    if loss := found["dprime_loss"]:
        value, low, high = (signed(-100 * loss[key], 1) for key in ("value", "high", "low"))
        parts.append(f"detectability by {value} % (95 % interval {low} to {high} %)")
    return f"{name} beside the dense network: {', '.join(parts) or 'no value'}."


def table(facts: Facts) -> list[Group]:
    """Every number by group, row and network."""
    return [group for group in _groups(facts) if group["rows"]]


def _groups(facts: Facts) -> Iterator[Group]:
    names = [*networks(facts)]
    tissues = [*facts["tissues"][names[0]]]
    for key, head, write in (
        ("bias", "Mean bias, HU", signed),
        ("bias_rms", "Root mean square bias, HU", figure),
        ("sd", "Noise (standard deviation), HU", figure),
    ):
        rows = [(t, {n: write(facts["tissues"][n][t][key]) for n in names}) for t in tissues]
        yield {"head": head, "rows": rows}
    yield {"head": "Noise power spectrum in soft tissue", "rows": _noise(facts["noise"], names)}
    for key, head in (
        ("f50", "TTF: frequency of one half, 1/mm"),
        ("recovery", "Contrast left of the inserted one"),
        ("cnr", "CNR"),
    ):
        rows = [(_disc(s), {n: _sharp(s, key, n) for n in names}) for s in facts["sharpness"]]
        yield {"head": head, "rows": rows}
    for observer, label in OBSERVERS.items():
        rows = [
            (_disc(d), {n: _interval(d["observers"][observer][n]) for n in names})
            for d in facts["detection"]
        ]
        yield {"head": f"Detectability d', {label}", "rows": rows}
    found = facts["indices"]
    rows = [(LABELS[k], {n: figure(found[n][k], 4) for n in names}) for k in LABELS]
    yield {"head": "Indices of the whole slice, one realisation beside the full dose", "rows": rows}


def _noise(found: Facts | None, names: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    if found is None:
        return []
    labels = {
        "mean_frequency": "mean frequency, 1/mm",
        "peak_frequency": "peak frequency, 1/mm",
        "to_full": "mean frequency over the full dose's",
    }
    return [(text, {n: figure(found[k][n], 3) for n in names}) for k, text in labels.items()]


def _disc(found: Facts) -> str:
    return f"{found['contrast']:g} HU, {found['diameter']:g} mm, {found['places']} places"


def _sharp(found: Facts, key: str, name: str) -> str:
    value = found[key][name]
    if key == "f50" and value is None:
        return f"above {found['frequency'][-1]:.2f}"
    return figure(value, 3)


def _interval(found: Facts) -> str:
    return f"{figure(found['value'])} ({figure(found['low'])} to {figure(found['high'])})"


def markdown(facts: Facts) -> str:
    """The table as Markdown, with how it was measured and what cannot be claimed."""
    names = networks(facts)
    head = f"| | {' | '.join(names.values())} |"
    lines = [about(facts), "", head, "|---|" + "---:|" * len(names)]
    for group in table(facts):
        lines.append(f"| **{group['head']}** |" + " |" * len(names))
        for label, cells in group["rows"]:
            lines.append(f"| {label} | {' | '.join(cells[n] for n in names)} |")
    return "\n".join([*lines, "", *costs(facts), "", limits(facts)])
