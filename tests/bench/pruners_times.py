"""Milliseconds of the networks of `pruners.py`, in turns: PyTorch, torch.compile, the fused engine.

    python tests/bench/pruners_times.py OUT 1 UNTIL      # fused engines, a process of its own

The fused engine is timed in a process of its own, because a GPU that fails takes the process along.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from compress import checkpoint
from compress.base import timing
from compress.base.files import read_json, write_json
from compress.base.reasons import reason
from compress.base.timing import Budget, Call, Case
from compress.bench import targets
from compress.engines.base import Shape

BUDGET = Budget(rounds=7, seconds=0.4)
Times = dict[str, dict[str, Any]]
"""Arm -> column -> milliseconds a slice, the median over calls."""


class Timer:
    """Networks that are loaded as they come and timed together at the end.

    Args:
        device: where they run.
        size: side of a slice.
        batches: slices at once; torch.compile is timed with the first one only.
        compiles: whether torch.compile is timed.
    """

    def __init__(self, device: str, size: int, batches: tuple[int, ...], compiles: bool) -> None:
        self.device, self.size, self.batches = torch.device(device), size, batches
        self.compiles = compiles
        self.calls: dict[str, dict[str, Call]] = {}
        self.failed: dict[str, str] = {}
        self.added: set[str] = set()

    def add(self, name: str, folder: Path) -> None:
        """Load an arm and compile it: work of the CPU, while the GPU trains others."""
        if not self.compiles or name in self.added:
            return
        self.added.add(name)
        x = Shape(batch=self.batches[0], size=self.size, channels=1).example(self.device)
        with torch.inference_mode():
            try:
                runner = targets.network(checkpoint.load(folder).net, "compiled", self.device)
                runner(x)
            except Exception as error:  # compilers raise whatever they like
                self.failed[name] = reason(error)
                return
        gpu = self.device.type == "cuda"
        self._keep(name, "compiled", self.batches[0], lambda: targets.called(runner, x, graph=gpu))

    def _keep(self, name: str, how: str, batch: int, made: Callable[[], Any]) -> None:
        self.calls.setdefault(f"{how}_b{batch}_ms", {})[name] = made

    def eager(self, arms: Mapping[str, Path], batch: int) -> dict[str, float]:
        """PyTorch: on a GPU in fp16 in a CUDA graph, on a CPU in float32."""
        gpu = self.device.type == "cuda"
        x = Shape(batch=batch, size=self.size, channels=1).example(self.device)
        calls = {}
        with torch.inference_mode():
            for name, folder in arms.items():
                net = checkpoint.load(folder).net
                runner = targets.network(net, "eager-fp16" if gpu else "eager-fp32", self.device)
                calls[name] = targets.called(runner, x, graph=gpu)[0]
            return self._timed(calls, batch)

    def compiled(self) -> Times:
        """What `add` compiled."""
        found: Times = {}
        with torch.inference_mode():
            for column, made in self.calls.items():
                calls = {name: make()[0] for name, make in made.items()}  # type: ignore[operator, index]
                found[column] = self._timed(calls, self.batches[0])
        return found

    def _timed(self, calls: Mapping[str, Call], batch: int) -> dict[str, float]:
        return timed(calls, batch, self.device)


def timed(calls: Mapping[str, Call], batch: int, device: torch.device) -> dict[str, float]:
    """Milliseconds a slice of each, in turns."""
    if not calls:
        return {}
    clock = timing.clock(device)
    rounds = timing.rounds([Case(call=c, batch=batch, clock=clock) for c in calls.values()], BUDGET)
    return {
        name: timing.summary(own, rounds[0])["p50_ms"]
        for name, own in zip(calls, rounds, strict=True)
    }


def fused(out: Path, batch: int, until: float) -> None:
    """Time the fused engines of all arms, alone, then in turns; writes OUT/fused-bBATCH.json."""
    device, path = torch.device("cuda"), out / f"fused-b{batch}.json"
    calls: dict[str, Call] = {}
    alone: dict[str, float] = {}
    why: dict[str, str] = {}
    arms = [path.parent for path in sorted(out.glob("arms/*/model.json"))]
    arms.sort(key=lambda folder: not folder.name.startswith(FIRST))
    for index, folder in enumerate(arms):
        left = until - time.time()
        if left < LEAST:
            why[folder.name] = "the time was up"
            continue
        try:
            calls[folder.name] = _engine(folder, batch, max(LEAST, left / (len(arms) - index)))
            alone |= timed({folder.name: calls[folder.name]}, batch, device)
        except Exception as error:  # a layer without a kernel here, a compiler, a GPU that failed
            why[folder.name] = reason(error)
        write_json(path, {"ms": alone, "why": why})
    write_json(path, {"ms": timed(calls, batch, device), "why": why})


LEAST = 4.0
"""Seconds for measuring the kernels of an engine, at least; those known already take none."""
FIRST = ("dense", "macs", "latency", "k3")
"""Arms whose engines come first, by how their names begin."""


def _engine(folder: Path, batch: int, seconds: float) -> Call:
    """The engine of a checkpoint, tuned; a call replays its CUDA graph."""
    from fused import tuned  # type: ignore[import-not-found]

    from compress.engines.kernels.plan import compiled
    from compress.engines.kernels.session import Session

    model = checkpoint.load(folder).rewritten("deconv_to_conv")
    plan, tensors = compiled(model.net.cuda())
    shape = (batch, SIDE, SIDE)
    choices = tuned(Session(plan, tensors, shape), seconds).choices
    session = Session(plan, tensors, shape, choices=choices)
    session.image.uniform_()
    session.capture()
    return lambda: session.graph.replay()


SIDE = 512


def known(out: Path, report: Path, batches: tuple[int, ...]) -> Times:
    """What `fused` wrote; the files, with the reasons for what has no engine, go to `report`."""
    found: Times = {}
    for batch in batches:
        path = out / f"fused-b{batch}.json"
        if path.exists():
            written = read_json(path)
            write_json(report / path.name, written)
            found[f"fused_b{batch}_ms"] = written["ms"]
    return found


if __name__ == "__main__":
    fused(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
