"""`compress bench`: checkpoints and engines timed side by side, in turns, in one run.

Ratios are to the first artefact of the same batch. Artefacts of equal widths that differ in 2:4
sparsity alone are compared besides: that ratio, with its spread, is what 2:4 gave.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from compress.base import devices, machine, timing
from compress.base.errors import CompressError, UsageError
from compress.base.progress import track
from compress.base.reasons import reason
from compress.base.timing import Budget, Case, Timing
from compress.bench.records import Bench, BenchPlace, BenchRow, Execution, SparsePair
from compress.bench.targets import Artefact, artefacts
from compress.engines import sidecar
from compress.engines.base import Shape
from compress.graph.padding import refuse_sides
from compress.run import manifest

SCHEMA = 1
BEFORE = 2
"""Turns of each case before its rounds: to warm up, and to choose how many calls a round has."""


def run(
    paths: Sequence[Path],
    *,
    modes: Sequence[str] = ("eager-fp32",),
    batches: Sequence[int] = (),
    size: int | None = None,
    device: str | None = None,
    graph: bool = True,
    budget: Budget | None = None,
) -> Bench:
    """Time checkpoints and engines side by side.

    Args:
        paths: checkpoint folders, engines or their sidecars; the first is what ratios refer to.
        modes: how checkpoints are run.
        batches: slices at once; those of the engines, else 1, where none are given.
        size: side of a slice in pixels; that of the engines, else 512, where none is given.
        device: where checkpoints run; the GPU where there is one.
        graph: whether engines and compiled networks run in a CUDA graph on a GPU.
        budget: how long to measure.

    Returns:
        schema, place (device, GPU, driver, versions, commit), size, budget, rows (one for each
        artefact and batch), clocks (by batch, before and after), sparse_ab, see `sparse_ab`.

    Raises:
        UsageError: a path, mode, batch or size is not usable.
    """
    target, budget = devices.choose(device), budget or Budget()
    found = [a for path in paths for a in artefacts(path, modes, target, graph=graph)]
    batches = batches or sorted({a.most for a in found if a.most}) or (1,)
    side = size or next((a.size for a in found if a.size), 512)
    _check(found, batches, side)
    rows: list[BenchRow] = []
    pairs: list[SparsePair] = []
    clocks = {}
    with torch.inference_mode():
        for batch in batches:
            able = [a for a in found if a.takes(batch)]
            before = _clocks(target)
            shape = Shape(batch=batch, size=side, channels=found[0].channels)
            measured, about = _measure(able, shape, budget)
            clocks[str(batch)] = [before, _clocks(target)]
            rows += [
                _row(a, batch, facts, _runs(a.how, facts, target), timing.summary(own, measured[0]))
                for a, facts, own in zip(able, about, measured, strict=True)
            ]
            pairs += sparse_ab(able, measured, batch)
    return {
        "schema": SCHEMA,
        "place": _place(target),
        "size": side,
        "rounds": budget.rounds,
        "seconds": budget.seconds,
        "rows": rows,
        "clocks_mhz": clocks,
        "sparse_ab": pairs,
    }


def _row(a: Artefact, batch: int, facts: Execution, runs: str, timed: Timing) -> BenchRow:
    return {"name": a.name, "how": a.how, "batch": batch, **facts, "runs": runs, **timed}


def sparse_ab(
    able: Sequence[Artefact], measured: Sequence[list[list[float]]], batch: int
) -> list[SparsePair]:
    """What 2:4 sparsity alone gave: artefacts of equal widths, run alike, with and without it.

    Returns:
        For each such pair: batch, how, dense and sparse (names), layers (with 2:4), of, and
        ratio, ratio_min, ratio_max: how many times as fast the sparse one is.
    """
    found: list[SparsePair] = []
    for one, first in zip(able, measured, strict=True):
        for other, own in zip(able, measured, strict=True):
            gained = other.sparse() - one.sparse()
            if (
                one.sparse()
                or one.how != other.how
                or one.widths() != other.widths()
                or gained <= 0
            ):
                continue
            said = timing.summary(own, first)
            pair: SparsePair = {
                "batch": batch,
                "how": one.how,
                "dense": one.name,
                "sparse": other.name,
                "layers": other.sparse(),
                "of": len(other.layers),
                "ratio": said["ratio"],
                "ratio_min": said["ratio_min"],
                "ratio_max": said["ratio_max"],
            }
            found.append(pair)
    return found


def _runs(how: str, facts: Execution, target: torch.device) -> str:
    """How something ran, in words; ONNX Runtime's is a time of the CPU beside those of a GPU."""
    graph = ", CUDA graph" if facts["cuda_graph"] else ""
    elsewhere = ", on the CPU" if facts["device"] == "cpu" and target.type != "cpu" else ""
    return f"{how}{graph}{elsewhere}"


