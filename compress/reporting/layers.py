"""One row for every layer: what pruning and 2:4 did to it, and what an engine made of it."""

from collections.abc import Mapping
from typing import Any, cast

from compress.reporting.records import Facts, Layer

BLANK: Mapping[str, Any] = dict.fromkeys(
    (
        *("shape", "width", "kept", "done", "reason", "eligible_backend", "eligible_trt"),
        *("picked", "macs", "share_of_macs", "share_of_time"),
    )
)
"""A row of which nothing is known."""


def rows(pruning: list[Facts], sparse24: Facts | None, engines: list[list[Facts]]) -> list[Layer]:
    """Every layer that any stage speaks of, in the order of the network.

    Args:
        pruning: facts of the prune stages; their groups have `name`, `width` and `kept`.
        sparse24: facts of the last sparsify stage, whose layers have `name`, `shape`, `done`,
            `reason`.
        engines: layers of the engines as their sidecars list them, [[row, ...], ...]; what an
            engine tells of sparse kernels and time counts before what another one leaves open.

    Returns:
        [{name, shape, width, kept, done, reason, eligible_backend, eligible_trt, picked, macs,
        share_of_macs, share_of_time}], None where no stage knows. width and kept are the channels
        of the layer's group before the first and after the last pruning.
    """
    told = _engine(engines)
    tables = [*engines[:1], (sparse24 or {}).get("layers", []), *(p["groups"] for p in pruning)]
    names = dict.fromkeys(row["name"] for table in tables for row in table)
    done = {row["name"]: row for row in (sparse24 or {}).get("layers", [])}
    widths = _widths(pruning)
    found = [
        {
            "name": name,
            **BLANK,
            **told.get(name, {}),
            **{key: done[name][key] for key in ("shape", "done", "reason") if name in done},
            **widths.get(name, {}),
        }
        for name in names
    ]
    return cast("list[Layer]", found)


def _engine(engines: list[list[Facts]]) -> dict[str, Facts]:
    """By layer, what the most talkative engine says of it."""
    keys = ("shape", "eligible_backend", "eligible_trt", "picked", "macs")
    shares = ("share_of_macs", "share_of_time")
    found: dict[str, Facts] = {}
    for table in sorted(engines, key=_told):
        for row in table:
            found[row["name"]] = {key: row.get(key) for key in (*keys, *shares)}
    return found


def _told(table: list[Facts]) -> int:
    """How much an engine tells: layers with a kernel known, and with a time known."""
    kernels = sum(row.get("picked") in ("yes", "no") for row in table)
    return kernels + sum(row.get("share_of_time") is not None for row in table)


def _widths(pruning: list[Facts]) -> dict[str, Facts]:
    """By group, its channels before the first pruning and after the last."""
    found: dict[str, Facts] = {}
    for stage in pruning:
        for group in stage["groups"]:
            first = found.get(group["name"], group)["width"]
            found[group["name"]] = {"width": first, "kept": group["kept"]}
    return found
