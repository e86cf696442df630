"""What an engine format is, and what all of them share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from compress.base.machine import Package, why_not
from compress.base.reasons import cause, quiet, reason
from compress.engines.precision import Precision
from compress.engines.records import Built

Runner = Callable[[Tensor], Tensor]
"""(N, C, H, W) float32 in network range -> (N, 1, H, W); C is 1, or more with neighbours."""


def placed(x: Tensor, device: torch.device) -> Tensor:
    """An input as every runner hands it on: on `device`, float32, in the order of its shape.

    Compiled programs read memory from its start and look at no strides: of a tile, a transpose or
    a flip AOTInductor returns wrong numbers without a word.
    """
    return x.detach().to(device, torch.float32).contiguous()


class NotBuilt(Exception):
    """A format cannot be built here; `command` is what would help, empty where nothing does."""

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(reason)
        self.reason, self.command = reason, command


@contextmanager
def giving_up(who: str, logged: Sequence[str] = ()) -> Iterator[None]:
    """Turn what a compiler raises into the reason why there is no engine: its own line.

    Args:
        who: the compiler.
        logged: the errors in its log by then; the first one says more than an exception behind it.
    """
    try:
        with quiet():
            yield
    except NotBuilt:
        raise
    except Exception as error:  # compilers raise whatever they like
        first = RuntimeError(logged[0]) if logged else cause(error)
        raise NotBuilt(f"{who} gave up: {reason(first)}") from error


def broken(packages: Sequence[Package]) -> NotBuilt | None:
    """The first of these packages that this process cannot import; None where it can all."""
    for package in packages:
        if why := why_not(package.module):
            return NotBuilt(f"{package.module} {why}", package.get)
    return None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The input that an engine is built for."""

    batch: int
    """Slices at once; the most of them where `dynamic`."""
    size: int
    """Height and width of a slice in pixels."""
    dynamic: bool = False
    """Whether any batch from 1 to `batch` will do."""
    channels: int = 1
    """Slices that the network sees of each, itself among them."""

    def example(self, device: torch.device) -> Tensor:
        """An input of this shape, random in [0, 1)."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.channels, self.size, self.size)
        return torch.rand(shape, generator=generator).to(device)

    def dynamic_shapes(self) -> tuple[dict[int, Any]] | None:
        """What torch.export wants to know of it."""
        return ({0: torch.export.Dim("batch", min=1, max=self.batch)},) if self.dynamic else None


class Served(NamedTuple):
    """How Triton Inference Server runs files of a format."""

    backend: str
    file: str
    """The name that it looks for in a version's folder."""


class Format(Protocol):
    """One engine format: all that the program knows of it. Formats derive from this class."""

    suffix: str
    """Ending of its files, with the dot."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
    """What it can compute in."""
    casts: bool = False
    """Whether it rounds to half precision itself, and so is given a network in float32."""
    quantised: tuple[Precision, ...] = ()
    """Precisions between the INT8 layers of a quantised network, the usual one first; none where it
    takes no such network."""
    requires: tuple[str, ...] = ()
    """Names of the parts that building it takes, as `compress doctor` lists them."""
    needs_same: tuple[str, ...] = ()
    """Facts of the place that must be equal where an engine is built and where it is loaded."""
    library: str | None = None
    """The fact of the place that names the library which runs the engine, where it has a choice."""
    timed: bool = False
    """Whether milliseconds decide how transposed convolutions are compiled on a GPU."""
    served: Served | None = None
    """How Triton Inference Server runs it, if it does."""

    def packages(self) -> tuple[Package, ...]:
        """The packages that building it takes, and the command that installs each."""
        return ()

    def place(self, device: torch.device) -> dict[str, str | None]:
        """Facts of this place that only this format depends on; see `sidecar.place`."""
        return {}

    def missing(self, device: torch.device) -> NotBuilt | None:
        """Why it cannot be built for `device` here; None where it can."""
        ...

    def build(self, subject: nn.Module, shape: Shape, path: Path, device: torch.device) -> Built:
        """Write the engine of `subject` to `path`; returns facts for the sidecar.

        Raises:
            NotBuilt: the compiler gave up.
        """
        ...

    def load(self, path: Path, device: torch.device) -> Runner:
        """The engine in `path`, which was checked against its sidecar."""
        ...

    def weights(self, path: Path) -> dict[str, Tensor]:
        """The weights that lie in an engine's file, (out, in, kH, kW) float32 by the layer's name.

        Empty where the format does not let them be read.
        """
        return {}
