"""What a sweep found: one row a point, and means over repetitions."""

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compress import checkpoint
from compress.base.files import read_json
from compress.base.words import listed
from compress.checkpoint import Model
from compress.graph import cost
from compress.quality.metrics import METRICS
from compress.quantization.quantisers import plain
from compress.recipe import Recipe
from compress.run import preview
from compress.sweep.grid import COMPRESSING
from compress.sweep.latency import KEYS, latency

Row = dict[str, Any]
QUALITY = tuple(METRICS)
"""Means over the held-out slices; `<name>_sd` is their standard deviation over the slices."""
SEEDS = ("seed", "reseed")
"""Varied options that only repeat: rows that differ in nothing else are one line of the table."""
MEANS = (
    "macs", "macs_removed", "params_removed", "channels_removed", "zeros", "eligible_backend",
    "convolutions", *QUALITY, *(f"delta_{name}" for name in QUALITY),
)  # fmt: skip
FORMER = ("prune", "sparsify")
"""All compressing steps when there was no quantize; rows of older sweeps have them."""
TIMES = ("seconds_dense", "seconds_extra", "latency_ms", "times_as_fast")
"""What a neighbour on the device would spoil."""


def measured(run: Path, recipe: Recipe) -> Row:
    """The row of a finished run: costs, quality, seconds, and what made it.

    Args:
        run: its run folder.
        recipe: what was run.

    Returns:
        Shares are of the dense network; `zeros` is the share of its convolution weights that are
        gone or zero. None where nothing was measured.
    """
    stages = [read_json(path) for path in sorted(run.glob("[0-9][0-9]-*/facts.json"))]
    manifest = read_json(run / "manifest.json")
    saved = [
        run / stage["stage"] for stage in stages if (run / stage["stage"] / "model.json").exists()
    ]
    model = checkpoint.load(saved[-1])
    dense = checkpoint.Model(net=recipe.model.build(), origin=recipe.model)
    prunes = [stage["facts"] for stage in stages if stage["step"] == "prune"]
    return {
        **_costs(cost.cost(dense.net), cost.cost(model.net)),
        "widths": _widths(model),
        "channels_removed": 1 - _channels(model) / _channels(dense),
        "align": prunes[-1]["align"] if prunes else None,
        **preview.sparse24(replace(model, net=plain(model.net))),
        **_quality([stage["facts"] for stage in stages if stage["step"] == "evaluate"]),
        "seconds_dense": _seconds(stages, "train"),
        "seconds_extra": _seconds(stages, "retrain"),
        **_latency(dense, model, torch.device(manifest["device"])),
        "device": manifest["gpu"] or manifest["device"],
        "commit": manifest["commit"],
    }


def _latency(dense: Model, model: Model, device: torch.device) -> dict[str, float | None]:
    if model.quantised:  # simulated INT8 takes longer than float32, and no engine computes so
        return dict.fromkeys(KEYS)
    return latency(dense.net, model.net, device)


def gather(out: Path) -> list[Row]:
    """All rows in `out`, whoever made them, with `delta_*` to the baseline of the same key.

    Of several rows of one key the first counts that had the device for itself.
    """
    found = [read_json(path) for path in sorted((out / "points").glob("*/point.json"))]
    best = sorted(found, key=lambda row: row.get("jobs", 1))
    chosen = {(row["kind"], row["key"]): row["point"] for row in reversed(best)}
    unique = [row for row in found if row["point"] in chosen.values()]
    bases = {row["key"]: row for row in unique if row["kind"] == "baseline"}
    return [row | _deltas(row, bases.get(row["baseline_key"], {})) for row in unique]


def summary(rows: Iterable[Row]) -> list[Row]:
    """One line for all rows that differ in their seeds only: mean and sd of every number.

    Returns:
        kind, name, values, count, and {mean, sd} for each of `MEANS` and `TIMES`; sd is the
        sample standard deviation over the repetitions, None for one. Times are of rows that had the
        device for themselves, where there are any. times_as_fast_range: the lowest and the highest
        of their rounds, None where nobody has told. widths: hashes of the networks' shapes.
    """
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        values = {key: value for key, value in row["values"].items() if key not in SEEDS}
        groups[row["kind"], *values.items()].append(row | {"values": values})
    return [
        {
            "kind": group[0]["kind"],
            "name": _named(group[0]),
            "values": group[0]["values"],
            "count": len(group),
            "reasons": sorted({row["reason"] for row in group if row["reason"]}),
            **{name: _moments([row.get(name) for row in group]) for name in MEANS},
            **{name: _moments([row.get(name) for row in _alone(group)]) for name in TIMES},
            "times_as_fast_range": _range(_alone(group)),
            "widths": sorted({row["widths"] for row in group if row.get("widths")}),
        }
        for group in groups.values()
    ]


def _named(row: Row) -> str:
    """What a row is, for tables and plots; a baseline is dense unless it leaves out less."""
    if row["kind"] != "baseline":
        return "compressed"
    without = tuple(row.get("without", COMPRESSING))
    former = without == FORMER and "--without" not in row.get("command", "")
    return "dense" if former or without == COMPRESSING else f"without {listed(without)}"


def _alone(group: Sequence[Row]) -> Sequence[Row]:
    """The rows made while no other process was on the device; all where there are none."""
    return [row for row in group if row.get("jobs", 1) == 1] or group


def _range(group: Sequence[Row]) -> list[float] | None:
    """Of the rounds of all repetitions; rows of older sweeps have none."""
    ends = ("times_as_fast_min", "times_as_fast_max")
    low, high = ([v for row in group if (v := row.get(end)) is not None] for end in ends)
    return [min(low), max(high)] if low and high else None


def _costs(dense: cost.Cost, final: cost.Cost) -> Row:
    return {
        "macs": final.macs,
        "params": final.params,
        "macs_removed": 1 - final.macs / dense.macs,
        "params_removed": 1 - final.params / dense.params,
        "zeros": 1 - final.nonzero_weights / dense.conv_weights,
    }


def _channels(model: checkpoint.Model) -> int:
    return sum(out for _, out in checkpoint.channels(model.net).values())


def _widths(model: Model) -> str:
    """A hash of all shapes: networks of one hash compute the same, with other values."""
    shapes = {name: list(one.shape) for name, one in plain(model.net).state_dict().items()}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:16]


def _quality(evaluations: Sequence[Row]) -> Row:
    """Mean and standard deviation over the slices for the network that came out."""
    if not evaluations:
        return dict.fromkeys((*QUALITY, *(f"{name}_sd" for name in QUALITY), "slices"))
    last = evaluations[-1]
    found = last["summary"][last["networks"][-1]]
    moments = {name: found.get(name, {"mean": None, "sd": None}) for name in QUALITY}
    means = {name: one["mean"] for name, one in moments.items()}
    sds = {f"{name}_sd": one["sd"] for name, one in moments.items()}
    return means | sds | {"slices": last["slices"]}


def _seconds(stages: Iterable[Row], step: str) -> float:
    return sum(float(s["facts"]["train_seconds"]) for s in stages if s["step"] == step)


def _deltas(row: Row, base: Row) -> Row:
    deltas = {}
    for name in QUALITY:
        own, other = row.get(name), base.get(name)
        deltas[f"delta_{name}"] = None if own is None or other is None else own - other
    return deltas


def _moments(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
    }
