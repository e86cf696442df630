"""Blocks of denoising networks, each (N, C, H, W) -> the same shape, C a multiple of 8.

`BLOCKS` names them all; `Chain` makes a network of some.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(into: int, out: int, kernel: int = 3, **more: object) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **more)


class Plain(nn.Sequential):
    def __init__(self, c: int) -> None:
        super().__init__(conv(c, c), nn.BatchNorm2d(c), nn.LeakyReLU(0.1))


class InPlace(nn.Module):
    """Activation and addition in place, no BatchNorm."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = conv(c, c), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.leaky_relu_(self.a(x), 0.1))
        y += x
        return F.leaky_relu_(y, 0.1)


class Instance(nn.Sequential):
    """InstanceNorm with scales, and an activation in place behind it."""

    def __init__(self, c: int) -> None:
        norm = nn.InstanceNorm2d(c, affine=True)
        super().__init__(conv(c, c), norm, nn.LeakyReLU(0.1, inplace=True), conv(c, c))


class OneSlope(nn.Module):
    """PReLU with one slope before a concatenation."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.slope, self.b = conv(c, c), nn.PReLU(), conv(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(self.a(x))
        return self.b(torch.cat((y, x), 1))


class Slopes(nn.Sequential):
    def __init__(self, c: int) -> None:
        super().__init__(conv(c, c), nn.PReLU(c), conv(c, c))


class LayerNorm2d(nn.Module):
    """Normalises over channels by hand."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        middle = x - x.mean(1, keepdim=True)
        y = middle / (middle.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return y * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


class OverChannels(nn.Module):
    """One of the ways to let all channels of a layer depend on each other."""

    def __init__(self, c: int, kind: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.a, self.kind, self.b = conv(c, c), kind, conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.kind(self.a(x)))


class ResponseNorm(nn.Module):
    """Global response normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(dim=(2, 3), keepdim=True)
        return x + x * (energy / (energy.mean(1, keepdim=True) + 1e-6))


class NeighbourGate(nn.Module):
    """Efficient channel attention: a convolution over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.over = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.over(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * gate[:, 0, :, None, None]


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised each time."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / (w.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, padding=1)


class Gate(nn.Module):
    """Two halves are multiplied."""

    def __init__(self, c: int, *, linear: bool = False) -> None:
        super().__init__()
        self.a, self.linear, self.b = conv(c, 2 * c), linear, conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            return self.b(F.glu(self.a(x), 1))
        one, other = self.a(x).chunk(2, 1)
        return self.b(one * other)


class Maxout(nn.Module):
    """The larger of two channels, by a view."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = conv(c, 2 * c), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n, c, h, w = y.shape
        return self.b(y.view(n, c // 2, 2, h, w).amax(2))


class Fourier(nn.Module):
    """A 1x1 convolution on real and imaginary parts."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.mix, self.b = conv(c, c), conv(2 * c, 2 * c, 1), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.a(x), norm="ortho")
        real, imaginary = self.mix(torch.cat((spectrum.real, spectrum.imag), 1)).chunk(2, 1)
        back = torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")
        return self.b(back)


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.down, self.up = conv(c, c), nn.Linear(c, c // 2), nn.Linear(c // 2, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        gate = self.up(F.relu(self.down(y.mean((2, 3))))).sigmoid()
        return x + y * gate[:, :, None, None]


class OneChannelGate(nn.Module):
    """A map of one channel times all channels."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.gate, self.b = conv(c, c), conv(c, 1, 1), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y * self.gate(y).sigmoid())


class Shuffle(nn.Module):
    """Down by a stride, up by PixelShuffle."""

    def __init__(self, c: int, *, views: bool = False) -> None:
        super().__init__()
        self.down = nn.Conv2d(c, c, 3, stride=2, padding=1)
        self.up, self.views, self.b = conv(c, 4 * c), views, conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.leaky_relu(self.down(x), 0.1))
        if not self.views:
            return self.b(F.pixel_shuffle(y, 2))
        n, c, h, w = y.shape
        y = y.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return self.b(y.reshape(n, c // 4, 2 * h, 2 * w))


class Unshuffle(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = conv(c, c), conv(4 * c, 4 * c)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.pixel_shuffle(self.b(F.pixel_unshuffle(self.a(x), 2)), 2)


class DepthwiseUp(nn.Module):
    """Depthwise convolution and depthwise transposed convolution."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.deep = conv(c, c, 1), nn.Conv2d(c, c, 3, 2, 1, groups=c)
        self.up, self.b = nn.ConvTranspose2d(c, c, 2, 2, groups=c), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.up(F.leaky_relu(self.deep(self.a(x)), 0.1)))


class Multiplied(nn.Module):
    """Depthwise convolution and deconvolution that make two channels of one."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.deep = conv(c, c, 1), nn.Conv2d(c, 2 * c, 3, 2, 1, groups=c)
        self.up, self.b = nn.ConvTranspose2d(2 * c, 4 * c, 2, 2, groups=2 * c), conv(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.up(F.leaky_relu(self.deep(self.a(x)), 0.1)))


class GroupedUp(nn.Sequential):
    """A grouped deconvolution with fewer outputs than inputs."""

    def __init__(self, c: int) -> None:
        up = nn.ConvTranspose2d(c, c // 2, 2, 2, groups=4)
        super().__init__(conv(c, c), nn.Conv2d(c, c, 2, 2), up, conv(c // 2, c))


class Flat(nn.Module):
    """A deconvolution over the pixels in a row, with more outputs than inputs."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.up, self.b = conv(c, c), nn.ConvTranspose1d(c, 2 * c, 1), conv(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.up(self.a(x).flatten(2)).unflatten(2, x.shape[2:]))


class Halves(nn.Module):
    """Two halves of one layer's channels, each read by a layer of its own."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.p, self.q = conv(c, 2 * c), conv(c, c // 2), conv(c, c // 2)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.a(x).chunk(2, 1)
        return torch.cat((self.p(one), self.q(other)), 1)


class Grouped(nn.Sequential):
    def __init__(self, c: int) -> None:
        super().__init__(conv(c, c), conv(c, c, groups=4), conv(c, c))


class Split(nn.Module):
    """Halves by sizes that are written down."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c, self.a, self.b = c, conv(c, 2 * c), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        one, other = torch.split(self.a(x), [self.c, self.c], 1)
        return self.b(one * other.sigmoid())


class Numbered(nn.Module):
    """Channels moved by their numbers: flip, roll, a list, every second."""

    def __init__(self, c: int, kind: Callable[[Tensor], Tensor], out: int) -> None:
        super().__init__()
        self.a, self.kind, self.b = conv(c, c), kind, conv(out, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.kind(self.a(x)))


class Scaled(nn.Module):
    """A buffer and a parameter with a number for each channel."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = conv(c, c), conv(c, c)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, c).view(1, c, 1, 1))
        self.more = nn.Parameter(torch.linspace(1.0, 0.5, c))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(x) * self.scale * (1 + self.more[:, None, None]))


class Steps(nn.Module):
    """An unrolled iteration with a vector of step sizes."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b, self.steps = conv(c, c), conv(c, c), nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for k in range(3):
            y = y - (1 / (1 + self.steps[k] ** 2)) * self.b(self.a(y) * self.steps[k])
        return y


class Circular(nn.Sequential):
    def __init__(self, c: int) -> None:
        super().__init__(conv(c, c, padding_mode="circular"), conv(c, c, padding_mode="reflect"))


class Padded(nn.Sequential):
    """A border of zeros as a layer of its own, pooling, interpolation."""

    def __init__(self, c: int) -> None:
        super().__init__(
            nn.ZeroPad2d(1), nn.Conv2d(c, c, 3), nn.MaxPool2d(2), nn.ReflectionPad2d(1),
            nn.Conv2d(c, c, 3), nn.Upsample(scale_factor=2.0, mode="bilinear"),
        )  # fmt: skip


class Mlp(nn.Module):
    """Linear layers on channels, and a LayerNorm."""

    def __init__(self, c: int, *, norm: bool = False) -> None:
        super().__init__()
        self.a, self.norm = conv(c, c), nn.LayerNorm(c) if norm else nn.Identity()
        self.up, self.down = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head attention over pixels of a smaller image."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.qkv, self.out, self.b = nn.Linear(c, 3 * c), nn.Linear(c, c), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        small = F.avg_pool2d(x, 4)
        n, c, h, w = small.shape
        parts = self.qkv(small.flatten(2).transpose(1, 2)).reshape(n, h * w, 3, 2, c // 2)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1)) / 8).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(n, h * w, c))
        y = F.interpolate(y.transpose(1, 2).reshape(n, c, h, w), scale_factor=4.0)
        return x + self.b(y)


class Reused(nn.Module):
    """One convolution twice, and a module under two names."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = conv(c, c), conv(c, c)
        self.also = self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.also(F.leaky_relu(self.a(self.a(x)), 0.1))


class Unused(nn.Module):
    """A layer that is never called, and a head whose result is not used."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b, self.never, self.head = conv(c, c), conv(c, c), conv(c, c), nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.score = self.head(y.mean((2, 3)))
        return self.b(y)


class Remembers(nn.Module):
    """Keeps a tensor of its input's type, and looks at a value."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b, self.mean = conv(c, c), conv(c, c), torch.zeros(1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean.type_as(x)
        return x + self.b(self.a(x - self.mean))


class Parametrized(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = conv(c, c), nn.utils.parametrizations.weight_norm(conv(c, c))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.leaky_relu(self.a(x), 0.1))


class Added(nn.Module):
    """Zeros fill up the channels of a shorter sum."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(c, c // 2), conv(c // 2, c), conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(self.b(y) + F.pad(y, (0, 0, 0, 0, 0, y.shape[1])))


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "plain": Plain,
    "in place": InPlace,
    "instance": Instance,
    "one slope": OneSlope,
    "slopes": Slopes,
    "layer norm by hand": lambda c: OverChannels(c, LayerNorm2d(c)),
    "group norm": lambda c: OverChannels(c, nn.GroupNorm(4, c)),
    "group norm, functional": lambda c: OverChannels(c, lambda x: F.group_norm(x, 4)),
    "response norm": lambda c: OverChannels(c, ResponseNorm()),
    "local response norm": lambda c: OverChannels(c, nn.LocalResponseNorm(3)),
    "softmax": lambda c: OverChannels(c, lambda x: x.softmax(1)),
    "channel mean": lambda c: OverChannels(c, lambda x: x - x.mean(1, keepdim=True)),
    "unit length": lambda c: OverChannels(c, lambda x: F.normalize(x, dim=1)),
    "neighbour gate": lambda c: OverChannels(c, NeighbourGate()),
    "standardised": lambda c: nn.Sequential(conv(c, c), Standardised(c, c, 3), conv(c, c)),
    "gate": Gate,
    "glu": lambda c: Gate(c, linear=True),
    "maxout": Maxout,
    "fourier": Fourier,
    "squeeze": Squeeze,
    "one channel gate": OneChannelGate,
    "shuffle": Shuffle,
    "shuffle by views": lambda c: Shuffle(c, views=True),
    "unshuffle": Unshuffle,
    "depthwise": DepthwiseUp,
    "multiplied": Multiplied,
    "flat": Flat,
    "grouped up": GroupedUp,
    "halves": Halves,
    "grouped": Grouped,
    "split": Split,
    "flip": lambda c: Numbered(c, lambda x: x.flip(1), c),
    "roll": lambda c: Numbered(c, lambda x: x.roll(3, 1), c),
    "list": lambda c: Numbered(c, lambda x: x[:, [0, 3, 5]], 3),
    "every second": lambda c: Numbered(c, lambda x: x[:, ::2], c // 2),
    "channel shuffle": lambda c: Numbered(c, nn.ChannelShuffle(4), c),
    "scaled": Scaled,
    "steps": Steps,
    "circular": Circular,
    "padded": Padded,
    "mlp": Mlp,
    "mlp, layer norm": lambda c: Mlp(c, norm=True),
    "attention": Attention,
    "reused": Reused,
    "unused": Unused,
    "remembers": Remembers,
    "parametrized": Parametrized,
    "added": Added,
}


class Chain(nn.Module):
    """A network of blocks, (N, 1, H, W) -> the same shape.

    Args:
        blocks: names in `BLOCKS`.
        width: channels between them, a multiple of 8.
        raw: whether the slice itself is put beside the features before the last layer.
    """

    def __init__(self, blocks: Sequence[str], width: int = 16, *, raw: bool = False) -> None:
        super().__init__()
        self.first, self.raw = conv(1, width), raw
        self.blocks = nn.ModuleList(BLOCKS[name](width) for name in blocks)
        self.last = conv(width + raw, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first(x), 0.1)
        for block in self.blocks:
            y = block(y)
        return self.last(torch.cat((x, y), 1) if self.raw else y)
