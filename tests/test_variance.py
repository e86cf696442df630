"""The variance criterion: what a channel is worth does not depend on the scale that it is kept in.

Each network is multiplied, channel by channel, by positive numbers that its BatchNorm layers or its
consumers take out again. It computes the same then, so its plan must be the same.
"""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Plain, Shape, UNet, randomise, strided_unet
from pairs import data
from torch import Tensor, nn
from zoo.blocks import Chain
from zoo.reference import distinct

from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.graph.groups import Part, groups
from compress.graph.rewrite import deconv_to_conv
from compress.graph.slices import Neighbouring
from compress.models.ddnet import DDnet, DenseLayer, Unit
from compress.pruning import plan as pruning
from compress.pruning import variance
from compress.pruning.options import PruneOptions
from compress.steps.prune import Prune

calm = settings(
    max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


class Normed(nn.Module):
    """BatchNorm behind each convolution, then an activation; a shortcut across the middle."""

    def __init__(self, activation: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.middle, self.two = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.last, self.activation = nn.Conv2d(width, 1, 3, padding=1), activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.one(self.first(x)))
        out: Tensor = self.last(y + self.activation(self.two(self.middle(y))))
        return out


class Dense(nn.Module):
    """DDnet's building blocks, a few of them: BatchNorm in front of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Unit(nn.Conv2d(1, 8, 3, padding=1))
        self.layers = nn.Sequential(DenseLayer(8, 12, 8), DenseLayer(16, 12, 8))
        self.last = Unit(nn.Conv2d(24, 1, 1), activate=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.layers(self.stem(x)))
        return out


def small_ddnet() -> nn.Module:
    return deconv_to_conv(DDnet(trunk=8, bottleneck=12, decoder=8))


def without_eps(net: nn.Module) -> nn.Module:
    """The network with BatchNorm layers that divide by the deviation itself, as then nothing but
    rounding tells two scales apart."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    return net


BEFORE = ({"made": 1, "running_mean": 1, "running_var": 2},)
"""BatchNorm in front of the layer that reads a channel: it takes the channel's scale out."""
BEHIND = (*BEFORE, {"affine": 1, "read": -1})
"""BatchNorm behind the layer that makes it takes one scale out, and the readers another."""
BARE = ({"made": 1, "read": -1},)
"""No BatchNorm: the readers take the scale out."""


@torch.no_grad()
def rescaled(net: nn.Module, seed: int, ways: tuple[dict[str, int], ...]) -> nn.Module:
    """A copy that keeps its channels in other scales, exp(0.7 N(0, 1)) times as large.

    Args:
        net: the network.
        seed: of the factors.
        ways: the power of a channel's factor by what a tensor is: what makes the channel, what
            reads it, a running statistic, affine weights; each way has factors of its own.
    """
    other, generator = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    state = other.state_dict()
    for powers in ways:
        for group in groups(net):
            draw = torch.randn(group.width, generator=generator, dtype=torch.float64)
            factor = torch.ones_like(draw) if group.fixed else (0.7 * draw).exp()
            for part in group.parts:
                power = powers.get(kind(other, part), 0)
                own = state[part.tensor].movedim(part.dim, 0)
                values = factor[list(part.members)].pow(power)
                channels = list(part.channels)
                own[channels] *= values.reshape(-1, *[1] * (own.dim() - 1))
    return other


def kind(net: nn.Module, part: Part) -> str:
    attribute = part.tensor.rpartition(".")[2]
    if isinstance(net.get_submodule(part.module), nn.BatchNorm2d):
        return attribute if attribute.startswith("running") else "affine"
    return "read" if part.side == "in" else "made"


CASES = {
    "dense": (Dense, BEFORE),
    "relu": (lambda: Normed(nn.ReLU()), BEHIND),
    "leaky": (lambda: Normed(nn.LeakyReLU(0.1)), BEHIND),
    "bare": (lambda: Plain(12), BARE),
    "shortcut": (lambda: UNet(Shape((12, 12, 8), True, True, False, False)), BARE),
}


def slices() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(2, 1, 64, 64, generator=generator, dtype=torch.float64) for _ in range(2)]


def kept(net: nn.Module, **options: object) -> dict[str, tuple[int, ...]]:
    """What a plan for 50 % of the MACs keeps."""
    asked = PruneOptions(amount=0.5, round_to=2, **options)  # type: ignore[arg-type]
    scores = None
    if asked.criterion == "variance":
        scores = variance.worth(net, slices).channels
    return dict(pruning.plan(net, asked, importance=scores).selection.kept)


@pytest.mark.parametrize("case", CASES)
@calm
@given(seed=st.integers(0, 2**31))
def test_a_rescaling_that_leaves_the_function_alone_leaves_the_plan_alone(
    case: str, seed: int
) -> None:
    build, ways = CASES[case]
    torch.manual_seed(seed)
    net = without_eps(randomise(build(), seed))
    other = rescaled(net, seed, ways)
    x = slices()[0]
    with torch.no_grad():
        one, two = net(x), other(x)
    assert (one - two).abs().max() < 1e-9 * one.abs().max()
    worth, again = (variance.worth(n, slices).channels for n in (net, other))
    for name, scores in worth.items():
        assert torch.allclose(scores, again[name], rtol=1e-6, atol=1e-12)
    assert kept(net, criterion="variance") == kept(other, criterion="variance")


