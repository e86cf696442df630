"""YAML text as a tree of dict, list and `Scalar`; a Scalar keeps what was written.

YAML 1.1 reads `2:4` as 124, `no` as false and `1e-4` as text. With the spelling at hand, options.py
takes the value that was meant, or says what happened. Anchors, aliases and tags are refused: a
recipe is plain data, and its size is what one sees.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import yaml

from compress.base.errors import UsageError

LIMIT = 256 * 1024
"""Bytes of a recipe at most: far more than one needs, and little enough to parse at once."""
TYPED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null")}
"""What YAML reads as something else than text; dates stay text here."""
REFERENCES = (
    "anchors (&), aliases (*) and tags (!) are not allowed; "
    "write the value out, or quote it where it is text"
)


@dataclass(frozen=True)
class Scalar:
    """A single value of the tree."""

    text: str
    """As written, without quotes."""
    value: str | int | float | bool | None
    """As YAML 1.1 reads it."""
    style: Literal["plain", "quoted", "shell"]
    """shell: plain, from the command line, where quotes do not survive."""


Tree: TypeAlias = "Scalar | list[Tree] | dict[str, Tree]"


def read(path: Path) -> str:
    """The text of a recipe.

    Raises:
        UsageError: there is no such file, or it is no text or too long; the path is not named.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise UsageError("there is no such file") from None
    except IsADirectoryError:
        raise UsageError("this is a folder; a recipe is a YAML file") from None
    except OSError as error:
        raise UsageError(f"the file cannot be read: {error.strerror}") from error
    if len(data) > LIMIT:
        raise UsageError(f"the file is larger than {LIMIT // 1024} KiB, so it is no recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"line {line}: this is not UTF-8 text") from None


def parse(text: str, *, shell: bool = False) -> Tree:
    """The tree of one YAML document; an empty one is an empty Scalar.

    Args:
        text: the document.
        shell: it comes from the command line.

    Raises:
        UsageError: broken YAML, a key that stands twice, or an anchor, alias or tag.
    """
    if bad := _Loader.NON_PRINTABLE.search(text):
        line = text[: bad.start()].count("\n") + 1
        raise UsageError(f"line {line}: broken YAML: a control character")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Scalar("", None, "plain")
        return _tree(loader, node, "", shell)
    except yaml.MarkedYAMLError as error:
        raise UsageError(_broken(error)) from None
    except RecursionError:
        raise UsageError("lists and mappings are nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses what makes a document more than its text."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag:
            raise UsageError(f"line {event.start_mark.line + 1}: {REFERENCES}")
        return super().compose_node(parent, index)


def _broken(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = f"line {mark.line + 1 if mark else 1}"
    if (error.context or "").endswith((" alias", " anchor", " tag")):  # such as [*.conv]
        return f"{line}: {REFERENCES}"
    return f"{line}: broken YAML: {', '.join(filter(None, (error.context, error.problem)))}"


def _tree(loader: _Loader, node: yaml.Node, where: str, shell: bool) -> Tree:
    if isinstance(node, yaml.SequenceNode):
        return [_tree(loader, n, f"{where}[{i}]", shell) for i, n in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, where, shell)
    assert isinstance(node, yaml.ScalarNode)
    if node.style is not None:
        return Scalar(node.value, node.value, "quoted")
    value = node.value
    if node.tag in TYPED:
        try:
            value = loader.construct_object(node)
        except ValueError:  # 0b_, or more digits than Python reads
            value = node.value
    return Scalar(node.value, value, "shell" if shell else "plain")


def _mapping(loader: _Loader, node: yaml.MappingNode, where: str, shell: bool) -> dict[str, Tree]:
    tree: dict[str, Tree] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"line {line}: a list or mapping cannot be the name of an option")
        if key.value in tree:
            place = f"{where}: " if where else ""
            both = f"lines {lines[key.value]} and {line}"
            raise UsageError(f"{place}{key.value!r} stands twice, in {both}; keep one")
        lines[key.value] = line
        below = f"{where}.{key.value}" if where else key.value
        tree[key.value] = _tree(loader, value, below, shell)
    return tree
