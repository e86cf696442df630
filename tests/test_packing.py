"""Packed checkpoints: every bit comes back, and what was altered is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from networks import Plain
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_checkpoint import compressed as sparse_model
from torch import Tensor

from compress import checkpoint, cli, masks, packing, sparsity
from compress.checkpoint import Model, ModelOptions
from compress.errors import UsageError

DOCS = Path(__file__).parents[1] / "docs" / "packed24.md"
FILES = ("model.safetensors", "model.json")


def plain(width: int = 16) -> Model:
    torch.manual_seed(0)
    net = Plain(width)
    mask = sparsity.mask_2to4(net.middle.weight)
    with torch.no_grad():
        net.middle.weight.mul_(mask)
    origin = ModelOptions(import_="networks:Plain", options={"width": width})
    return Model(net=net, origin=origin, masks={"middle": mask})


def saved(model: Model, folder: Path) -> Path:
    folder.mkdir()
    checkpoint.save(model, folder)
    return folder


@given(
    st.sampled_from([(1, 4), (3, 8), (8, 16, 1, 1), (2, 12, 3, 2), (16, 64, 5, 5)]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    st.integers(0, 2**31),
)
def test_any_masked_weight_comes_back_bit_for_bit(shape, dtype, seed: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    mask = sparsity.mask_2to4(weight)
    weight = weight.masked_fill(~mask, 0)
    values, index = packing.compressed(weight, mask)
    assert values.shape == (shape[0], *shape[2:], shape[1] // 4, 2)
    assert values.dtype == dtype
    assert (index.dtype, index.shape) == (torch.uint8, (-(-weight.numel() // 8),))
    back, kept = packing.restored(values, index)
    assert torch.equal(back.flatten().view(torch.uint8), weight.flatten().view(torch.uint8))
    assert torch.equal(kept, mask)


def test_zeros_negative_zeros_and_nan_that_are_kept_come_back_too() -> None:
    weight = torch.tensor([[-0.0, 0.0, float("nan"), 0.0, float("-inf"), 0.0, 0.0, 1e-45]])
    mask = torch.tensor([[1, 0, 1, 0, 1, 0, 0, 1]], dtype=torch.bool)
    back, kept = packing.restored(*packing.compressed(weight, mask))
    assert torch.equal(back.view(torch.int32), weight.view(torch.int32))
    assert torch.equal(kept, mask)


def test_the_layout_is_the_documented_one() -> None:
    """The example of docs/packed24.md, written down there by hand."""
    text = DOCS.read_text("utf-8")
    weight, values, index = (
        torch.tensor(json.loads(re.search(rf"^    {name} = (.*)$", text, re.M)[1]))
        for name in ("weight", "values", "index")
    )
    got_values, got_index = packing.compressed(weight, weight != 0)
    assert torch.equal(got_values, values)
    assert torch.equal(got_index, index.to(torch.uint8))


@pytest.mark.parametrize(
    "model",
    [
        plain,
        lambda: replace(plain(), masks={}),
        lambda: sparse_model("ddnet", residual=True),
        lambda: sparse_model("redcnn", channels=16),
    ],
)
def test_the_folder_comes_back_byte_for_byte(model, tmp_path: Path) -> None:
    folder = saved(model(), tmp_path / "a")
    summary = packing.pack(folder, tmp_path / "m.safetensors")
    assert summary.left == ()
    assert set(summary.packed) == checkpoint.load(folder).masks.keys()
    packing.unpack(tmp_path / "m.safetensors", tmp_path / "deep" / "b")
    for name in FILES:
        one, other = (place / name for place in (folder, tmp_path / "deep" / "b"))
        assert one.read_bytes() == other.read_bytes()


def test_ddnet_takes_little_more_than_half(tmp_path: Path) -> None:
    origin = ModelOptions(name="ddnet", options={"trunk": 16, "bottleneck": 16, "decoder": 16})
    model = Model(net=origin.build(), origin=origin).rewritten("deconv_to_conv")
    held = masks.compute(model.net, "modelopt")
    masks.apply(model.net, held)
    model = replace(model, masks=held)
    folder = saved(model, tmp_path / "a")
    summary = packing.pack(folder, tmp_path / "m.safetensors")
    assert len(summary.packed) == 43
    assert summary.bytes < 0.58 * summary.bytes_before  # names, biases and BatchNorm stay
    assert summary.bytes == (tmp_path / "m.safetensors").stat().st_size
    assert summary == packing.summarise(model)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    folder = saved(plain(), tmp_path / "a")
    packing.pack(folder, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert (metadata["format"], metadata["version"]) == ("compress-packed24", "1")
    assert metadata["model.json"] == (folder / "model.json").read_text()
    assert {"middle.weight.values24", "middle.weight.index24", "first.weight"} <= names
    assert not {"middle.weight", "middle.mask24"} & names


def rewritten(folder: Path, change) -> None:
    """Change the tensors of a checkpoint and make its hash fit again."""
    import hashlib

    tensors = load_file(folder / FILES[0])
    change(tensors)
    save_file(tensors, folder / FILES[0])
    table = json.loads((folder / FILES[1]).read_text())
    table["sha256"] = hashlib.sha256((folder / FILES[0]).read_bytes()).hexdigest()
    (folder / FILES[1]).write_text(json.dumps(table))


def minus_zero(tensors: dict[str, Tensor]) -> None:
    weight = tensors["middle.weight"]
    weight[weight == 0] = -0.0


def three_of_four(tensors: dict[str, Tensor]) -> None:
    tensors["middle.mask24"][0] = 255


@pytest.mark.parametrize("change", [minus_zero, three_of_four])
def test_what_the_form_cannot_hold_is_left_and_said(change, tmp_path: Path) -> None:
    folder = saved(plain(), tmp_path / "a")
    rewritten(folder, change)
    summary = packing.pack(folder, tmp_path / "m.safetensors")
    assert (summary.packed, summary.left) == ((), ("middle",))
    assert "masked but left as they were: 1" in summary.sentence()
    packing.unpack(tmp_path / "m.safetensors", tmp_path / "b")
    assert (tmp_path / "b" / FILES[0]).read_bytes() == (folder / FILES[0]).read_bytes()


def test_a_saved_zero_has_no_sign(tmp_path: Path) -> None:
    model = plain()
    with torch.no_grad():
        model.net.middle.weight.masked_fill_(~model.masks["middle"], -0.0)
    folder = saved(model, tmp_path / "a")
    assert packing.pack(folder, tmp_path / "m.safetensors").packed == ("middle",)
    assert checkpoint.fingerprint(checkpoint.load(folder)) == checkpoint.fingerprint(model)


def repacked(tmp_path: Path, change) -> Path:
    """A packed file with changed tensors or metadata."""
    packing.pack(saved(plain(), tmp_path / "a"), tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "m.safetensors")
    change(tensors, metadata)
    save_file(tensors, tmp_path / "m.safetensors", metadata)
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t, m: m.update(format="x"), "its header does not say compress-packed24"),
        (lambda t, m: m.update(version="2"), "has version 2, not 1"),
        (lambda t, m: m.pop("model.json"), "was altered: 'model.json'"),
        (lambda t, m: t["first.weight"].add_(1), "what it holds is not what was packed"),
        (lambda t, m: t["middle.weight.index24"].zero_(), "places in a group of four do not rise"),
        (
            lambda t, m: t.update({"middle.weight.index24": t["middle.weight.index24"][1:]}),
            r"287 bytes of index for values of shape \[16, 3, 3, 4, 2\]",
        ),
        (lambda t, m: t.pop("middle.weight.index24"), "was altered: 'middle.weight.index24'"),
    ],
)
def test_altered_files_are_refused(change, sentence: str, tmp_path: Path) -> None:
    file = repacked(tmp_path, change)
    with pytest.raises(UsageError, match=sentence):
        packing.unpack(file, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_is_no_packed_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no packed checkpoint"):
        packing.unpack(tmp_path / "none", tmp_path / "b")
    folder = saved(plain(), tmp_path / "a")
    with pytest.raises(UsageError, match="header does not say compress-packed24"):
        packing.unpack(folder / FILES[0], tmp_path / "b")


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    folder = saved(plain(), tmp_path / "a")
    packing.pack(folder, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="holds a checkpoint already; name a new folder"):
        packing.unpack(tmp_path / "m.safetensors", folder)


def test_on_the_command_line(tmp_path: Path) -> None:
    folder, file = saved(plain(), tmp_path / "a"), tmp_path / "m.safetensors"
    result = CliRunner().invoke(cli.main, ["pack", str(folder), "-o", str(file)])
    assert result.exit_code == 0
    assert re.fullmatch(
        rf"{file}: [\d,]+ bytes instead of .*; layers in 2:4 form: 1\n", result.stdout
    )
    result = CliRunner().invoke(cli.main, ["unpack", str(file), "-o", str(tmp_path / "b")])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'b'}\n")
    result = CliRunner().invoke(cli.main, ["pack", str(tmp_path), "-o", str(file)])
    assert (result.exit_code, result.stderr.startswith("Error: ")) == (2, True)
