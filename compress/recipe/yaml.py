"""YAML 1.2 text as plain Python values.

PyYAML reads YAML 1.1, where `2:4` is the number 124, `no` is false and `1e-4` is text. The loader
here resolves plain scalars by the core schema of YAML 1.2.2, section 10.3.2. Anchors, aliases and
tags are refused: a recipe is plain data, and its size is what one sees.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from yaml.reader import ReaderError

from compress.base.errors import UsageError

Tree: TypeAlias = "bool | int | float | str | list[Tree] | dict[str, Tree] | None"

LIMIT = 256 * 1024
"""Bytes of a recipe at most: far more than one needs, and little enough to parse at once."""
REFERENCES = (
    "anchors (&), aliases (*) and tags (!) are not allowed; "
    "write the value out, or quote it where it is text"
)
CORE = {
    "null": r"(~|null|Null|NULL|)\Z",
    "bool": r"(true|True|TRUE|false|False|FALSE)\Z",
    "int": r"([-+]?[0-9]+|0o[0-7]{1,21}|0x[0-9a-fA-F]{1,16})\Z",
    "float": r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z",
}
"""What a plain scalar must look like to be no text, by tag; no octal or hex beyond 64 bits."""
ITEM = re.compile(r"\s*-([A-Za-z]\w*)")
"""An item of a list whose '-' has no blank behind it, so that YAML takes it for text."""


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


def parse(text: str) -> Tree:
    """The value of one YAML document; None for an empty one.

    Raises:
        UsageError: broken YAML, a key given twice, or an anchor, alias or tag.
    """
    try:
        tree: Tree = _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        raise UsageError(_broken(error, text)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"line {line}: broken YAML: a control character") from None
    except RecursionError:
        raise UsageError("lists and mappings are nested too deeply") from None
    except ValueError:
        raise UsageError("a number has more digits than can be read") from None
    return tree


class _Loader(yaml.SafeLoader):
    """Reads the core schema; refuses double keys and what makes a document more than its text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML reads it from the class)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag:
            raise UsageError(f"line {event.start_mark.line + 1}: {REFERENCES}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"line {line}: a list or mapping cannot be the name of an option")
            if key.value in lines:
                both = f"lines {lines[key.value]} and {line}"
                raise UsageError(f"{key.value!r} is given twice, in {both}; keep one")
            lines[key.value] = line
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Decimal unless it begins with 0x or 0o; PyYAML's own takes 010 for 8."""
    return int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10)


for _name, _form in CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_form), None)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def _broken(error: yaml.MarkedYAMLError, text: str) -> str:
    mark, lines = error.problem_mark or error.context_mark, text.splitlines()
    number = mark.line + 1 if mark else 1
    line = f"line {number}" if number <= len(lines) else f"near line {len(lines)}"
    if (error.context or "").endswith((" alias", " anchor", " tag")):  # such as [*.conv]
        return f"{line}: {REFERENCES}"
    said = ", ".join(filter(None, (error.context, error.problem)))
    return f"{line}: broken YAML: {said}{_dash(error, lines)}"


def _dash(error: yaml.MarkedYAMLError, lines: Sequence[str]) -> str:
    """A hint where the line at fault is one such as `-report`."""
    begun, found = error.context_mark, error.problem_mark
    places = ([begun.line] if begun else []) + ([found.line - 1, found.line] if found else [])
    for place in places:
        if 0 <= place < len(lines) and (item := ITEM.match(lines[place])):
            return f"; write a blank behind '-' in line {place + 1}: `- {item[1]}`"
    return ""
