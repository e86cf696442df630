"""Networks as imaging repositories have them; each of these tests failed before it was mended."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.engines import onnx
from compress.engines.base import NotBuilt, Shape
from compress.engines.subject import Subject, prepared
from compress.graph import trial
from compress.graph.rewrite import deconv_to_conv, fold_batchnorm
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from zoo.blocks import conv
from zoo.reference import difference, distinct

SIDE = 32


def pruned(net: nn.Module, amount: float = 0.3) -> tuple[nn.Module, pruning.Plan]:
    """A network with that share of its MACs removed, equal to the masked one."""
    net = distinct(net, seed=1)
    plan = pruning.plan(net, PruneOptions(amount=amount, round_to=4))
    small = plan.apply(net)
    assert difference(net, small, SIDE) < 1e-9
    return small, plan


class Features(nn.Module):
    """Two layers of features and a head."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(1, c), conv(c, c), conv(c, 1)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.features(x))


class Supervised(Features):
    """A second head, behind dropout, that only training uses."""

    def __init__(self, c: int = 16) -> None:
        super().__init__(c)
        self.drop, self.second = nn.Dropout2d(0.5), conv(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        out = x + self.last(y)
        return out + 0.1 * self.second(self.drop(y)) if self.training else out


class Noisy(Features):
    """Noise as large as there are channels, in training only."""

    def __init__(self, c: int = 16) -> None:
        super().__init__(c)
        self.strength = nn.Parameter(torch.full((1, c, 1, 1), 0.1))

    def features(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return F.relu(self.b(y + self.strength * torch.randn_like(y) if self.training else y))


def test_a_head_that_only_training_uses_follows() -> None:
    """It kept its inputs, so that the pruned network could not be trained."""
    small, _ = pruned(Supervised())
    assert small.second.in_channels == small.b.out_channels < 16
    trial.check_training(small, (SIDE, SIDE))


def test_channels_that_only_training_needs_stay() -> None:
    small, plan = pruned(Noisy())
    assert small.a.out_channels == 16 > small.b.out_channels
    (reason,) = plan.failing.values()
    assert reason.startswith("the network cannot be trained without some of them: The size")
    trial.check_training(small, (SIDE, SIDE))


class Deconvolved(Features):
    """A stride-1 deconvolution that is called in one of several ways."""

    def __init__(self, layer: type[nn.ConvTranspose2d] = nn.ConvTranspose2d, way: str = "") -> None:
        super().__init__()
        self.up, self.plain, self.way = layer(16, 16, 3, padding=1), deconvolution(), way

    def forward(self, x: Tensor) -> Tensor:
        y = self.plain(self.features(x))
        if self.way == "size":
            return self.last(self.up(y, output_size=x.shape))
        if self.way == "weight":
            return self.last(F.conv_transpose2d(y, self.up.weight, self.up.bias, padding=1))
        if self.way == "both":
            return self.last(self.up(y).to(self.up.weight.dtype) * self.up.weight.square().mean())
        return self.last(self.up(y))


class Doubled(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def deconvolution() -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(16, 16, 3, padding=1)


@pytest.mark.parametrize(
    ("net", "left"),
    [
        (Deconvolved(), False),
        (Deconvolved(Doubled), True),
        (Deconvolved(way="size"), True),
        (Deconvolved(way="weight"), True),
        (Deconvolved(way="both"), True),
    ],
)
def test_deconvolutions_that_code_uses_in_its_own_way_are_left(net: nn.Module, left: bool) -> None:
    """They became convolutions: another function, or none that runs."""
    net = distinct(net, seed=1)
    small = deconv_to_conv(net)
    assert isinstance(small.up, nn.ConvTranspose2d) == left
    assert isinstance(small.plain, nn.Conv2d)
    x = torch.rand(2, 1, SIDE, SIDE).double()
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), rtol=1e-9, atol=1e-12)


def normalised(layer: nn.Module, **options: bool) -> nn.Module:
    return nn.Sequential(conv(1, 8), layer, nn.BatchNorm2d(8, **options), nn.ReLU(), conv(8, 1))


class Seen(nn.Module):
    """A convolution whose output a hook keeps, as encoders do for their skips."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.last = conv(1, 8), nn.BatchNorm2d(8), conv(16, 1)
        self.skip = torch.zeros(())
        self.a.register_forward_hook(self.keep)

    def keep(self, _: nn.Module, __: object, out: Tensor) -> None:
        self.skip = out

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x))
        return self.last(torch.cat((y, self.skip.expand_as(y)), 1))


@pytest.mark.parametrize(
    "net",
    [
        normalised(conv(8, 8), track_running_stats=False),
        normalised(nn.utils.parametrizations.weight_norm(conv(8, 8))),
        normalised(nn.utils.parametrizations.spectral_norm(conv(8, 8))),
        normalised(nn.utils.spectral_norm(conv(8, 8))),
        Seen(),
    ],
)
def test_batchnorms_that_no_weight_can_take_up_are_left(net: nn.Module) -> None:
    """An export ended in a traceback."""
    net, x = net.eval(), torch.rand(2, 1, SIDE, SIDE)
    folded, names = fold_batchnorm(net)
    assert not names
    with torch.no_grad():
        assert torch.equal(folded(x), net(x))


def test_a_vector_in_a_product_is_no_layer_in_onnx(tmp_path: Path) -> None:
    """spectral_norm multiplies by one; asking whether it is 2:4 ended in a traceback."""
    net = nn.Sequential(conv(1, 32), nn.utils.spectral_norm(conv(32, 32)), conv(32, 1)).eval()
    subject, _ = prepared(net, "fp32", as_conv=True)
    shape, cpu = Shape(batch=1, size=SIDE), torch.device("cpu")
    facts = onnx.Onnx().build(subject, shape, tmp_path / "x.onnx", cpu)
    assert facts["sparse24"] == 0


class Rounded(Features):
    """Computes in bfloat16, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


def test_a_file_that_onnx_refuses_is_one_sentence(tmp_path: Path) -> None:
    subject, shape = Subject(Rounded().eval(), "fp32"), Shape(batch=1, size=SIDE)
    with pytest.raises(NotBuilt, match=r"ONNX's checker gave up: .*bfloat16"):
        onnx.Onnx().build(subject, shape, tmp_path / "x.onnx", torch.device("cpu"))
