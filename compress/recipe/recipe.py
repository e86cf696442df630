"""A recipe: which network, which data, and the steps in their order. YAML -> frozen dataclasses.

Every sentence about a wrong recipe begins with its file and the place in it; the first mistake ends
the reading. What a step may say about its options stands in the step; rules between steps are here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from compress.base.errors import UsageError
from compress.base.reasons import reason
from compress.checkpoint import NETWORKS, ModelOptions
from compress.context import Step
from compress.data import DataOptions
from compress.recipe import schema as options
from compress.recipe import shipped, shorthand, yaml
from compress.recipe.schema import suggestion
from compress.recipe.tree import entries, override, rooted
from compress.recipe.yaml import Tree
from compress.steps import STEPS

SCHEMA = 1
KINDS = {"schema": int, "name": str, "seed": int, "reseed": int | None, "epochs_total": int}
"""Values at the top of a recipe."""
Steps = Mapping[str, type[Step]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `compress run` does."""

    schema: int
    """Version of this form; 1."""
    name: str
    """Letters, digits, `.`, `_` and `-`; the run folder is called so."""
    model: ModelOptions
    """The network to start from."""
    data: DataOptions = field(default_factory=DataOptions)
    """The slices to train and to measure with."""
    seed: int = 0
    """Start of every random draw, in [0, 2^63)."""
    reseed: int | None = None
    """Start of the draws of all stages after the first `train`, so that repetitions can share one
    dense network; None: `seed`."""
    steps: tuple[tuple[str, Step], ...]
    """Name and options of every step, in order."""
    source: Path
    """The file that it was read from."""
    text: str
    """That file's content."""
    overrides: tuple[str, ...] = ()
    """What `--set` changed, as given."""

    def __post_init__(self) -> None:
        """Refuse what no run could have.

        Raises:
            ValueError: a value out of range, or steps in an order that cannot work.
        """
        check_name(self.name)
        for name, seed in (("seed", self.seed), ("reseed", self.reseed)):
            if not 0 <= (seed or 0) < 2**63:
                raise ValueError(f"{name}: must lie in [0, 2^63), got {seed}")
        _check_order(self.steps, trained=self.model.weights is not None)

    def stage_seed(self, index: int) -> int:
        """The start of the random draws of the stage of step `index`."""
        words = [word for word, _ in self.steps]
        again = self.reseed is not None and "train" in words[:index]
        return self.reseed if again and self.reseed is not None else self.seed


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a recipe and its run folder.

    Raises:
        ValueError: it has other characters than those of a plain name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"name: letters, digits, '.', '_' and '-' can be used, got {name!r}")


