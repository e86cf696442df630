"""Microseconds of single layers on this machine, for `pruning/latency.py`: measured once and kept.

A layer is timed with a LeakyReLU behind it, for one slice, channels last: on a GPU in float16, many
calls in one CUDA graph, the shortest replay; on a CPU in float32, the median of the calls of a
round, in the best of rounds that take turns with other layers. The kernels of `fused` are timed by
its own search.
"""

import logging
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from compress.base import timing
from compress.base.cuda_graph import capture
from compress.base.errors import UsageError
from compress.base.files import cache_folder, digest, read_json, write_json
from compress.base.reasons import cause, reason
from compress.base.tensors import channels_last
from compress.engines.base import NotBuilt
from compress.engines.fused import Fused
from compress.engines.kernels import remembered, single
from compress.pruning.families import Family, Knots, Point
from compress.pruning.latency import From, Table, Times

log = logging.getLogger(__name__)
SCHEMA = 1
"""Of the kept times; another one, another way to measure."""
CALLS, REPEATS = 20, 5
"""Calls in a CUDA graph, and how often it is replayed; the least time counts."""
TOGETHER = 8
"""Layers that are in memory and take turns."""
BUDGET = timing.Budget(rounds=3, seconds=0.03)
"""Of a layer on a CPU, each time that it is tried."""
TRIES = 3
"""Times that a layer is made anew on a CPU: where its memory lies can double its time."""
SLOW = 0.01
"""Seconds above which a layer is made once only, so that whole slices are timed in minutes."""
ON_CPU = "measured on the CPU: a GPU takes other times"
Known = MutableMapping[str, float]
"""`Point.name` -> microseconds."""


class Limit(NamedTuple):
    """How much is measured."""

    shapes: int
    """At most."""
    seconds: float
    """When no further layer is begun."""


LIMITS: Mapping[From, Limit] = {
    "eager": Limit(400, 120.0),
    "compile": Limit(150, 300.0),
    "fused": Limit(120, 300.0),
}
"""Compilers and searches take seconds for a layer."""


def measured(
    wanted: Mapping[Family, Knots], how: From, device: torch.device, seconds: float | None = None
) -> Table:
    """The times of some layers; those measured before are taken from the user's cache.

    First come the narrowest and the widest of each family, then what lies between. Where the time
    ends, families have their ends only, and the table says so.

    Args:
        wanted: what to measure, the costliest family first.
        how: what runs the layers.
        device: where.
        seconds: when to stop; None: as in `LIMITS`.

    Raises:
        UsageError: this machine cannot run a layer that way, or there was not even time for the
            ends.
    """
    _refuse(wanted, how, device)
    until = time.monotonic() + (LIMITS[how].seconds if seconds is None else seconds)
    ends = {family: _ends(knots) for family, knots in wanted.items()}
    with _remembered(how, device) as known, torch.random.fork_rng(devices=[]):
        for some in (ends, wanted):
            points = [one for pair in some.items() for one in _points(*pair)]
            _add([one for one in points if one.name not in known], how, device, until, known)
        lacking = [one for pair in ends.items() for one in _points(*pair) if one.name not in known]
        if lacking:
            raise UsageError(
                f"the time for measuring layers ended before {lacking[0].name}; run the command "
                "again, which goes on there, or take a smaller latency_size"
            )
        whole = {
            f for f, knots in wanted.items() if all(p.name in known for p in _points(f, knots))
        }
        chosen = {f: knots if f in whole else ends[f] for f, knots in wanted.items()}
        families = {f.name: _times(f, knots, known) for f, knots in chosen.items()}
    return Table(
        **_head(how, device), families=families, note=_note(device, len(wanted) - len(whole))
    )


def keep(table: Table) -> Path | None:
    """Write a table into the user's cache as a file for `latency_table`; None where that fails."""
    try:
        path = cache_folder() / "latency" / f"table-{table.sha256[:12]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, table.to_json())
    except (OSError, RuntimeError) as error:
        log.debug("the latency table is not kept: %s", error)
        return None
    return path


def _refuse(wanted: Mapping[Family, Knots], how: From, device: torch.device) -> None:
    if how != "fused":
        return
    if lack := Fused().missing(device):
        raise UsageError(f"latency_from fused: {lack.reason}; take eager, or give latency_table")
    for family in wanted:
        single.refuse(family)


def _ends(knots: Knots) -> Knots:
    ins, outs = ((*dict.fromkeys((s[0], s[-1])),) for s in (knots.ins, knots.outs))
    return Knots(ins=ins, outs=outs)


def _points(family: Family, knots: Knots) -> Iterator[Point]:
    return (Point(family=family, ins=i, outs=o) for i in knots.ins for o in knots.outs)


def _times(family: Family, knots: Knots, known: Known) -> Times:
    def row(ins: int) -> tuple[float, ...]:
        points = (Point(family=family, ins=ins, outs=outs) for outs in knots.outs)
        return tuple(known[one.name] for one in points)

    return Times(knots=knots, us=tuple(row(ins) for ins in knots.ins))


