"""Trees into typed values: the signature of a dataclass, or of any class, is the schema.

Every complaint is one sentence: the place in the recipe, what was found, what is possible.
"""

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from difflib import get_close_matches
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from compress.base.errors import UsageError
from compress.base.renamed import renamed
from compress.recipe import yaml
from compress.recipe.yaml import Tree

log = logging.getLogger(__name__)
T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
TRUTH = {"yes": "true", "on": "true", "no": "false", "off": "false"}
"""Words that YAML 1.1 takes for truth values and YAML 1.2 for text."""
PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?%", re.ASCII)
"""What people write for a share."""


def fill(build: Callable[..., T], tree: Tree, where: str) -> T:
    """The object of the class whose options are in `tree`.

    Args:
        build: the class; its keyword arguments, their types and defaults are the schema.
        tree: a mapping; nothing at all means no options.
        where: place in the recipe, such as steps[1].prune.

    Raises:
        UsageError: an option is unknown, missing, of the wrong type, or refused by the class
            itself with a ValueError.
    """
    given = arguments(build, section(tree, where), where)
    try:
        return build(**given)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def arguments(
    build: Callable[..., object],
    given: Mapping[str, Tree],
    where: str,
    also: Collection[str] = (),
) -> dict[str, Any]:
    """The keyword arguments of `build`, each checked and converted.

    Args:
        build: see `fill`.
        given: option -> tree.
        where: place in the recipe.
        also: further names that are possible in this place, for suggestions.

    Raises:
        UsageError: as `fill`.
    """
    schema = parameters(build)
    given = _today(build, given, where)
    for name in given:
        if name not in schema:
            known = suggestion(name, [*schema, *also])
            raise UsageError(f"{where}: unknown option {name!r}; {known}")
    for name, parameter in schema.items():
        if parameter.default is Parameter.empty and name not in given:
            kind = describe(parameter.annotation)
            raise UsageError(f"{where}: {name} is missing; it must be {kind}")
    return {
        name: convert(schema[name].annotation, tree, f"{where}.{name}")
        for name, tree in given.items()
    }


def _today(build: Callable[..., object], given: Mapping[str, Tree], where: str) -> dict[str, Tree]:
    """`given` with options of version 0.1 under the names that they have today."""
    result: dict[str, Tree] = {}
    for name, tree in given.items():
        new = renamed(build).get(name)
        if new is None:
            result[name] = tree
            continue
        if new.name in given:
            raise UsageError(f"{where}: {name} is the old name of {new.name}; give {new.name} only")
        value = new.values.get(tree, tree) if isinstance(tree, str) else tree
        changed = f"{new.name}: {value}" if value != tree else new.name
        log.warning("%s.%s: write %s; the old name is read until version 0.4", where, name, changed)
        result[new.name] = value
    return result


def parameters(build: Callable[..., object]) -> Mapping[str, Parameter]:
    """The parameters of a class by name, annotations evaluated."""
    return signature(build, eval_str=True).parameters


def section(tree: Tree, where: str) -> dict[str, Tree]:
    """The mapping at `where`; empty where nothing is written."""
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"{where}: expected options by name, got {found(tree)}")
    return tree


def convert(kind: Any, tree: Tree, where: str) -> Any:
    """`tree` as a value of type `kind`.

    Args:
        kind: int, float, bool, str, a Literal of texts, X | None, tuple[X, ...], tuple[X, Y],
            or Mapping[str, X].
        tree: what was written.
        where: place in the recipe.

    Raises:
        UsageError: it is no such value.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return (
            None
            if tree is None and NoneType in parts
            else convert(_inner(parts, tree), tree, where)
        )
    if origin is tuple:
        return _tuple(kind, tree, where)
    if origin in (dict, Mapping):
        items = section(tree, where).items()
        return {key: convert(parts[1], value, f"{where}.{key}") for key, value in items}
    return _single(kind, tree, where)


def describe(kind: Any) -> str:
    """A type in plain English."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join("null" if part is NoneType else describe(part) for part in parts)
    if origin is Literal:
        choices = ", ".join(parts)
        return f"one of {choices}" if len(parts) > 1 else f'"{choices}"'
    if origin is tuple:
        if parts[1:] == (Ellipsis,):
            return f"a list, each {describe(parts[0])}"
        return f"a list of {len(parts)}: {', '.join(map(describe, parts))}"
    if origin is not None:
        return f"names, each with {describe(parts[1])}"
    return WORDS[kind]


def found(tree: Tree) -> str:
    """What the recipe has in some place, short enough for a sentence."""
    if isinstance(tree, list):
        return "a list"
    if isinstance(tree, dict):
        return "options by name"
    if isinstance(tree, bool):
        return str(tree).lower()
    if isinstance(tree, str):
        return repr(tree[:60])
    return "nothing" if tree is None else str(tree)[:60]


def suggestion(word: str, known: Collection[str]) -> str:
    """Half a sentence on what else `word` could have been."""
    near = get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"possible are {', '.join(known)}" if known else "there are none here"


def _inner(parts: tuple[Any, ...], tree: Tree) -> Any:
    """X of X | None; of a text and a list, the one that `tree` is meant for."""
    inner = [part for part in parts if part is not NoneType]
    lists = [part for part in inner if get_origin(part) is tuple]
    return lists[0] if lists and isinstance(tree, list) else inner[0]


def _fits(kind: Any, tree: Tree) -> bool:
    """Whether a value is of a type without parts; a whole number is a number, too."""
    if get_origin(kind) is Literal:
        return isinstance(tree, str) and tree in get_args(kind)
    if kind is float:
        return type(tree) in (int, float) and abs(tree) <= sys.float_info.max  # type: ignore[arg-type]
    return type(tree) is kind and tree != ""


def _single(kind: Any, tree: Tree, where: str) -> Any:
    if not _fits(kind, tree):
        wrong = f"expected {describe(kind)}, got {found(tree)}"
        raise UsageError(f"{where}: {wrong}{_hint(kind, tree)}")
    return float(tree) if kind is float else tree  # type: ignore[arg-type]


def _tuple(kind: Any, tree: Tree, where: str) -> tuple[Any, ...]:
    parts = get_args(kind)
    many = parts[1:] == (Ellipsis,)
    if not isinstance(tree, list) or (not many and len(tree) != len(parts)):
        got = f"a list of {len(tree)}" if isinstance(tree, list) else found(tree)
        raise UsageError(f"{where}: expected {describe(kind)}, got {got}{_hint(kind, tree)}")
    kinds = [parts[0]] * len(tree) if many else parts
    pairs = zip(kinds, tree, strict=True)
    return tuple(convert(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(pairs))


def _hint(kind: Any, tree: Tree) -> str:
    """What to write instead, where that can be guessed."""
    if isinstance(tree, list | dict | NoneType):
        return ""
    if get_origin(kind) is tuple:
        return f"; write [{str(tree)[:60]}]"
    if not isinstance(tree, str):
        return "; put it in quotes" if kind is str else ""
    if get_origin(kind) is Literal:
        near = get_close_matches(tree, get_args(kind), n=1)
        return f"; did you mean {near[0]!r}?" if near else ""
    if kind is float and (percent := PERCENT.fullmatch(tree)):
        return f"; write the share, {float(percent[1]) / 100:g} for {percent[1]} %"
    if kind is bool and tree.lower() in TRUTH:
        return f"; write {TRUTH[tree.lower()]}"
    with suppress(UsageError):
        return "; leave out the quotes" if _fits(kind, yaml.parse(tree)) else ""
    return ""
