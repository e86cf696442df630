"""Stride-1 deconvolutions are convolutions: the same function under the same names."""

import pytest
import torch
from networks import Shape, UNet, randomise
from torch import nn

from compress.rewrite import deconv_to_conv
from models.ddnet import DDnet
from models.redcnn import RedCNN


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