def _note(device: torch.device, short: int) -> str:
    notes = [ON_CPU] if device.type == "cpu" else []
    if short:
        notes.append(
            f"the time for measuring ended: {short} families of layers are interpolated between "
            "their narrowest and their widest"
        )
    return "; ".join(notes)


def _add(
    points: Sequence[Point], how: From, device: torch.device, until: float, known: Known
) -> None:
    """Measure some layers, as long as there is time."""
    if not points or time.monotonic() > until:
        return
    log.info("measuring %d layers, %s on %s", len(points), how, _device(device))
    if how == "fused":
        try:
            found = single.milliseconds(points, device, until - time.monotonic())
        except NotBuilt as error:
            raise UsageError(
                f"latency_from fused: {error.reason}; take latency_from eager"
            ) from error
        known.update({point.name: 1e3 * ms for point, ms in found.items()})
        return
    for start in range(0, len(points), TOGETHER):
        if time.monotonic() > until:
            return
        some = points[start : start + TOGETHER]
        try:
            seconds = _seconds(some, how, device)
        except Exception as error:  # memory that runs out, compilers that raise whatever they like
            where = f"{some[0].family.name} or what follows it"
            raise UsageError(
                f"latency_from {how}: {where} cannot be timed: {reason(cause(error))}"
            ) from error
        known.update({p.name: 1e6 * s for p, s in zip(some, seconds, strict=True)})


@torch.inference_mode()
def _seconds(points: Sequence[Point], how: From, device: torch.device) -> list[float]:
    """The time of each layer, run by PyTorch."""
    if how == "compile":
        torch._dynamo.reset()  # its limit of shapes counts from here
    if device.type == "cuda":
        return [_replayed(_call(point, how, device), device) for point in points]
    found = dict(zip(points, _rounds(points, how, device), strict=True))
    for _ in range(TRIES - 1 if how == "eager" else 0):
        fast = [point for point in points if found[point] < SLOW]
        for point, seconds in zip(fast, _rounds(fast, how, device), strict=True):
            found[point] = min(found[point], seconds)
    return [found[point] for point in points]


def _rounds(points: Sequence[Point], how: From, device: torch.device) -> list[float]:
    """Likewise on a CPU, for layers made anew."""
    calls = [_call(point, how, device) for point in points]
    cases = [timing.Case(call=call, batch=1, clock=timing.wall) for call in calls]
    # Other programs on the machine slow some rounds down, none is too fast.
    return [min(map(statistics.median, turns)) for turns in timing.rounds(cases, BUDGET)]


def _call(point: Point, how: From, device: torch.device) -> Callable[[], object]:
    layer = point.family.layer(point.ins, point.outs)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    x = torch.rand(point.family.read(layer)).to(device, dtype)
    net = nn.Sequential(layer, nn.LeakyReLU()).eval().to(device, dtype)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        channels_last(net)
    run = torch.compile(net, dynamic=False) if how == "compile" else net
    run(x)  # compiles
    return partial(run, x)


def _replayed(call: Callable[[], object], device: torch.device) -> float:
    def calls() -> None:
        for _ in range(CALLS):
            call()

    graph = capture(calls, device)
    return min(timing.events(graph.replay, REPEATS)) / CALLS


def _head(how: From, device: torch.device) -> dict[str, str]:
    arithmetic = "float16" if device.type == "cuda" else "float32"
    return {
        "device": _device(device),
        "engine": how,
        "torch": torch.__version__,
        "arithmetic": f"{arithmetic}, channels last",
    }


def _device(device: torch.device) -> str:
    """Name of the GPU, or of the CPU with its threads: what times hold for."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu()}, {threads} thread{'s' * (threads > 1)}"


def _cpu() -> str:
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        about = ""
    found = re.search(r"^model name\s*:\s*(.+)$", about, re.M)
    return f"CPU {found[1].strip() if found else platform.machine()}"


@contextmanager
def _remembered(how: From, device: torch.device) -> Iterator[Known]:
    """What was measured before; what the block adds is written at its end, if it can be."""
    kernels = remembered.stamp() if how == "fused" else ""
    versions = [SCHEMA, torch.version.cuda, torch.backends.cudnn.version(), kernels]  # type: ignore[no-untyped-call]
    stamp = digest([_head(how, device), *versions])[:12]
    try:
        name = re.sub(r"[^0-9A-Za-z]+", "-", _device(device))
        path = cache_folder() / "latency" / f"{name}-{how}-{stamp}.json"
    except RuntimeError:
        path = None
    known = _read(path)
    before = dict(known)
    try:
        yield known
    finally:
        if path is not None and known != before:
            _write(path, _read(path) | known)


def _read(path: Path | None) -> dict[str, float]:
    try:
        return {str(key): float(us) for key, us in read_json(path).items()} if path else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, known: Mapping[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(sorted(known.items())))
    except OSError as error:  # what is not kept is measured again
        log.debug("times of layers are not kept: %s", error)
