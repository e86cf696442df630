"""Products of values, as in attention: counted as PyTorch counts them, and pruned as it is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.base.errors import UsageError
from compress.graph import cost
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from compress.recipe import load
from compress.run import preview
from zoo.blocks import Chain
from zoo.reference import difference, distinct

SIZE = (16, 16)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


class Around(nn.Module):
    """Convolutions around a block of C channels at a quarter of the size."""

    def __init__(self, block: nn.Module, c: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, c, 4, stride=4)
        self.block, self.middle = block, nn.Conv2d(c, c, 3, padding=1)
        self.last = nn.ConvTranspose2d(c, 1, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.middle(self.block(F.relu(self.first(x))))))


class NonLocal(nn.Module):
    """Wang et al., CVPR 2018: what is multiplied by the map of attention may lose channels."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(c, c // 2, 1) for _ in range(3))
        self.out = nn.Conv2d(c // 2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (tokens(layer(x)) for layer in (self.theta, self.phi, self.g))
        y = (theta @ phi.transpose(1, 2)).softmax(-1) @ g
        return x + self.out(y.transpose(1, 2).reshape(len(x), -1, *x.shape[2:]))


class OfChannels(nn.Module):
    """Attention between channels, as in Restormer."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.flatten(2) for part in self.qkv(x).chunk(3, 1))
        return self.out((q @ k.transpose(1, 2)).softmax(-1).matmul(v).view_as(x))


class Heads(nn.Module):
    """Attention of two heads by a function of its queries, keys and values."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], c: int = 16) -> None:
        super().__init__()
        self.qkv, self.out, self.attend = nn.Linear(c, 3 * c), nn.Linear(c, c), attend

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        parts = self.qkv(tokens(x)).view(n, height * width, 3, 2, c // 2)
        y = self.attend(*parts.permute(2, 0, 3, 1, 4)).transpose(1, 2)
        return self.out(y.reshape(n, -1, c)).transpose(1, 2).reshape(x.shape)


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


class Transformer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x)
        many = isinstance(self.layer, nn.MultiheadAttention)
        y = self.layer(t, t, t, need_weights=False)[0] if many else self.layer(t)
        return y.transpose(1, 2).reshape(x.shape)


class Bare(nn.Module):
    """A weight of its own that a function takes, and one that is made of the slice."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.weight, self.made = nn.Parameter(torch.randn(c, c, 3, 3)), nn.Linear(c, c * 9)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight, padding=1)
        own = self.made(y.mean((2, 3))).view(-1, 1, 3, 3)
        return F.conv2d(y, own, padding=1, groups=y.shape[1])


class Borrowed(nn.Module):
    """A layer whose weight a function takes: it never runs itself."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(c, 2 * c, 3, padding=1), nn.Conv2d(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(F.conv2d(x, self.up.weight, padding=1)))


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "non-local": NonLocal,
    "of channels": OfChannels,
    "fused": lambda: Heads(F.scaled_dot_product_attention),
    "einsum": lambda: Heads(by_einsum),
    "many heads": lambda: Transformer(nn.MultiheadAttention(16, 4, batch_first=True)),
    "transformer": lambda: Transformer(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)),
    "bare": Bare,
    "borrowed": Borrowed,
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Chain([name], 16) if name == "attention" else Around(BLOCKS[name]()).eval()


@pytest.mark.parametrize("name", ["attention", *BLOCKS])
def test_macs_are_half_of_the_operations_that_pytorch_counts(name: str) -> None:
    net = built(name).eval()
    torch.backends.mha.set_fastpath_enabled(False)
    counter = FlopCounterMode(display=False)
    try:  # it does not know the fused kernels
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            net(torch.zeros(1, 1, *SIZE))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert 2 * cost.cost(net, SIZE).macs == counter.get_total_flops()
    assert cost.counted(net, SIZE).products


@pytest.mark.parametrize("device", ["meta", "fake", "cpu"])
def test_the_fused_kernel_counts_as_its_parts(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = cost.cost(built("einsum"), SIZE)
    monkeypatch.setattr(cost, "DEVICES", (device,))
    assert cost.cost(built("fused"), SIZE) == parts
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", ["attention", *BLOCKS])
def test_the_macs_removed_are_those_of_the_plan(name: str) -> None:
    """What a plan says is what the pruned network lacks, products included."""
    net = distinct(built(name), seed=1)
    plan = pruning.plan(net, PruneOptions(threshold=0.3, round_to=2), size=SIZE)
    small = plan.apply(net)
    before, after = cost.counted(net), cost.counted(small)
    assert plan.removed["macs"] == pytest.approx(1 - after.macs / before.macs, abs=1e-12)
    assert difference(net, small, SIZE[0]) < 1e-9
    if name in ("non-local", "borrowed"):  # of the others all that is multiplied stays
        assert sum(p.macs for p in after.products) < sum(p.macs for p in before.products)


def test_check_states_the_products(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"schema: 1\nmodel: {{import: {__name__}:attended}}\nsteps: [sparsify]"
    (tmp_path / "r.yaml").write_text(text)
    plan = preview.check(load(tmp_path / "r.yaml"))
    preview.render(plan)
    assert plan["products"] == 2 * 2 * 128**4 * 8
    assert f"of these, {plan['products']:,} MACs are products of values" in capsys.readouterr().out
    assert sum(row["macs"] for row in plan["layers"]) + plan["products"] == plan["pruned"]["macs"]


def test_an_amount_out_of_reach_names_the_products() -> None:
    with pytest.raises(UsageError, match="99% of the MACs are products of values"):
        pruning.plan(attended(), PruneOptions(amount=0.5))


def attended() -> nn.Module:
    return Around(Heads(by_einsum))
