"""sparsify: which layers it makes 2:4, by whose rule, and what it says of each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pairs import data
from test_stored import plain
from torch import nn

from compress import checkpoint
from compress.base.errors import QualityError, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.sparsity import masks, pattern
from compress.steps.sparsify import Sparsify


def work(folder: Path) -> Work:
    return Work(stage=folder, device=torch.device("cpu"), data=data(), seed=0)


def ddnet(**options: object) -> Model:
    torch.manual_seed(0)
    origin = ModelOptions(name="ddnet", options=options)
    return Model(net=origin.build().eval(), origin=origin)


NARROW = {"trunk": 8, "bottleneck": 24, "decoder": 12}


def test_the_back_ends_rule_is_the_default(tmp_path: Path) -> None:
    place = work(tmp_path)
    sparse = Sparsify(backend="modelopt").run(ddnet(), place)
    assert (place.facts["rule"], place.facts["done"]) == ("backend", 43)
    assert (place.facts["zeros_in_sparse_layers"], place.facts["masks_from_before"]) == (0.5, [])
    assert len(sparse.masks) == place.facts["eligible_backend"] == 43
    left = {row["name"]: row["reason"] for row in place.facts["layers"] if not row["done"]}
    assert left == {
        "stem.conv": "1 input channel is no multiple of 16",
        "decoders.3.narrow.conv": "1 output channel is no multiple of 8",
    }


def test_tensorrts_rule_covers_what_the_back_end_refuses(tmp_path: Path) -> None:
    model = ddnet(**NARROW)
    first, second = work(tmp_path), work(tmp_path)
    usual = Sparsify(backend="modelopt").run(model, first)
    sparse = Sparsify(backend="modelopt", eligibility="trt").run(model, second)
    assert first.facts["done"] < second.facts["done"] == second.facts["eligible_trt"] == 44
    for name, mask in usual.masks.items():  # the back end's own masks are the same
        assert torch.equal(sparse.masks[name], mask)
    for name in sparse.masks.keys() - usual.masks.keys():
        weight = sparse.net.get_submodule(name).weight
        assert pattern.is_2to4(weight)
        assert int((weight != 0).sum()) == weight.numel() // 2
    reasons = {row["name"]: row["reason"] for row in second.facts["layers"]}
    assert reasons["decoders.0.wide.conv"] == (
        "by TensorRT's rule; the back end refuses: 12 output channels are no multiple of 8"
    )
    assert reasons["stem.conv"] == "1 input channel is no multiple of 4"  # the rule that refused
    assert model.net.decoders[0].wide.conv.weight.all()  # the model given is not changed


def test_its_masks_survive_the_checkpoint(tmp_path: Path) -> None:
    sparse = Sparsify(backend="modelopt", eligibility="trt").run(ddnet(**NARROW), work(tmp_path))
    checkpoint.save(sparse, tmp_path)
    back = checkpoint.load(tmp_path)
    assert back.masks.keys() == sparse.masks.keys()
    masks.check(back.net, back.masks)


def test_layers_that_neither_rule_takes(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 1, 1))
    model = Model(net=net, origin=ModelOptions())
    place = work(tmp_path)
    assert Sparsify(eligibility="trt").run(model, place).masks.keys() == {"2"}
    assert place.facts["layers"][1]["reason"] == "grouped convolution"


def test_too_small_a_share_is_an_error(tmp_path: Path) -> None:
    step = Sparsify(backend="modelopt", at_least=0.97)
    assert step.run(ddnet(), work(tmp_path)).masks
    with pytest.raises(QualityError, match=r"0\.\d{3} of the weights lie in 2:4 layers, the rec"):
        step.run(ddnet(**NARROW), work(tmp_path))
    with pytest.raises(ValueError, match=r"at_least must lie in \[0, 1\], got 1.5"):
        replace(step, at_least=1.5)


def test_a_second_one_lets_no_layer_go(tmp_path: Path) -> None:
    first = Sparsify(backend="modelopt", eligibility="trt").run(ddnet(**NARROW), work(tmp_path))
    with torch.no_grad():  # as if trained: other weights of the masked ones are now the largest
        for name, mask in first.masks.items():
            first.net.get_submodule(name).weight.copy_(torch.randn(mask.shape) * mask)
    place = work(tmp_path)
    second = Sparsify(backend="modelopt").run(first, place)
    assert second.masks.keys() == first.masks.keys()
    before = place.facts["masks_from_before"]
    assert (place.facts["done"], len(before)) == (44, 44 - place.facts["eligible_backend"])
    assert 0 < len(before) < 44
    for name in before:
        assert torch.equal(second.masks[name], first.masks[name])
    masks.check(second.net, second.masks)
    assert {row["name"] for row in place.facts["layers"] if row["done"]} == second.masks.keys()


def test_a_second_one_chooses_anew_in_the_layers_that_it_takes(tmp_path: Path) -> None:
    model = plain()
    weight = model.net.middle.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape))
    found = Sparsify(backend="modelopt").run(model, work(tmp_path)).masks["middle"]
    assert torch.equal(found, pattern.mask_2to4(weight))
    assert not torch.equal(found, model.masks["middle"])


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["first.weight", "middle.weight", "middle.bias"])
def test_weights_that_are_not_finite(
    name: str, value: float, permute: bool, tmp_path: Path
) -> None:
    model = replace(plain(), masks={})
    with torch.no_grad():
        model.net.get_parameter(name).flatten()[3] = value
    step = Sparsify(backend="modelopt", permute=permute)
    with pytest.raises(UsageError, match=rf"^{name} is NaN or infinite in 1 of [\d,]+ places"):
        step.run(model, work(tmp_path))


class Nothing(nn.Module):
    """A network without layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("model", "step", "sentence"),
    [
        (
            lambda: Model(net=Nothing(), origin=ModelOptions()),
            Sparsify(),
            "no convolution or linea",
        ),
        (plain, Sparsify(permute=True), "would move channels .* permute in the first sparsify"),
        (lambda: replace(plain(), pattern="unstructured"), Sparsify(), "single weights were maske"),
    ],
)
def test_networks_that_cannot_get_masks(
    model, step: Sparsify, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"^sparsify: .*{sentence}"):
        step.run(model(), work(tmp_path))


