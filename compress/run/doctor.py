"""`compress doctor`: what this machine has, what each step would use here, what is missing."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from compress.base import machine
from compress.base.errors import UsageError
from compress.base.machine import Package, Part
from compress.base.progress import track
from compress.base.words import listed
from compress.context import Step
from compress.data import Unavailable
from compress.data import demo as source
from compress.engines.formats import formats
from compress.recipe import load, shipped
from compress.run.records import Doctor, DoctorRecipe, DoctorStep
from compress.steps.export import Export

log = logging.getLogger(__name__)


def doctor(recipe: Path | None = None) -> Doctor:
    """Everything that decides what a recipe can do here, JSON-like.

    Args:
        recipe: the recipe to look at; None takes all that come with the package.

    Returns:
        machine: versions, cores and drivers; parts: everything that can be missing, with `found`
        (what is there), `works`, `note` (what is wrong), `use` and `get` (the command that brings
        it, empty where it works); recipes: what each step `uses` and what is `missing` for it.

    Raises:
        UsageError: the recipe cannot be read.
    """
    recipes = [load(path) for path in ([recipe] if recipe else shipped.paths())]
    log.info("doctor: packages are imported one by one, which takes up to a minute")
    parts = [*track(all_parts(), "looking at this machine")]
    known = {part["name"]: part for part in parts}
    return {
        "schema": 1,
        "machine": machine.machine(),
        "parts": parts,
        "recipes": [
            {"recipe": str(one.source), "steps": [*_steps(one.steps, known)]} for one in recipes
        ],
    }


def all_parts() -> Iterator[Part]:
    """Every part, one after another; takes seconds, because packages are imported."""
    yield from (machine.gpu(), machine.compiler(), machine.waiting(), machine.disk(), demo())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(machine.examine, packages())


def packages() -> list[Package]:
    """The packages that steps and engine formats use."""
    own = [package for format_ in formats().values() for package in format_.packages()]
    return [*machine.packages(), *own]


def demo() -> Part:
    """The cache of the demo set, and whether the set lies in it."""
    name, use, found = "demo data", "data of source demo", "in the cache"
    try:
        lacking = source.lacking()
    except Unavailable as error:
        return machine.part(name, use, note=str(error))
    if lacking:
        found = f"patients {', '.join(lacking)} are fetched by the first run that needs them"
        if machine.version_of("pip") is None:  # looking for the module itself makes setuptools warn
            get = f"{sys.executable} -m ensurepip"
            note = "pip, whose settings say where to fetch it, is not installed"
            return machine.part(name, use, note=note, get=get)
    return machine.part(name, use, found=found)


def render(report: Doctor) -> None:
    """Print what `doctor` found on standard output: each step of one recipe, else a line for each.

    The commands that bring what is missing follow the parts.
    """
    from rich.console import Console

    console = Console(highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    table = _table("part", "for", "has")
    for part in report["parts"]:
        has = ", ".join(filter(None, (part["found"], part["note"])))
        _add(table, part["works"], part["name"], part["use"], has)
    console.print(table)
    for command, names in _commands(report["parts"]).items():
        console.print(f"for {', '.join(names)}:\n    {command}", soft_wrap=True, markup=False)
    recipes = report["recipes"]
    if len(recipes) == 1:
        console.print(_every_step(recipes[0]))
    else:
        gpu = any(part["name"] == "GPU" and part["works"] for part in report["parts"])
        console.print(_every_recipe(recipes, gpu))
        console.print("compress doctor RECIPE shows every step of a recipe.")


def _every_step(recipe: DoctorRecipe) -> Any:
    table = _table("step", "here", title=recipe["recipe"])
    for step in recipe["steps"]:
        missing = step["missing"]
        shown = f"missing: {missing}" if missing else step["uses"]
        _add(table, not missing, step["where"], shown)
    return table


def _every_recipe(recipes: Iterable[DoctorRecipe], gpu: bool) -> Any:
    """A line for each recipe, by the name that `compress run` takes."""
    table = _table("recipe", "here")
    for recipe in recipes:
        verdict = _verdict(recipe["steps"], gpu)
        _add(table, not verdict.startswith("missing"), Path(recipe["recipe"]).stem, verdict)
    return table


def _verdict(steps: Iterable[DoctorStep], gpu: bool) -> str:
    """Whether a recipe runs here; that it is made for a GPU is no fault where there is none."""
    lacking = [step for step in steps if step["missing"]]
    formats = [step["where"].partition(".export ")[2] for step in lacking]
    if all(formats):  # a run leaves out the formats that cannot be built
        return f"ready, without export {listed(formats)}" if formats else "ready"
    rest = [step for step, name in zip(lacking, formats, strict=True) if not name]
    reasons = "; ".join(dict.fromkeys(step["missing"] for step in rest))
    return "for a machine with a GPU" if not gpu and "GPU" in reasons else f"missing: {reasons}"


def _table(*columns: str, title: str = "") -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None)
    for column in columns:  # names are whole, whatever the others need
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table


def _add(table: Any, good: bool, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*map(Text, cells), style="green" if good else "yellow")


def _commands(parts: Iterable[Part]) -> dict[str, list[str]]:
    """Command -> names of what it brings."""
    commands: dict[str, list[str]] = {}
    for part in parts:
        if part["get"]:
            commands.setdefault(part["get"], []).append(part["name"])
    return commands


def _steps(steps: Iterable[tuple[str, Step]], known: Mapping[str, Part]) -> Iterator[DoctorStep]:
    """What every step uses, or what is missing for it; a line for each format of an export."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for index, (word, step) in enumerate(steps):
        where = f"steps[{index}].{word}"
        if isinstance(step, Export):
            for name in step.formats:
                needs = formats()[name].requires
                yield _row(f"{where} {name}", ", ".join(needs), needs, known)
            continue
        try:
            use = step.uses(device)
            why = f" ({use.why})" if use.why else ""
            yield _row(where, use.name + why, use.needs, known)
        except UsageError as error:
            yield {"where": where, "uses": "", "missing": str(error), "get": ""}


def _row(where: str, uses: str, needs: Iterable[str], known: Mapping[str, Part]) -> DoctorStep:
    broken = [known[need] for need in needs if not known[need]["works"]]
    missing = "; ".join(f"{part['name']}: {part['note']}" for part in broken)
    commands = dict.fromkeys(part["get"] for part in broken if part["get"])
    return {"where": where, "uses": uses, "missing": missing, "get": "; ".join(commands)}
