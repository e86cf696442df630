"""The figures on top of a report: cost, file size, latency and PSNR, before and at the end."""

from collections.abc import Mapping
from typing import cast

from compress.reporting import speed
from compress.reporting.records import (
    Costs,
    Facts,
    Metrics,
    Number,
    Speed,
    Stored,
)


def costs(stages: list[Facts]) -> Costs:
    """The dense network's cost and the last one's, as `numbers` and `removed`."""
    cut = next((i for i, s in enumerate(stages) if s["kind"] == "compressing"), len(stages))
    # A recipe that starts by pruning given weights has no dense stage; prune knows what it met.
    met = stages[cut]["facts"].get("before", {}) if cut < len(stages) else {}
    dense: Facts = stages[cut - 1]["cost"] if cut else met
    final: Facts = stages[-1]["cost"] if stages else {}

    def number(key: str, label: str, kind: str) -> Number:
        return {
            "key": key,
            "label": label,
            "kind": kind,
            "before": dense.get(key),
            "after": final.get(key),
            "note": "",
        }

    return {
        "numbers": [
            number("macs", "MACs of a 512x512 slice", "count"),
            number("params", "Parameters", "count"),
            number("bytes", "File size", "bytes"),
        ],
        "removed": {
            "macs": _removed(dense, final, "macs"),
            "params": _removed(dense, final, "params"),
        },
    }


def _removed(dense: Mapping[str, int], final: Mapping[str, int], key: str) -> float | None:
    return 1 - final[key] / dense[key] if dense.get(key) and key in final else None


def stored(numbers: list[Number], files: list[Stored]) -> list[Number]:
    """The numbers with the size of the files instead of that of the plain weights."""
    if not files:
        return numbers
    sizes = {"before": files[0]["bytes"], "after": files[-1]["bytes"], "note": ""}
    resized = [{**n, **sizes} if n["key"] == "bytes" else n for n in numbers]
    return cast("list[Number]", resized)


def latency(bench: Speed | None) -> Number:
    """From the network that others were compared with to the fastest."""
    number: Number = {
        "key": "latency",
        "label": "Latency, per slice",
        "kind": "milliseconds",
        "before": None,
        "after": None,
        "note": "not measured",
    }
    if bench is None:
        return number
    if bench["own"]:
        label, ratio = "Speed, beside the dense network", bench["rows"][-1]["ratio"]
        note = f"{speed.spread(bench)}; {speed.way(bench)}"
        return {**number, "label": label, "kind": "times", "after": ratio, "note": note}
    first, best = bench["before"], bench["after"]
    note = f"{first['how']} → {best['how']}, batch {best['batch']}, {bench['where']}"
    return {**number, "before": first["p50_ms"], "after": best["p50_ms"], "note": note}


def psnr(quality: Metrics) -> Number:
    """From the dense network to the one at the end, beside the untouched input."""
    means = {name: found["psnr"]["mean"] for name, found in quality.items()}
    note = "not evaluated"
    if means.get("input") is not None:
        note = f"low-dose input {means['input']:.2f} dB"
    return {
        "key": "psnr",
        "label": "Quality (PSNR)",
        "kind": "decibels",
        "before": means.get("dense"),
        "after": means.get("compressed", means.get("dense")),
        "note": note,
    }