def test_where_no_layer_can_be_sparse_the_reasons_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = work(tmp_path)
    model = replace(plain(12), masks={})
    assert Sparsify(backend="modelopt").run(model, place).masks == {}
    assert place.facts["done"] == 0
    (said,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert said == (
        "sparsify: no layer can be 2:4, so nothing was done; first: 1 input channel is no "
        "multiple of 16; middle: 12 input channels are no multiple of 16; last: 12 input channels "
        "are no multiple of 16"
    )
    with pytest.raises(QualityError, match=r"0\.000 of the weights lie in 2:4 layers"):
        Sparsify(backend="modelopt", at_least=0.1).run(model, place)
    caplog.clear()
    Sparsify(backend="modelopt").run(replace(plain(), masks={}), place)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("update", ["none", "obs"])
def test_layers_that_are_not_trained_stay_dense(
    update: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No retraining could make up for zeros in them."""
    caplog.set_level("INFO")
    layers = [nn.Conv2d(1, 16, 3, padding=1), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))]
    net = nn.Sequential(*layers, nn.Conv2d(16, 1, 1)).eval()
    net[1].weight.requires_grad_(False)
    place = work(tmp_path)
    sparse = Sparsify(update=update, permute=True, eligibility="tensorrt").run(
        Model(net=net, origin=ModelOptions()), place
    )
    assert set(sparse.masks) == {"2", "3"}
    assert bool(sparse.net[1].weight.all())
    reasons = {row["name"]: row["reason"] for row in place.facts["layers"]}
    assert "not trained" in reasons["1"]
    assert (place.facts["eligible_backend"], place.facts["eligible_trt"]) == (1, 2)
    assert "left dense: 1 frozen layer, as training could not make up for zeros" in caplog.text


class Standardised(nn.Module):
    """A function changes the weight of a layer before it multiplies by it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) -> the same."""
        weight = self.b.weight - self.b.weight.mean((1, 2, 3), keepdim=True)
        y = nn.functional.conv2d(self.a(x), weight, self.b.bias, padding=1)
        return self.d(self.c(input=y)) * self.c.weight.square().mean()


def test_weights_that_a_function_takes_stay_dense(tmp_path: Path) -> None:
    """They were masked, and what was multiplied had no zeros."""
    place = work(tmp_path)
    sparse = Sparsify(backend="modelopt").run(
        Model(net=Standardised().eval(), origin=ModelOptions()), place
    )
    assert set(sparse.masks) == {"c"}
    reasons = {row["name"]: row["reason"] for row in place.facts["layers"]}
    assert "takes its weight for a function" in reasons["b"]
    assert place.facts["eligible_backend"] == 1
