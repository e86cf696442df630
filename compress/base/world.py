"""Several processes that train one network, one for each GPU, as `torchrun` starts them.

Every process runs the same recipe. All of them train; every other step is done by the first one,
and the others wait and load what it has written, so the run folder must be one that all see.
Gradients are averaged in one piece after the backward pass instead of by torch's wrapper for
parallel training: a network of half a million parameters gains nothing from overlapping, and one
plain call works with accumulated gradients and inside a CUDA graph.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread

import torch
import torch.distributed as dist
from torch import Tensor

from compress.base.errors import CompressError

log = logging.getLogger(__name__)

SILENCE = 600.0
"""Seconds of such waiting after which it is said."""


@dataclass(frozen=True)
class World:
    """This process among those that train together; alone, nothing here has an effect."""

    rank: int = 0
    """Number of this process, counted from 0; the first one writes files."""
    size: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` items, which `size` divides."""
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over all processes; queued on the device."""
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        _reduce(flat, dist.ReduceOp.SUM)
        flat /= self.size
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(
            tensors, [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
        )

    def any(self, value: bool) -> bool:
        """Whether `value` is true in any process; waits for all of them."""
        if self.size == 1:
            return value
        flag = torch.tensor(int(value))
        with _said_while_waiting(self):
            _reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.any(False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Fail in all processes where one fails.

        Raises:
            CompressError: it failed in another process, which says why.
        """
        try:
            yield
        except CompressError:
            self.any(True)
            raise
        if self.any(False):
            raise CompressError("another process failed; its own message says why")

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process do something alone, then all others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


@contextmanager
def _said_while_waiting(world: World) -> Iterator[None]:
    """Say after SILENCE, and again whenever that time has doubled, that others are waited for."""
    done, started = Event(), time.monotonic()

    def say() -> None:
        pause = SILENCE
        while not done.wait(pause):
            minutes = (time.monotonic() - started) / 60
            log.warning(
                "process %d has waited %.0f minutes for the other %d: they may be at work, or gone",
                world.rank,
                minutes,
                world.size - 1,
            )
            pause *= 2

    watch = Thread(target=say, daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _reduce(tensor: Tensor, how: "dist.ReduceOp.RedOpType") -> None:
    """Combine `tensor` over all processes, in place."""
    try:
        dist.all_reduce(tensor, how)
    except RuntimeError as error:
        if tensor.is_cuda:  # what a CUDA graph cannot hold is the affair of who captures
            raise
        raise CompressError("another process failed; its own message says why") from error
