"""The twin that torch.compile gets: same function, parameters and counters, other operators."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.training.twin import WIDTH, compilable


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
    assert len(list(compilable(shared).modules())) == 1 + len(list(shared.modules()))


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


def doubled(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("sides", [(1, 1), (1, 2), (2, 3), (3, 1), (7, 4), (32, 33)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_enlarging_and_its_gradient_are_those_of_torch(sides, layout):
    twin = compilable(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    x = torch.rand(2, 3, *sides, dtype=torch.float64).to(memory_format=layout)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = twin(one), doubled(other)
    assert torch.equal(found, expected)
    back = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(found, one, back)
    (golden,) = torch.autograd.grad(expected, other, back)
    torch.testing.assert_close(grad, golden, rtol=1e-12, atol=1e-12)


def test_enlarging_sums_half_precision_in_float32():
    twin = compilable(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    x = torch.rand(1, 3, 9, 8).bfloat16().requires_grad_()
    back = torch.rand(1, 3, 18, 16).bfloat16()
    (grad,) = torch.autograd.grad(twin(x), x, back)
    wide = x.detach().float().requires_grad_()
    (golden,) = torch.autograd.grad(doubled(wide), wide, back.float())
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.float(), golden, rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    "other",
    [
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=3, mode="bilinear", align_corners=True),
        nn.Upsample(size=(12, 12), mode="bilinear", align_corners=True),
    ],
)
def test_other_enlarging_stays_as_it_is(other):
    assert [type(m) for m in compilable(other).modules()][1:] == [nn.Upsample]


class Norms(nn.Module):
    """BatchNorms of all kinds: one is used twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.frozen = (nn.BatchNorm2d(1) for _ in range(3))
        self.mean = nn.BatchNorm2d(1, momentum=None)
        self.untracked = nn.BatchNorm2d(1, track_running_stats=False)
        self.frozen.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.untracked(self.mean(self.frozen(self.twice(self.twice(x)))))
        return y


@pytest.mark.parametrize("compiled", [False, True])
def test_every_use_of_a_norm_counts_once(compiled):
    net = Norms()
    if compiled:
        net.mean = nn.Identity()  # torch reads its counter on the host, which cannot be compiled
    alone, twin = copy.deepcopy(net), compilable(net)
    step = torch.compile(twin, dynamic=False, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        x = torch.rand(2, 1, 4, 4)
        (step if compiled else twin)(x).sum().backward()
        alone(x)
    assert int(net.twice.num_batches_tracked) == 6
    assert list(net.state_dict()) == list(alone.state_dict())
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(net.state_dict()[key], value, msg=key)


class Operators(TorchDispatchMode):
    """Records the names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def test_counters_take_one_operator_and_no_gradient_is_scattered():
    twin = compilable(nets()["ddnet"].train())
    with Operators() as operators:
        twin(torch.rand(1, 1, 32, 32)).mean().backward()
    assert operators.seen.count("aten::_foreach_add_.Scalar") == 1
    assert "aten::upsample_bilinear2d_backward" not in operators.seen
    assert "aten::add_.Tensor" not in operators.seen[: operators.seen.index("aten::mean")]


@pytest.mark.slow
def test_compiled_as_a_whole_it_is_the_network():
    """Traced and differentiated as for a GPU, without its code, which takes minutes to build."""
    torch.manual_seed(0)
    net = nets()["ddnet"].double().train()
    alone = copy.deepcopy(net)
    whole = torch.compile(compilable(net), backend="aot_eager", fullgraph=True)
    for _ in range(2):
        low, full = (torch.rand(1, 1, 32, 48, dtype=torch.float64) for _ in "ab")
        found, expected = (F.mse_loss(one(low), full) for one in (whole, alone))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        found.backward()
        expected.backward()
    for (key, one), other in zip(net.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12, msg=key)
    for one, other in zip(net.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
