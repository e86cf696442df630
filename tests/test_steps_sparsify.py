"""sparsify: which layers it makes 2:4, by whose rule, and what it says of each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pairs import data
from test_packing import plain
from torch import nn

from compress import checkpoint, masks, packing, sparsity
from compress.checkpoint import Model, ModelOptions
from compress.errors import QualityError
from compress.steps.sparsify import Sparsify
from compress.work import Work


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
    assert len(sparse.masks) == place.facts["eligible_backend"] == 43
    left = {row["name"]: row["reason"] for row in place.facts["layers"] if not row["done"]}
    assert left == {
        "stem.conv": "1 input channels are no multiple of 16",
        "decoders.3.narrow.conv": "1 output channels are no multiple of 8",
    }


def test_tensorrts_rule_covers_what_the_back_end_refuses(tmp_path: Path) -> None:
    model = ddnet(**NARROW)
    first, second = work(tmp_path), work(tmp_path)
    usual = Sparsify(backend="modelopt").run(model, first)
    sparse = Sparsify(backend="modelopt", rule="trt").run(model, second)
    assert first.facts["done"] < second.facts["done"] == second.facts["eligible_trt"] == 44
    for name, mask in usual.masks.items():  # the back end's own masks are the same
        assert torch.equal(sparse.masks[name], mask)
    for name in sparse.masks.keys() - usual.masks.keys():
        weight = sparse.net.get_submodule(name).weight
        assert sparsity.is_2to4(weight)
        assert int((weight != 0).sum()) == weight.numel() // 2
    reasons = {row["name"]: row["reason"] for row in second.facts["layers"]}
    assert reasons["decoders.0.wide.conv"] == (
        "by TensorRT's rule; the back end refuses: 12 output channels are no multiple of 8"
    )
    assert reasons["stem.conv"] == "1 input channels are no multiple of 16"
    assert model.net.decoders[0].wide.conv.weight.all()  # the model given is not changed


def test_its_masks_survive_the_checkpoint(tmp_path: Path) -> None:
    sparse = Sparsify(backend="modelopt", rule="trt").run(ddnet(**NARROW), work(tmp_path))
    checkpoint.save(sparse, tmp_path)
    back = checkpoint.load(tmp_path)
    assert back.masks.keys() == sparse.masks.keys()
    masks.check(back.net, back.masks)
    assert packing.pack(tmp_path, tmp_path / "m.safetensors").left == ()


def test_layers_that_neither_rule_takes(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 1, 1))
    model = Model(net=net, origin=ModelOptions())
    place = work(tmp_path)
    assert Sparsify(rule="trt").run(model, place).masks.keys() == {"2"}
    assert place.facts["layers"][1]["reason"] == "grouped convolution"


def test_too_small_a_share_is_an_error(tmp_path: Path) -> None:
    step = Sparsify(backend="modelopt", at_least=0.97)
    assert step.run(ddnet(), work(tmp_path)).masks
    with pytest.raises(QualityError, match=r"0\.\d{3} of the weights lie in 2:4 layers, the rec"):
        step.run(ddnet(**NARROW), work(tmp_path))
    with pytest.raises(ValueError, match=r"at_least must lie in \[0, 1\], got 1.5"):
        replace(step, at_least=1.5)


def test_the_packed_size_is_that_of_the_packed_file(tmp_path: Path) -> None:
    model = plain()
    place = work(tmp_path)
    sparse = Sparsify(backend="modelopt").run(replace(model, masks={}), place)
    checkpoint.save(sparse, tmp_path)
    summary = packing.pack(tmp_path, tmp_path / "m.safetensors")
    assert place.facts["packed_bytes"] == summary.bytes
