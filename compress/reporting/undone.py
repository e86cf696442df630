"""What a run did not do, why, and the command that would."""

from collections.abc import Iterator

from compress.reporting import speed
from compress.reporting.records import Collected, Facts, Undone


def undone(report: Collected) -> Iterator[Undone]:
    """What was left out, could not be done here, or was not asked for."""
    for engine in report["engines"]:
        if engine["status"] != "built":
            what = f"Engine {engine['format']}, {engine['precision']}"
            yield {"what": what, "why": engine["reason"], "command": engine["command"]}
    for why, names in _left(report["sparse24"]).items():
        yield {"what": f"2:4 in {', '.join(names)}", "why": why, "command": ""}
    steps = [stage["step"] for stage in report["stages"]]
    for step, what in (
        ("prune", "Channels removed"),
        ("sparsify", "2:4 sparsity"),
        ("evaluate", "Image quality"),
        ("export", "Engines"),
    ):
        if step not in steps:
            yield {"what": what, "why": f"no {step} step of the recipe has ended", "command": ""}
    yield from _unfair(report)
    if report["speed"] is None or report["speed"]["own"]:
        yield {
            "what": "Latency",
            "why": "no benchmark of these stages is in the run folder",
            "command": f"compress bench --json MODEL ENGINE... > RUN/{speed.FILE}",
        }
    if report["engines"] and all(
        layer["picked"] not in ("yes", "no") for layer in report["layers"]
    ):
        yield {"what": "Sparse kernels", "why": "no engine tells which it runs", "command": ""}


def _unfair(report: Collected) -> Iterator[Undone]:
    """The comparison with a dense network trained as long, where it is lacking."""
    dense, final = steps_trained(report)
    if "compressed" in report["quality"] and dense < final:
        yield {
            "what": "Fair comparison with the dense network",
            "why": f"it was trained for {dense:,} of {final:,} optimizer steps",
            "command": "- baseline",
        }


def _left(sparse24: Facts | None) -> dict[str, list[str]]:
    """Reason -> the layers that it left without 2:4."""
    found: dict[str, list[str]] = {}
    for layer in (sparse24 or {}).get("layers", []):
        if not layer["done"]:
            found.setdefault(layer["reason"], []).append(layer["name"])
    return found


def steps_trained(report: Collected) -> tuple[int, int]:
    """Optimizer steps of the dense network that was measured, and of the one at the end."""
    first = next((s["stage"] for s in report["stages"] if s["kind"] == "compressing"), "~")
    steps = [(training["stage"], training["steps"]) for training in report["training"]]
    evaluation = report["evaluation"]
    measured = evaluation["stage"] if evaluation else "~"
    more = [stage["steps"] for stage in report["baseline"] if stage["stage"] < measured]
    return sum(n for stage, n in steps if stage < first) + sum(more), sum(n for _, n in steps)
