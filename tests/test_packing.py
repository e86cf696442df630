"""Packed checkpoints: every bit comes back, and what was altered is refused."""

import hashlib
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

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions, packed24
from compress.cli import main
from compress.sparsity import masks, pattern

DOCS = Path(__file__).parents[1] / "docs" / "packed24.md"
FILES = ("model.safetensors", "model.json")


def plain(width: int = 16) -> Model:
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


@given(
    st.sampled_from([(1, 4), (3, 8), (8, 16, 1, 1), (2, 12, 3, 2), (16, 64, 5, 5)]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    st.integers(0, 2**31),
)
def test_any_masked_weight_comes_back_bit_for_bit(shape, dtype, seed: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    mask = pattern.mask_2to4(weight)
    weight = weight.masked_fill(~mask, 0)
    values, index = packed24.compressed(weight, mask)
    assert values.shape == (shape[0], *shape[2:], shape[1] // 4, 2)
    assert values.dtype == dtype
    assert (index.dtype, index.shape) == (torch.uint8, (-(-weight.numel() // 8),))
    back, kept = packed24.restored(values, index)
    assert torch.equal(back.flatten().view(torch.uint8), weight.flatten().view(torch.uint8))
    assert torch.equal(kept, mask)


def test_zeros_negative_zeros_and_nan_that_are_kept_come_back_too() -> None:
    weight = torch.tensor([[-0.0, 0.0, float("nan"), 0.0, float("-inf"), 0.0, 0.0, 1e-45]])
    mask = torch.tensor([[1, 0, 1, 0, 1, 0, 0, 1]], dtype=torch.bool)
    back, kept = packed24.restored(*packed24.compressed(weight, mask))
    assert torch.equal(back.view(torch.int32), weight.view(torch.int32))
    assert torch.equal(kept, mask)


def test_the_layout_is_the_documented_one() -> None:
    """The example of docs/packed24.md, written down there by hand."""
    text = DOCS.read_text("utf-8")
    weight, values, index = (
        torch.tensor(json.loads(re.search(rf"^    {name} = (.*)$", text, re.M)[1]))
        for name in ("weight", "values", "index")
    )
    got_values, got_index = packed24.compressed(weight, weight != 0)
    assert torch.equal(got_values, values)
    assert torch.equal(got_index, index.to(torch.uint8))
    back, mask = packed24.restored(values, index.to(torch.uint8))
    assert torch.equal(back, weight)
    assert torch.equal(mask, weight != 0)


def test_the_layout_over_outputs_taps_and_groups() -> None:
    """Written by hand: (2, 8, 1, 2), whose groups run over outputs, then taps, then channels.

    group  out tap  in    values  places  bits, second place first
        0    0   0  0-3     1  2   0  1   01 00 = 4
        1    0   0  4-7     3  4   0  2   10 00 = 8
        2    0   1  0-3     5  6   0  3   11 00 = 12
        3    0   1  4-7     7  8   1  2   10 01 = 9
        4    1   0  0-3     9 10   1  3   11 01 = 13
        5    1   0  4-7    11 12   2  3   11 10 = 14
        6    1   1  0-3    13 14   0  1   01 00 = 4
        7    1   1  4-7    15 16   2  3   11 10 = 14

    Two groups to a byte, the first in the low half: 4 + 16 x 8, 12 + 16 x 9, 13 + 16 x 14 and
    4 + 16 x 14.
    """
    by_tap = [  # output, tap, input channel
        [[1, 2, 0, 0, 3, 0, 4, 0], [5, 0, 0, 6, 0, 7, 8, 0]],
        [[0, 9, 0, 10, 0, 0, 11, 12], [13, 14, 0, 0, 0, 0, 15, 16]],
    ]
    weight = torch.tensor(by_tap, dtype=torch.float32).movedim(2, 1).unsqueeze(2).contiguous()
    values = torch.arange(1.0, 17.0).reshape(2, 1, 2, 2, 2)
    index = torch.tensor([132, 156, 237, 228], dtype=torch.uint8)
    got_values, got_index = packed24.compressed(weight, weight != 0)
    assert torch.equal(got_values, values)
    assert torch.equal(got_index, index)
    back, mask = packed24.restored(values, index)
    assert torch.equal(back, weight)
    assert torch.equal(mask, weight != 0)


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
    summary = packed24.pack(folder, tmp_path / "m.safetensors")
    assert summary.left == ()
    assert set(summary.packed) == checkpoint.load(folder).masks.keys()
    packed24.unpack(tmp_path / "m.safetensors", tmp_path / "deep" / "b")
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
    summary = packed24.pack(folder, tmp_path / "m.safetensors")
    assert len(summary.packed) == 43
    assert summary.bytes < 0.58 * summary.bytes_before  # names, biases and BatchNorm stay
    assert summary.bytes == (tmp_path / "m.safetensors").stat().st_size
    assert summary == packed24.summarise(model)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    folder = saved(plain(), tmp_path / "a")
    packed24.pack(folder, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert (metadata["format"], metadata["version"]) == ("compress-packed24", "1")
    assert metadata["model.json"] == (folder / "model.json").read_text()
    assert {"middle.weight.values24", "middle.weight.index24", "first.weight"} <= names
    assert not {"middle.weight", "middle.mask24"} & names


def rewritten(folder: Path, change) -> None:
    """Change the tensors of a checkpoint and make its hash fit again."""
    tensors = load_file(folder / FILES[0])
    change(tensors)
    save_file(tensors, folder / FILES[0])
    rehashed(folder)


def rehashed(folder: Path) -> None:
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
    summary = packed24.pack(folder, tmp_path / "m.safetensors")
    assert (summary.packed, summary.left) == ((), ("middle",))
    assert "masked but left as they were: 1" in summary.sentence()
    packed24.unpack(tmp_path / "m.safetensors", tmp_path / "b")
    assert (tmp_path / "b" / FILES[0]).read_bytes() == (folder / FILES[0]).read_bytes()


def test_a_saved_zero_has_no_sign(tmp_path: Path) -> None:
    model = plain()
    with torch.no_grad():
        model.net.middle.weight.masked_fill_(~model.masks["middle"], -0.0)
    folder = saved(model, tmp_path / "a")
    assert packed24.pack(folder, tmp_path / "m.safetensors").packed == ("middle",)
    assert checkpoint.fingerprint(checkpoint.load(folder)) == checkpoint.fingerprint(model)


def repacked(tmp_path: Path, change) -> Path:
    """A packed file with changed tensors or metadata."""
    packed24.pack(saved(plain(), tmp_path / "a"), tmp_path / "m.safetensors")
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
        packed24.unpack(file, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_is_no_packed_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no packed checkpoint"):
        packed24.unpack(tmp_path / "none", tmp_path / "b")
    folder = saved(plain(), tmp_path / "a")
    with pytest.raises(UsageError, match="header does not say compress-packed24"):
        packed24.unpack(folder / FILES[0], tmp_path / "b")
    with pytest.raises(UsageError, match=r"a is a folder; name the file that compress pack wrote$"):
        packed24.unpack(folder, tmp_path / "b")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("names", [FILES, FILES[:1], FILES[1:]])
def test_unpacking_overwrites_no_file_of_a_checkpoint(names, tmp_path: Path) -> None:
    folder = saved(plain(), tmp_path / "a")
    packed24.pack(folder, tmp_path / "m.safetensors")
    for name in set(FILES) - set(names):
        (folder / name).unlink()
    before = bytes_of(folder)
    sentence = rf"holds {' and '.join(names)} already; name a new folder$"
    with pytest.raises(UsageError, match=sentence):
        packed24.unpack(tmp_path / "m.safetensors", folder)
    assert bytes_of(folder) == before


@pytest.mark.parametrize("name", [*FILES, "facts.json", "other.safetensors"])
@pytest.mark.parametrize("how", ["plain", "around", "folder link", "link", "hard link"])
def test_packing_overwrites_no_file_of_the_checkpoint(name: str, how: str, tmp_path: Path) -> None:
    folder = saved(plain(), tmp_path / "a")
    (folder / "facts.json").write_text("{}")
    save_file({"x": torch.ones(1)}, folder / "other.safetensors")
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    (tmp_path / "soft").symlink_to(folder / name)
    (tmp_path / "hard").hardlink_to(folder / name)
    before = bytes_of(folder)
    file = {
        "plain": folder / name,
        "around": tmp_path / "link" / ".." / "a" / name,
        "folder link": tmp_path / "link" / name,
        "link": tmp_path / "soft",
        "hard link": tmp_path / "hard",
    }[how]
    own = "belongs to the checkpoint that is to be packed; name a new file$"
    foreign = "exists and is no packed checkpoint; name a new file$"
    with pytest.raises(UsageError, match=own if name in FILES else foreign):
        packed24.pack(folder, file)
    assert bytes_of(folder) == before


def test_the_checkpoint_is_spared_though_its_file_says_that_it_is_packed(tmp_path: Path) -> None:
    folder = saved(plain(), tmp_path / "a")
    save_file(load_file(folder / FILES[0]), folder / FILES[0], {"format": packed24.FORMAT})
    rehashed(folder)
    assert packed24.is_packed(folder / FILES[0])
    with pytest.raises(UsageError, match="belongs to the checkpoint"):
        packed24.pack(folder, folder / FILES[0])


@pytest.mark.parametrize("content", [b"", b"somebody else's"])
def test_packing_overwrites_nothing_foreign(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"exists and is no packed checkpoint; name a new file$"):
        packed24.pack(saved(plain(), tmp_path / "a"), file)
    assert file.read_bytes() == content


def test_an_older_packed_checkpoint_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "m.safetensors"
    packed24.pack(saved(plain(), tmp_path / "a"), file)
    packed24.pack(saved(plain(32), tmp_path / "b"), file)
    packed24.unpack(file, tmp_path / "c")
    assert bytes_of(tmp_path / "c") == bytes_of(tmp_path / "b")
    assert [path.name for path in file.parent.iterdir()] == ["m.safetensors"]


def test_a_network_without_masks_is_told_so(tmp_path: Path) -> None:
    folder = saved(replace(plain(), masks={}), tmp_path / "a")
    said = packed24.pack(folder, tmp_path / "m.safetensors").sentence()
    assert said.endswith(
        "; layers in 2:4 form: 0, nothing is 2:4; the step sparsify of a recipe makes it so"
    )


def test_on_the_command_line(tmp_path: Path) -> None:
    folder, file = saved(plain(), tmp_path / "a"), tmp_path / "m.safetensors"
    result = CliRunner().invoke(main.main, ["pack", str(folder), "-o", str(file)])
    assert result.exit_code == 0
    assert re.fullmatch(
        rf"{file}: [\d,]+ bytes instead of .*; layers in 2:4 form: 1\n", result.stdout
    )
    result = CliRunner().invoke(main.main, ["unpack", str(file), "-o", str(tmp_path / "b")])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'b'}\n")
    result = CliRunner().invoke(main.main, ["pack", str(tmp_path), "-o", str(file)])
    assert (result.exit_code, result.stderr.startswith("Error: ")) == (2, True)
