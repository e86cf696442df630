"""Equal ranges of channels: the function stays, the rounding gets smaller."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import randomise
from torch import Tensor, nn

from compress.graph.cost import compressible
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.quantization import quantisers
from compress.quantization.equalise import equalised

pytestmark = pytest.mark.filterwarnings("ignore")  # ModelOpt's own, on import
NARROW = {"trunk": 16, "bottleneck": 16, "decoder": 16, "residual": True}


def crops(side: int = 32, channels: int = 1) -> list[Tensor]:
    return [torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))]


def ranges(net: nn.Module, name: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = net.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        net(x)
    hook.remove()
    return seen[0].abs().amax((0, 2, 3))


def test_every_layer_of_a_ddnet_but_the_stem_reads_channels_of_one_range() -> None:
    net = randomise(DDnet(**NARROW), 1).eval()
    (x,) = crops()
    found, names = equalised(net.double(), [*compressible(net)], [x.double()])
    wanted = [name for name, one in compressible(net).items() if isinstance(one, nn.Conv2d)]
    assert {*names} == {*wanted} - {"stem.conv"}
    assert len(names) > 30
    with torch.no_grad():
        change = (found(x.double()) - net(x.double())).abs().max()
        assert float(change) < 1e-12 * float(net(x.double()).abs().max())
    for name in names:
        seen = ranges(found, name, x.double())
        assert float(seen.max() / seen[seen > 0].min()) < 1.0001


@pytest.mark.parametrize(
    "between",
    [nn.ReLU(), nn.LeakyReLU(0.1, inplace=True), nn.MaxPool2d(2), nn.PReLU(4), nn.Identity()],
)
@pytest.mark.parametrize("norm", [True, False])
def test_through_what_lets_factors_through(between: nn.Module, norm: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), between, nn.Conv2d(4, 1, 3)]
    net = nn.Sequential(*(one for one in layers if norm or one is not layers[1])).eval()
    last = str(len(net) - 1)
    found, names = equalised(net, ["0", last], crops())
    assert names == (last,)
    seen = ranges(found, last, crops()[0])
    assert float(seen.max() / seen.min()) < 1.001
    assert torch.allclose(found(crops()[0]), net(crops()[0]), atol=1e-5)


class Twice(nn.Module):
    """What the first layer makes is read by two others."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(a, b, 1) for a, b in ((1, 4), (4, 1), (4, 1)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.two(y) + self.three(y)


class Weighs(nn.Module):
    """Its code reads a weight beside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)
        self.norm.weight.data[1] = 50.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(x)) + self.norm.weight.sum()
        return y


class Sigmoid(nn.Module):
    """No factor goes through a sigmoid, a sum, or a branch on values."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.kind == "branch" and y.sum() > 0:
            y = y + 1
        z: Tensor = self.two(torch.sigmoid(y) if self.kind == "sigmoid" else y + x)
        return z


def shared() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    net[2].weight = net[1].weight
    return net


@pytest.mark.parametrize(
    ("net", "channels"),
    [
        (Twice(), 1), (Weighs(), 2), (Sigmoid("sigmoid"), 1), (Sigmoid("sum"), 1),
        (Sigmoid("branch"), 1), (shared(), 4),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=4)), 1),
        (nn.Sequential(nn.BatchNorm2d(2, affine=False), nn.Conv2d(2, 1, 1)), 2),
        (nn.Sequential(nn.GroupNorm(1, 2), nn.Conv2d(2, 1, 1)), 2),
    ],
)  # fmt: skip
def test_what_cannot_be_scaled_is_left(net: nn.Module, channels: int) -> None:
    before = copy.deepcopy(net.eval().state_dict())
    found, names = equalised(net, [*compressible(net)], crops(channels=channels))
    assert names == ()
    assert all(torch.equal(value, before[key]) for key, value in found.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_channel_that_is_zero_stays() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)).eval()
    net[0].weight.data.copy_(torch.tensor([1.0, 0.0, 4.0]))
    found, names = equalised(net, ["1"], crops(channels=3))
    assert names == ("1",)
    assert float(found[0].weight[1]) == 0.0
    assert torch.equal(found[1].weight[:, 1], net[1].weight[:, 1])
    assert torch.isfinite(found[1].weight).all()


def test_redcnn_is_scaled_where_no_skip_reads() -> None:
    net = randomise(RedCNN(channels=8), 1).float().eval()
    found, names = equalised(net, [*compressible(net)], crops(48))
    assert names
    assert torch.allclose(found(crops(48)[0]), net(crops(48)[0]), atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.integers(0, 100))
def test_int8_is_the_same_however_channels_were_scaled(powers: list[float], seed: int) -> None:
    """And never much worse than without: the error does not depend on ranges that were there."""
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)).eval()
    scaled, factors = copy.deepcopy(plain), torch.tensor(powers).exp()
    with torch.no_grad():
        scaled[0].weight.mul_(factors)
        scaled[0].bias.mul_(factors)
        scaled[1].weight.div_(factors.view(1, -1, 1, 1))
    x = torch.randn(2, 4, 8, 8)
    outs = []
    for net in (plain, scaled):
        found, _ = equalised(net, ["1"], [x])
        int8, left = quantisers.calibrated(found, {"1"}, [x], "max")
        assert not left
        with torch.no_grad():
            outs.append(int8(x))
    exact = plain(x).detach()
    off = [float(F.mse_loss(one, exact).sqrt()) for one in outs]
    assert off[0] == pytest.approx(off[1], rel=0.3, abs=1e-4)
