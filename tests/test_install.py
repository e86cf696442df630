"""The wheel in an ordinary install: what a user has who never saw the repository."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST = ["--set", "data.train_slices=1", "--set", "steps.0.slices_per_epoch=8", "--until", "train"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into."""
    folder = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Of a copy: setuptools builds in the tree and packs what earlier builds left there.
    ignored = shutil.ignore_patterns("build", "*.egg-info", ".git", ".hypothesis", "runs", "tests")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=ignored)
    wheel = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(folder / "tree")]
    subprocess.run(wheel, check=True, cwd=folder)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as content:
        content.extractall(folder / "site")
    return folder / "site"


def compress(site: Path, folder: Path, *words: str) -> str:
    """What the installed command prints in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "compress", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_one_top_level_package_and_the_recipes(site: Path) -> None:
    tops = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"compress"}
    shipped = {path.name for path in (site / "compress" / "recipes").glob("*.yaml")}
    assert shipped == {path.name for path in (ROOT / "recipes").glob("*.yaml")}


@pytest.mark.slow
def test_the_commands_work_beside_a_folder_called_models(site: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    source = "from compress.models.ddnet import DDnet\n\nclass Mine(DDnet):\n    pass\n"
    (tmp_path / "models" / "mine.py").write_text(source)
    recipe = (
        (ROOT / "recipes" / "smoke.yaml")
        .read_text()
        .replace("name: ddnet", "import: models.mine:Mine")
    )
    (tmp_path / "mine.yaml").write_text(recipe)
    (tmp_path / "elsewhere").mkdir()
    assert "stem" in compress(site, tmp_path, "check", "mine.yaml")
    assert compress(site, tmp_path / "elsewhere", "run", "smoke", *FIRST).strip() == "runs/smoke"
    report = json.loads(compress(site, tmp_path / "elsewhere", "doctor", "--json"))
    assert len(report["recipes"]) == len([*(ROOT / "recipes").glob("*.yaml")])


def test_a_recipe_that_is_not_shipped_is_named(site: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did you mean 'smoke'"):
        compress(site, tmp_path, "check", "smok")
