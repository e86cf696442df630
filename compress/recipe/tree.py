"""The tree of a recipe before its values get types: steps as written, paths, and `--set`."""

import re
from collections.abc import Sequence
from pathlib import Path

from compress.base.errors import UsageError
from compress.recipe import schema as options
from compress.recipe import yaml
from compress.recipe.schema import suggestion
from compress.recipe.yaml import Tree

PATHS = (("model", "weights"), ("data", "path"))
"""Options that are paths: those in a recipe start at its folder, those of `--set` where one is."""
STEP_PATHS = ("latency_table",)
"""The same in the options of steps."""


def rooted(tree: Tree, folder: Path) -> dict[str, Tree]:
    """`tree` with the paths in it made absolute; relative ones start at `folder`."""
    if not isinstance(tree, dict):
        got = options.found(tree)
        raise UsageError(f"expected sections such as model and steps, got {got}")
    rooted = dict(tree)
    for name, key in PATHS:
        group = rooted.get(name)
        if isinstance(group, dict) and isinstance(path := group.get(key), str):
            rooted[name] = {**group, key: str(folder / Path(path).expanduser())}
    if isinstance(steps := rooted.get("steps"), list):
        rooted["steps"] = [_step_rooted(step, folder) for step in steps]
    return rooted


def _step_rooted(step: Tree, folder: Path) -> Tree:
    """A step as written, with the paths in its options made absolute."""
    if not isinstance(step, dict):
        return step
    return {word: _options_rooted(given, folder) for word, given in step.items()}


def _options_rooted(given: Tree, folder: Path) -> Tree:
    if not isinstance(given, dict):
        return given
    rooted = dict(given)
    for key in STEP_PATHS:
        if isinstance(path := given.get(key), str):
            rooted[key] = str(folder / Path(path).expanduser())
    return rooted


def entries(tree: Tree) -> list[tuple[str, Tree]]:
    """Name and options of every step as written: `- report` or `- prune: {...}`."""
    if not isinstance(tree, list) or not tree:
        got = "an empty list" if tree == [] else options.found(tree)
        raise UsageError(
            f"steps: expected a list with one step a line, such as `- report`, got {got}"
        )
    found: list[tuple[str, Tree]] = []
    for index, item in enumerate(tree):
        if isinstance(item, str) and item:
            found.append((item, {}))
        elif isinstance(item, dict) and len(item) == 1:
            found.extend(item.items())
        elif isinstance(item, dict) and item:
            first, *others = item
            hint = f"indent what belongs to {first} deeper, or start a new line with '- '"
            raise UsageError(f"steps[{index}]: {first} is followed by {', '.join(others)}; {hint}")
        else:
            raise UsageError(f"steps[{index}]: expected a step, got {options.found(item)}")
    return found


def override(tree: dict[str, Tree], text: str) -> dict[str, Tree]:
    """`tree` with one `key=value` of `--set` done."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError("--set expects key=value, such as steps.prune.amount=0.7")
    path = re.sub(r"\[(\d+)\]", r".\1", key).split(".")  # steps[1].prune, as messages have it
    try:
        return _replaced(tree, path, yaml.parse(value), "")
    except UsageError as error:
        raise UsageError(str(error).removeprefix("line 1: ")) from error


def _replaced(tree: Tree, path: Sequence[str], value: Tree, where: str) -> dict[str, Tree]:
    """The options `tree` at `where` with the value at `path`, from there on, replaced or added."""
    head, *rest = path
    given = options.section(tree, where)
    below = given.get(head, {})
    if not rest:
        return {**given, head: value}
    if head == "steps" and not where:
        return {**given, head: _replaced_step(entries(below), rest, value)}
    return {**given, head: _replaced(below, rest, value, f"{where}.{head}".lstrip("."))}


def _replaced_step(steps: list[tuple[str, Tree]], path: Sequence[str], value: Tree) -> Tree:
    """`steps` with the value of one option of one step replaced or added."""
    word, *rest = path
    index = _position(word, [name for name, _ in steps])
    name, given = steps[index]
    if word != name and rest[1:] and rest[0] == name:  # steps.1.prune.amount
        rest = rest[1:]
    if not rest:
        raise UsageError(f"steps.{word}: name an option of the step too, as in steps.prune.amount")
    steps[index] = (name, _replaced(given, rest, value, f"steps[{index}].{name}"))
    return [{name: options} for name, options in steps]


def _position(word: str, names: Sequence[str]) -> int:
    """The index of the step that `--set steps.WORD` means."""
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    if word.isdecimal():
        raise UsageError(f"steps.{word}: the recipe's steps are numbered 0 to {len(names) - 1}")
    places = [index for index, name in enumerate(names) if name == word]
    if not places:
        raise UsageError(f"steps.{word}: no such step in the recipe; {suggestion(word, names)}")
    if len(places) > 1:
        numbers = " or ".join(f"steps.{place}" for place in places)
        raise UsageError(f"steps.{word}: the recipe has this step more than once; write {numbers}")
    return places[0]
