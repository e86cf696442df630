"""Checkpoints: from the folder alone, bit for bit, or refused with one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import randomise
from safetensors.torch import save_file

from compress import checkpoint
from compress.base.errors import CompressError, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.pruning import plan
from compress.pruning.options import PruneOptions
from compress.sparsity import masks


def dense(name: str, **options: object) -> Model:
    origin = ModelOptions(name=name, options=options)
    return Model(net=randomise(origin.build(), 1).float(), origin=origin)


def compressed(name: str, **options: object) -> Model:
    model = dense(name, **options).rewritten("deconv_to_conv")
    model = replace(
        model, net=plan.plan(model.net, PruneOptions(amount=0.5, round_to=8)).apply(model.net)
    )
    held = masks.compute(model.net, "modelopt")
    masks.apply(model.net, held)
    return replace(model, masks=held)


@pytest.mark.parametrize(("name", "options"), [("ddnet", {"residual": True}), ("redcnn", {})])
def test_round_trip_from_the_folder_alone(name: str, options: dict, tmp_path: Path) -> None:
    model = compressed(name, **options)
    checkpoint.save(model, tmp_path)
    back = checkpoint.load(tmp_path)
    assert checkpoint.channels(back.net) == checkpoint.channels(model.net)
    for key, tensor in model.net.state_dict().items():
        assert torch.equal(back.net.state_dict()[key], tensor)
    assert back.masks.keys() == model.masks.keys()
    assert all(torch.equal(back.masks[key], mask) for key, mask in model.masks.items())
    assert (back.rewrites, back.origin.options) == (model.rewrites, options)
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(back.net(x), model.net.eval()(x))


def test_same_model_same_bytes(tmp_path: Path) -> None:
    model = compressed("ddnet", trunk=16, bottleneck=16, decoder=16)
    for name in "ab":
        (tmp_path / name).mkdir()
        checkpoint.save(model, tmp_path / name)
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_altered_tensors_are_refused(tmp_path: Path) -> None:
    checkpoint.save(dense("redcnn", channels=4), tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UsageError, match="was altered"):
        checkpoint.load(tmp_path)
    file.write_bytes(data[:-9])
    with pytest.raises(UsageError, match="was altered"):
        checkpoint.load(tmp_path)


def test_missing_and_newer_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no checkpoint"):
        checkpoint.load(tmp_path)
    checkpoint.save(dense("redcnn", channels=4), tmp_path)
    table = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**table, "schema": 2}))
    with pytest.raises(UsageError, match="has schema 2, not 1"):
        checkpoint.load(tmp_path)


def test_a_broken_mask_is_never_saved(tmp_path: Path) -> None:
    model = compressed("redcnn", channels=16)
    name, mask = next(iter(model.masks.items()))
    with torch.no_grad():
        model.net.get_submodule(name).weight[~mask] = 1e-30
    with pytest.raises(CompressError, match=f"mask of {name} is broken"):
        checkpoint.save(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_import_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, width=16):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 1)\n"
        "    def forward(self, x):\n"
        "        return self.b(self.a(x).relu())\n"
    )
    origin = ModelOptions(import_="my_nets:Mine", folder=str(tmp_path), options={"width": 32})
    model = Model(net=origin.build(), origin=origin)
    small = replace(
        model, net=plan.plan(model.net, PruneOptions(amount=0.4, round_to=8)).apply(model.net)
    )
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    checkpoint.save(small, folder)
    assert checkpoint.load(folder).net.a.out_channels == small.net.a.out_channels < 32


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        (ModelOptions(name="unet"), "there is no network 'unet'; there are: ddnet, redcnn"),
        (ModelOptions(import_="nowhere:Net"), "'nowhere:Net' cannot be imported: No module named"),
        (ModelOptions(import_="math:pie"), "'math:pie' cannot be imported"),
        (ModelOptions(name="ddnet", options={"trunks": 8}), "unexpected keyword argument 'trunks'"),
        (ModelOptions(name="redcnn", weights="none.safetensors"), "do not fit the network"),
    ],
)
def test_networks_that_cannot_be_built(origin: ModelOptions, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        origin.build()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Asserts", "^the network own_nets:Asserts: AssertionError$"),
        ("Looks", "^the network own_nets:Looks: 'width'$"),
        ("nothing", "^the network own_nets:nothing is a NoneType, no torch.nn.Module$"),
    ],
)
def test_a_class_of_ones_own_that_fails_is_one_sentence(name, sentence, tmp_path: Path) -> None:
    (tmp_path / "own_nets.py").write_text(
        "class Asserts:\n    def __init__(self):\n        assert False\n"
        "class Looks:\n    def __init__(self):\n        {}['width']\n"
        "def nothing():\n    pass\n"
    )
    with pytest.raises(UsageError, match=sentence):
        ModelOptions(import_=f"own_nets:{name}", folder=str(tmp_path)).build()


def test_weights_of_another_shape(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(dense("redcnn", channels=4).net.state_dict(), file)
    origin = ModelOptions(name="redcnn", weights=str(file), options={"channels": 8})
    with pytest.raises(UsageError, match="do not fit the network"):
        origin.build()


def test_what_is_no_checkpoint_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no checkpoint: no model\.json, no model\.safetensors$"):
        checkpoint.load(tmp_path)
    (tmp_path / "04-retrain").mkdir()
    (tmp_path / "04-retrain" / "model.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no model\.safetensors; try .*04-retrain$"):
        checkpoint.load(tmp_path)
    (tmp_path / "06-export").mkdir()
    with pytest.raises(UsageError, match=r"no model\.safetensors$"):
        checkpoint.load(tmp_path / "06-export")  # the folder around it is no run's
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UsageError, match=r"06-export holds no .*; try .*04-retrain$"):
        checkpoint.load(tmp_path / "06-export")


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table["network"]["options"].update(residual=False),
        lambda table: table.update(rewrites=[]),
        lambda table: table.update(unknown=1),
        lambda table: table["channels"].update({"stem.conv": [1, 8]}),
        lambda table: table.update(pattern="unstructured"),
    ],
)
def test_a_description_that_was_edited_is_refused(edit, tmp_path: Path) -> None:
    """It loaded, and the network computed something else, or failed when it ran."""
    options = {"residual": True, "trunk": 4, "bottleneck": 4, "decoder": 4}
    origin = ModelOptions(name="ddnet", options=options)
    model = Model(net=origin.build().eval(), origin=origin).rewritten("deconv_to_conv")
    checkpoint.save(model, tmp_path)
    file = tmp_path / "model.json"
    table = json.loads(file.read_text())
    edit(table)
    file.write_text(json.dumps(table))
    with pytest.raises(UsageError, match=r"model\.json was edited: the hash of its entries is not"):
        checkpoint.load(tmp_path)


def test_the_code_of_a_network_may_have_moved(tmp_path: Path) -> None:
    """The folder of its code says where it is, not what it computes: that has a hash."""
    origin = ModelOptions(import_="networks:Plain", folder=str(Path(__file__).parent))
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), tmp_path)
    file = tmp_path / "model.json"
    table = json.loads(file.read_text())
    table["network"]["folder"] = None
    file.write_text(json.dumps(table))
    assert checkpoint.load(tmp_path).origin.folder is None
