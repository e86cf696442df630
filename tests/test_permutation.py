"""Permuted channels: the same function, and more of the magnitude under the masks."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Plain, Shape, UNet, randomise, shapes
from pairs import data
from test_steps_sparsify import NARROW, ddnet
from torch import nn

from compress import checkpoint
from compress.base.errors import CompressError
from compress.context import Work
from compress.graph import cost
from compress.graph.groups import groups
from compress.graph.rewrite import deconv_to_conv
from compress.models.redcnn import RedCNN
from compress.sparsity import eligibility, permutation
from compress.steps.sparsify import Sparsify


def eligible(net: nn.Module, rule: eligibility.Rule = "trt") -> list[str]:
    layers = cost.compressible(net)
    return [name for name, layer in layers.items() if not eligibility.refusal(layer, rule)]


def difference(one: nn.Module, other: nn.Module, side: int = 64) -> float:
    """Largest difference of two networks in float64, as a share of the largest output."""
    x = torch.rand(2, 1, side, side, dtype=torch.float64)
    with torch.no_grad():
        y, z = (net.double().eval()(x) for net in (one, other))
    return float((y - z).abs().max() / y.abs().max())


@settings(max_examples=20, deadline=None)
@given(shapes, st.integers(0, 1000))
def test_the_function_stays_and_magnitude_never_falls(shape: Shape, seed: int) -> None:
    """Additions, concatenations, strides, BatchNorm: whatever stands between the layers."""
    net = deconv_to_conv(randomise(UNet(shape), seed))
    layers = eligible(net)
    found = permutation.permute(net, layers)
    assert difference(net, found.net) < 1e-9
    assert found.kept >= found.kept_before - 1e-12
    assert found.kept_before == permutation.kept(net, layers)
    assert found.kept == permutation.kept(found.net, layers)
    assert (found.kept > found.kept_before) == (found.exchanges > 0)


@pytest.mark.parametrize(
    "net",
    [
        lambda: ddnet(trunk=16, bottleneck=16, decoder=16).net,
        lambda: ddnet(residual=True, **NARROW).net,
        lambda: RedCNN(channels=16),
    ],
)
def test_behind_dense_concatenations_and_skips(net) -> None:
    dense = deconv_to_conv(randomise(net(), 3))
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    found = permutation.permute(dense, eligible(dense))
    assert difference(dense, found.net) < 1e-9
    assert found.kept > found.kept_before + 0.005
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


def test_in_float32_the_difference_is_rounding() -> None:
    dense = deconv_to_conv(randomise(ddnet(trunk=16, bottleneck=16, decoder=16).net, 3).float())
    found = permutation.permute(dense, eligible(dense)).net.eval()
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, z = dense.eval()(x), found(x)
    assert float((y - z).abs().max()) < 1e-6


def test_an_order_that_is_plainly_better_is_found() -> None:
    """Large input channels that all compete in the same four are spread over the others."""
    net = Plain(16)
    with torch.no_grad():
        net.middle.weight.fill_(0.01)
        net.middle.weight[:, :8] = 1.0
    found = permutation.permute(net, ["middle"])
    assert found.kept_before == pytest.approx(0.5)
    assert found.kept == pytest.approx(8 / 8.08)
    large = (found.net.middle.weight[0, :, 0, 0] == 1).reshape(4, 4).sum(1)
    assert large.tolist() == [2, 2, 2, 2]


def test_layers_that_get_no_mask_are_not_in_the_balance() -> None:
    net = Plain(16)
    assert permutation.permute(net, []).exchanges == 0
    assert permutation.kept(net, []) == 1.0


class Hidden(nn.Module):
    """Scales channels; outside of PyTorch, where no tracer sees it, unless told otherwise."""

    def __init__(self, *, hide: bool) -> None:
        super().__init__()
        self.net, self.hide = Plain(16), hide
        self.register_buffer("scale", torch.rand(1, 16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net.first(x)
        if self.hide:
            y.detach().numpy()[:] *= self.scale.numpy()
        else:
            y = y * self.scale
        return self.net.last(self.net.middle(y))


def test_channels_used_behind_the_tracers_back_are_an_error() -> None:
    with pytest.raises(CompressError, match="cannot be permuted; leave permute out"):
        permutation.permute(Hidden(hide=True), ["net.middle"])


def test_a_scale_of_the_networks_own_moves_with_its_channels() -> None:
    assert permutation.permute(Hidden(hide=False), ["net.middle"]).exchanges > 0


def work(folder: Path) -> Work:
    return Work(stage=folder, device=torch.device("cpu"), data=data(), seed=0)


def test_the_option_of_sparsify(tmp_path: Path) -> None:
    model = ddnet(trunk=16, bottleneck=16, decoder=16)
    usual, better = work(tmp_path), work(tmp_path)
    Sparsify(backend="modelopt").run(model, usual)
    sparse = Sparsify(backend="modelopt", permute=True).run(model, better)
    gain = better.facts["permutation"]
    assert "permutation" not in usual.facts
    assert gain["kept_before"] == pytest.approx(usual.facts["kept_magnitude"])
    assert gain["kept"] == pytest.approx(better.facts["kept_magnitude"])
    assert gain["kept"] > gain["kept_before"]
    assert (better.facts["done"], usual.facts["done"]) == (43, 43)
    checkpoint.save(sparse, tmp_path)
    back = checkpoint.load(tmp_path)
    for name, tensor in sparse.net.state_dict().items():
        assert torch.equal(back.net.state_dict()[name], tensor)


def test_a_linear_layer_behind_a_flattened_map_keeps_its_order() -> None:
    """There a channel is many inputs: the group is left as it is."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16 * 64 * 64, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.conv(x).flatten(1))
            return y

    assert permutation.permute(Flat(), ["head"]).exchanges == 0


def test_the_search_ends_on_nan() -> None:
    """Where a caller let one through: no gain is larger than none."""
    net = Plain(16)
    with torch.no_grad():
        net.middle.weight[0, 0, 0, 0] = float("nan")
    (group,) = (g for g in groups(net) if any(part.module == "middle" for part in g.consumers))
    readers = [part for part in group.consumers if part.module == "middle"]
    places, count = permutation._order(group.width, readers, dict(net.named_modules()))
    assert (places, count) == (list(range(16)), 0)


def test_outputs_that_cannot_be_compared_are_not_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3)).eval()
    net[1].running_mean.fill_(float("nan"))
    with pytest.raises(CompressError, match="cannot be permuted; leave permute out"):
        permutation.permute(net, ["2"])
