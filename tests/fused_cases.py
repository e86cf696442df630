"""Single operations of the fused engine with random tensors, and how far a result is off."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from networks import randomise
from torch import Tensor, nn

from compress.engines.kernels import plain
from compress.engines.kernels.memory import Framed, framed
from compress.engines.kernels.packing import border, folded, padded, rounded
from compress.engines.kernels.plan import IMAGE, OUTPUT, Chain, Conv, Pool, Slice, Upsample
from compress.engines.kernels.route import Layer
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.quantization.quantisers import Integers

BEFORE = 8
"""Channels of another tensor in front of every target: they must survive."""


@dataclass
class Case:
    """Buffers and tensors of one operation."""

    buffers: dict[str, Framed]
    tensors: dict[str, Tensor]
    image: Tensor

    def to(self, device: str) -> "Case":
        """The same on another device."""
        buffers = {
            name: Framed(one.whole.to(device), one.top, one.left, one.height, one.width)
            for name, one in self.buffers.items()
        }
        tensors = {name: one.to(device) for name, one in self.tensors.items()}
        return Case(buffers, tensors, self.image.to(device))


def network(**options: Any) -> nn.Module:
    """A DDnet as after training, float64, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DDnet(**options)
    return randomise(net, 0)


def limit(net: nn.Module, x: Tensor, expected: Tensor) -> float:
    """The error that a float16 engine may have: 2e-3, or PyTorch's own in float16 if that is more.

    Without a residual, random weights can cancel to an output far smaller than what it is made of;
    rounding the weights alone is then seen.
    """
    half = copy.deepcopy(net).half()
    with torch.no_grad():
        y = half(x.half()).double()
    return max(2e-3, float((y - expected).abs().max() / expected.abs().max()))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(inside: int, out: int, size: int, seed: int) -> tuple[nn.BatchNorm2d, nn.Conv2d]:
    """BatchNorm and convolution as after training, float64."""
    draw = generator(seed)
    norm = nn.BatchNorm2d(inside).double().eval()
    conv = nn.Conv2d(inside, out, size, padding=size // 2).double()
    with torch.no_grad():
        for one in (norm.weight, norm.bias, norm.running_mean, conv.weight, conv.bias):
            one.copy_(torch.randn(one.shape, generator=draw) / max(1, one[0].numel()) ** 0.5)
        norm.weight.add_(norm.weight.sign())  # zero has no border
        norm.running_var.copy_(0.5 + torch.rand(inside, generator=draw))
    return norm, conv


def two_of_four(weight: Tensor) -> Tensor:
    """The two largest of every four input channels, zeros for the others."""
    groups = weight.movedim(1, -1).unflatten(-1, (-1, 4))
    kept = groups.abs().argsort(dim=-1).argsort(dim=-1) >= 2
    return (groups * kept).flatten(-2).movedim(-1, 1).contiguous()


def halved(net: nn.Module) -> nn.Module:
    """2:4 weights wherever input channels come in fours."""
    net = deconv_to_conv(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels % 4 == 0:
                module.weight.copy_(two_of_four(module.weight))
    return net


FIVES = ("growth.conv", "wide.conv")
"""Ends of the names of the layers that the fused engine computes in INT8."""


def ranged(net: nn.Module, x: Tensor) -> nn.Module:
    """A copy without transposed convolutions whose layers FIVES are INT8, with ranges from `x`.

    What stands for their quantisers has all that a plan reads of ModelOpt's, which is not needed.
    """
    net = deconv_to_conv(net)
    largest = dict[nn.Module, Tensor]()

    def watch(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        largest[module] = given[0].abs().max()

    chosen = [one for name, one in net.named_modules() if name.endswith(FIVES)]
    hooks = [one.register_forward_pre_hook(watch) for one in chosen]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    for one in chosen:
        weight: Any = one.weight
        ranges = weight.detach().abs().amax((1, 2, 3), keepdim=True)
        one.input_quantizer = SimpleNamespace(is_enabled=True, amax=largest[one].float())
        one.weight_quantizer = SimpleNamespace(is_enabled=True, amax=ranges.float())
    return net


def tensors(
    name: str, inside: int, out: int, size: int, seed: int, table: bool = False,
    sparse: bool = False, int8: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Weights and biases; without `table` the border, too; weights 2:4 if `sparse`.

    With `int8` as whole numbers, and inputs of more than three deviations are clipped.
    """
    norm, conv = unit(inside, out, size, seed)
    if sparse:
        conv.weight.data = two_of_four(conv.weight.data)
    if int8:
        largest = conv.weight.data.abs().amax((1, 2, 3))
        whole = (conv.weight.data * 127 / largest.view(-1, 1, 1, 1)).round().to(torch.int8)
        found = Integers(whole, (largest / 127).float(), 3 / 127)
        return {f"{name}.{key}": one for key, one in rounded(norm, conv, found).items()}
    weight, biases = folded(norm, conv)
    around = None if table or size == 1 else border(norm, conv)
    found = {f"{name}.weight": weight, f"{name}.bias": biases}
    assert table or size == 1 or around is not None
    return found if around is None else {**found, f"{name}.border": around}


def filled(
    name: str,
    shape: tuple[int, int, int],
    at: Slice,
    dtype: torch.dtype,
    around: Tensor | None = None,
) -> Framed:
    """A buffer whose true channels are random, whose padding is zero, and what is around it."""
    batch, height, width = shape
    channels = at.start + at.channels
    frame = torch.zeros(channels)
    if around is not None:
        frame[[at.start + one for one in at.positions]] = around.float()
    buffer = framed(batch, height, width, channels, dtype=dtype, border=frame, poison=True)
    view = buffer.nchw(at.start, at.channels)
    view.zero_()
    values = torch.randn(batch, sum(at.slots), height, width, generator=generator(len(name)))
    view[:, at.positions] = values.to(dtype)
    return buffer


def empty(shape: tuple[int, int, int], channels: int, dtype: torch.dtype) -> Framed:
    """A poisoned buffer with another tensor, of ones, in front."""
    buffer = framed(*shape, BEFORE + channels + BEFORE, dtype=dtype, poison=True)
    buffer.inside[..., :BEFORE] = 1
    buffer.inside[..., -BEFORE:] = 2
    return buffer


def target(out: int) -> Slice:
    return Slice(buffer="y", start=BEFORE, slots=(out,))


def conv_case(
    size: int,
    slots: tuple[int, ...],
    out: int,
    shape: tuple[int, int, int],
    *,
    then: int = 0,
    dtype: torch.dtype = torch.float32,
    residual: bool = False,
    table: bool = False,
    sparse: bool = False,
    int8: bool = False,
) -> tuple[Conv, Case]:
    """A convolution; `then` output channels of a 1x1 behind it; `residual` writes the output.

    With `table` borders are seen to by the bias, else by the frame; with `sparse` it is 2:4. With
    `int8` it is in INT8, and its frame is NaN, which nobody may use.
    """
    name = IMAGE if size == 7 else "x"
    source = Slice(buffer=name, slots=slots)
    into = Slice(buffer=OUTPUT, slots=(1,)) if residual else target(then or out)
    op = Conv(
        name="c",
        size=size,
        source=source,
        target=into,
        out=out,
        then="n" if then else "",
        then_activate=not residual,
        residual=residual,
        table=table,
        int8=int8,
    )
    made = tensors("c", sum(slots), out, size, 1, table, sparse, int8)
    if then:
        made |= tensors("n", out, then, 1, 2)
    batch, height, width = shape
    image = torch.rand(batch, 1, height, width, generator=generator(3))
    buffers = {name: filled(name, shape, source, dtype, made.get("c.border"))}
    if int8:
        unframed(buffers[name])
    if residual:
        flat = torch.full((batch, height, width, 1), float("nan"))
        buffers[OUTPUT] = Framed(flat, 0, 0, height, width)
    else:
        buffers["y"] = empty(shape, padded(then or out), dtype)
    return op, Case(buffers, made, image)


def unframed(buffer: Framed) -> None:
    """The frame of a buffer, NaN from now on."""
    inside = buffer.inside.clone()
    buffer.whole.fill_(float("nan"))
    buffer.inside.copy_(inside)


def whole_numbers(channels: int, shape: tuple[int, int, int], *, sparse: bool) -> tuple[Conv, Case]:
    """A 5x5 in INT8 whose steps are 1; its inputs are quarters, no halves, or too large."""
    draw = generator(channels)
    op, case = conv_case(5, (channels,), 16, shape, dtype=torch.float16, int8=True, sparse=sparse)
    weight = torch.randint(-1, 2, case.tensors["c.weight"].shape, generator=draw).double()
    weight *= torch.rand(weight.shape, generator=draw) < 16 / channels
    case.tensors["c.weight"] = two_of_four(weight) if sparse else weight
    case.tensors["c.steps"] = torch.ones(16).double()
    case.tensors["c.bias"] = torch.zeros(1, 1, 16).double()
    case.tensors["c.affine"] = torch.tensor([[1.0, 0.0]] * channels).double()
    values = torch.randint(-8, 9, case.buffers["x"].inside.shape, generator=draw) / 4
    values += (values % 1 == 0.5) / 8
    values[0, 3, 5], values[0, 4, 7] = 200.0, -300.5
    case.buffers["x"].inside.copy_(values)
    return op, case


def chain_case(
    slots: tuple[int, ...],
    new: int,
    out: int,
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.float32,
    table: bool = False,
) -> tuple[Chain, Case]:
    """A 5x5 of 16 channels that adds `new` ones behind `slots`, and the 1x1 that reads them all."""
    old = Slice(buffer="x", slots=slots)
    whole = Slice(buffer="x", slots=(*slots, new))
    between = Slice(buffer="middle", slots=(16,))
    part = Slice(buffer="x", start=old.channels, slots=(new,))
    first = Conv(name="a", size=5, source=between, target=part, out=new, table=table)
    second = Conv(name="b", size=1, source=whole, target=target(out), out=out)
    made = tensors("a", 16, new, 5, 4, table) | tensors("b", sum(slots) + new, out, 1, 5)
    buffers = {
        "x": filled("x", shape, whole, dtype),
        "middle": filled("middle", shape, between, dtype, made.get("a.border")),
        "y": empty(shape, padded(out), dtype),
    }
    buffers["x"].nchw(part.start, part.channels).fill_(float("nan"))
    return Chain(first=first, second=second), Case(buffers, made, torch.zeros(0))


def layer_case(
    slots: tuple[int, ...], middle: int, new: int, shape: tuple[int, int, int], *,
    sparse: bool = False, size: int = 5, int8: bool = False,
) -> tuple[Conv, Conv, Case]:  # fmt: skip
    """A 1x1 of `slots` to `middle` channels, and the 5x5 that reads it and adds `new` channels."""
    whole, between = Slice(buffer="x", slots=slots), Slice(buffer="middle", slots=(middle,))
    first = Conv(name="b", size=1, source=whole, target=between, out=middle)
    second = Conv(name="c", size=size, source=between, target=target(new), out=new, int8=int8)
    made = tensors("b", sum(slots), middle, 1, 5)
    made |= tensors("c", middle, new, size, 4, sparse=sparse, int8=int8)
    buffers = {
        "x": filled("x", shape, whole, torch.float16),
        "middle": filled("middle", shape, between, torch.float16, made.get("c.border")),
        "y": empty(shape, padded(new), torch.float16),
    }
    return first, second, Case(buffers, made, torch.zeros(0))


def mixed_case(
    slots: tuple[int, int], out: int, shape: tuple[int, int, int], *, then: int = 0,
    residual: bool = False, sparse: bool = False, size: int = 5, int8: bool = False,
) -> tuple[Upsample, Conv, Case]:  # fmt: skip
    """A decoder's 5x5, and the bilinear x2 that makes the first part of its input.

    Args:
        slots: channels of the upsampled and of the other part.
        out: output channels of the 5x5.
        shape: of what is upsampled; its frame is NaN, which nobody may read.
        then: output channels of the 1x1 behind the 5x5.
        residual: whether the image is added.
        sparse: whether the 5x5 is 2:4.
        size: its taps in a row.
        int8: whether it is in INT8.
    """
    batch, height, width = shape
    large = (batch, 2 * height, 2 * width)
    more = {"then": then, "residual": residual, "sparse": sparse, "int8": int8}
    op, case = conv_case(size, slots, out, large, dtype=torch.float16, **more)
    low = Slice(buffer="low", start=16, slots=slots[:1])
    case.buffers["low"] = filled("low", shape, low, torch.float16)
    unframed(case.buffers["low"])
    return Upsample(source=low, target=Slice(buffer="x", slots=slots[:1])), op, case


def unwritten(up: Upsample, case: Case) -> Tensor:
    """The upsampled part in memory, NaN from now on."""
    at = up.target
    part = case.buffers[at.buffer].nchw(at.start, at.channels)
    return part.fill_(float("nan"))


def stem_case(shape: tuple[int, int, int], shift: float = 0.0) -> tuple[Layer, Case]:
    """The 7x7 of the image and the max-pool of its results, `shift` added to the bias."""
    op, case = conv_case(7, (1,), 16, shape, dtype=torch.float16)
    case.tensors["c.bias"] += shift
    halves = shape[0], (shape[1] + 1) // 2, (shape[2] + 1) // 2
    case.buffers["p"] = empty(halves, 16, torch.float16)
    into = Slice(buffer="p", start=BEFORE, slots=(16,))
    return Layer(first=op, second=Pool(source=op.target, target=into)), case


def stem_error(layer: Layer, case: Case, call: Callable[[], object]) -> float:
    """The stem's `error`; NaN where the pooled values are not exactly those of what it stored."""
    assert layer.pool is not None
    pooled = case.buffers[layer.pool.target.buffer]
    for buffer in (pooled, case.buffers[layer.conv.target.buffer]):
        buffer.inside[..., BEFORE:-BEFORE] = float("nan")
    off = error(layer.conv, case, call)
    assert untouched(pooled)
    return off if pooled_exactly(layer.pool, case) else float("nan")


def pooled_exactly(pool: Pool, case: Case) -> bool:
    """Whether a max-pool's result is that of its source, NaN included."""
    result = case.buffers[pool.target.buffer].inside
    got = result.clone()
    plain.pool(pool, case.buffers)
    return torch.equal(got.nan_to_num(1e4), result.nan_to_num(1e4))


def pool_chain_case(
    channels: int, out: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32
) -> tuple[Chain, Case]:
    """A max-pool of the second part of a buffer, and the 1x1 that reads what it gives."""
    pool, case = move_case(Pool, channels, shape, dtype)
    assert isinstance(pool, Pool)
    batch, high, wide = shape[0], (shape[1] + 1) // 2, (shape[2] + 1) // 2
    whole = Slice(buffer="p", slots=(channels,))
    second = Conv(name="b", size=1, source=whole, target=target(out), out=out)
    buffers = {
        "x": case.buffers["x"],
        "p": framed(batch, high, wide, whole.channels + 24, dtype=dtype, poison=True),
        "y": empty((batch, high, wide), padded(out), dtype),
    }
    made = tensors("b", channels, out, 1, 5)
    return Chain(first=replace(pool, target=whole), second=second), replace(
        case, buffers=buffers, tensors=made
    )


def move_case(
    kind: type[Pool] | type[Upsample],
    channels: int,
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.float32,
) -> tuple[Pool | Upsample, Case]:
    """A max-pool or an upsampling of the second part of a buffer."""
    batch, height, width = shape
    source = Slice(buffer="x", start=16, slots=(channels,))
    sides = (2 * height, 2 * width) if kind is Upsample else ((height + 1) // 2, (width + 1) // 2)
    buffers = {
        "x": filled("x", shape, source, dtype),
        "y": empty((batch, *sides), padded(channels), dtype),
    }
    return kind(source=source, target=target(channels)), Case(buffers, {}, torch.zeros(0))


def exact(op: Conv | Chain | Pool | Upsample, case: Case) -> Tensor:
    """What the operation gives in float64 from the same inputs, (N, C, H, W)."""
    wide = {}
    for name, one in case.buffers.items():
        wide[name] = Framed(one.whole.double(), one.top, one.left, one.height, one.width)
    image = case.image.double()
    if isinstance(op, Chain):
        if isinstance(op.first, Pool):
            plain.pool(op.first, wide)
        else:
            plain.conv(op.first, wide, case.tensors, image)
        op = op.second
    if isinstance(op, Conv):
        plain.conv(op, wide, case.tensors, image)
    elif isinstance(op, Pool):
        plain.pool(op, wide)
    else:
        plain.upsample(op, wide)
    at = op.target
    return wide[at.buffer].nchw(at.start, at.channels)


def exact_layer(before: Conv, op: Conv, case: Case) -> Tensor:
    """Both operations in float64, nothing rounded between them but what the second one rounds."""
    wide = {
        name: Framed(one.whole.double(), one.top, one.left, one.height, one.width)
        for name, one in case.buffers.items()
    }
    for one in (before, op):
        plain.conv(one, wide, case.tensors, case.image.double())
    return wide["y"].nchw(op.target.start, op.target.channels)


def untouched(buffer: Framed) -> bool:
    """Whether the frame and the neighbouring channels of a buffer are as `empty` made them."""
    frame = buffer.whole.clone()
    Framed(frame, buffer.top, buffer.left, buffer.height, buffer.width).inside.zero_()
    before, behind = buffer.inside[..., :BEFORE], buffer.inside[..., -BEFORE:]
    return bool((before == 1).all() and (behind == 2).all() and (frame == 0).all())


def error(op: Conv | Chain | Pool | Upsample, case: Case, call: Callable[[], object]) -> float:
    """Largest difference of a call's result from float64, as a share of the largest value.

    NaN where an element was not written; neighbouring channels and the frame must be as before.
    """
    expected = exact(op, case)
    call()
    at = (op.second if isinstance(op, Chain) else op).target
    buffer = case.buffers[at.buffer]
    got = buffer.nchw(at.start, at.channels).double()
    assert at.buffer == OUTPUT or untouched(buffer)
    # torch's own max would leave NaN out of no comparison; this keeps it.
    return float((got - expected).abs().max() / expected.abs().max())
