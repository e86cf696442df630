"""A DDnet as a list of operations on a few buffers: what an engine's file stores.

Concatenation is no operation: each part of a dense block, and each skip, is written by its producer
into its slice of the buffer that its reader reads. Channels lie padded to a multiple of 8 in every
part, so a pruned network of any widths compiles.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.engines.kernels import served
from compress.engines.kernels.packing import SHIFT, border, folded, padded, positions, rounded
from compress.engines.kernels.two_of_four import is_two_of_four
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import SLOPE, STAGES, DDnet, Unit
from compress.quantization.quantisers import integers

IMAGE, OUTPUT = "image", "output"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some channels of a buffer."""

    buffer: str
    """Its name."""
    start: int = 0
    """First channel in memory."""
    slots: tuple[int, ...] = ()
    """True channels of each part; a part begins where the one before ends, padded."""

    @property
    def positions(self) -> list[int]:
        """Where the true channels lie, from `start` on."""
        return positions(self.slots)

    @property
    def dense(self) -> bool:
        """Whether no channel in memory only fills up."""
        return self.channels == sum(self.slots)

    @property
    def channels(self) -> int:
        """Channels in memory; the image and the output lie as they are."""
        lone = self.buffer in (IMAGE, OUTPUT)
        return 1 if lone else sum(padded(one) for one in self.slots)


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A unit of DDnet: convolution with everything folded, LeakyReLU; perhaps a 1x1 unit behind."""

    name: str
    """Tensors <name>.weight (out, in, k, k), .bias (P, P, out), .border (in,): see packing.py; in
    INT8 .weight, .bias (1, 1, out), .steps (out,) and .affine (in, 2)."""
    size: int
    """k."""
    source: Slice
    target: Slice
    out: int
    """True output channels of the k x k convolution."""
    activate: bool = True
    """Whether LeakyReLU follows."""
    then: str = ""
    """Name of a 1x1 unit that is applied before anything is stored."""
    then_activate: bool = True
    """Whether LeakyReLU follows that."""
    residual: bool = False
    """Whether the image is added to what is stored."""
    table: bool = False
    """Whether the bias depends on how many taps lie inside; the frame sees to that otherwise."""
    plain: str = ""
    """Why PyTorch computes it and not a kernel; empty where a kernel does."""
    sparse: bool = False
    """Whether the weight of the k x k convolution is 2:4 along its input channels, in memory."""
    int8: bool = False
    """Whether its input, behind BatchNorm, is rounded to INT8, and its weights are."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Max-pool 3x3, stride 2, padding 1."""

    source: Slice
    target: Slice


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Two operations that one kernel may compute.

    The second is a 1x1 that reads what the first writes, as the last part of its source, and the
    channels of the same buffer before that; behind a max-pool there are none.
    """

    first: Conv | Pool
    second: Conv

    @property
    def plain(self) -> str:
        """Why one kernel cannot compute both; empty where it can."""
        if not isinstance(self.first, Conv):
            return self.second.plain
        if self.first.int8:
            return "Triton computes nothing in INT8"
        few = self.first.size == 3 and self.second.target.channels < served.LEAST_3X3
        return self.first.plain or self.second.plain or (served.FEW if few else "")


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Bilinear x2, corners on corners."""

    source: Slice
    target: Slice


Operation = Conv | Chain | Pool | Upsample
"""What a plan is a list of."""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Memory for one or more tensors side by side."""

    level: int
    """Its sides are the image's divided by 2^level."""
    channels: int
    """Channels in memory."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network."""

    slope: float = SLOPE
    """Negative slope of LeakyReLU."""
    shift: float = 0.0
    """What the image in memory is less by; older files have none."""
    buffers: Mapping[str, Buffer] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()

    def convs(self) -> Iterator[Conv]:
        """Every convolution, those of chains included."""
        for one in self.operations:
            both = (one.first, one.second) if isinstance(one, Chain) else (one,)
            yield from (op for op in both if isinstance(op, Conv))


