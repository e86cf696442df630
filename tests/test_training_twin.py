"""The twin that torch.compile gets: same function, same parameters, no narrow convolution."""

import copy

import pytest
import torch
from torch import nn

from compress.training.twin import WIDTH, compilable
from models.ddnet import DDnet
from models.redcnn import RedCNN


def nets() -> dict[str, nn.Module]:
    odd = nn.Conv2d(3, 1, 3, padding=1, padding_mode="reflect")
    once = nn.Conv2d(4, 4, 3, padding=1)
    return {
        "ddnet": DDnet(trunk=4, bottleneck=4, decoder=4),
        "redcnn": RedCNN(channels=4),
        "others": nn.Sequential(
            nn.ConvTranspose2d(1, 4, 5, padding=1, dilation=2), once, once,
            nn.ConvTranspose2d(4, 3, 3, stride=2), odd, nn.Conv2d(1, 1, 1, bias=False),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", nets())
def test_outputs_gradients_and_statistics_are_those_of_the_network(name):
    net = nets()[name].double().train()
    alone = copy.deepcopy(net)
    twin = compilable(net)
    x = torch.rand(1, 1, 32, 48, dtype=torch.float64)
    expected = alone(x)
    found = twin(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    expected.square().mean().backward()
    found.square().mean().backward()
    for (key, one), other in zip(net.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12, msg=key)
    for one, other in zip(net.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_parameters_and_hooks_are_shared_and_the_network_stays_as_it_is():
    net = nets()["ddnet"]
    kinds = [type(module) for module in net.modules()]
    seen = []
    net.stem.conv.register_forward_hook(lambda *_: seen.append("stem"))
    twin = compilable(net)
    assert [type(module) for module in net.modules()] == kinds
    assert all(a is b for a, b in zip(twin.parameters(), net.parameters(), strict=True))
    twin(torch.rand(1, 1, 32, 32))
    assert seen == ["stem"]
    shared = nets()["others"]
    assert len(list(compilable(shared).modules())) == len(list(shared.modules()))


def test_no_convolution_computes_a_single_output_channel():
    widths = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.conv2d or func is torch.conv2d:
                widths.append(len(args[1]))
            assert func is not torch.nn.functional.conv_transpose2d
            return func(*args, **(kwargs or {}))

    with Watch():
        compilable(nets()["ddnet"])(torch.rand(1, 1, 32, 32))
    assert widths
    assert 1 not in widths
    assert WIDTH in widths
