"""Batches to train with, from drawn crops: where the pixels lie and how they reach the device.

gpu      the whole training set lies in GPU memory as int16; crops are gathered there
workers  threads cut crops into pinned memory; batches are copied while the GPU works
host     crops are cut when they are needed; for training on the CPU

A loader hands out raw batches and decodes them into network range. The two are apart because
decoding is device work that belongs into the captured step, with a raw batch as its only input.
All loaders give equal batches for equal crops.

Shapes: N crops in a batch, h and w their sides, C slices of low dose that the network sees.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from compress.base.errors import UsageError
from compress.base.hu import to_network
from compress.data import Image, Pairs
from compress.data.crops import Crop, Span
from compress.data.mixing import BITS, UNIT

Name = Literal["auto", "gpu", "workers", "host"]
SHARE = 0.25
"""Share of the free GPU memory that `auto` gives to the training set; the rest is for training."""
AHEAD = 16
"""Batches whose places are sent to the GPU at once."""
PENDING = 4
"""Batches that may wait on the GPU before the host waits too: pinned memory is not without end."""


class Loader(Protocol):
    """Turns drawn crops into batches on the device."""

    def batches(self, drawn: Iterable[list[Crop]]) -> Iterator[Tensor]:
        """Raw batches on the device, one for each list of crops; their first axis is N."""
        ...

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """A raw batch -> low dose (N, C, h, w) and full dose (N, 1, h, w), float32 in [0, 1]."""
        ...


@dataclass(frozen=True)
class Choice:
    """A loader's name and why it is the one."""

    name: Literal["gpu", "workers", "host"]
    why: str


def refuse(name: Name, device: torch.device) -> None:
    """Raise what can be said against a loader before the slices are known.

    Raises:
        UsageError: gpu was asked for and there is none.
    """
    if name == "gpu" and device.type != "cuda":
        raise UsageError("loader gpu needs a GPU; take auto or host on the CPU")


def choose(name: Name, pairs: Pairs, device: torch.device) -> Choice:
    """The loader for these slices on this device.

    auto: gpu where the set takes at most a quarter of the free GPU memory, else workers; host on
    the CPU.

    Args:
        name: what the recipe asks for.
        pairs: what is to be loaded.
        device: where training takes place.

    Raises:
        UsageError: gpu was asked for and there is none, or the set does not fit into its memory.
    """
    refuse(name, device)
    if name == "auto" and device.type != "cuda":
        return Choice("host", "auto: no GPU")
    if name in ("workers", "host"):
        return Choice(name, "asked for")
    need, free = _bytes(pairs), _free(device)
    size = f"the training set takes {need:,} bytes, {free:,} are free on the GPU"
    if name == "auto":
        return Choice("gpu" if need <= SHARE * free else "workers", f"auto: {size}")
    if need > free:
        raise UsageError(f"loader gpu: {size}; take loader workers or fewer train_slices")
    return Choice("gpu", "asked for")


def build(choice: Choice, pairs: Pairs, sides: tuple[int, int], device: torch.device) -> Loader:
    """The loader that was chosen, ready for crops of `pairs` with these sides in pixels."""
    if choice.name == "gpu":
        return Resident(pairs, sides, device)
    threads = min(4, len(os.sched_getaffinity(0))) if choice.name == "workers" else 0
    return Streamed(pairs, device, threads)


