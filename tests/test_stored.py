"""Damaged checkpoints that can be read all the same: refused with one sentence, whoever reads."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from networks import Plain
from safetensors.torch import load_file, save
from test_checkpoint import dense

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.checkpoint.files import BITS, OWN, REMEDY, TABLE, WEIGHTS, from_bits, to_bits
from compress.cli import main
from compress.sparsity import pattern

MASK = f"middle{BITS}"


def plain(width: int = 16) -> Model:
    """A network with one 2:4 layer, `middle`."""
    torch.manual_seed(0)
    net = Plain(width)
    mask = pattern.mask_2to4(net.middle.weight)
    with torch.no_grad():
        net.middle.weight.mul_(mask)
    origin = ModelOptions(import_="networks:Plain", options={"width": width})
    return Model(net=net, origin=origin, masks={"middle": mask})


def saved(model: Model, folder: Path) -> Path:
    folder.mkdir()
    checkpoint.save(model, folder)
    return folder


def described(folder: Path, change) -> Path:
    """Change the value of model.json, in place or for another one."""
    table = json.loads((folder / TABLE).read_text())
    other = change(table)
    table.pop(OWN, None)  # as a version wrote it that had no hash of its entries
    (folder / TABLE).write_text(json.dumps(other if isinstance(other, list) else table))
    return folder


def filled(folder: Path, change) -> Path:
    """Change the tensors, or the whole file, and make the hash fit."""
    tensors = load_file(folder / WEIGHTS)
    data = change(tensors)
    (folder / WEIGHTS).write_bytes(data if isinstance(data, bytes) else save(tensors))
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return described(folder, lambda table: table.update(sha256=digest))


def network(**entries: object):
    return lambda table: table["network"].update(entries)


def refused(folder: Path) -> str:
    """The sentence with which `inspect` refuses a checkpoint."""
    result = CliRunner().invoke(main.main, ["inspect", str(folder)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: [], f" is damaged: it holds no description of a network; {REMEDY}"),
        (lambda t: t.pop("sha256"), f" is damaged: it has no sha256; {REMEDY}"),
        (lambda t: t.pop("network"), f" is damaged: it has no network; {REMEDY}"),
        (lambda t: t.update(network=5), f" is damaged: its network is 5; {REMEDY}"),
        (lambda t: t["network"].pop("folder"), " is damaged: it has no network.folder; "),
        (network(options=[1]), f" is damaged: its network.options is [1]; {REMEDY}"),
        (lambda t: t.update(sha256=None), f" is damaged: its sha256 is None; {REMEDY}"),
        (lambda t: t.update(trained_on=7), f" is damaged: its trained_on is 7; {REMEDY}"),
        (lambda t: t.update(trained_on=["", 7]), f" is damaged: its trained_on holds 7; {REMEDY}"),
        (lambda t: t.update(rewrites={}), f" is damaged: its rewrites is {{}}; {REMEDY}"),
        (lambda t: t.update(rewrites=["zzz"]), " names the rewrite 'zzz'; there are: deconv_to_c"),
        (lambda t: t.update(rewrites=[[]]), " names the rewrite []; there are: deconv_to_conv"),
        (lambda t: t.update(pattern="4:8"), " names the pattern '4:8'; there are: 2:4, unstruct"),
        (
            lambda t: t.update(normalisation={"hu_min": 0, "hu_max": 1}),
            " is of networks that map {'hu_min': 0, 'hu_max': 1}, not {'hu_min': -1024.0, ",
        ),
        (lambda t: t.update(schema=7), " has schema 7, not 1"),
        (network(name="zzz", **{"import": None}), ": there is no network 'zzz'; there are: ddnet,"),
        (
            network(name="ddnet", options={"trunks": 8}, **{"import": None}),
            ": the network ddnet: DDnet.__init__() got an unexpected keyword argument 'trunks'",
        ),
        (
            network(name="redcnn", options={"channels": -1}, **{"import": None}),
            ": the network redcnn: Trying to create tensor with negative dimension",
        ),
    ],
)
def test_descriptions_that_cannot_be_used(change, sentence: str, tmp_path: Path) -> None:
    folder = described(saved(plain(), tmp_path / "a"), change)
    assert refused(folder).startswith(f"{folder}/{TABLE}{sentence}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("middle.weight"), f"{MASK} is a mask, but its layer has no "),
        (
            lambda t: t.update(
                {f"bias{BITS}": torch.ones(2).byte(), "bias.weight": torch.ones(16)}
            ),
            f"bias{BITS} is a mask, but its layer has no weight of inputs and outputs",
        ),
        (
            lambda t: t.update({MASK: t[MASK].float()}),
            f"{MASK}: float32 of shape [288] is no mask of 2,304 weights, a bit each",
        ),
        (
            lambda t: t.update({MASK: t[MASK][:-1]}),
            f"{MASK}: uint8 of shape [287] is no mask of 2,304 weights, a bit each",
        ),
        (
            lambda t: t.update({MASK: t[MASK].reshape(2, -1)}),
            f"{MASK}: uint8 of shape [2, 144] is no mask of 2,304 weights, a bit each",
        ),
        (lambda t: b"no safetensors", "Error while deserializing: "),
    ],
)
def test_tensors_that_cannot_be_used(change, sentence: str, tmp_path: Path) -> None:
    folder = filled(saved(plain(), tmp_path / "a"), change)
    said = refused(folder)
    assert said.startswith(f"{folder}/{WEIGHTS} is damaged: {sentence}")
    assert said.endswith(f"; {REMEDY}")


def one_more(tensors: dict[str, torch.Tensor]) -> None:
    """A third weight in a group of four, under a mask that keeps it."""
    weight = tensors["middle.weight"]
    mask = from_bits(tensors[MASK], weight.shape)
    mask[5, 8:11, 0, 2] = True
    weight[5, 8:11, 0, 2] = 1.0
    tensors[MASK] = to_bits(mask)


def come_back(tensors: dict[str, torch.Tensor]) -> None:
    tensors["middle.weight"].fill_(1.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (one_more, " is damaged: middle is not 2:4: Violation(out=5, first=8, tap=(0, 2), nonz"),
        (come_back, " is damaged: the 2:4 mask of middle is broken: a masked weight is not zero"),
        (
            lambda t: t.update({f"first{BITS}": to_bits(t["first.weight"] != 0)}),
            " is damaged: 1 input channel is no multiple of 4",
        ),
        (
            lambda t: t.__delitem__("last.bias"),
            ' does not fit the network: Missing key(s) in state_dict: "last.bias"',
        ),
        (
            lambda t: t.update({"more.weight": torch.ones(1)}),
            " does not fit the network: Plain has no attribute `more`",
        ),
        (
            lambda t: t.update({"first.weight": torch.ones(16)}),
            " does not fit the network: ",
        ),
    ],
)
def test_tensors_that_load_refuses(change, sentence: str, tmp_path: Path) -> None:
    folder = filled(saved(plain(), tmp_path / "a"), change)
    said = refused(folder)
    assert said.startswith(f"{folder}/{WEIGHTS}{sentence}")
    assert said.endswith(f"; {REMEDY}")


def test_a_saved_zero_has_no_sign(tmp_path: Path) -> None:
    model = plain()
    with torch.no_grad():
        model.net.middle.weight.masked_fill_(~model.masks["middle"], -0.0)
    folder = saved(model, tmp_path / "a")
    zeros = load_file(folder / WEIGHTS)["middle.weight"][~model.masks["middle"]]
    assert not zeros.signbit().any()
    assert checkpoint.fingerprint(checkpoint.load(folder)) == checkpoint.fingerprint(model)


def test_masks_on_single_weights_need_no_pattern(tmp_path: Path) -> None:
    folder = filled(saved(plain(), tmp_path / "a"), one_more)
    described(folder, lambda table: table.update(pattern="unstructured"))
    assert not pattern.is_2to4(checkpoint.load(folder).masks["middle"])


def test_a_mask_is_the_bits_and_nothing_behind_them() -> None:
    mask = torch.tensor([[True, False, True, False, False, True]])
    bits = to_bits(mask)
    assert bits.tolist() == [0b10100100]
    assert torch.equal(from_bits(bits, mask.shape), mask)
    with pytest.raises(ValueError, match="more bits than the 6 of the weight"):
        from_bits(bits | 1, mask.shape)


@pytest.mark.parametrize("text", ["[]", "5", '"sha256"', "{"])
def test_a_description_without_a_hash_has_none(text: str, tmp_path: Path) -> None:
    (tmp_path / TABLE).write_text(text)
    assert checkpoint.weights_hash(tmp_path) is None


def test_a_network_that_is_not_there_names_the_file(tmp_path: Path) -> None:
    folder = saved(dense("redcnn", channels=4), tmp_path / "a")
    described(folder, network(**{"name": None, "import": "nowhere:Net"}))
    sentence = f"{folder}/{TABLE}: the network 'nowhere:Net' cannot be imported"
    with pytest.raises(UsageError, match=re.escape(sentence)):
        checkpoint.load(folder)
