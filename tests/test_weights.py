"""Files of the wrong kind where weights are expected: named, with what to do."""

import json
import re
import shlex
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_checkpoint import dense

from compress import checkpoint, recipe
from compress.base.errors import UsageError
from compress.base.filekind import kind
from compress.checkpoint import ModelOptions
from compress.engines import sidecar
from compress.sparsity import masks

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def started(path: Path) -> torch.nn.Module:
    """A network that starts from a file."""
    return ModelOptions(name="redcnn", weights=str(path), options={"channels": 4}).build()


def written(path: Path, how: str) -> torch.nn.Module:
    """A network, and its weights as some program of PyTorch saves them."""
    net = dense("redcnn", channels=4).net
    state = net.state_dict()
    if how == "lightning":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif how == "channels_last":
        last = {k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v
                for k, v in state.items()}  # fmt: skip
        torch.save(last, path)
    elif how == "script":
        torch.jit.script(net).save(str(path))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    return net


@pytest.mark.parametrize(
    ("how", "name"),
    [("zip", "w.pth"), ("pickle", "w.pt"), ("lightning", "my w.ckpt"), ("channels_last", "w.pth")],
)
def test_the_command_that_is_named_converts(how: str, name: str, tmp_path: Path) -> None:
    net = written(tmp_path / name, how)
    what = "a Python pickle" if how == "pickle" else "a PyTorch archive"
    with pytest.raises(UsageError, match=f"are no safetensors file: it is {what} of torch.save; "
                                         "convert it: python -c ") as error:  # fmt: skip
        started(tmp_path / name)
    found = re.search(r"convert it: python (-c .*)$", str(error.value))
    assert found is not None
    subprocess.run([sys.executable, *shlex.split(found[1])], check=True)
    again = started((tmp_path / name).with_suffix(".safetensors"))
    for one, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (POINTER, r"it is a Git LFS pointer: fetch the file itself with `git lfs pull`$"),
        (b"", "it is an empty file$"),
        (b"<!DOCTYPE html>", "it is a web page$"),
        (b"\x89HDF\r\n\x1a\n and so on", "it is an HDF5 file; write its tensors with safetensors"),
        (b"PK\x03\x04 cut off", "it is a zip archive that was cut off; write"),
        (b"no file of any kind that is known", "are no safetensors file: Error while"),
    ],
)
def test_files_of_other_kinds(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=what) as error:
        started(path)
    assert "do not fit" not in str(error.value)


def test_kinds_of_archives(tmp_path: Path) -> None:
    written(tmp_path / "script", "script")
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    found = [kind(tmp_path / name) for name in ("script", "a.npz", "z.zip", ".")]
    assert found == ["a TorchScript archive", "a NumPy archive", "a zip archive", "a folder"]


def test_a_folder_of_weights_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "00-train").mkdir()
    (tmp_path / "r.yaml").write_text(
        "schema: 1\nname: r\nmodel: {name: redcnn, weights: 00-train}\n"
        "data: {source: phantom}\nsteps:\n  - train: {epochs: 1}\n"
    )
    with pytest.raises(
        UsageError, match=r"00-train is a folder; name a file, such as .*/model.safetensors"
    ):
        recipe.load(tmp_path / "r.yaml")


def test_weights_of_a_stage_with_masks_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """Sparsify rewrites deconvolutions, and weights of equal shapes would be taken silently."""
    model = dense("redcnn", channels=4).rewritten("deconv_to_conv")
    held = masks.compute(model.net, "modelopt", rule="trt")
    masks.apply(model.net, held)
    checkpoint.save(replace(model, masks=held), tmp_path)
    with pytest.raises(UsageError, match=r"2:4 masks; name those of a stage before sparsify$"):
        started(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_checkpoints_of_pointers(name: str, tmp_path: Path) -> None:
    checkpoint.save(dense("redcnn", channels=4), tmp_path)
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UsageError, match="it is a Git LFS pointer: fetch the file itself"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", ["e.onnx", "e.onnx.json"])
def test_engines_of_pointers(name: str, tmp_path: Path) -> None:
    (tmp_path / "e.onnx").write_bytes(b"an engine")
    facts = {"schema": 1, "file": "e.onnx", "sha256": "0", "format": "onnx", "precision": "fp32"}
    facts |= {"batch": 1, "dynamic_batch": False, "size": 32, "weights": "0", "model": None}
    facts |= {"place": {"device": "cpu", "gpu": None}, "built": {}}
    (tmp_path / "e.onnx.json").write_text(json.dumps(facts))
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UsageError, match="it is a Git LFS pointer: fetch the file itself"):
        sidecar.read(tmp_path / "e.onnx.json")
