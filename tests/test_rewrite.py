"""Stride-1 deconvolutions are convolutions: the same function under the same names."""

import pytest
import torch
import torch.nn.functional as F
from networks import Shape, UNet, randomise
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from compress.graph.rewrite import deconv_to_conv, fold_batchnorm
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 5, 5, padding=2),
        nn.ConvTranspose2d(3, 5, 1),
        nn.ConvTranspose2d(3, 5, (3, 5), padding=(0, 1), bias=False),
        nn.ConvTranspose2d(3, 5, 3, dilation=2, padding=1),
    ],
)
def test_one_layer(layer: nn.Module) -> None:
    net = nn.Sequential(layer).double()
    rewritten = deconv_to_conv(net)
    assert isinstance(rewritten[0], nn.Conv2d)
    x = torch.randn(2, 3, 11, 9, dtype=torch.float64)
    torch.testing.assert_close(rewritten(x), net(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 4, 4, stride=2),
        nn.ConvTranspose2d(4, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 4, 3, padding=3),
    ],
)
def test_what_is_no_plain_convolution_stays(layer: nn.Module) -> None:
    assert isinstance(deconv_to_conv(nn.Sequential(layer))[0], nn.ConvTranspose2d)


class Standardised(nn.ConvTranspose2d):
    """A deconvolution of another function than its class in PyTorch."""

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        weight = self.weight / self.weight.norm()
        return F.conv_transpose2d(x, weight, self.bias, padding=self.padding)


def test_a_deconvolution_with_a_forward_of_its_own_stays() -> None:
    net = nn.Sequential(Standardised(3, 5, 3, padding=1))
    assert type(deconv_to_conv(net)[0]) is Standardised


def test_a_deconvolution_with_a_hook_stays() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 5, 3, padding=1))
    net[0].register_forward_hook(lambda _layer, _inputs, y: 2 * y)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(deconv_to_conv(net)(x), net(x))


def test_frozen_weights_stay_frozen() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 5, 3).requires_grad_(False))
    assert not any(p.requires_grad for p in deconv_to_conv(net).parameters())


@pytest.mark.parametrize(
    "net",
    [DDnet(), RedCNN(channels=8), UNet(Shape((4, 6, 8), True, True, True, True))],
)
def test_networks(net: nn.Module) -> None:
    net = randomise(net, 5)
    rewritten = deconv_to_conv(net)
    x = torch.rand(1, 1, 32, 48, dtype=torch.float64)
    expected = net(x)
    assert (rewritten(x) - expected).abs().max() < 1e-12 * expected.abs().max()
    names = [name for name, _ in net.named_parameters()]
    assert names == [name for name, _ in rewritten.named_parameters()]


def folded(*layers: nn.Module) -> int:
    """How many BatchNorm layers were folded; the function must be the same to the border."""
    net = randomise(nn.Sequential(*layers), 6)
    after, names = fold_batchnorm(net)
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(after(x), net(x), rtol=0, atol=1e-12)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in after.modules())
    assert left == sum(isinstance(module, nn.BatchNorm2d) for module in layers) - len(names)
    return len(names)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(4, 8, 3, bias=False),
        nn.Conv2d(4, 8, 3, stride=2, dilation=2),
        nn.ConvTranspose2d(4, 8, 1),
    ],
)
def test_batchnorm_before_a_convolution_without_padding_is_folded(conv: nn.Module) -> None:
    assert folded(nn.BatchNorm2d(4), conv) == 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv2d(4, 8, 3, padding="same"),
        nn.ConvTranspose2d(4, 8, 3),
        nn.ConvTranspose2d(4, 8, 1, stride=2),
        nn.Conv2d(4, 8, 1, groups=2),
    ],
)
def test_batchnorm_before_padding_stays(conv: nn.Module) -> None:
    assert folded(nn.BatchNorm2d(4), conv) == 0


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1),
    ],
)
def test_batchnorm_behind_a_convolution_is_folded(conv: nn.Module) -> None:
    assert folded(conv, nn.BatchNorm2d(8, affine=False), nn.ReLU()) == 1


def test_a_batchnorm_between_two_convolutions_is_folded_once() -> None:
    assert folded(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)) == 1


def test_batchnorm_with_two_users_or_no_neighbour_stays() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            return y + self.conv(y)

    assert fold_batchnorm(Both())[1] == ()
    assert folded(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)) == 0


def test_batchnorm_without_statistics_of_its_own_stays() -> None:
    assert folded(nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 8, 1)) == 0


def test_batchnorm_beside_a_weight_that_is_computed_stays() -> None:
    assert folded(weight_norm(nn.Conv2d(4, 8, 1)), nn.BatchNorm2d(8)) == 0


def test_a_network_that_cannot_be_traced_is_left_as_it_is() -> None:
    class Asks(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    assert folded(nn.BatchNorm2d(4)) == 0
    assert fold_batchnorm(Asks(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)))[1] == ()


def test_ddnet_folds_where_its_convolutions_are_1x1() -> None:
    net = deconv_to_conv(randomise(DDnet(residual=True, trunk=4, bottleneck=4, decoder=4), 7))
    after, names = fold_batchnorm(net)
    assert len(names) == 16 + 4 + 4  # bottlenecks, transitions, the decoders' second layers
    x = torch.rand(1, 1, 32, 48, dtype=torch.float64)
    expected = net(x)
    assert (after(x) - expected).abs().max() < 1e-12 * expected.abs().max()


def test_a_deconvolution_under_two_names_stays_one_module() -> None:
    net = nn.Module()
    net.one = net.other = nn.ConvTranspose2d(2, 2, 3, padding=1)
    found = deconv_to_conv(net)
    assert isinstance(found.one, nn.Conv2d)
    assert found.one is found.other


class Looking(nn.Module):
    """Code that looks at a deconvolution in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(1, 3, 3, padding=1), nn.ConvTranspose2d(3, 1, 3, padding=1)
        self.way, self.__dict__["hidden"] = way, self.up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) -> the same."""
        y = self.first(x)
        if self.way == "class":
            return next(m for m in self.children() if isinstance(m, nn.ConvTranspose2d))(y)
        if self.way == "other class":
            return self.up(y) if isinstance(self.up, nn.ConvTranspose2d) else y[:, :1]
        if self.way == "hidden":
            return self.hidden(y)
        if self.way == "training" and self.training:
            return self.up(y) * self.up.weight[:, 0].norm()
        return self.up(y)


@pytest.mark.parametrize("way", ["class", "other class", "hidden", "training"])
def test_layers_that_code_looks_at_are_left_as_they_are(way: str) -> None:
    """With a convolution in its place the network did something else, or nothing at all."""
    net = Looking(way).eval()
    other = deconv_to_conv(net)
    assert isinstance(other.up, nn.ConvTranspose2d)
    x = torch.rand(1, 1, 16, 16)
    for mode in (False, True):
        assert torch.equal(other.train(mode)(x), net.train(mode)(x))


def test_layers_that_code_only_calls_are_rewritten() -> None:
    assert isinstance(deconv_to_conv(Looking("")).up, nn.Conv2d)
