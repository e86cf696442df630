"""One of several processes that `scaling.py` starts as torchrun would: it does what it is asked.

The first process reads a request a line, JSON, and prints an answer a line; the others hear of it
through gloo, and wait there without computing. What was built for a request is released after it,
so that groups of 1, 2, 4 and 8 processes can share the GPUs in turns.
"""

import argparse
import gc
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from pairs import data

from compress.base.ending import leave
from compress.base.errors import UsageError
from compress.base.torchrun import joined
from compress.base.world import World
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data import Data
from compress.steps.train import Train
from compress.training import losses
from compress.training import precision as formats
from compress.training.parts import Objective, adam, trainable
from compress.training.profiling import Recorder
from compress.training.session import Session

BATCHES = 8
"""Batches that the loop of DDP takes in turns."""


@dataclass(frozen=True)
class Place:
    """Where this process computes, and with whom."""

    world: World
    device: torch.device

    def work(self, pairs: Data) -> Work:
        """What a stage is given; the name of its folder seeds the draws, the same everywhere."""
        stage = Path(tempfile.mkdtemp()) / "00-train"
        stage.mkdir()
        return Work(stage=stage, device=self.device, data=pairs, seed=0, world=self.world)

    def finished(self) -> None:
        """Return when all processes and their devices have come here."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.world.wait()


def model(network: dict[str, Any]) -> Model:
    """A fresh DDnet, the same in all processes."""
    torch.manual_seed(0)
    origin = ModelOptions(name="ddnet", options=network)
    return Model(net=origin.build(), origin=origin)


def options(asked: dict[str, Any], steps: int) -> Train:
    """Whole slices, `steps` steps an epoch."""
    return Train(
        epochs=10_000, batch=asked["batch"], crop=None, slices_per_epoch=steps * asked["batch"],
        lr=1e-4, sync_norm=asked["sync_norm"],
    )  # fmt: skip


Loop = tuple[Callable[[int], None], Callable[[], dict[str, Any]]]
"""Trains so many steps; how it does so."""


def ours(place: Place, asked: dict[str, Any], pairs: Data) -> Loop:
    """The training session of the project: one CUDA graph a step on a GPU."""
    session = Session(options(asked, asked["steps"]), model(asked["network"]), place.work(pairs))
    recorder = Recorder(None, 1, place.device)

    def train(count: int) -> None:
        session.step += asked["steps"] - count  # to the last steps of an epoch
        session.epoch(recorder)

    def facts() -> dict[str, Any]:
        found = session.facts()
        return {name: found[name] for name in ("precision", "loader", "cuda_graph", "micro_batch")}  # type: ignore[literal-required]

    return train, facts


def ddp(place: Place, asked: dict[str, Any], pairs: Data) -> Loop:
    """Plain DistributedDataParallel of the same network, loss, optimizer and number format.

    Each process takes random batches of its share, which lie decoded on the device. Alone, there is
    nothing to wrap.
    """
    opts = options(asked, asked["steps"])
    precision = formats.choose(opts.precision, place.device)
    if precision.name not in ("fp32", "bf16"):
        raise UsageError(f"the loop of DDP scales no loss, which {precision.name} needs")
    session = Session(opts, model(asked["network"]), place.work(pairs))
    raw = itertools.islice(session._batches(0), BATCHES)
    batches = itertools.cycle([tuple(t.clone() for t in session.loader.decode(r)) for r in raw])
    net = trainable(model(asked["network"]).net, opts, place.device, place.world)
    optimizer = adam(net, opts.lr, opts.weight_decay)
    objective: nn.Module = Objective(net, losses.loss(opts.loss))
    if place.world.size > 1:
        ids = [place.device.index] if place.device.type == "cuda" else None
        objective = DistributedDataParallel(objective, device_ids=ids)

    def train(count: int) -> None:
        with precision.switches():
            for low, full in itertools.islice(batches, count):
                optimizer.zero_grad()
                with precision.autocast():
                    loss = objective(low, full)
                loss.backward()
                optimizer.step()

    wrapper = type(objective).__name__ if place.world.size > 1 else None
    return train, lambda: {"precision": precision.name, "wrapper": wrapper, "cuda_graph": False}


LOOPS = {"ours": ours, "ddp": ddp}


def timed(place: Place, asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds of `steps` steps after `untimed` ones, from all processes ready to all done."""
    pairs = data(side=asked["side"], train=asked["slices"])
    train, facts = LOOPS[asked["loop"]](place, asked, pairs)
    train(asked["untimed"])
    place.finished()
    started = time.perf_counter()
    train(asked["steps"])
    place.finished()
    return {"seconds": time.perf_counter() - started, "facts": facts()}


def learned(place: Place, asked: dict[str, Any]) -> dict[str, Any]:
    """The loss of every step of a training in float32."""
    train = Train(
        epochs=asked["steps"], batch=asked["batch"], crop=None, slices_per_epoch=asked["batch"],
        lr=1e-4, precision="fp32", freeze_norm=asked["freeze_norm"], sync_norm=asked["sync_norm"],
    )  # fmt: skip
    work = place.work(data(side=asked["side"], train=asked["slices"]))
    train.run(model(asked["network"]), work)
    return {"losses": work.facts["loss"]}


def size(_: Place, asked: dict[str, Any]) -> dict[str, Any]:
    """Bytes of the gradients of a step, which are float32."""
    net = model(asked["network"]).net
    return {"gradient_bytes": sum(4 * p.numel() for p in net.parameters() if p.requires_grad)}


REQUESTS = {"timed": timed, "learned": learned, "size": size}


def heard(world: World) -> str:
    """The next line of standard input of the first process; empty at its end."""
    line = [sys.stdin.readline() if world.first else ""]
    if world.size > 1:
        dist.broadcast_object_list(line, src=0, device=torch.device("cpu"))
    return line[0].strip()


def serve(place: Place) -> None:
    """Do what comes until standard input ends."""
    while line := heard(place.world):
        asked = json.loads(line)
        answer = REQUESTS[asked.pop("request")](place, asked)
        if place.world.first:
            print(json.dumps(answer), flush=True)
        gc.collect()  # a captured step and its loader refer to each other
        if place.device.type == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    """Join the others and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    with joined(parser.parse_args().device) as (world, device):
        serve(Place(world, torch.device(str(device))))
    leave(0)


if __name__ == "__main__":
    main()
