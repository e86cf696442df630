"""`compress inspect`: every layer of a checkpoint or an engine, its zeros, and where 2:4 fails.

Its rows are those of `sparsity.layers`. Stride-1 transposed convolutions are shown as the
convolutions that they equal, under the same names.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint.files import TABLE, WEIGHTS
from compress.engines import sidecar
from compress.engines.formats import formats
from compress.engines.records import Inspection, Totals
from compress.quantization.quantisers import plain, scales
from compress.quantization.records import Scale
from compress.reporting import formatting
from compress.sparsity.layers import ENGINE_COLUMNS, described, layers
from compress.sparsity.records import Group, LayerRow

SCHEMA = 1
COLUMNS = ("layer", "weight", "zeros", "2:4", "eligible", "picked", "MACs", "share", "of time")
KERNEL = ("kernel", "us", "floor")
"""Columns of an engine that says what computes a layer, how long, and how long at least."""
INT8 = ("INT8: input to", "weights to", "HU rms")
"""Columns of a checkpoint with INT8 layers: ranges, and what quantising the layer alone cost."""
LEFT = ("layer", "weight", "2:4", "eligible", "picked", "kernel")
Found = tuple[str, dict[str, object], list[LayerRow], dict[str, int] | None, Mapping[str, Scale]]
"""Kind, about, layers, nonfinite and int8, as `inspect` says."""


def inspect(path: Path) -> Inspection:
    """What is in a checkpoint folder, an engine or the sidecar of one.

    Returns:
        schema, path, kind ("checkpoint" or "engine"), about (facts on the whole), totals, layers;
        nonfinite: how many values of a tensor are NaN or infinite, by its name, where there are
        any; None for an engine whose weights are not read; int8: the ranges of a quantised
        checkpoint's INT8 layers by name, where there are any.

    Raises:
        UsageError: none of the three, altered, or an engine whose sidecar lists no layers.
    """
    kind, about, rows, nonfinite, int8 = _checkpoint(path) if path.is_dir() else _engine(path)
    inspection: Inspection = {
        "schema": SCHEMA,
        "path": str(path),
        "kind": kind,
        "about": about,
        "nonfinite": nonfinite,
        "totals": _totals(rows),
        "layers": rows,
    }
    return {**inspection, "int8": dict(int8)} if int8 else inspection


def render(found: Inspection) -> None:
    """Print what `inspect` found as a table on standard output."""
    from rich.console import Console

    console, rows = Console(), found["layers"]
    say = functools.partial(console.print, soft_wrap=True, highlight=False, markup=False)
    say(f"{found['kind']} {found['path']}")
    say(", ".join(f"{k} {v}" for k, v in found["about"].items()))
    for line in _table(rows, found.get("int8", {})):
        say(line)
    for row in rows:
        for sentence in _why(row):
            say(f"{row['name']}: {sentence}")
    for name, count in (found["nonfinite"] or {}).items():
        values = "value is" if count == 1 else "values are"
        say(f"{name}: {count:,} {values} not finite (NaN or infinite)")
    say(_sum(found["totals"]))


def _checkpoint(folder: Path) -> Found:
    sidecar.refuse_folder(folder)
    model = checkpoint.load(folder)
    about: dict[str, object] = {
        "network": model.origin.name or model.origin.import_,
        "masks": len(model.masks),
        "weights": checkpoint.fingerprint(model),
    }
    rows, int8 = layers(plain(model.net)), scales(model.net, model.quantised)
    if int8:
        about["int8"] = f"{len(int8)} of {len(rows)} layers"
    return "checkpoint", about, rows, _nonfinite(model.net.state_dict()), int8


def _nonfinite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in tensors.items()}
    return {name: count for name, count in counts.items() if count}


def _engine(path: Path) -> Found:
    _name_the_folder(path)
    side = sidecar.of(path)
    facts, engine = sidecar.read(side)
    built: Mapping[str, Any] = facts["built"]
    if "layers" not in built:
        raise UsageError(f"{side} lists no layers; export the engine again")
    rows: list[dict[str, Any]] = [dict(row) for row in built["layers"]]
    inside = formats()[facts["format"]].weights(engine)
    seconds = built.get("seconds", {})
    for row in rows:
        name = row["name"]
        if name in inside:  # what lies in the file, not what was meant to
            row.update(described(inside[name]))
        for fact, key in ENGINE_COLUMNS.items():
            row[key] = row.get(key, "unknown")
            if fact in built:
                row[key] = "yes" if name in built[fact] else "no"
        if name in seconds:
            row["share_of_time"] = seconds[name] / sum(seconds.values())
        row.update(built.get("kernels", {}).get(name, {}))
    about: dict[str, object] = {
        key: facts[key] for key in ("format", "precision", "batch", "size", "weights")
    }
    if told := built.get("sparsity"):
        unknown = {word: "unknown" if told[word] is None else told[word] for word in ENGINE_COLUMNS}
        about["sparse_kernels"] = f"{unknown['picked']} of {unknown['eligible']} eligible layers"
    weights = {f"{name}.weight": weight for name, weight in inside.items()}
    nonfinite = _nonfinite(weights) if inside else None
    return "engine", about, cast("list[LayerRow]", rows), nonfinite, {}


def _name_the_folder(path: Path) -> None:
    """Refuse files of a checkpoint, that people take for the checkpoint, with what to name."""
    if path.name in (WEIGHTS, TABLE):
        raise UsageError(f"{path} is one file of a checkpoint; inspect its folder, {path.parent}")


def _totals(rows: Sequence[Mapping[str, Any]]) -> Totals:
    sparse = [row for row in rows if row["sparse24"]]
    weights = sum(_size(row) for row in rows)
    told = {
        key: sum(row[key] == "yes" for row in rows)
        for key in ENGINE_COLUMNS.values()
        if any(row[key] != "unknown" for row in rows)
    }
    totals = {
        "layers": len(rows),
        "sparse24": len(sparse),
        "eligible_backend": sum(row["eligible_backend"] for row in rows),
        "eligible_trt": sum(row["eligible_trt"] for row in rows),
        **{key: told.get(key, "unknown") for key in ENGINE_COLUMNS.values()},
        "weights": weights,
        "zeros": sum(row["zeros"] for row in rows),
        "macs": sum(row["macs"] or 0 for row in rows),
        "share_of_weights": sum(_size(row) for row in sparse) / weights if weights else 0.0,
        "share_of_macs": sum((row["share_of_macs"] or 0.0 for row in sparse), 0.0),
    }
    return cast("Totals", totals)


def _size(row: Mapping[str, Any]) -> int:
    return math.prod(row["shape"])


def _table(rows: Sequence[LayerRow], int8: Mapping[str, Scale]) -> Iterator[str]:
    """One line a layer below a head, columns aligned; never cut, however narrow the terminal."""
    shown = set(COLUMNS + KERNEL + INT8)
    if not any(row["share_of_time"] is not None for row in rows):
        shown -= {"of time"}
    if all(row["picked"] == "unknown" for row in rows):
        shown -= {"picked"}
    if not any("kernel" in row for row in rows):
        shown -= set(KERNEL)
    if not int8:
        shown -= set(INT8)
    cells = [(*_cells(row), *_int8(int8.get(row["name"]))) for row in rows]
    columns = list(zip(COLUMNS + KERNEL + INT8, *cells, strict=True))
    aligned = [_aligned(column) for column in columns if column[0] in shown]
    for line in zip(*aligned, strict=True):
        yield "  ".join(line).rstrip()


def _aligned(column: tuple[str, ...]) -> list[str]:
    """A column, its title first, as wide as its widest cell."""
    width = max(map(len, column))
    return [one.ljust(width) if column[0] in LEFT else one.rjust(width) for one in column]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    shape, zeros = "x".join(map(str, row["shape"])), row["zeros"] / _size(row)
    able = (row["eligible_backend"], row["eligible_trt"])
    eligible = {(True, True): "both", (False, True): "TensorRT", (True, False): "backend"}
    shares = (formatting.percent(row[f"share_of_{what}"]) for what in ("macs", "time"))
    passed_over = row["picked"] == "no" and row["eligible_engine"] == "yes"
    picked = "no, eligible" if passed_over else row["picked"]
    first = (row["name"], shape, formatting.percent(zeros), "yes" if row["sparse24"] else "no")
    times = (_microseconds(row.get(key)) for key in ("us", "floor_us"))
    kernel = (str(row.get("kernel", "")), *times)
    return (
        *first,
        eligible.get(able, "no"),
        picked,
        formatting.count(row["macs"]),
        *shares,
        *kernel,
    )


def _int8(scale: Scale | None) -> tuple[str, ...]:
    """The cells of an INT8 layer: ranges, and the error that it caused when it was quantised."""
    if scale is None:
        return ("",) * len(INT8)
    least, largest = scale["weight_range"]
    ranges = f"{scale['input_range']:.3g}", f"{least:.2g} to {largest:.2g}"
    return (*ranges, f"{scale['error_hu']:.2f}")


def _microseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _why(row: LayerRow) -> Iterator[str]:
    """Where a layer is not 2:4 and why it cannot be.

    Groups are named of a layer that can be 2:4. One that TensorRT alone takes and that has no zeros
    was left dense, not broken.
    """
    if row["first"] and (row["eligible_backend"] or (row["eligible_trt"] and row["zeros"])):
        places = "; ".join(_place(one) for one in row["first"])
        groups = "group of four holds" if row["failing"] == 1 else "groups of four hold"
        more = f"{row['failing']:,} {groups} more than two non-zeros, first at"
        yield f"not 2:4: {more} {places}"
    reasons = {"ModelOpt and ASP": row["reason_backend"], "TensorRT": row["reason_trt"]}
    for who, reason in reasons.items():
        if reason:
            yield f"not for {who}: {reason}"


def _place(one: Group) -> str:
    tap = f" tap {','.join(map(str, one['tap']))}" if one["tap"] else ""
    return f"out {one['out']} in {one['first']}-{one['first'] + 3}{tap} ({one['nonzeros']})"


def _sum(totals: Totals) -> str:
    return (
        f"2:4: {totals['sparse24']} of {totals['layers']} layers with {totals['share_of_macs']:.1%}"
        f" of the MACs and {totals['share_of_weights']:.1%} of the weights;"
        f" eligible by the rule of ModelOpt and ASP: {totals['eligible_backend']},"
        f" by TensorRT's: {totals['eligible_trt']};"
        f" by the engine itself: {totals['eligible_engine']}; picked: {totals['picked']}"
    )