def load(path: Path, overrides: Sequence[str] = (), steps: Steps = STEPS) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file, or the name of a recipe that comes with the package, such as `smoke`.
        overrides: `key=value`, see `--set`: `steps.1.amount=0.7`, `steps.prune.amount=0.7` where
            the step's name stands once, `data.train_slices=100`, `seed=1`.
        steps: the steps there are, by name.

    Raises:
        UsageError: it cannot be read or means nothing; one sentence on the first mistake.
    """
    label, path = str(path), shipped.find(path)
    try:
        text = yaml.read(path)
        tree = rooted(yaml.parse(text), path.resolve().parent)
        recipe = _recipe(tree, path, text, steps)
        if overrides:  # the file was right by itself; what is wrong now came with --set
            label += " with" + "".join(f" --set {change}" for change in overrides)
            for change in overrides:
                tree = override(tree, change)
            recipe = _recipe(rooted(tree, Path.cwd()), path, text, steps)
        return replace(recipe, overrides=tuple(overrides))
    except UsageError as error:
        sentence = " ".join(str(error).splitlines())  # names in a recipe may hold line ends
        raise UsageError(f"{label}: {sentence}") from error


def _recipe(tree: dict[str, Tree], path: Path, text: str, steps: Steps) -> Recipe:
    known = ("schema", "name", "model", "data", "seed", "reseed", "epochs_total", "steps")
    for key in tree:
        if key not in known:
            meant = f"did you mean 'steps.{key}'?" if key in steps else suggestion(key, known)
            raise UsageError(f"unknown section {key!r}; {meant}")
    if missing := next((key for key in ("schema", "model", "steps") if key not in tree), None):
        example = {"schema": "1", "model": "{name: ddnet}", "steps": "[evaluate]"}[missing]
        raise UsageError(f"{missing} is missing; write for example `{missing}: {example}`")
    values = {
        key: options.convert(kind, tree[key], key) for key, kind in KINDS.items() if key in tree
    }
    total = values.pop("epochs_total", None)
    if values["schema"] != SCHEMA:
        raise UsageError(f"schema: this version reads schema {SCHEMA}, got {values['schema']}")
    data = options.fill(DataOptions, tree.get("data", {}), "data")
    model = _model(tree["model"], path.resolve().parent)
    if model.name is not None and data.neighbours:
        raise UsageError(
            f"data.neighbours: {model.name} takes one slice, got {data.neighbours} on each side; "
            "a network of neighbouring slices is named by model.import"
        )
    try:
        return Recipe(
            **{"name": path.stem, **values},
            model=replace(model, neighbours=data.neighbours),
            data=data,
            steps=shorthand.plain(_steps(shorthand.epochs(entries(tree["steps"]), total), steps)),
            source=path,
            text=text,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _model(tree: Tree, folder: Path) -> ModelOptions:
    given = dict(options.section(tree, "model"))
    own = [key for key in ("name", "import", "weights") if key in given]
    if ("name" in own) == ("import" in own):
        raise UsageError("model: set either name (built-in) or import (your own), not both")
    values = {key: options.convert(str | None, given.pop(key), f"model.{key}") for key in own}
    weights = values.get("weights")
    if weights is not None and Path(weights).is_dir():
        inside = f"{weights}/model.safetensors"
        raise UsageError(f"model.weights: {weights} is a folder; name a file, such as {inside}")
    if weights is not None and not Path(weights).is_file():
        raise UsageError(f"model.weights: there is no file {weights}")
    if "name" in values:
        arguments = _arguments(values["name"] or "", given)
        return ModelOptions(name=values["name"], weights=weights, options=arguments)
    if not re.fullmatch(r"[\w.]+:\w+", values["import"] or ""):
        raise UsageError(f"model.import: expected package.module:Class, got {values['import']!r}")
    return ModelOptions(
        import_=values["import"],
        weights=weights,
        folder=str(folder),
        options=given,
    )


def _arguments(name: str, given: Mapping[str, Tree]) -> dict[str, Any]:
    """Constructor arguments of a network of ours; tried on the meta device, without memory."""
    if name not in NETWORKS:
        known = suggestion(name, NETWORKS)
        raise UsageError(f"model.name: there is no network {name!r}; {known}")
    network = NETWORKS[name]
    arguments = options.arguments(network, given, "model", also=("name", "weights"))
    try:
        with torch.device("meta"):
            network(**arguments)
    except ValueError as error:
        raise UsageError(f"model: {error}") from error
    except (RuntimeError, TypeError) as error:  # torch's own words fill a page
        raise UsageError(f"model: {name} cannot be built: {reason(error)}") from error
    return arguments


def _steps(given: Sequence[tuple[str, Tree]], known: Steps) -> tuple[tuple[str, Step], ...]:
    steps = []
    for index, (word, tree) in enumerate(given):
        where = f"steps[{index}]"
        if word not in known:
            raise UsageError(f"{where}: unknown step {word!r}; {suggestion(word, known)}")
        steps.append((word, options.fill(known[word], tree, f"{where}.{word}")))
    return tuple(steps)


def _check_order(steps: Sequence[tuple[str, Step]], *, trained: bool) -> None:
    """Refuse orders that undo work or have nothing to work on.

    Allowed on purpose: evaluate and export anywhere, prune more than once, prune before train (a
    network trained from scratch at its final widths is a comparator).
    """
    words = [word for word, _ in steps]
    sparse = int8 = None
    for index, (word, step) in enumerate(steps):
        where = f"steps[{index}].{word}"
        if getattr(step, "distill", 0) and not trained:
            raise ValueError(f"{where}: distill has no teacher, nothing was trained before")
        if word == "prune" and sparse is not None:
            reason = "removing channels would destroy the 2:4 pattern"
            raise ValueError(f"{where}: {sparse} comes before it, and {reason}; put prune first")
        if word in ("prune", "sparsify", "quantize") and int8 is not None:
            reason = "the network is quantised then"
            raise ValueError(f"{where}: {int8} comes before it, and {reason}; put quantize last")
        if word in ("retrain", "baseline") and not trained:
            raise ValueError(
                f"{where}: nothing was trained before; put train first or give model.weights"
            )
        if word == "report" and index + 1 < len(words):
            after = f"steps[{index + 1}].{words[index + 1]}"
            raise ValueError(f"{where}: {after} comes after it, and report must be the last step")
        trained = trained or word == "train"
        sparse = where if word == "sparsify" else sparse
        int8 = where if word == "quantize" else int8
