"""The README keeps its word: its two lines, its commands, its links."""

import re
import subprocess
from pathlib import Path

from packaging.version import Version

from compress.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)


def test_two_lines_do_all_the_set_up():
    assert [block.strip() for block in FENCED] == [
        "pip install -e . && compress run recipes/ddnet_struct60_asp.yaml",
        "pip install -e '.[test]' && pytest",
    ]


def test_continuous_integration_runs_the_second_line_as_it_stands():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (take,) = re.findall(r"command=\$\((.*)\)", script)
    taken = subprocess.run(["bash", "-c", take], cwd=ROOT, capture_output=True, text=True)
    assert taken.stdout == FENCED[1]
    assert 'eval "$command"' in script
    assert 'PIP_CONSTRAINT="$PWD/constraints.txt"' in script


def test_commands_exist_and_all_are_named():
    named = set(re.findall(r"^\| `compress (\w+)", TEXT, re.M))
    assert named == main.main.commands.keys()


def test_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    recipes = re.findall(r"recipes/\w+\.yaml", TEXT)
    assert links
    assert recipes
    assert all((ROOT / path).exists() for path in (*links, *recipes))


def test_the_newest_versions_are_no_older_than_those_of_continuous_integration():
    files = [(ROOT / f"constraints{kind}.txt").read_text("utf-8") for kind in ("", "-newest")]
    pins, newest = (dict(re.findall(r"^([\w.-]+)==(.+)$", text, re.M)) for text in files)
    assert {"torch", "nvidia-modelopt", "onnx", "pydicom"} <= newest.keys() <= pins.keys()
    theirs = {"nvidia-cuda-nvrtc"}  # torch's CUDA build asks for that of its own CUDA
    assert all(Version(newest[name]) >= Version(pins[name]) for name in newest.keys() - theirs)
    assert Version(newest["torch"]) > Version(pins["torch"])


def test_constraints_pin_what_is_declared():
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    names = {name.lower().replace("_", "-") for name in pins}
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)
    assert dependencies
    declared = re.findall(r'^  "([\w-]+)', dependencies[1], re.M)
    missing = {name.lower().replace("_", "-") for name in declared} - names
    assert not missing
