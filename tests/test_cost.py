"""Parameters and MACs: the two published numbers, and the definition on single layers."""

import pytest
import torch
from networks import Plain, Shape, UNet
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph import cost, trial
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN


def test_ddnet_as_published() -> None:
    found = cost.cost(DDnet())
    assert (found.params, found.macs) == (566_451, 19_086_442_496)


@pytest.mark.parametrize("net", [DDnet(), RedCNN(channels=8)])
def test_the_rewrite_changes_no_number(net: nn.Module) -> None:
    assert cost.cost(deconv_to_conv(net)) == cost.cost(net)


@pytest.mark.parametrize(
    ("layer", "side", "macs"),
    [
        (nn.Conv2d(1, 3, 5, padding=2), 8, 8 * 8 * 3 * 25),
        (nn.Conv2d(1, 3, 5), 8, 4 * 4 * 3 * 25),
        (nn.Conv2d(1, 3, 3, stride=2, padding=1), 8, 4 * 4 * 3 * 9),
        (nn.ConvTranspose2d(1, 3, 4, stride=2, padding=1), 8, 8 * 8 * 3 * 16),
        (nn.ConvTranspose2d(1, 3, 5), 8, 8 * 8 * 3 * 25),
    ],
)
def test_one_layer(layer: nn.Module, side: int, macs: int) -> None:
    assert cost.cost(nn.Sequential(layer), (side, side)).macs == macs


def test_counting_does_not_touch_the_network() -> None:
    net = UNet(Shape((4, 8, 4), True, True, True, True)).train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cost.cost(net, (64, 64))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_nonzero_weights_are_counted() -> None:
    net = Plain(4)
    whole = cost.cost(net, (16, 16))
    with torch.no_grad():
        net.middle.weight[:2] = 0
    assert cost.cost(net, (16, 16)).nonzero_weights == whole.nonzero_weights - 2 * 4 * 9


def test_a_network_must_give_the_shape_of_its_slice() -> None:
    trial.check_shape(DDnet())
    half = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    with pytest.raises(
        UsageError, match=r"gives \(1, 1, 256, 256\) for a slice of shape \(1, 1, 5"
    ):
        trial.check_shape(half)
    with pytest.raises(UsageError, match=r"DDnet takes no slice of shape \(1, 1, 100, 100\): "):
        trial.check_shape(DDnet(), (100, 100))


SEEN: list[str] = []


class OwnTensors(Plain):
    """Makes a tensor on the CPU, whatever the device of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.append(type(x).__name__)
        return super().forward(x * torch.linspace(0, 1, x.shape[-1], device="cpu"))


def test_networks_that_make_tensors_on_the_cpu_are_counted_without_arithmetic():
    SEEN.clear()
    assert cost.layers(OwnTensors()) == cost.layers(Plain())
    trial.check_shape(OwnTensors())
    assert "FakeTensor" in SEEN
    assert SEEN.count("Tensor") < len(SEEN)
    last = max(k for k, name in enumerate(SEEN) if name == "Tensor")
    assert SEEN[last + 1] == "FakeTensor"  # the meta device was tried, nothing was computed


class ByValues(nn.Module):
    """What it does is decided by the pixels, so it has to be computed to be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y if x.mean() > 0 else y.relu())


def test_a_network_whose_way_depends_on_values_is_counted_for_the_same_slice():
    """It was counted for 64x64, and reports said 512x512."""
    assert cost.counted(ByValues()).macs == 2 * 8 * 9 * 512**2
    assert cost.counted(ByValues(), often=True).macs == 2 * 8 * 9 * 64**2
