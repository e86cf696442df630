"""What decides the result of a stage, as a hash: equal keys, equal stages.

The key of a stage is made of its step and options, the network, its code where it is imported, the
weights that the run starts from, the data, the seed, and the keys of all stages before it.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.base.files import digest, sha256
from compress.base.renamed import old_names
from compress.checkpoint import ModelOptions
from compress.checkpoint.hashes import of_import
from compress.context import Step
from compress.data import Data
from compress.recipe import Recipe

SCHEMA = 1


def keys(recipe: Recipe, data: Data) -> list[str]:
    """The key of every stage of `recipe` on `data`, in order, in hexadecimal."""
    chain = digest({"schema": SCHEMA, "model": _origin(recipe.model)})
    found = []
    for index, (word, step) in enumerate(recipe.steps):
        value = {
            "before": chain,
            "step": word,
            "options": _options(step),
            "data": data.fingerprint,
            "seed": recipe.stage_seed(index),
        }
        chain = digest(value)
        found.append(chain)
    return found


def _options(step: Step) -> dict[str, Any]:
    """The options of a step under their old names; files that it reads by content, not by path."""
    values = old_names(step)
    for name in getattr(step, "FILES", ()):
        if values.get(name) is not None:
            values[name] = sha256(Path(values[name]))
    return values


def _origin(options: ModelOptions) -> dict[str, Any]:
    """What decides the starting network: weights and imported code by content, not by path."""
    weights = None if options.weights is None else sha256(Path(options.weights))
    code = of_import(options.import_, options.folder)
    values = {**asdict(options), "weights": weights, "folder": None, **code}
    if not options.neighbours:  # as runs of earlier versions have it
        del values["neighbours"]
    return values
