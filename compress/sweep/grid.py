"""The points of a sweep: every combination of the varied values, and the dense baselines."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import product
from pathlib import Path

from compress.base.errors import UsageError
from compress.recipe import Recipe, load
from compress.steps import STEPS

EXAMPLE = "such as steps.prune.amount=0.1:0.9:0.1 or seed=0,1,2"
COMPRESSING = tuple(word for word, step in STEPS.items() if step.kind == "compressing")
"""Steps that make a network smaller or sparse: without them it stays dense."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    """Name of its folder."""
    values: Mapping[str, str]
    """Varied option -> its value, as text."""
    recipe: Recipe
    baseline: bool = False
    """Whether this is the network trained as long without being compressed."""


def points(path: Path, vary: Sequence[str], overrides: Sequence[str] = ()) -> list[Point]:
    """Every combination of the varied values, in order; the last option varies fastest.

    Args:
        path: the recipe.
        vary: `KEY=VALUES` each, where KEY is what `--set` takes and VALUES `a,b,c`, or
            `first:last:step` with both ends.
        overrides: `--set`, the same for all points.

    Raises:
        UsageError: nothing is varied, values cannot be read, or a point's recipe is wrong.
    """
    axes = dict(map(_axis, vary))
    if not axes:
        raise UsageError(f"nothing to sweep over; give --vary, {EXAMPLE}")
    if len(axes) < len(vary):
        raise UsageError("--vary: an option is given twice; give all its values at once")
    found = []
    for combination in product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        found.append(Point(_name(values), values, _varied(path, overrides, values)))
    return found


def _varied(path: Path, overrides: Sequence[str], values: Mapping[str, str]) -> Recipe:
    """The recipe of a point; its values came with `--vary`, which is what the user typed."""
    changes = [f"{key}={value}" for key, value in values.items()]
    try:
        return load(path, [*overrides, *changes])
    except UsageError as error:
        given, typed = ("".join(f" {o} {c}" for c in changes) for o in ("--set", "--vary"))
        raise UsageError(str(error).replace(given, typed, 1)) from error


def baselines(points: Sequence[Point], without: Sequence[str] = COMPRESSING) -> list[Point]:
    """The networks to compare with: each recipe without the steps named `without`.

    They are trained as long as the points. Points that differ in nothing else share one.

    By default a recipe may lack one of the steps; one that compresses nothing has no baseline.

    Raises:
        UsageError: a step is to be left out that no point has.
    """
    steps = {word for point in points for word, _ in point.recipe.steps}
    unknown = sorted({*without} - steps)
    if unknown and tuple(without) != COMPRESSING:
        raise UsageError(f"--without {unknown[0]}: the recipe has no such step")
    if not steps & {*without}:
        return []
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        left = less(point.recipe, without)
        same = (left.model, left.data, left.seed, left.reseed, left.steps)
        groups[repr(same)].append(point)  # options hold mappings, which have no hash
    found = []
    for group in groups.values():
        own = {
            key: value
            for key, value in group[0].values.items()
            if len({p.values[key] for p in points}) > 1
            and all(p.values[key] == value for p in group)
        }
        name = "_".join(filter(None, ("baseline", _name(own))))
        found.append(Point(name, own, less(group[0].recipe, without), baseline=True))
    return found


def less(recipe: Recipe, without: Sequence[str]) -> Recipe:
    """The recipe without the steps of these names; what nothing compresses needs no baseline."""
    steps = tuple(s for s in recipe.steps if s[0] not in without)
    if not any(step.kind == "compressing" for _, step in steps):
        steps = tuple(s for s in steps if s[1].kind != "baseline")
    return replace(recipe, steps=steps)


def _axis(text: str) -> tuple[str, list[str]]:
    """`key=values` -> the key and each value as text."""
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise UsageError(f"--vary {text}: expected KEY=VALUES, {EXAMPLE}")
    if values.count(":") == 2:
        return key, _range(text, *values.split(":"))
    found = [value.strip() for value in values.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise UsageError(f"--vary {text}: a value is empty or given twice")
    return key, found


def _range(text: str, *numbers: str) -> list[str]:
    """first, last, step -> the numbers from first to last, in decimal, so that 0.3 stays 0.3."""
    try:
        first, last, step = map(Decimal, numbers)
        count = int((last - first) / step) + 1
    except (InvalidOperation, ZeroDivisionError, OverflowError):
        raise UsageError(f"--vary {text}: expected first:last:step in numbers") from None
    if not 1 <= count <= 1000:
        raise UsageError(f"--vary {text}: these are {max(count, 0)} values; 1 to 1000 are possible")
    return [str(first + step * index) for index in range(count)]


def _name(values: Mapping[str, str]) -> str:
    """A folder name that says the values: prune.amount=0.3_reseed=1."""
    words = [f"{key.removeprefix('steps.')}={value}" for key, value in values.items()]
    return re.sub(r"[^A-Za-z0-9._=+-]", "-", "_".join(words))
