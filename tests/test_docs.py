"""Documents: every command and option that they show exists, and every file they link to."""

import re
import shlex
from pathlib import Path

import click
import pytest

from compress.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "docker/*.md", "recipes/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def commands(text: str) -> list[list[str]]:
    """The words of every `compress ...` in fenced shell blocks and in code spans."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.M | re.S)
    shown = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    shown += re.findall(r"`([^`\n]+)`", text)
    found = []
    for line in shown:
        for part in re.split(r"&&|\||;", line):
            if match := re.search(r"(?:^|\s)compress ([a-z]+ .*)$", part.strip()):
                found.append(shlex.split(match[1], comments=True))
    return [words for words in found if words]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(path):
    known = main.main.commands
    for command, *words in commands(path.read_text("utf-8")):
        if command == "compress":
            continue  # a service of compose.yaml before the command
        assert command in known, f"{path.name}: compress {command}"
        options = {name for p in known[command].params for name in p.opts} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in options, f"{path.name}: compress {command} {word}"


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_required_options_are_shown(path):
    """A command that is copied from a document runs; the changelog only names options."""
    known = main.main.commands
    for name, *words in commands(path.read_text("utf-8")):
        given = {word.split("=")[0] for word in words}
        for option in known[name].params if name in known else ():
            if isinstance(option, click.Option) and option.required:
                assert given & set(option.opts), f"{path.name}: compress {name} {option.opts[0]}"


def test_commands_are_found():
    block = "```sh\nmkdir x && compress run r.yaml \\\n    --out o  # a word\n```\n"
    text = f"{block}or `compress check r`."
    assert commands(text) == [["run", "r.yaml", "--out", "o"], ["check", "r"]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def anchors(path: Path) -> set[str]:
    """What GitHub makes of a document's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_headings(path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", path.read_text("utf-8"))
    lost = [
        f"{file}#{anchor}"
        for file, anchor in links
        if (target := path.parent / file if file else path).suffix == ".md"
        and anchor not in anchors(target)
    ]
    assert lost == []


def test_headings_become_anchors(tmp_path):
    (tmp_path / "a.md").write_text("# The 2:4, `x_y` way\n```\n# no heading\n```\n## INT8\n")
    assert anchors(tmp_path / "a.md") == {"the-24-x_y-way", "int8"}
