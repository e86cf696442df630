"""The network of `enhance`: a checkpoint or an engine, for slices of any size."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress import checkpoint
from compress.base import devices
from compress.base.errors import CompressError, UsageError
from compress.base.hu import enhanced_hu, to_network
from compress.base.tensors import channels_last
from compress.dicom.rescale import HU
from compress.engines import sidecar
from compress.engines.subject import Subject, is_residual
from compress.graph.padding import AnySize, multiple

BATCH = {"cuda": 16, "cpu": 2}
"""Slices at once, where neither the engine nor the user says."""


class Flight:
    """A batch on its way through the network."""

    def __init__(self, output: Tensor, events: Sequence[torch.cuda.Event], seconds: float) -> None:
        self._output, self._events, self._seconds = output, events, seconds

    def done(self) -> bool:
        """Whether `land` would not wait."""
        return not self._events or bool(self._events[-1].query())  # type: ignore[no-untyped-call]

    def land(self) -> tuple[HU, float]:
        """Wait for it: (N, H, W) HU, and the seconds that the network took."""
        if self._events:
            self._events[-1].synchronize()
            self._seconds = self._events[0].elapsed_time(self._events[1]) / 1000
        output: HU = self._output[:, 0].numpy()
        return output, self._seconds


class Network:
    """A loaded network on its device.

    Args:
        net: a network of slices, float32 in network range, of any side.
        device: where it runs.
        batch: slices at once.
        model: hash of what it computes.
        precision: of its arithmetic.
    """

    full: bool
    """Whether a smaller batch is filled up. A GPU chooses and loads other kernels for each size of
    batch, which takes longer than the slices that are computed in vain; and so all slices of a run
    come from the same kernels."""

    def __init__(
        self, net: AnySize, device: torch.device, batch: int, model: str, precision: str
    ) -> None:
        self.net, self.device, self.batch = net, device, batch
        self.model, self.precision = model, precision
        self._staging: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self._turn = 0
        self.full = device.type == "cuda"

    @property
    def place(self) -> str:
        """The device in words: cpu, or the GPU's name."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    @property
    def neighbours(self) -> int:
        """Slices on each side that it sees."""
        return self.net.neighbours

    @property
    def size(self) -> int | None:
        """The largest side of a slice; None: any."""
        return self.net.size

    def launch(self, slices: Sequence[HU]) -> Flight:
        """Send slices of one shape; at most one earlier flight is under way.

        Args:
            slices: each (H, W) HU, or (2 * neighbours + 1, H, W).

        Raises:
            CompressError: the GPU's memory is too small for a single slice.
        """
        low, high = self._buffers(slices[0].shape[-2:])
        count = len(slices)
        places = self.batch if self.full else count
        staged = low.numpy()  # torch would copy with all cores' threads, which the workers need
        for place in range(places):
            np.copyto(staged[place], slices[min(place, count - 1)])
        try:
            return Flight(high[:count], *self._sent(low[:places], high[:places]))
        except torch.OutOfMemoryError as error:
            raise CompressError("the GPU's memory is too small for a single slice") from error

    def _sent(self, x: Tensor, y: Tensor) -> tuple[Sequence[torch.cuda.Event], float]:
        """Have `y` made of `x`, both HU in staging memory: events, or seconds."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            y.copy_(self._enhance(x))
            return (), time.perf_counter() - start
        events = [_event() for _ in range(3)]
        x = x.to(self.device, non_blocking=True)
        events[0].record()
        enhanced = self._enhance(x)
        events[1].record()
        y.copy_(enhanced, non_blocking=True)
        events[2].record()
        return events, 0.0

    def _enhance(self, hu: Tensor) -> Tensor:
        """(N, C, H, W) HU -> (N, 1, H, W) HU, NaN where the output is not finite.

        The batch is halved while the GPU has no memory.
        """
        try:
            with torch.inference_mode():
                return enhanced_hu(self.net(to_network(hu)))
        except torch.OutOfMemoryError:
            if len(hu) == 1:
                raise
        half = len(hu) // 2
        return torch.cat((self._enhance(hu[:half]), self._enhance(hu[half:])))

    def _buffers(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Memory for a batch before and after; two of each, used in turn."""
        if shape not in self._staging:
            self._staging.clear()  # series have one shape; a mixed archive would pile them up
            pinned = self.device.type == "cuda"
            low, high = ((self.batch, n, *shape) for n in (2 * self.neighbours + 1, 1))
            self._staging[shape] = [
                (torch.empty(low, pin_memory=pinned), torch.empty(high, pin_memory=pinned))
                for _ in range(2)
            ]
        self._turn = 1 - self._turn
        return self._staging[shape][self._turn]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def load(path: Path, *, device: str | None, batch: int | None) -> Network:
    """A checkpoint folder, an engine's file or its sidecar, ready to run.

    Args:
        path: what to load.
        device: cpu, cuda or cuda:N; an engine knows its own.
        batch: slices at once; a static engine knows its own.

    Raises:
        UsageError: it is neither, was altered, or does not fit this machine, device or batch.
    """
    network = _checkpoint(path, device, batch) if path.is_dir() else _engine(path, device, batch)
    if network.device.type == "cuda":  # CUDA's start takes seconds, here beside the workers' scan
        side = network.size or 512  # the usual matrix: its kernels are chosen now
        network.launch([np.zeros((side, side), np.float32)] * network.batch).land()
    return network


def _checkpoint(path: Path, device: str | None, batch: int | None) -> Network:
    """On a GPU a residual network computes its correction in half precision, see `Subject`."""
    target = devices.choose(device)
    sidecar.refuse_folder(path)
    net = checkpoint.load(path).net
    half = target.type == "cuda" and is_residual(net)
    precision = "fp16" if half else "fp32"
    subject = Subject(net, "fp16" if half else "fp32").to(target)
    if target.type == "cuda":
        channels_last(subject)
    size = batch or BATCH[target.type]
    anysize = AnySize(subject, multiple=multiple(net))
    return Network(anysize, target, size, checkpoint.identity(path), precision)


def _engine(path: Path, device: str | None, batch: int | None) -> Network:
    chosen = None if device is None else devices.choose(device)  # an engine goes to the current one
    facts, runner = sidecar.load(sidecar.of(path))
    target = torch.device(facts["place"]["device"])
    if chosen is not None and chosen.type != target.type:
        raise UsageError(f"--device {device}: the engine was built for {target.type}")
    own, dynamic = int(facts["batch"]), bool(facts["dynamic_batch"])
    if batch is not None and (batch > own if dynamic else batch != own):
        allowed = f"up to {own}" if dynamic else str(own)
        raise UsageError(f"--batch {batch}: the engine was built for a batch of {allowed}")
    net = sidecar.any_size(facts, runner)
    return Network(net, target, batch or own, facts["sha256"], facts["precision"])
