"""What the networks of a run take on disk: dense, pruned, and 2:4 with its zeros stored."""

from collections.abc import Iterable
from pathlib import Path

from compress.reporting.records import Facts, Stored

FILE = "model.safetensors"


def rows(run: Path, stages: list[Facts]) -> list[Stored]:
    """The sizes of dense, pruned and 2:4 checkpoint files, in the order in which they were made.

    Args:
        run: the run folder.
        stages: the facts of its stages, in their order.

    Returns:
        [{label, bytes, share}], share of the first; empty where nothing was compressed or the
        checkpoints were deleted.
    """
    steps = [stage["step"] for stage in stages]
    prune, sparsify, int8 = (_first(steps, word) for word in ("prune", "sparsify", "quantize"))
    dense = _size(run, stages[: min(prune, sparsify, int8)]) or _bytes(run / "initial" / FILE)
    pruned = "pruned" if prune < sparsify else "dense"
    found = {
        "dense": dense,
        "pruned": _size(run, stages[prune : min(sparsify, int8)]),
        f"{pruned}, 2:4, zeros stored": _size(run, stages[sparsify:int8]),
        "with ranges for INT8, weights in float32": _size(run, stages[int8:]),
    }
    if dense is None or not any(size for label, size in found.items() if label != "dense"):
        return []
    return [
        {"label": label, "bytes": size, "share": size / dense}
        for label, size in found.items()
        if size is not None
    ]


def as_stored(run: Path, stages: list[Facts]) -> list[Facts]:
    """The facts of stages whose cost says what the checkpoint file takes, with its header.

    A stage that makes no checkpoint has that of the one before; where there is no file, the bytes
    stay those of the plain weights.
    """
    latest, found = _bytes(run / "initial" / FILE), []
    for stage in stages:
        latest = _bytes(run / stage["stage"] / FILE) or latest
        cost = stage.get("cost")
        sized = {"cost": {**cost, "bytes": latest}} if cost and latest else {}
        found.append({**stage, **sized})
    return found


def _first(steps: list[str], word: str) -> int:
    return steps.index(word) if word in steps else len(steps)


def _size(run: Path, stages: Iterable[Facts]) -> int | None:
    """Bytes of the last checkpoint of these stages."""
    sizes = [_bytes(run / stage["stage"] / FILE) for stage in stages]
    return next((size for size in reversed(sizes) if size is not None), None)


def _bytes(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None
