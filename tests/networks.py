"""Networks that tests prune, sparsify and export: a random family and a few fixed ones."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.graph.groups import Group


@dataclass(frozen=True)
class Shape:
    """One member of the family: widths of the levels and what stands between them."""

    widths: tuple[int, ...]
    concat: bool
    add: bool
    strided: bool
    norm: bool


shapes = st.builds(
    Shape,
    widths=st.tuples(st.integers(2, 24), st.integers(2, 24), st.integers(2, 24)),
    concat=st.booleans(),
    add=st.booleans(),
    strided=st.booleans(),
    norm=st.booleans(),
)


def _activate(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.1)  # a plain ReLU can leave nothing to compare


class UNet(nn.Module):
    """Two levels, stride-2 down and up, with an addition, a concatenation or both."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        a, b, c = shape.widths
        self.shape = shape
        self.head = nn.Conv2d(1, a, 3, padding=1)
        self.norm = nn.BatchNorm2d(a) if shape.norm else nn.Identity()
        self.same = nn.Conv2d(a, a, 3, padding=1)
        self.down = nn.Conv2d(a, b, 3, stride=2, padding=1)
        up = {"stride": 2, "padding": 1} if shape.strided else {"stride": 1, "padding": 1}
        self.up = nn.ConvTranspose2d(b, c, 4 if shape.strided else 3, **up)
        self.last = nn.Conv2d(c + a if shape.concat else c, 1, 1, bias=shape.norm)

    def forward(self, x: Tensor) -> Tensor:
        y = _activate(self.norm(self.head(x)))
        same = _activate(self.same(y))
        y = y + same if self.shape.add else same
        z = _activate(self.down(y))
        if not self.shape.strided:
            z = nn.functional.interpolate(z, scale_factor=2.0)
        z = _activate(self.up(z))
        z = torch.cat((z, y), dim=1) if self.shape.concat else z
        out: Tensor = self.last(z)
        return out


def strided_unet() -> UNet:
    """The member of the family with everything in it, for recipes to import."""
    return UNet(Shape((16, 32, 16), concat=True, add=True, strided=True, norm=True))


class Plain(nn.Module):
    """Three convolutions in a row: what a recipe may import from anywhere."""

    def __init__(self, width: int = 16, *, groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.middle(torch.relu(self.first(x))))
        out: Tensor = self.last(y)
        return out


SMALLER = {
    "wide": 2, "five": 1, "down": 1, "dilated": 1, "depth": 1, "mirrored": 1, "same": 1, "up": 1,
}  # fmt: skip
"""Rings that the kernels of `Kernels` can lose while 3x3 is left."""
LARGER = {
    "bare": "it pads by 0 pixels, so a smaller kernel would read other pixels",
    "flat": "its kernel is 3x5, not square and odd",
    "even": "its kernel is 4x4, not square and odd",
    "computed": "its weight is computed while it runs",
    "shared": "other layers have the same weight",
    "alike": "other layers have the same weight",
}
"""Why its others can lose none."""


class Kernels(nn.Module):
    """Kernels of many sides and kinds."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.wide = nn.Conv2d(1, w, 7, padding=3)
        self.five = nn.Conv2d(w, w, 5, padding=2)
        self.down = nn.Conv2d(w, w, 5, stride=2, padding=2)
        self.dilated = nn.Conv2d(w, w, 5, dilation=2, padding=4)
        self.depth = nn.Conv2d(w, w, 5, padding=2, groups=w)
        self.mirrored = nn.Conv2d(w, w, 5, padding=2, padding_mode="reflect")
        self.same = nn.Conv2d(w, w, 5, padding="same")
        self.bare = nn.Conv2d(w, w, 5)
        self.flat = nn.Conv2d(w, w, (3, 5), padding=(1, 2))
        self.even = nn.Conv2d(w, w, 4, padding=2)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(w, w, 5, padding=2))
        self.shared, self.alike = nn.Conv2d(w, w, 5, padding=2), nn.Conv2d(w, w, 5, padding=2)
        self.alike.weight = self.shared.weight
        self.up = nn.ConvTranspose2d(w, w, 5, stride=2, padding=2, output_padding=1)
        self.small, self.last = nn.Conv2d(w, w, 3, padding=1), nn.Conv2d(w, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = _activate(self.five(_activate(self.wide(x))))
        y = _activate(self.dilated(_activate(self.down(y))))
        y = _activate(self.mirrored(_activate(self.depth(y))))
        y = y + self.same(y)
        y = _activate(self.bare(nn.functional.pad(y, (2, 2, 2, 2))))
        y = _activate(self.even(self.flat(y)))[..., 1:, 1:]
        y = _activate(self.alike(_activate(self.shared(self.computed(y)))))
        out: Tensor = self.last(_activate(self.small(self.up(y))))
        return out


def randomise(net: nn.Module, seed: int) -> nn.Module:
    """Weights and BatchNorm statistics as after training: nothing zero, nothing one; float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(0.1 * noise if "running_var" not in name else noise.abs())
    return net.double().eval()


class Masked:
    """A dense network whose consumers do not see the pruned channels: zeros at their inputs."""

    def __init__(self, net: nn.Module, groups: tuple[Group, ...], pruned: dict) -> None:
        self.net = net
        for group in groups:
            gone = set(pruned[group.name])
            for part in group.consumers:
                pairs = zip(part.members, part.channels, strict=True)
                channels = [c for m, c in pairs if m in gone]
                self._zero(net.get_submodule(part.module), channels)

    def _zero(self, module: nn.Module, channels: list[int]) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            x = inputs[0].clone()
            x[:, channels] = 0
            return (x,)

        module.register_forward_pre_hook(hook)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out