class Resident:
    """The whole training set in the device's memory as int16 HU; crops are gathered there.

    A raw batch is (N, 3) int64: where a crop starts in the row of all pixels, and the steps from
    there to the pixel below and to the one on the right, negative where mirrored. Slices may differ
    in size, because the steps are a crop's own. Where low doses are mixed, versions follow, then
    their factors: (N, 3 + 2 M).
    """

    def __init__(self, pairs: Pairs, sides: tuple[int, int], device: torch.device) -> None:
        doses = (*zip(*(pairs.bank or pairs.inputs()), strict=True), pairs.full)
        rows = [np.concatenate([i.ravel() for i in images]) for images in doses]
        # (C + 1, all pixels), int16; where low doses are mixed (versions + 1, all pixels)
        self._pixels = torch.from_numpy(np.stack(rows)).to(device)
        self._starts = np.cumsum([0, *(image.size for image in pairs.full)]).tolist()
        self._widths = [image.shape[1] for image in pairs.full]
        self._down, self._right = (torch.arange(side, device=device) for side in sides)

    def batches(self, drawn: Iterable[list[Crop]]) -> Iterator[Tensor]:
        """Raw batches; places are sent to the device in blocks, and nobody waits for them."""
        device, drawn = self._pixels.device, iter(drawn)
        while block := list(islice(drawn, AHEAD)):
            places = torch.tensor([[self._place(crop) for crop in crops] for crops in block])
            if device.type == "cuda":
                places = places.pin_memory()
            yield from places.to(device, non_blocking=True)  # (AHEAD, N, 3 or more)

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """A raw batch -> low dose (N, C, h, w) and full dose (N, 1, h, w) float32 in [0, 1]."""
        start, down, right, *mix = raw[:, :, None, None].unbind(1)  # each (N, 1, 1)
        places = start + down * self._down[:, None] + right * self._right  # (N, h, w)
        if not mix:
            return _doses(to_network(self._pixels[:, places]))
        chosen = zip(mix[: len(mix) // 2], mix[len(mix) // 2 :], strict=True)
        # Factors are int64, and so is the sum.
        low = _rounded(sum(self._pixels[version, places] * factor for version, factor in chosen))
        return _doses(to_network(torch.stack([low, self._pixels[-1, places].long()])))

    def _place(self, crop: Crop) -> tuple[int, ...]:
        (top, down, _), (left, right, _) = crop.rows, crop.columns
        width = self._widths[crop.image]
        start = self._starts[crop.image] + top * width + left
        steps = (right, down * width) if crop.transposed else (down * width, right)
        versions, factors = ([pair[k] for pair in crop.mix] for k in range(2))
        return (start, *steps, *versions, *factors)


class Streamed:
    """Crops cut on the host and copied to the device, as (N, C + 1, h, w) int16 HU.

    Args:
        pairs: may be memory-mapped files.
        device: where batches go; for a GPU through pinned memory, so that nobody waits.
        threads: that cut ahead; 0 cuts when a batch is asked for.
    """

    def __init__(self, pairs: Pairs, device: torch.device, threads: int) -> None:
        self._pairs, self._device, self._threads = pairs, device, threads
        self._inputs = pairs.inputs()

    def batches(self, drawn: Iterable[list[Crop]]) -> Iterator[Tensor]:
        """Raw batches on the device, in the order drawn."""
        if self._device.type != "cuda":
            yield from self._cut_all(drawn)
            return
        waiting: deque[torch.cuda.Event] = deque()
        for cut in self._cut_all(drawn):
            yield cut.to(self._device, non_blocking=True)
            # The reader comes back when it has queued its work on the batch.
            waiting.append(torch.cuda.Event(blocking=True))  # type: ignore[no-untyped-call]
            waiting[-1].record()
            if len(waiting) > PENDING:
                waiting.popleft().synchronize()

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C + 1, h, w) int16 -> low dose (N, C, h, w), full dose (N, 1, h, w) in [0, 1]."""
        return _doses(to_network(raw).transpose(0, 1).contiguous())

    def _cut_all(self, drawn: Iterable[list[Crop]]) -> Iterator[Tensor]:
        if not self._threads:
            yield from map(self._cut, drawn)
            return
        drawn = iter(drawn)
        with ThreadPoolExecutor(self._threads, "loader", self._begin) as pool:
            ahead: deque[Future[Tensor]] = deque()
            while True:
                for crops in islice(drawn, 2 * self._threads - len(ahead)):
                    ahead.append(pool.submit(self._cut, crops))
                if not ahead:
                    return
                yield ahead.popleft().result()

    def _begin(self) -> None:
        if self._device.type == "cuda":  # else pinning would make a context on the first GPU
            torch.cuda.set_device(self._device.index or 0)

    def _cut(self, crops: list[Crop]) -> Tensor:
        """(N, C + 1, h, w) int16 HU, in pinned memory where it goes to a GPU."""
        images = [
            [image.T if crop.transposed else image for image in self._images(crop)]
            for crop in crops
        ]
        cut = torch.from_numpy(np.array(images, np.int16))
        return cut.pin_memory() if self._device.type == "cuda" else cut

    def _images(self, crop: Crop) -> Iterator[Image]:
        """The crop's windows of what the network sees, then of the full dose."""
        window = _window(crop.rows), _window(crop.columns)
        if crop.mix:
            versions = self._pairs.bank[crop.image]
            parts = (versions[k][window].astype(np.int64) * factor for k, factor in crop.mix)
            yield _rounded(sum(parts))
        else:
            yield from (image[window] for image in self._inputs[crop.image])
        yield self._pairs.full[crop.image][window]


def _window(span: Span) -> slice:
    start, step, length = span
    end = start + step * length
    return slice(start, None if end < 0 else end, step)


def _rounded(total: Any) -> Any:
    """A sum of HU times factors in 1 / UNIT, of NumPy or torch -> whole HU."""
    return (total + UNIT // 2) >> BITS


def _bytes(pairs: Pairs) -> int:
    """What both doses, with all versions, take as int16."""
    return (max(pairs.channels, pairs.versions) + 1) * sum(image.nbytes for image in pairs.full)


def _doses(x: Tensor) -> tuple[Tensor, Tensor]:
    """(C + 1, N, h, w) -> low dose (N, C, h, w) and full dose (N, 1, h, w)."""
    low = x[0].unsqueeze(1) if len(x) == 2 else x[:-1].transpose(0, 1).contiguous()
    return low, x[-1].unsqueeze(1)


def _free(device: torch.device) -> int:
    """Free memory of a GPU in bytes."""
    return torch.cuda.mem_get_info(device)[0]