class _Compiler:
    """Collects buffers, operations and tensors while it walks through a DDnet."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.names: dict[nn.Module, str] = {module: name for name, module in net.named_modules()}
        self.buffers: dict[str, Buffer] = {}
        self.operations: list[Operation] = []
        self.tensors: dict[str, Tensor] = {}
        self.refused = list[str]()  # layers in INT8 that no kernel computes so

    def buffer(self, name: str, level: int, slots: tuple[int, ...]) -> tuple[Slice, ...]:
        """A new buffer and its parts."""
        parts, start = [], 0
        for one in slots:
            parts.append(Slice(buffer=name, start=start, slots=(one,)))
            start += parts[-1].channels
        self.buffers[name] = Buffer(level=level, channels=start)
        return tuple(parts)

    def conv(self, unit: Unit, source: Slice, target: Slice, **more: Any) -> Conv:
        """The operation of a unit; its tensors are folded and kept."""
        name = self.tensor(unit)
        weight = self.tensors[f"{name}.weight"]
        size, int8 = weight.shape[-1], f"{name}.steps" in self.tensors
        made = Conv(
            name=name,
            size=size,
            source=source,
            target=target,
            out=len(weight),
            activate=unit.activate,
            table=size > 1 and not int8 and f"{name}.border" not in self.tensors,
            plain=served.unserved(weight, target.channels),
            sparse=size > 1 and source.dense and is_two_of_four(weight),
            int8=int8,
            **more,
        )
        outs = (padded(made.out), target.channels) if made.then else (target.channels, 0)
        if int8 and not (unit.activate and served.int8(size, source.channels, *outs)):
            self.refused += [f"{name}.conv"]
        return made

    def tensor(self, unit: Unit) -> str:
        """Fold a unit's tensors; its name."""
        name = self.names[unit]
        conv = unit.conv
        if not isinstance(conv, nn.Conv2d) or set(conv.stride) != {1} or conv.groups != 1:
            raise UsageError(f"fused: {name} is no plain convolution")
        if found := integers(conv):
            for key, one in rounded(unit.norm, conv, found).items():
                self.tensors[f"{name}.{key}"] = one.contiguous()
            return name
        offset = SHIFT if unit is self.net.stem else 0.0
        weight, table = folded(unit.norm, conv, offset)
        self.tensors[f"{name}.weight"] = weight.contiguous()
        self.tensors[f"{name}.bias"] = table.contiguous()
        around = border(unit.norm, conv, offset)
        if weight.shape[-1] > 1 and around is not None:
            self.tensors[f"{name}.border"] = around
        return name

    def stage(self, number: int, skip: Slice, target: Slice) -> None:
        """Pool, dense block and transition: from `skip` to `target`."""
        block, level = self.net.blocks[number], number + 1
        growths = [layer.growth.conv.out_channels for layer in block]
        slots = (*skip.slots, *growths)
        parts = self.buffer(f"block{number}", level, slots)
        chained: list[Any] = [Pool(source=skip, target=parts[0])]
        for at, layer in enumerate(block, start=1):
            whole = Slice(buffer=f"block{number}", slots=slots[:at])
            # One each: every layer has its own border.
            width = layer.bottleneck.conv.out_channels
            (between,) = self.buffer(f"middle{number}{at}", level, (width,))
            chained += [self.conv(layer.bottleneck, whole, between)]
            chained += [self.conv(layer.growth, between, parts[at])]
        whole = Slice(buffer=f"block{number}", slots=slots)
        chained.append(self.conv(self.net.transitions[number], whole, target))
        for first, second in zip(chained[::2], chained[1::2], strict=True):
            self.operations.append(Chain(first=first, second=second))

    def decoder(self, number: int, low: Slice, target: Slice, slots: tuple[int, ...]) -> None:
        """Upsampling, 5x5 and 1x1: from `low`, one level below, and the skip to `target`."""
        name, last = f"decoder{number}", number == STAGES - 1
        module = self.net.decoders[number]
        into = Slice(buffer=name, slots=slots[:1])
        self.operations.append(Upsample(source=low, target=into))
        wide, narrow = module.wide, module.narrow
        then = self.tensor(narrow)
        if f"{then}.steps" in self.tensors:
            self.refused.append(f"{then}.conv")
        conv = self.conv(
            wide,
            Slice(buffer=name, slots=slots),
            target,
            then=then,
            then_activate=narrow.activate,
            residual=self.net.residual and last,
        )
        self.operations.append(conv)


def compiled(net: nn.Module) -> tuple[Plan, dict[str, Tensor]]:
    """The plan of a DDnet and its tensors, float64 by name.

    Args:
        net: in eval mode; dense, pruned to any widths, with or without zeros.

    Raises:
        UsageError: not a DDnet, one with a `forward` or `body` of its own, a layer of it is no
            plain convolution, or one is in INT8 that no kernel computes so.
    """
    same = isinstance(net, DDnet) and all(
        getattr(type(net), name) is getattr(DDnet, name) for name in ("forward", "body")
    )
    if not same:
        lacks = "no kernel convolves without padding or adds layers, as other networks do"
        raise UsageError(f"fused: only DDnet has a plan, not {type(net).__name__}: {lacks}")
    rewritten: Any = deconv_to_conv(net)
    work = _Compiler(rewritten)
    work.buffer(IMAGE, 0, (1,))
    trunk = [rewritten.stem.conv.out_channels]
    trunk += [unit.conv.out_channels for unit in rewritten.transitions]
    lows = [trunk[-1], *(one.narrow.conv.out_channels for one in rewritten.decoders)]
    # Decoder d works at level STAGES - 1 - d; its skip is what left that level on the way down.
    pairs = [(lows[d], trunk[STAGES - 1 - d]) for d in range(STAGES)]
    skips = [work.buffer(f"decoder{d}", STAGES - 1 - d, pairs[d])[1] for d in range(STAGES)]
    low = [work.buffer(f"low{d}", STAGES - d, (lows[d],))[0] for d in range(STAGES)]
    work.buffer(OUTPUT, 0, (1,))
    ends = [*reversed(skips), low[0]]
    image = Slice(buffer=IMAGE, slots=(1,))
    work.operations.append(work.conv(rewritten.stem, image, ends[0]))
    for number in range(STAGES):
        work.stage(number, ends[number], ends[number + 1])
    targets = [*low[1:], Slice(buffer=OUTPUT, slots=(1,))]
    for number in range(STAGES):
        work.decoder(number, low[number], targets[number], pairs[number])
    if work.refused:
        raise UsageError(served.refusal(work.refused))
    return Plan(shift=SHIFT, buffers=work.buffers, operations=tuple(work.operations)), work.tensors
