"""Networks of the user's own: their code is part of what a checkpoint, a stage and an image are."""

import importlib
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from pairs import data

from compress import checkpoint, recipe
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.checkpoint.imported import code_hash
from compress.engines import onnx, sidecar
from compress.engines.base import Shape
from compress.imaging import inference
from compress.run.keys import keys

NET = """
import torch
from torch import nn
from {blocks} import scaled

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, x):
        return scaled(self.conv(x))
"""
BLOCKS = "from {constants} import FACTOR\ndef scaled(x):\n    return x * FACTOR\n"
RECIPE = """schema: 1
name: r
model: {import: "mine.net:Mine"}
data: {source: phantom, image_size: 32, train_slices: 1, test_slices: 1}
seed: 0
steps:
  - train: {epochs: 1}
  - report
"""
LAYOUTS = {
    "modules": ("net", "blocks", "constants"),
    "package": ("mine.net", "mine.blocks", "mine.constants"),
    "relative": ("mine.net", ".blocks", ".constants"),
    "namespace": ("space.net", "space.blocks", "space.constants"),
}


def written(folder: Path, layout: str = "package") -> ModelOptions:
    """A network in three modules, of which the last one holds a number."""
    net, blocks, constants = LAYOUTS[layout]
    place = folder.joinpath(*net.split(".")[:-1])
    place.mkdir(parents=True, exist_ok=True)
    if net.startswith("mine"):
        (place / "__init__.py").write_text("")
    (place / "net.py").write_text(NET.format(blocks=blocks))
    (place / "blocks.py").write_text(BLOCKS.format(constants=constants))
    (place / "constants.py").write_text("FACTOR = 1.0\n")
    (place / "unused.py").write_text("")
    return ModelOptions(import_=f"{net}:Mine", folder=str(folder))


def edit(file: Path, text: str) -> None:
    """Change code, as between two commands: each is a process of its own."""
    file.write_text(text)
    code_hash.cache_clear()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and the folder of its network's code."""
    origin = written(tmp_path)
    torch.manual_seed(0)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), folder)
    return folder, tmp_path / "mine"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_module_that_a_network_uses_is_in_its_hash(layout: str, tmp_path: Path) -> None:
    origin = written(tmp_path, layout)
    (constants,) = tmp_path.rglob("constants.py")
    path, folder = origin.import_, origin.folder
    before = code_hash(path, folder)
    assert before is not None
    edit(constants.with_name("unused.py"), "import nothing\n")
    assert code_hash(path, folder) == before
    edit(constants, "FACTOR = 2.0\n")
    assert code_hash(path, folder) not in (before, None)


def test_the_hash_is_of_what_was_imported_not_of_what_was_edited_meanwhile(tmp_path) -> None:
    origin = written(tmp_path)
    origin.build()
    before = code_hash(origin.import_, origin.folder)
    (tmp_path / "mine" / "net.py").write_text("")
    assert code_hash(origin.import_, origin.folder) == before


def test_the_hash_does_not_depend_on_the_place(tmp_path: Path) -> None:
    origin = written(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    path = origin.import_
    assert code_hash(path, str(tmp_path / "a")) == code_hash(path, str(tmp_path / "b"))


def test_an_installed_package_is_known_by_its_version(monkeypatch) -> None:
    code_hash.cache_clear()
    before = code_hash("torch.nn:Identity", None)
    code_hash.cache_clear()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
    assert code_hash("torch.nn:Identity", None) not in (before, None)
    assert code_hash("math:pi", None) is code_hash("nowhere.at:All", None) is None
    code_hash.cache_clear()


def test_loading_warns_where_the_code_was_edited(saved, caplog) -> None:
    folder, code = saved
    with caplog.at_level(logging.WARNING):
        checkpoint.load(folder)
    assert not caplog.records
    edit(code / "constants.py", "FACTOR = -1.0\n")
    checkpoint.load(folder)
    (said,) = caplog.messages
    assert said.startswith(f"{folder} was saved with other code of mine.net:Mine (")
    caplog.clear()
    edit(code / "constants.py", "FACTOR = 1.0\n")
    checkpoint.load(folder)
    assert not caplog.records


def test_edited_code_makes_other_uids(saved) -> None:
    folder, code = saved
    before = inference.load(folder, device="cpu", batch=None).model
    assert before == checkpoint.identity(folder)
    edit(code / "blocks.py", BLOCKS.format(constants="mine.constants") + "# edited\n")
    assert inference.load(folder, device="cpu", batch=None).model != before


def test_edited_code_makes_a_stage_undone(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE)
    before = keys(recipe.load(file), data())
    assert keys(recipe.load(file), data()) == before
    edit(tmp_path / "mine" / "constants.py", "FACTOR = 2.0\n")
    assert not set(before) & set(keys(recipe.load(file), data()))


def test_an_engine_of_edited_code_is_refused(saved) -> None:
    folder, code = saved
    net, shape = checkpoint.load(folder).net, Shape(batch=1, size=32)
    engine = folder.parent / "e.onnx"
    cpu = torch.device("cpu")
    built = onnx.Onnx().build(net, shape, engine, cpu)
    side = sidecar.write(
        engine,
        format_="onnx",
        precision="fp32",
        shape=shape,
        weights=str(checkpoint.weights_hash(folder)),
        device=cpu,
        built=built,
        model=folder,
    )
    sidecar.load(side)
    edit(code / "constants.py", "FACTOR = 3.0\n")
    with pytest.raises(UsageError, match=r"was built from code .*, .* now holds .*build it again"):
        sidecar.load(side)


def test_two_projects_may_call_their_modules_alike(tmp_path: Path) -> None:
    for name, factor in (("a", 1.0), ("b", 5.0)):
        origin = written(tmp_path / name, "modules")
        (tmp_path / name / "constants.py").write_text(f"FACTOR = {factor}\n")
        net = origin.build()
        with torch.no_grad():
            net.conv.weight.zero_()
            net.conv.bias.fill_(1.0)
            assert float(net(torch.zeros(1, 1, 4, 4)).mean()) == factor


def test_a_module_beside_the_recipe_comes_before_an_installed_one(tmp_path, monkeypatch) -> None:
    """`models.py` was never found: a package `models` on the path came first."""
    source = "from torch.nn import Identity as Mine\n"
    for file, text in (("site/models/__init__.py", ""), ("mine/models.py", source)):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "models", raising=False)
    importlib.import_module("models")
    origin = ModelOptions(import_="models:Mine", folder=str(tmp_path / "mine"))
    assert isinstance(origin.build(), torch.nn.Identity)
    monkeypatch.delitem(sys.modules, "models")


@pytest.mark.parametrize("code", ["1 / 0", "class Mine(:", "import nowhere_at_all"])
def test_code_that_cannot_be_imported_is_one_sentence(code: str, tmp_path: Path) -> None:
    (tmp_path / "broken_net.py").write_text(f"{code}\n")
    origin = ModelOptions(import_="broken_net:Mine", folder=str(tmp_path))
    with pytest.raises(UsageError, match=r"^the network 'broken_net:Mine' cannot be imported: "):
        origin.build()
