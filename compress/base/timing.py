"""How long calls take: warm-up, rounds in turns, percentiles, ratios with their spread.

The only reader of the clock for speed. Everything that is compared is timed in the same rounds,
each in turn, so that a GPU that warms up or a neighbour on the machine meets all alike.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypedDict

import torch

Call = Callable[[], object]
Clock = Callable[[Call, int], list[float]]
"""(call, how often) -> seconds of each."""
WARM_UP = 5
"""Calls before the first one that counts: kernels are chosen, memory is taken."""
FEWEST = 3
"""Calls that a round has at least."""


def wall(call: Call, count: int) -> list[float]:
    """Seconds of each call by the wall clock, for work on the CPU."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def events(call: Call, count: int) -> list[float]:
    """Seconds of each call between two CUDA events, so on the GPU; waits once at the end."""
    marks = [_event() for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]


def clock(device: torch.device) -> Clock:
    """The clock for work on `device`."""
    return events if device.type == "cuda" else wall


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to time."""

    call: Call
    batch: int
    """Slices that a call computes."""
    clock: Clock


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to measure."""

    rounds: int = 10
    """Times that every case has its turn."""
    seconds: float = 2.0
    """Of each case over all rounds, about."""


class Timing(TypedDict):
    """How long a case takes, beside the case that came first."""

    p50_ms: float
    """Median over calls, milliseconds a slice."""
    p90_ms: float
    """90th percentile over calls, milliseconds a slice."""
    slices_per_second: float
    """One over the mean time of a slice, 1/s."""
    calls: int
    """Calls that were timed."""
    ratio: float
    """How many times as fast as the first case: median over rounds."""
    ratio_min: float
    """The lowest ratio of a round."""
    ratio_max: float
    """The highest ratio of a round."""


class TimedRow(Timing):
    """A case with its name."""

    name: str
    """What was timed."""
    how: str
    """The mode of a checkpoint, or format and precision of an engine."""
    runs: str
    """How it ran, in words."""
    batch: int
    """Slices at once."""


def rounds(cases: Sequence[Case], budget: Budget) -> list[list[list[float]]]:
    """Time all cases in turns; each round starts with another one.

    Returns:
        For each case, for each round: seconds per slice of every call.
    """
    counts = [_calls(case, budget) for case in cases]
    found: list[list[list[float]]] = [[] for _ in cases]
    for turn in range(budget.rounds):
        for place in range(len(cases)):
            k = (turn + place) % len(cases)
            seconds = cases[k].clock(cases[k].call, counts[k])
            found[k].append([value / cases[k].batch for value in seconds])
    return found


def summary(own: list[list[float]], first: list[list[float]]) -> Timing:
    """What is said of a case, in milliseconds per slice, beside the case that came first.

    Args:
        own: its rounds, as `rounds` gives them.
        first: those of the first case.
    """
    every = sorted(value for turn in own for value in turn)
    pairs = zip(first, own, strict=True)
    ratios = [statistics.median(one) / statistics.median(other) for one, other in pairs]
    return {
        "p50_ms": 1000 * statistics.median(every),
        "p90_ms": 1000 * every[min(len(every) - 1, int(0.9 * len(every)))],
        "slices_per_second": 1 / statistics.fmean(every),
        "calls": len(every),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def fastest(calls: Mapping[str, Call], device: torch.device) -> tuple[str, dict[str, float]]:
    """The name of the fastest of a few calls, and the milliseconds of each (medians)."""
    cases = [Case(call=call, batch=1, clock=clock(device)) for call in calls.values()]
    measured = rounds(cases, Budget(rounds=5, seconds=0.5))
    ms = {
        name: 1000 * statistics.median(value for turn in turns for value in turn)
        for name, turns in zip(calls, measured, strict=True)
    }
    return min(ms, key=lambda name: ms[name]), ms


def _calls(case: Case, budget: Budget) -> int:
    """Warm up, and how many calls a round shall have."""
    case.clock(case.call, WARM_UP)
    last = statistics.median(case.clock(case.call, FEWEST))
    return max(FEWEST, round(budget.seconds / budget.rounds / max(last, 1e-9)))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
