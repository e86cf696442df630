"""Kernels that lose their outer ring: which can, what is left, and that it computes the same."""

import copy
from pathlib import Path

import pytest
import torch
from networks import LARGER, SMALLER, Kernels, randomise
from torch import nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.graph import kernels
from compress.graph.cost import convolutions
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.pruning import plan as pruning
from compress.pruning import variance
from compress.pruning.options import PruneOptions
from compress.pruning.proof import Proof
from compress.pruning.worth import Worth


def ringless(net: nn.Module, rings: dict[str, int]) -> nn.Module:
    """The network with zeros around the middle of kernels."""
    net = copy.deepcopy(net)
    for name, count in rings.items():
        weight = net.get_submodule(name).weight.detach()
        height, width = weight.shape[2:]
        for row in range(height):
            for column in range(width):
                if min(row, height - 1 - row, column, width - 1 - column) < count:
                    weight[:, :, row, column] = 0
    return net


def equal(one: nn.Module, other: nn.Module, side: int = 48) -> bool:
    x = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        got, expected = one(x), other(x)
    assert got.shape == expected.shape
    assert float(expected.std()) > 1e-6 * float(expected.abs().max())
    return bool((got - expected).abs().max() < 1e-12 * expected.abs().max())


def test_which_kernels_can_get_smaller_and_why_others_cannot() -> None:
    most, reasons = kernels.cuttable(Kernels(), 3)
    assert most == SMALLER
    assert reasons == LARGER
    assert kernels.cuttable(Kernels(), 5)[0] == {"wide": 1}
    assert kernels.cuttable(Kernels(), 1)[0]["small"] == 1
    assert kernels.cuttable(nn.Conv2d(1, 1, 5, dilation=2, padding=3), 1)[0] == {"": 1}


@pytest.mark.parametrize("name", SMALLER)
def test_the_middle_computes_what_the_kernel_with_zeros_around_does(name: str) -> None:
    net = randomise(Kernels(), 0)
    for count in range(1, SMALLER[name] + 1):
        small = kernels.cut(net, {name: count})
        assert equal(small, ringless(net, {name: count}))
        assert not equal(small, net)
        assert convolutions(small)[name].kernel_size == (
            convolutions(net)[name].kernel_size[0] - 2 * count,
        ) * 2  # fmt: skip


def test_all_at_once_and_a_checkpoint_of_it(tmp_path: Path) -> None:
    origin = ModelOptions(import_="networks:Kernels", folder=str(Path(__file__).parent))
    net = randomise(origin.build(), 1)
    small = kernels.cut(net, SMALLER)
    assert equal(small, ringless(net, SMALLER))
    checkpoint.save(Model(net=small.float(), origin=origin), tmp_path)
    again = checkpoint.load(tmp_path).net
    x = torch.rand(1, 1, 48, 48)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert checkpoint.kernels(again) == checkpoint.kernels(small)
    assert checkpoint.kernels(again)["wide"] == [3, 3]
    again.train()(x).square().mean().backward()


def test_a_checkpoint_with_kernels_that_are_no_middle_is_refused(tmp_path: Path) -> None:
    for built, kernel in (("Plain", 5), ("Kernels", 2)):
        origin = ModelOptions(import_=f"networks:{built}", folder=str(Path(__file__).parent))
        net = origin.build()
        layer = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
        layer.weight = nn.Parameter(torch.rand(*layer.weight.shape[:2], kernel, kernel))
        checkpoint.save(Model(net=net, origin=origin), tmp_path)
        with pytest.raises(UsageError, match="is not the middle of a kernel of"):
            checkpoint.load(tmp_path)


def test_without_padding_the_smaller_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"padding \(0, 0\) is too little"):
        kernels.smaller_padding((0, 0), (1, 1), (5, 5), (3, 3))
    with pytest.raises(ValueError, match="padding valid is too little"):
        kernels.smaller_padding("valid", (1, 1), (5, 5), (3, 3))


@pytest.mark.parametrize("build", [DDnet, lambda: RedCNN(channels=8)])
def test_deconvolutions_that_were_rewritten(build) -> None:
    net = randomise(deconv_to_conv(build()), 2)
    most, reasons = kernels.cuttable(net, 3)
    assert equal(kernels.cut(net, most), ringless(net, most))
    if isinstance(net, RedCNN):  # without padding; its decoder pads by 4 once it is rewritten
        assert [*most] == [f"decoder.{i}" for i in range(5)]
        assert {*reasons} == {f"encoder.{i}" for i in range(5)}
    else:
        assert len(most) == 21
        assert most["stem.conv"] == 2
        assert not reasons


def test_the_proof_sees_a_kernel_that_code_pads_by_itself() -> None:
    class Unpadded(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, self.weight, self.bias, padding=2)

    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), Unpadded(8, 8, 5, padding=2), nn.Conv2d(8, 1, 1)
    )
    proof = Proof(randomise(net, 0), (), (32, 32))
    assert not proof.failing({}, {"0": 1})
    assert [*proof.failing({}, {"0": 1, "2": 1}).kernels] == ["2"]
    options = PruneOptions(amount=0.4, criterion="l1", kernels="cut", round_to=1)
    plan = pruning.plan(net, options)
    assert plan.rings == {"0": 1}
    assert [(k.name, k.after) for k in plan.kernels] == [("0", 3), ("2", 5)]
    assert "without the outer ring of taps it computes something else" in plan.kernels[1].kept


def test_worth_of_a_ring_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 5, padding=2))
    net = net.double().eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([2.0, 1.0]))
        net[2].weight.zero_()
        net[2].weight[0, 0, 2, 2], net[2].weight[0, 1, 0, 4] = 3.0, 8.0
        net[2].weight[0, 1, 1, 1] = 4.0
    worth = variance.worth(net, rings={"2": 2})
    # Inputs vary by 2^2 and 1^2: the middle has 4 * 9 = 36, the outer ring 64, the inner one 16.
    assert worth.rings["2"].tolist() == pytest.approx([64 / 116, 16 / 116])
    assert worth.channels["0"].tolist() == pytest.approx([36 / 116, 80 / 116])


def test_rings_and_the_middle_add_up_to_what_a_layer_makes() -> None:
    net = randomise(deconv_to_conv(DDnet(trunk=8, bottleneck=12, decoder=8)), 4)
    worth = variance.worth(net, rings=kernels.cuttable(net, 1)[0])
    stem = float(worth.channels["stem.conv"].sum())
    taps = net.stem.conv.weight.detach().square().sum(1)
    share = taps[:, 3, 3] / taps.sum((1, 2))
    middle = float((worth.channels["stem.conv"] * share).sum())
    assert float(worth.rings["stem.conv"].sum()) == pytest.approx(stem - middle)


def test_scores_without_rings_are_not_enough() -> None:
    net = randomise(DDnet(trunk=8, bottleneck=12, decoder=8), 0)
    scores = variance.worth(net).channels
    options = PruneOptions(amount=0.4, criterion="variance", kernels="weigh", round_to=4)
    with pytest.raises(UsageError, match="needs what rings are worth"):
        pruning.plan(net, options, importance=scores)
    with pytest.raises(UsageError, match="needs what rings are worth"):
        pruning.plan(net, options, importance=Worth(channels=scores))
