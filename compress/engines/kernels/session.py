"""A plan bound to one shape: buffers, chosen tilings, and on a GPU one CUDA graph."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compress.base.cuda_graph import capture
from compress.engines.kernels import launch, plain
from compress.engines.kernels.cuda import compiler, moves
from compress.engines.kernels.cuda import launch as cuda
from compress.engines.kernels.cuda.products import DENSE_INT8, SPARSE
from compress.engines.kernels.cuda.window import Window, candidates
from compress.engines.kernels.memory import Framed, framed
from compress.engines.kernels.plan import (
    IMAGE,
    OUTPUT,
    Chain,
    Conv,
    Plan,
    Pool,
    Upsample,
)
from compress.engines.kernels.route import Layer, Merged, Unit, route
from compress.engines.kernels.tiling import Tiling, default

Key = str
"""Names a convolution's shape, see `key`."""
Cut = Tiling | Window | moves.Move
"""How a kernel is cut: one of Triton, or one in CUDA C++."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was measured to be fastest, by `key`; defaults stand in for what was not."""

    conv: Mapping[Key, Cut] = field(default_factory=dict)
    chain: Mapping[Key, Tiling] = field(default_factory=dict)
    """Chains that one kernel computes; the others take two."""
    layer: Mapping[Key, Window] = field(default_factory=dict)
    """Likewise layers: bottleneck and 5x5, upsampling and 5x5, stem and max-pool."""
    move: Mapping[Key, moves.Move] = field(default_factory=dict)
    """Max-pools and upsamplings that Triton does not compute."""

    def of_triton(self) -> "Choices":
        """Those that need nothing but Triton."""
        convs = {key: cut for key, cut in self.conv.items() if isinstance(cut, Tiling)}
        return Choices(conv=convs, chain=self.chain)


def key(op: Unit, batch: int, height: int, width: int) -> Key:
    """What the time of an operation depends on, in a word; sides are those of what it reads.

    Those of a layer are those of what its second operation reads.
    """
    if isinstance(op, Pool):
        return f"pool {op.source.channels} {height}x{width} b{batch}"
    if isinstance(op, Upsample):
        return f"upsample {op.source.channels} {height}x{width} b{batch}"
    if isinstance(op, Chain | Layer):
        first, second = (key(one, batch, height, width) for one in (op.first, op.second))
        if isinstance(op, Chain):  # Triton's, which takes zeros for weights like any other
            first = first.replace(" 2:4", "")
        return f"{first.rsplit(' ', 2)[0]} + {second}"
    behind = f"-{op.target.channels}" if op.then else ""
    marks = " table" * op.table + " int8" * op.int8 + " 2:4" * op.sparse
    widths = f"{op.source.channels}-{op.out}{behind}{marks}"
    return f"{op.size}x{op.size} {widths} {height}x{width} b{batch}"


