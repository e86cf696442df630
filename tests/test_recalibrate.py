"""BatchNorm statistics after pruning: those of the data, and nothing else changes."""

from pathlib import Path

import torch
from pairs import data
from torch import nn

from compress.context import Work
from compress.training import recalibrate


def network() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.Conv2d(4, 1, 1)).eval()


def test_statistics_are_plain_averages_over_batches() -> None:
    net = network()
    inputs = [torch.rand(2, 1, 8, 8) for _ in range(3)]
    recalibrate.measure(net, inputs)
    seen = [net[0](x) for x in inputs]
    means = torch.stack([y.mean((0, 2, 3)) for y in seen]).mean(0)
    variances = torch.stack([y.var((0, 2, 3)) for y in seen]).mean(0)
    torch.testing.assert_close(net[1].running_mean, means)
    torch.testing.assert_close(net[1].running_var, variances)
    assert net[1].momentum == 0.1
    assert not any(module.training for module in net.modules())


def test_a_copy_is_measured_and_zero_batches_do_nothing(tmp_path: Path) -> None:
    work = Work(stage=tmp_path, device=torch.device("cpu"), data=data(), seed=0)
    net = network()
    assert recalibrate.recalibrated(net, 0, work) is net
    before = net[1].running_mean.clone()
    other = recalibrate.recalibrated(net, 2, work)
    assert torch.equal(net[1].running_mean, before)
    assert not torch.equal(other[1].running_mean, before)
    assert torch.equal(other[0].weight, net[0].weight)
    again = recalibrate.recalibrated(net, 2, work)
    assert torch.equal(other[1].running_var, again[1].running_var)
