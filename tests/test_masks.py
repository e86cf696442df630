"""Masks hold, whatever the optimizer does."""

import pytest
import torch
from networks import Plain

from compress.base.errors import CompressError, UsageError
from compress.sparsity import masks


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, hold: masks.Holder) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.rand(2, 1, 16, 16)).square().mean().backward()
        optimizer.step()
        hold()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 1e-2),
        lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_held_through_training(optimizer, layout: torch.memory_format) -> None:
    net = Plain(32).to(memory_format=layout)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    before = net.middle.weight.detach().clone()
    train(net, optimizer(net.parameters()), hold)
    hold.check()
    assert not torch.equal(net.middle.weight, before)
    assert ((net.middle.weight != 0) == held["middle"]).all()


def test_without_holding_the_weights_come_back() -> None:
    net = Plain(32)
    held = masks.compute(net, "modelopt")
    masks.apply(net, held)
    train(net, torch.optim.Adam(net.parameters()), lambda: None)
    with pytest.raises(CompressError, match="mask of middle is broken"):
        masks.check(net, held)


def test_a_planted_violation_is_named() -> None:
    net = Plain(32)
    held = {"middle": torch.ones(32, 32, 3, 3, dtype=torch.bool)}
    with pytest.raises(CompressError, match=r"middle is not 2:4: Violation\(out=0, first=0"):
        masks.check(net, held)


def test_a_mask_that_is_not_2to4_is_refused_before_training() -> None:
    net = Plain(32)
    held = {"middle": torch.ones(32, 32, 3, 3, dtype=torch.bool)}
    with pytest.raises(CompressError, match="middle is not 2:4"):
        masks.Holder(net, held)
    masks.Holder(net, held, "unstructured").check()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("value", [1e-30, float("nan"), float("inf")])
def test_a_weight_that_came_back_is_found(value: float, layout: torch.memory_format) -> None:
    net = Plain(32).to(memory_format=layout)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    hold.check()
    with torch.no_grad():
        net.middle.weight[tuple((~held["middle"]).nonzero()[-1])] = value
    with pytest.raises(CompressError, match="the 2:4 mask of middle is broken"):
        hold.check()


def test_a_kept_weight_that_is_not_finite_breaks_no_mask() -> None:
    net = Plain(32)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    with torch.no_grad():
        net.middle.weight[tuple(held["middle"].nonzero()[0])] = float("nan")
        hold.check()
        net.middle.weight[tuple((~held["middle"]).nonzero()[0])] = 1.0
    with pytest.raises(CompressError, match="the 2:4 mask of middle is broken"):
        hold.check()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_factors_lie_as_the_weights_do(layout: torch.memory_format) -> None:
    """Strides too, which a 1x1 kernel can differ in: else holding is a kernel for every layer."""
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 1), torch.nn.Conv2d(16, 16, 3))
    net = net.to(memory_format=layout)
    hold = masks.Holder(net, masks.compute(net, "modelopt"))
    weights = [net[0].weight, net[1].weight]
    assert [f.stride() for f in hold._factors] == [w.stride() for w in weights]


def test_computing_leaves_the_network_alone() -> None:
    net = Plain(32)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    masks.compute(net, "modelopt")
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_choosing_a_back_end() -> None:
    assert masks.choose("modelopt") == ("modelopt", "asked for")
    if masks._asp_missing():
        assert masks.choose("auto")[0] == "modelopt"
        with pytest.raises(UsageError, match=r"backend asp cannot be used: .*25\.05-py3 has it"):
            masks.choose("asp")


def test_a_mask_that_keeps_three_of_four_zeros_is_refused() -> None:
    """The weight is 2:4, but only until it is trained."""
    net = Plain(32)
    held = masks.compute(net, "modelopt")
    masks.apply(net, held)
    masks.check(net, held)
    held["middle"][3, 4:8, 1, 2] = True
    with pytest.raises(CompressError, match=r"middle is not 2:4: Violation\(out=3, first=4, tap"):
        masks.check(net, held)


def test_a_layer_that_modelopt_leaves_dense_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelopt.torch.sparsity.sparsify", lambda net, mode: net)
    with pytest.raises(CompressError, match="ModelOpt left middle dense against its own shape rul"):
        masks.compute(Plain(32), "modelopt")
