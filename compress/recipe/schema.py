"""Trees into typed values: the signature of a dataclass, or of any class, is the schema.

Every complaint is one sentence: the place in the recipe, what was found, what is possible.
"""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from compress.base.errors import UsageError
from compress.recipe.yaml import Scalar, Tree

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def fill(build: Callable[..., T], tree: Tree, where: str) -> T:
    """The object of a class whose options stand in `tree`.

    Args:
        build: the class; its keyword arguments, their types and defaults are the schema.
        tree: a mapping; nothing at all stands for no options.
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


def parameters(build: Callable[..., object]) -> Mapping[str, Parameter]:
    """The parameters of a class by name, annotations evaluated."""
    return signature(build, eval_str=True).parameters


def section(tree: Tree, where: str) -> dict[str, Tree]:
    """The mapping at `where`; empty where nothing is written."""
    if isinstance(tree, Scalar) and tree.value is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"{where}: expected options by name, got {found(tree)}")
    return tree


def convert(kind: Any, tree: Tree, where: str) -> Any:
    """The value of type `kind` that `tree` stands for.

    Args:
        kind: int, float, bool, str, a Literal of texts, X | None, tuple[X, ...], tuple[X, Y],
            or Mapping[str, X].
        tree: what was written.
        where: place in the recipe.

    Raises:
        UsageError: it stands for no such value.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        none = isinstance(tree, Scalar) and tree.value is None
        return None if none else convert(_inner(parts), tree, where)
    if origin is tuple:
        return _tuple(kind, tree, where)
    if origin in (dict, Mapping):
        items = section(tree, where).items()
        return {key: convert(parts[1], value, f"{where}.{key}") for key, value in items}
    return _single(kind, tree, where)


def free(tree: Tree) -> Any:
    """The value of a tree where no type is known; numbers as Python reads them, `2:4` is text."""
    if isinstance(tree, dict):
        return {key: free(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [free(value) for value in tree]
    if tree.style == "quoted" or isinstance(tree.value, bool | NoneType):
        return tree.value
    for kind in (int, float):
        with suppress(ValueError):
            return READ[kind](tree)
    return tree.text


def describe(kind: Any) -> str:
    """A type in plain English."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return f"{describe(_inner(parts))} or null"
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
    """What stands in the recipe, short enough for a sentence."""
    if isinstance(tree, list):
        return "a list"
    if isinstance(tree, dict):
        return "options by name"
    if tree.style == "quoted":
        return f"the text {tree.text[:60]!r}"
    return repr(tree.text[:60]) if tree.text else "nothing"


def suggestion(word: str, known: Collection[str]) -> str:
    """Half a sentence on what else `word` could have been."""
    near = get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"possible are {', '.join(known)}" if known else "there are none here"


def _inner(parts: tuple[Any, ...]) -> Any:
    """X of X | None."""
    (inner,) = (part for part in parts if part is not NoneType)
    return inner


def _text(scalar: Scalar, where: str) -> str:
    if scalar.style == "shell" or isinstance(scalar.value, str):
        return scalar.text
    names = {True: "true", False: "false", None: "nothing"}
    number = f"the number {scalar.value}"
    read = names[scalar.value] if isinstance(scalar.value, bool | NoneType) else number
    text = scalar.text
    raise UsageError(f'{where}: {text} without quotes is read by YAML as {read}; write "{text}"')


def _whole(scalar: Scalar) -> int:
    return int(scalar.text, 0)  # base 0 refuses 010, which YAML takes for 8


def _float(scalar: Scalar) -> float:
    number = float(scalar.text)  # takes 1e-4, which is text for YAML
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _bool(scalar: Scalar) -> bool:
    if not isinstance(scalar.value, bool):
        raise ValueError("not a truth value")
    return scalar.value


READ: Mapping[type, Callable[[Scalar], Any]] = {int: _whole, float: _float, bool: _bool}


def _single(kind: Any, tree: Tree, where: str) -> Any:
    if isinstance(tree, Scalar):
        if tree.text in get_args(kind) or (kind is str and tree.text):
            return _text(tree, where)
        if kind in READ and tree.style != "quoted":
            with suppress(ValueError):
                return READ[kind](tree)
    raise UsageError(f"{where}: expected {describe(kind)}, got {found(tree)}{_hint(kind, tree)}")


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
    if not isinstance(tree, Scalar) or not tree.text:
        return ""
    if get_origin(kind) is tuple:
        return f"; write [{tree.text[:60]}]"
    if get_origin(kind) is Literal:
        near = get_close_matches(tree.text, get_args(kind), n=1)
        return f"; did you mean {near[0]!r}?" if near else ""
    plain = free(replace(tree, style="plain"))
    return "; leave out the quotes" if tree.style == "quoted" and plain != tree.text else ""
