"""How a process that `torchrun` has started meets the others."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from compress.base import ending
from compress.base.errors import CompressError, UsageError
from compress.base.words import listed
from compress.base.world import World

log = logging.getLogger(__name__)

JOIN = timedelta(minutes=10)
"""How long a process waits for the others to start."""
MEET = ("MASTER_ADDR", "MASTER_PORT")
"""Where they meet, in the environment."""
PATIENCE = timedelta(days=2)
"""How long a process waits for another one: an export by the first may take hours."""
UNSET = "start several processes by torchrun, or unset WORLD_SIZE"


@contextmanager
def joined(device: str | None) -> Iterator[tuple[World, str | None]]:
    """The world that `torchrun` has made, and the device of this process in it.

    Args:
        device: cpu, cuda, or None for the GPU where there is one; cuda:N where there is only one
            process.

    Raises:
        UsageError: the environment says half of what `torchrun` says, a GPU is named for several
            processes, or there are fewer GPUs than processes.
        CompressError: the other processes do not come.
    """
    world = _from_environment()
    if world.size == 1:
        yield world, device
        return
    device = _own(device)
    if not world.first:
        logging.getLogger("compress").setLevel(logging.WARNING)
    with _nothing_printed():
        _meet(world, "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    try:
        yield world, device
    finally:
        dist.destroy_process_group()


def _from_environment() -> World:
    """This process among all, by what `torchrun` tells it."""
    try:
        size = ending.processes()
    except ValueError as error:
        said = os.environ["WORLD_SIZE"]
        raise UsageError(f"WORLD_SIZE is {said!r}, no number of processes; {UNSET}") from error
    if size == 1:
        return World()
    missing = [name for name in ("RANK", *MEET) if not os.environ.get(name)]
    if missing:
        gone = f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} not set"
        raise UsageError(f"WORLD_SIZE is {size}, but {gone}; {UNSET}")
    rank = _number("RANK")
    if rank >= size:
        raise UsageError(f"RANK is {rank}, but there are {size} processes, counted from 0; {UNSET}")
    return World(rank, size)


def _number(name: str) -> int:
    """A whole number from the environment.

    Raises:
        UsageError: it is none, or not set.
    """
    said = os.environ.get(name, "").strip()
    if not said.isdecimal():
        raise UsageError(f"{name} is {said!r}, no whole number; {UNSET}")
    return int(said)


def _meet(world: World, backend: str) -> None:
    """Connect with the other processes.

    Raises:
        CompressError: they do not come within JOIN.
    """
    address = ":".join(os.environ[name] for name in MEET)
    _number(MEET[1])
    log.info("waiting at %s for all of %d processes, %s at most", address, world.size, JOIN)
    try:
        store, *_ = next(rendezvous("env://", timeout=JOIN))
        dist.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE
        )
        store.set_timeout(PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        said = str(error).splitlines()[0][:200]
        raise CompressError(
            f"not all of {world.size} processes came to {address} within {JOIN}: {said}"
        ) from error


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep standard output for the run's own words: gloo in torch 2.8 greets its peers there."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _own(device: str | None) -> str:
    """The device of this one of several processes."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if device != "cuda":
        raise UsageError(
            f"--device {device}: with torchrun, pass --device cuda; each process picks its own GPU"
        )
    local, there = _number("LOCAL_RANK"), torch.cuda.device_count()
    if local >= there:
        count = int(os.environ.get("LOCAL_WORLD_SIZE") or local + 1)
        raise UsageError(f"{count} processes need {count} GPUs, PyTorch sees {there} here")
    torch.cuda.set_device(local)
    return f"cuda:{local}"
