"""INT8 beside half precision in the fused engine, random weights of equal widths, on one GPU.

    python tests/bench/int8.py --network dense --batch 16              # whole engines, in turns
    python tests/bench/int8.py --network dense --batch 16 --kernels    # kernels one by one

In INT8 are the 5x5 and 3x3 convolutions. Engines: dense and 2:4 in float16, 2:4 and dense in INT8,
512x512, each in a CUDA graph; prints the median of each and of the ratios. Kernels: microseconds a
slice of the best cut of each instruction, in the best of its strips. COMPRESS_FUSED_ARCH=80 keeps
to what an A100 has.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import torch
from torch import nn

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import fused  # type: ignore[import-not-found]
import turns  # type: ignore[import-not-found]
from fused_cases import ranged

from compress.engines.kernels import timed
from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.cuda.window import Window, strips
from compress.engines.kernels.jobs import Job, jobs
from compress.engines.kernels.plan import compiled
from compress.engines.kernels.session import Session


def networks(name: str) -> dict[str, nn.Module]:
    """Dense and 2:4, in half precision and in INT8."""
    found = {}
    for one in (name, f"{name}-2to4"):
        found[one] = fused.network(one).cuda()
        found[f"{one}-int8"] = ranged(found[one], torch.rand(2, 1, 64, 64, device="cuda"))
    return found


def engine(net: nn.Module, batch: int, seconds: float) -> Callable[[], float]:
    """A tuned engine; a call gives the milliseconds of a replay of its graph."""
    plan, tensors = compiled(net)
    shape = (batch, fused.SIDE, fused.SIDE)
    found = fused.tuned(Session(plan, tensors, shape), seconds)
    session = Session(plan, tensors, shape, choices=found.choices)
    session.image.uniform_()
    session.capture()

    def call() -> float:
        """Holds the session: the graph alone would let go of what it reads and writes."""
        assert session.graph is not None
        return float(turns.median(session.graph.replay))

    return call


def fastest(job: Job, height: int, device: torch.device) -> dict[str, tuple[float, Window]]:
    """By kind of instruction the milliseconds of the fastest cut, in the best of its strips."""
    found = dict[str, tuple[float, Window]]()
    for cut in job.cuda:
        assert isinstance(cut, Window)
        for one in (replace(cut, strip=rows) for rows in strips(height)):
            ms = timed.milliseconds(partial(job.make, one), device)
            if ms < found.get(one.kind, (timed.NEVER, one))[0]:
                found[one.kind] = ms, one
    return found


def kernels(name: str, batch: int, least: int) -> None:
    """Print a row for each shape: half precision of 2:4 weights; INT8 of dense and of 2:4 ones."""
    for kind, net in networks(name).items():
        if kind == name:  # 2:4 layers have the dense kernels, too
            continue
        session = Session(*compiled(net), (batch, fused.SIDE, fused.SIDE))
        for buffer in session.buffers.values():
            buffer.inside.normal_(std=0.1)
        found = {key: job for key, job in jobs(session).items() if job.cuda and job.size in (3, 5)}
        found = {key: job for key, job in found.items() if job.results[0].shape[1] >= least}
        made = [s for job in found.values() for cut in job.cuda if (s := job.source(cut))]
        compiler.ahead(made, session.image.device)
        for key in sorted(found):
            best = fastest(found[key], found[key].results[0].shape[1], session.image.device)
            us = [f"{one} {1e3 * ms / batch:.2f}" for one, (ms, _) in sorted(best.items())]
            print(f"{key:60} {', '.join(us)}", flush=True)
            for one, (_, cut) in sorted(best.items()):
                print(f"{'':8}{one}: {cut}")


@click.command()
@click.option("--network", "name", type=click.Choice(["dense", "16-16-16", "3x3"]), required=True)
@click.option("--batch", default=16)
@click.option("--seconds", default=40.0, help="For measuring kernels, each engine.")
@click.option("--kernels", "alone", is_flag=True, help="Kernels one by one, no engines.")
@click.option("--least", default=128, help="Rows of the smallest image, with --kernels.")
def main(name: str, batch: int, seconds: float, alone: bool, least: int) -> None:
    """Measure INT8."""
    if alone:
        kernels(name, batch, least)
        return
    calls = {kind: engine(net, batch, seconds) for kind, net in networks(name).items()}
    turns.compare(calls, name, batch)


if __name__ == "__main__":
    main()
