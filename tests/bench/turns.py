"""Engines in turns on one GPU: dense, 2:4, torch.compile, and the fused engine of another commit.

    python tests/bench/turns.py --network dense --batch 16 --other FOLDER

FOLDER is a checkout of another commit; its engine runs in a process of its own, which waits while
the others run. All are CUDA graphs of 512x512 slices. Prints the median of each round, milliseconds
a slice, and of the ratios.
"""

import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

ROUNDS, REPLAYS, SIDE = 7, 15, 512


def fused(name: str, batch: int, seconds: float) -> Callable[[], object]:
    """The engine of this process' own tree, tuned; a call replays its graph."""
    from fused import network  # type: ignore[import-not-found]

    from compress.engines import fused as engine
    from compress.engines.kernels import remembered
    from compress.engines.kernels.plan import compiled
    from compress.engines.kernels.session import Session
    from compress.engines.kernels.tune import tune

    plan, tensors = compiled(network(name).cuda())
    shape = (batch, SIDE, SIDE)
    with remembered.tilings(engine.gpu(torch.device("cuda"))) as known:
        found: Any = tune(Session(plan, tensors, shape), seconds, known)
    session = Session(plan, tensors, shape, choices=getattr(found, "choices", found))
    session.image.uniform_()
    session.capture()
    return lambda: session.graph.replay()


def compiled_graph(name: str, batch: int) -> Callable[[], object]:
    """torch.compile in float16 and channels_last, in a CUDA graph."""
    from fused import graphed, network

    net = network(name).half().cuda().to(memory_format=torch.channels_last)
    x = torch.rand(batch, 1, SIDE, SIDE, device="cuda").half()
    call = torch.compile(net)
    graph = graphed(lambda: call(x.to(memory_format=torch.channels_last)))
    return lambda: (graph.replay(), net, x)


def median(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def answer(call: Callable[[], object]) -> None:
    """In the process of the other commit: a time for every line."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print(median(call), flush=True)


def other(folder: str, name: str, batch: int, seconds: float) -> Callable[[], float]:
    """The engine of another checkout; each call asks its process for a time."""
    bench = Path(folder) / "tests" / "bench"
    path = {"PYTHONPATH": os.pathsep.join([folder, str(bench)]), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, __file__, "--network", name, "--batch", str(batch)]
    process = subprocess.Popen(
        [*command, "--seconds", str(seconds), "--answer"], env={**os.environ, **path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    to, back = process.stdin, process.stdout
    while back.readline().strip() != "ready":
        assert process.poll() is None, "the other engine failed"

    def ask() -> float:
        to.write("go\n")
        to.flush()
        return float(back.readline())

    return ask


@click.command()
@click.option("--network", "name", required=True)
@click.option("--batch", default=16)
@click.option("--seconds", default=40.0, help="For measuring kernels, each engine.")
@click.option("--other", "folder", help="Checkout of another commit.")
@click.option("--other-seconds", default=60.0, help="The same for its engine.")
@click.option("--compile/--no-compile", "with_compile", default=True)
@click.option("--answer", "answers", is_flag=True, hidden=True)
def main(
    name: str,
    batch: int,
    seconds: float,
    folder: str | None,
    other_seconds: float,
    with_compile: bool,
    answers: bool,
) -> None:
    """Measure in turns."""
    logging.basicConfig(format="%(relativeCreated)d ms %(message)s")
    logging.getLogger("compress.engines.kernels.choose").setLevel(logging.INFO)
    if answers:
        answer(fused(name, batch, seconds))
        return
    calls: dict[str, Callable[[], float]] = {}
    if folder:
        calls["other"] = other(folder, name, batch, other_seconds)
    for kind in (name, f"{name}-2to4"):
        call = fused(kind, batch, seconds)
        calls[kind] = lambda call=call: median(call)  # type: ignore[misc]
    if with_compile:
        graph = compiled_graph(name, batch)
        calls["torch.compile"] = lambda: median(graph)
    compare(calls, name, batch)


def compare(calls: dict[str, Callable[[], float]], name: str, batch: int) -> None:
    """Measure in turns and print."""
    rounds = [{one: time() / batch for one, time in calls.items()} for _ in range(ROUNDS + 1)][1:]
    for at, turn in enumerate(rounds):
        print(f"round {at + 1}:", ", ".join(f"{one} {ms:.4f}" for one, ms in turn.items()))
    for one in calls:
        times = [turn[one] for turn in rounds]
        print(f"{one:20} {statistics.median(times):.4f} ms a slice, batch {batch}")
    for top in calls:
        for bottom in (name, f"{name}-2to4"):
            ratios = [turn[top] / turn[bottom] for turn in rounds]
            if top != bottom:
                print(f"{top} / {bottom}: {statistics.median(ratios):.3f}"
                      f" ({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    main()
