"""2:4 zeros in networks of many kinds: where they are said to be, and in the engine."""

from pathlib import Path

import pytest
import torch
from pairs import data
from torch import Tensor, nn

from compress import checkpoint
from compress.base.errors import QualityError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import onnx
from compress.graph.effect import effective
from compress.sparsity import eligibility, masks
from compress.sparsity.pattern import mask_2to4
from compress.steps.export import Export
from compress.steps.prune import Prune
from compress.steps.sparsify import Sparsify
from zoo.blocks import Chain, Standardised, conv

CPU = torch.device("cpu")


def work(folder: Path) -> Work:
    folder.mkdir()
    return Work(stage=folder, device=CPU, data=data(side=64), seed=0)


def model(net: nn.Module) -> Model:
    return Model(net=net.eval(), origin=ModelOptions(name="ddnet"))


def test_masked_layers_that_are_never_called_do_not_fail_an_export(tmp_path: Path) -> None:
    sparse = Sparsify(backend="modelopt").run(model(Chain(["unused"], 16)), work(tmp_path / "s"))
    assert set(sparse.masks) == {f"blocks.0.{name}" for name in ("a", "b", "never")}
    place = work(tmp_path / "e")
    Export(image_size=32).run(sparse, place)
    (row,) = place.facts["engines"]
    assert row["status"] == "built"
    assert sum(onnx.is_2to4(w) for w in onnx.weights(place.stage / row["file"]).values()) == 2


def test_zeros_of_a_layer_in_the_engine_are_still_missed(tmp_path: Path, monkeypatch) -> None:
    sparse = Sparsify(backend="modelopt").run(model(Chain(["unused"], 16)), work(tmp_path / "s"))
    real = onnx.Onnx.build
    monkeypatch.setattr(onnx.Onnx, "build", lambda *a: {**real(*a), "sparse24": 1})
    with pytest.raises(QualityError, match="only 1 of 2 masked layers are 2:4 in onnx"):
        Export(image_size=32).run(sparse, work(tmp_path / "e"))


def test_single_zeros_need_not_be_2_to_4_in_an_engine(tmp_path: Path) -> None:
    prune = Prune(criterion="magnitude_weights", amount=0.3)
    place = work(tmp_path / "e")
    Export(image_size=32).run(prune.run(model(Chain(["plain"], 16)), work(tmp_path / "p")), place)
    assert place.facts["engines"][0]["status"] == "built"


def test_a_layer_that_computes_its_weight_stays_dense_with_the_reason(tmp_path: Path) -> None:
    place = work(tmp_path / "s")
    sparse = Sparsify(backend="modelopt").run(model(Chain(["standardised"], 16)), place)
    assert set(sparse.masks) == {"blocks.0.0", "blocks.0.2"}
    (reason,) = (row["reason"] for row in place.facts["layers"] if row["name"] == "blocks.0.1")
    assert reason == "its class Standardised has a forward of its own, which may change the weight"


class Scaled(nn.Conv2d):
    """Changes the weight where the convolution itself is computed."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight + 1, bias)


class Named(nn.Conv2d):
    """Another name for the same."""


class Projection(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("rule", eligibility.RULES)
@pytest.mark.parametrize(
    ("layer", "own"),
    [
        (Standardised(16, 16, 3), True),
        (Scaled(16, 16, 3), True),
        (Projection(16, 16), True),
        (Named(16, 16, 3), False),
        (nn.Linear(16, 16), False),
    ],
)
def test_layers_with_a_forward_of_their_own(layer: nn.Module, own: bool, rule: str) -> None:
    assert ("forward of its own" in eligibility.refusal(layer, rule)) == own


class Loose(nn.Module):
    """Uses each layer in another way; `never` and `dropped` do not reach the output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.inside, self.never = conv(1, 4), conv(4, 4), conv(4, 4)
        self.dropped, self.detached, self.last = conv(4, 4), conv(4, 4), conv(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.kept = self.dropped(y)
        y = self.inside(y) + self.detached(y).detach()
        return self.last(y)


class Untracked(Loose):
    """Has no gradients at all, and looks at values."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.isfinite().all() else y + 1


NAMES = ("a", "inside", "never", "dropped", "detached", "last")


@pytest.mark.parametrize("net", [Loose(), Untracked()])
def test_layers_count_that_the_output_changes_with(net: nn.Module) -> None:
    assert effective(net, NAMES) == set(NAMES) - {"never", "dropped"}


def test_all_layers_count_where_nothing_can_be_found_out() -> None:
    class Fails(Loose):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    assert effective(Fails(), NAMES) == set(NAMES)


class Tied(nn.Module):
    """Ends with the adjoint of its first layer, whose weight it shares."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.middle = conv(1, 32), conv(32, 32)
        self.back = nn.ConvTranspose2d(32, 1, 3, padding=1)
        self.back.weight = self.into.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.back(torch.relu(self.into(x) + self.middle(self.into(x))))


def test_weights_that_a_deconvolution_shares_stay_shared(tmp_path: Path) -> None:
    """Rewritten as a convolution it had a copy, and the network twice the parameters."""
    origin = ModelOptions(import_="zoo.test_sparse:Tied", folder=str(Path(__file__).parents[1]))
    dense = Model(net=origin.build().eval(), origin=origin)
    small = Prune(amount=0.4, round_to=8).run(dense, work(tmp_path / "p"))
    place = work(tmp_path / "s")
    small = Sparsify(backend="modelopt", eligibility="tensorrt").run(small, place)
    kinds = {row["name"]: row["reason"] for row in place.facts["layers"]}
    assert kinds["back"].startswith("deconvolution that was not rewritten as a convolution: ")
    checkpoint.save(small, tmp_path)
    again = checkpoint.load(tmp_path).net
    for net in (small.net, again):
        assert net.back.weight is net.into.weight
        assert net.into.out_channels < 32
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(x), small.net(x))


def test_other_layers_of_a_network_are_nothing_to_the_back_end() -> None:
    """Each layer with a parametrization has a class of its own, and all have one name."""
    norm = nn.utils.parametrizations.weight_norm

    class Conv2d(nn.Conv2d):
        pass

    plain, named = nn.Conv2d(16, 16, 3), Conv2d(16, 8, 1)
    net = nn.Sequential(norm(nn.Conv2d(1, 16, 3)), plain, norm(nn.Conv2d(16, 16, 3)), named)
    found = masks.compute(net.to(memory_format=torch.channels_last), "modelopt")
    assert set(found) == {"1", "3"}
    for name, layer in (("1", plain), ("3", named)):
        assert torch.equal(found[name], mask_2to4(layer.weight).cpu())