def _borders(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the frames hold, (channels in memory,) by buffer; one padded convolution reads each."""
    found = dict[str, Tensor]()
    for op in plan.convs():
        values = tensors.get(f"{op.name}.border")
        if values is not None:
            buffer, start = op.source.buffer, op.source.start
            found[buffer] = values.new_zeros(plan.buffers[buffer].channels)
            found[buffer][[start + at for at in op.source.positions]] = values
    return found


class Session:
    """A network for one batch and size.

    Args:
        plan: its operations.
        tensors: of the plan, on the device.
        shape: (N, H, W); H, W multiples of 16.
        choices: tilings.
        kernels: False computes everything in PyTorch.
        dtype: of the buffers.
        poison: fill buffers with NaN first; for tests.
    """

    def __init__(
        self,
        plan: Plan,
        tensors: Mapping[str, Tensor],
        shape: tuple[int, int, int],
        *,
        choices: Choices | None = None,
        kernels: bool = True,
        dtype: torch.dtype = torch.float16,
        poison: bool = False,
    ) -> None:
        batch, height, width = shape
        device = next(iter(tensors.values())).device
        self.plan, self.tensors, self.kernels = plan, tensors, kernels
        self.choices = choices or Choices()
        if kernels and device.type == "cuda" and not compiler.available():
            self.choices = self.choices.of_triton()
        exact = dtype if dtype == torch.float64 else torch.float32
        self.image = torch.zeros(batch, 1, height, width, dtype=exact, device=device)
        self.output = torch.full_like(self.image, float("nan"))
        self.buffers: dict[str, Framed] = {}
        around = _borders(plan, tensors)
        for name, one in plan.buffers.items():
            sides = height >> one.level, width >> one.level
            made = functools.partial(framed, batch, *sides, one.channels, poison=poison)
            self.buffers[name] = made(dtype=dtype, device=device, border=around.get(name))
        nhwc = self.output.view(batch, height, width, 1)
        self.buffers[OUTPUT] = Framed(nhwc, 0, 0, height, width)
        self.units = route(plan, self._wanted)
        self.calls = [self.prepare(one) for one in self.units]
        self.graph: torch.cuda.CUDAGraph | None = None

    def _wanted(self, pair: Merged) -> bool:
        chosen = self.choices.chain if isinstance(pair, Chain) else self.choices.layer
        return self.kernels and self.key(pair) in chosen

    def prepare(self, op: Unit) -> launch.Call:
        """The call that computes a unit."""
        if isinstance(op, Chain):
            return launch.chain(op, self.buffers, self.tensors, self.choices.chain[self.key(op)])
        if isinstance(op, Layer):
            given = self.buffers, self.tensors, self.image, self.choices.layer[self.key(op)]
            return cuda.call(op.conv, op.before, *given, pool=op.pool)
        if isinstance(op, Conv):
            return self._conv(op)
        if not self.kernels:
            move = plain.pool if isinstance(op, Pool) else plain.upsample
            return functools.partial(move, op, self.buffers)  # type: ignore[arg-type]
        cut = self.choices.move.get(self.key(op))
        if cut:
            return moves.call(op, self.buffers, cut)
        if isinstance(op, Pool):
            return launch.pool(op, self.buffers)
        return launch.upsample(op, self.buffers)

    def key(self, op: Unit) -> Key:
        """See `key`."""
        alone = op.first if isinstance(op, Chain) else op.second if isinstance(op, Layer) else op
        at = self.buffers[alone.source.buffer]
        return key(op, len(at.whole), at.height, at.width)

    def _conv(self, op: Conv) -> launch.Call:
        if not self.kernels or op.plain:
            return functools.partial(plain.conv, op, self.buffers, self.tensors, self.image)
        cut = self.choices.conv.get(self.key(op)) or self._default(op)
        assert not isinstance(cut, moves.Move)
        if cut is None:
            return functools.partial(plain.conv, op, self.buffers, self.tensors, self.image)
        if isinstance(cut, Window):
            return cuda.call(op, None, self.buffers, self.tensors, self.image, cut)
        return launch.conv(op, self.buffers, self.tensors, self.image, cut)

    def _default(self, op: Conv) -> Cut | None:
        """The cut of a convolution that nobody measured; None where no kernel computes it here."""
        at = self.buffers[op.source.buffer]
        if not op.int8:
            return default(op.size, op.source.channels, op.out, at.height, len(at.whole))
        if not (self.image.is_cuda and compiler.available()):
            return None
        device, task = self.image.device, cuda.task(op, None, cuda.channels_of(self.plan))
        assert task is not None
        kinds = compiler.kinds(device) - (DENSE_INT8 if op.sparse else SPARSE)
        return candidates(task, at.height, at.width, kinds, compiler.room(device))[0]

    def enter(self) -> None:
        """Bring `image` to where the first operation reads it."""
        at = self.buffers[IMAGE].inside[..., 0]
        torch.sub(self.image[:, 0], self.plan.shift, out=at)

    def run(self) -> None:
        """Compute `output` from `image`, call by call."""
        self.enter()
        for call in self.calls:
            call()

    def capture(self) -> None:
        """Record the calls as one CUDA graph; the first run compiles the kernels."""
        self.graph = capture(self.run, self.image.device)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) float32 in network range -> the same shape and type."""
        self.image.copy_(x)
        captured = self.image.is_cuda and torch.cuda.is_current_stream_capturing()
        if self.image.is_cuda and self.graph is None and not captured:
            self.capture()
        if self.graph is None or captured:  # a graph cannot be replayed into another
            self.run()
        else:
            self.graph.replay()
        return self.output.clone()

    @property
    def memory(self) -> int:
        """Bytes of all buffers."""
        return sum(b.whole.numel() * b.whole.element_size() for b in self.buffers.values())