def test_a_rescaled_ddnet_gets_the_same_plan_and_by_norms_another() -> None:
    torch.manual_seed(0)
    net = without_eps(randomise(small_ddnet(), 3))
    other = rescaled(net, 3, BEFORE)
    assert kept(net, criterion="variance") == kept(other, criterion="variance")
    one, two = (kept(n, criterion="gaussian") for n in (net, other))
    same = sum(len({*one[name]} & {*two[name]}) for name in one)
    assert same < 0.75 * sum(len(channels) for channels in one.values())


@calm
@given(seed=st.integers(0, 2**31))
def test_worth_is_handed_on_whole_from_layer_to_layer(seed: int) -> None:
    net = randomise(Plain(12), seed)
    worth = variance.worth(net, slices).channels
    assert {name: float(scores.sum()) for name, scores in worth.items()} == pytest.approx(
        {"first": 1.0, "middle": 1.0, "last": 1.0}
    )


def test_layers_whose_outputs_are_added_divide_the_worth() -> None:
    """y = first + middle(first): what `first` is worth comes by both ways, and is 1 in all."""
    net = randomise(Normed(nn.Identity()), 0)
    worth = variance.worth(net, slices).channels
    total = float(worth["middle"].sum())
    assert total == float(worth["first"].sum())  # one group
    assert 1 < total < 2  # all of it by `last`, a part again by `middle`


def test_worth_of_two_layers_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)).double().eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([2.0, 1.0]))
        net[2].weight.copy_(torch.tensor([3.0, -8.0]).reshape(1, 2, 1, 1))
    # The reader's inputs vary by 2^2 and 1^2: 4 * 3^2 = 36 and 1 * 8^2 = 64 of 100.
    assert variance.worth(net).channels["0"].tolist() == pytest.approx([0.36, 0.64])


@pytest.mark.parametrize("block", ["gate", "halves", "channel shuffle", "every second", "added"])
def test_every_channel_has_the_worth_of_its_member(block: str) -> None:
    """Where a member has several channels, or a layer makes several groups, order is not place."""
    net = distinct(Chain([block], 16), 1)
    found, worth = groups(net), variance.worth(net, slices).channels
    for group in found:
        members = torch.zeros(group.width, dtype=torch.float64)
        for part in group.producers:
            own = worth[part.module][list(part.channels)]
            members[list(part.members)] = own
            assert torch.equal(own, members[list(part.members)])
    asked = PruneOptions(amount=0.2, round_to=1, criterion="variance")
    assert pruning.plan(net, asked, importance=worth).removed["macs"] >= 0.2


def test_a_reader_of_nothing_shares_evenly() -> None:
    net = randomise(Plain(4), 0)
    nn.init.zeros_(net.last.weight)
    assert variance.worth(net, slices).channels["middle"].tolist() == [0.25] * 4


@pytest.mark.parametrize("inplace", [False, True])
def test_an_activation_in_place_is_no_batchnorm(inplace: bool) -> None:
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace), nn.Conv2d(4, 1, 1)
    )
    net = randomise(layers, 0)
    assert variance.from_batchnorm(net, (16, 16)) == {}  # what is read is ReLU's output
    worth = variance.worth(net, slices).channels["0"]
    read = torch.cat([net[2](net[1](net[0](x))) for x in slices()]).var((0, 2, 3), correction=0)
    expected = read.detach() * net[3].weight.detach()[0, :, 0, 0].square()
    assert worth.tolist() == pytest.approx((expected / expected.sum()).tolist(), rel=1e-2)


def test_a_network_of_neighbouring_slices_has_worths() -> None:
    layers = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)
    )
    net = Neighbouring(randomise(layers, 0), 1)
    assert float(variance.worth(net).channels["net.1"].sum()) == pytest.approx(1.0)


def test_slices_are_asked_for_only_where_no_batchnorm_scales_the_inputs() -> None:
    def fail() -> list[Tensor]:
        raise AssertionError("no slices are needed")

    variance.worth(without_eps(randomise(small_ddnet(), 0)), fail)
    with pytest.raises(AssertionError):
        variance.worth(randomise(Plain(4), 0), fail)
    with pytest.raises(UsageError, match="variance needs slices where no BatchNorm scales what"):
        pruning.plan(Plain(8), PruneOptions(amount=0.3, criterion="variance", round_to=1))


def test_the_step_measures_on_training_crops(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = strided_unet()
    model = Model(net=net.eval(), origin=ModelOptions(import_="networks:strided_unet"))
    work = Work(stage=tmp_path, device=torch.device("cpu"), data=data(), seed=0)
    step = Prune(criterion="variance", amount=0.4, round_to=4, batches=1)
    small = step.run(model, work)
    assert work.facts["removed"]["macs"] >= 0.4
    assert (work.facts["criterion"], work.facts["scope"]) == ("variance", "global")
    assert small.net(torch.rand(1, 1, 32, 32)).shape == (1, 1, 32, 32)
    assert step.plan(model, 0)[1].removed["macs"] >= 0.4  # `check` needs no slices
