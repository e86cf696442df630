"""The first-order criterion: what setting a weight to zero does to the loss, against doing it."""

import pytest
import torch
from networks import Plain, Shape, UNet
from pairs import data
from torch import nn

from compress.pruning import selection, taylor
from compress.steps.prune import Prune
from compress.training.samples import BATCH, samples

CPU = torch.device("cpu")


def test_worth_of_one_layer_is_the_sum_of_squared_weight_times_gradient() -> None:
    net = nn.Conv2d(1, 1, 1).double()
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias.fill_(3.0)  # type: ignore[union-attr]
    low, full = torch.ones(1, 1, 4, 4).double(), torch.zeros(1, 1, 4, 4).double()
    # y = 5, loss = 25, d/dw = d/db = 2 * 5; (10 * 2)^2 + (10 * 3)^2
    found = taylor.worth(nn.Sequential(net), [(low, full)], CPU).channels
    assert found["0"].tolist() == [1300.0]
    twice = taylor.worth(nn.Sequential(net), [(low, full), (0 * low, full)], CPU).channels
    assert twice["0"].tolist() == [(1300.0 + (2 * 3 * 3) ** 2) / 2]


def test_every_producer_has_a_score_and_the_network_is_left_alone() -> None:
    torch.manual_seed(0)
    net = UNet(Shape((6, 8, 4), concat=True, add=True, strided=True, norm=True))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = taylor.worth(net, samples(data().train, 2, 0, CPU), CPU).channels
    assert {n: len(s) for n, s in found.items()} == {
        "head": 6, "same": 6, "down": 8, "up": 4, "last": 1,
    }  # fmt: skip
    assert all((scores >= 0).all() and scores.any() for scores in found.values())
    assert all(torch.equal(tensor, state[n]) for n, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_channel_that_nobody_reads_goes_first() -> None:
    torch.manual_seed(0)
    net = Plain(8)
    with torch.no_grad():
        net.middle.weight[:, 5] = 0  # the largest norms of `first` do not help channel 5
        net.first.weight[5] = 10.0
    found = taylor.worth(net, samples(data().train, 2, 0, CPU), CPU).channels
    assert found["first"].argmin() == 5


def test_samples_repeat_and_fit_small_slices() -> None:
    pairs = data(side=40).train
    drawn = [low for low, _ in samples(pairs, 2, 7, CPU)]
    again = [low for low, _ in samples(pairs, 2, 7, CPU)]
    assert [tuple(low.shape) for low in drawn] == [(BATCH, 1, 32, 32)] * 2
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))


def test_weights_alone_give_no_taylor_score() -> None:
    with pytest.raises(ValueError, match="taylor scores come from data"):
        selection.scores(torch.ones(1, 1, 1, 1), None, "taylor")
    assert Prune(amount=0.5, criterion="taylor").batches == 16