def _check(found: Sequence[Artefact], batches: Sequence[int], size: int) -> None:
    for a in found:
        if a.net is not None:
            refuse_sides(a.net, (size, size), f"--size {size}")
        if a.channels != found[0].channels:
            seen, others = a.channels, found[0].channels
            raise UsageError(f"{a.name} sees {seen} slices of each, {found[0].name} {others}")
        if a.size not in (None, size):
            raise UsageError(f"{a.name} takes slices of {a.size} pixels, not {size}")
        if not any(map(a.takes, batches)):
            asked = ", ".join(map(str, batches))
            raise UsageError(f"{a.name} was built for a batch of {a.most}, not {asked}")


def _measure(
    able: Sequence[Artefact], shape: Shape, budget: Budget
) -> tuple[list[list[list[float]]], list[Execution]]:
    """Load all, then time all in turns; the rounds of each, and what is said of it besides."""
    cases: list[Case] = []
    about: list[Execution] = []
    for device in {a.device for a in able}:
        _wake(device)
    for artefact in able:
        x = shape.example(artefact.device)
        before = _emptied(artefact.device)
        try:
            call, facts = artefact.call(x)
            call()
        except RuntimeError as error:  # a compiler's too, and memory that runs out
            said = f"{artefact.name} does not run as {artefact.how}"
            raise CompressError(f"{said}: {reason(error)}") from error
        taken = _taken(before, _free(artefact.device))
        about.append({"device": str(artefact.device), "memory_bytes": taken, **facts})
        clock = timing.clock(artefact.device)
        cases.append(Case(call=call, batch=shape.batch, clock=clock))
    return _timed(cases, budget, shape.batch), about


def _timed(cases: Sequence[Case], budget: Budget, batch: int) -> list[list[list[float]]]:
    """The rounds of all cases, under a bar that is drawn between the calls that are timed."""
    turns = range(len(cases) * (BEFORE + budget.rounds))
    with closing(track(turns, f"timing, batch {batch}", still=True)) as shown:
        return timing.rounds([_counted(case, shown) for case in cases], budget)


def _counted(case: Case, shown: Iterator[int]) -> Case:
    """The case, each turn of which moves the bar on before it begins."""

    def clock(call: timing.Call, count: int) -> list[float]:
        next(shown, None)
        return case.clock(call, count)

    return replace(case, clock=clock)


def _taken(before: int | None, after: int | None) -> int | None:
    """Bytes of GPU memory taken; None where that is not known, as another program let some go."""
    if before is None or after is None or after > before:
        return None
    return before - after


def _emptied(device: torch.device) -> int | None:
    """Free GPU memory in bytes without PyTorch's cache; None for the CPU.

    cuDNN's search empties the cache: what artefacts before left there would count as given back.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    return _free(device)


def _free(device: torch.device) -> int | None:
    """Free GPU memory in bytes; None for the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    return torch.cuda.mem_get_info(device)[0]


def _wake(device: torch.device) -> None:
    """Let CUDA's libraries take their own memory before any artefact is charged for it."""
    x = torch.ones(1, 1, 32, 32, device=device)
    torch.nn.functional.conv2d(x, x[:, :, :3, :3])
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _clocks(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    fields = ("clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu")
    return machine.smi(device, *fields)


def _place(device: torch.device) -> BenchPlace:
    return {
        **sidecar.place(device),
        "threads": torch.get_num_threads(),
        "versions": manifest.versions(),
        "commit": manifest.commit(),
    }
