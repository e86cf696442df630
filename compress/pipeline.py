"""From a recipe to a run folder: every step in its order, once, with what was found written down.

A stage is done when its facts.json holds the hash of everything that decides its result: the step
and its options, the checkpoint that came in, the data, the seed and the stages before. Facts are
written last, so a killed stage is never taken for a finished one.
"""

import logging
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import torch

from compress import checkpoint, cost, devices, environment
from compress.checkpoint import Model
from compress.data import Data, load
from compress.errors import Stopped, UsageError
from compress.files import digest, read_json, write_json
from compress.recipe import Recipe
from compress.runfolder import locked, prepare
from compress.signals import interruptible
from compress.steps.train import Train
from compress.work import Step, Work

log = logging.getLogger(__name__)

FACTS = "facts.json"
BEGUN = "begun.json"
"""Written when a stage starts, with its hash: what lies there is resumed under that hash only."""
SCHEMA = 1
STAGE = re.compile(r"\d\d-[a-z]+")


@dataclass(frozen=True)
class Stage:
    """One step of the recipe and its place."""

    index: int
    word: str
    """The step's name in the recipe."""
    step: Step
    folder: Path

    @property
    def name(self) -> str:
        """Folder name, such as 01-prune."""
        return self.folder.name


def run(
    recipe: Recipe,
    *,
    out: Path,
    data: Path | None = None,
    until: str | None = None,
    device: str | None = None,
    fallback: bool = True,
) -> Path:
    """Run a recipe in the folder `out`, going on where an earlier run of it was stopped.

    Args:
        recipe: what to do.
        out: run folder; made where missing.
        data: folder of pairs to use instead of the recipe's data source.
        until: the last step to run: a step's name, or a stage's, such as 03-retrain.
        device: cpu, cuda or cuda:N; by default the GPU where there is one.
        fallback: whether procedural phantoms may stand in for data that cannot be fetched.

    Returns:
        The run folder.

    Raises:
        UsageError: folder, device, data or model are not usable, or the target is unreachable.
        QualityError: a gate failed. Stopped: a signal came; run again to go on.
    """
    stages = _stages(recipe, out, until)
    target = devices.choose(device)
    for stage in stages:
        stage.step.uses(target)  # refuses now what this machine cannot do, not after training
    prepare(out)
    with locked(out), interruptible() as stop:
        (out / "recipe.yaml").write_text(recipe.text, encoding="utf-8")
        options = recipe.data
        if data is not None:
            options = replace(options, source="folder", path=str(data.resolve()))
        loaded = load(options, seed=recipe.seed, fallback=fallback)
        model, dense = _start(recipe, out)
        _drop_stale(out, {stage.name for stage in _stages(recipe, out, None)})
        _Run(recipe, out, target, loaded, stop, dense).through(stages, model)
    return out


class _Run:
    """One execution of a recipe: what does not change from stage to stage, and the hash chain."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        device: torch.device,
        loaded: Data,
        stop: Event,
        dense: Path | None,
    ) -> None:
        self.recipe, self.out, self.device, self.data, self.stop = (
            recipe,
            out,
            device,
            loaded,
            stop,
        )
        self.dense = dense
        self.compressed = False
        self.choices: list[dict[str, str]] = []
        self.manifest = environment.manifest(recipe, device, loaded)

    def through(self, stages: Iterable[Stage], model: Model) -> None:
        chain = digest({"schema": SCHEMA, "model": _origin(self.recipe.model)})
        for stage in stages:
            self._write_manifest()
            if self.stop.is_set():
                raise Stopped(f"stopped before {stage.name}; run again to go on")
            chain = self._hash(stage, chain)
            model = self._one(stage, model, chain)
        self._write_manifest()

    def _hash(self, stage: Stage, chain: str) -> str:
        value = {
            "before": chain,
            "step": stage.word,
            "options": asdict(stage.step),  # type: ignore[call-overload]
            "data": self.data.fingerprint,
            "seed": self.recipe.seed,
        }
        return digest(value)

    def _one(self, stage: Stage, model: Model, key: str) -> Model:
        facts = _finished(stage, key)
        if facts is None:
            model = self._do(stage, model, key)
            facts = read_json(stage.folder / FACTS)
        else:
            log.info("%s: done before", stage.name)
            if (stage.folder / "model.json").exists():
                model = checkpoint.load(stage.folder)
        self._note(stage, facts["facts"])
        if not isinstance(stage.step, Train) and (stage.folder / "model.json").exists():
            self.compressed = True
        elif isinstance(stage.step, Train) and not self.compressed:
            self.dense = stage.folder
        return model

    def _do(self, stage: Stage, model: Model, key: str) -> Model:
        _begin(stage, key)
        log.info("%s: starting", stage.name)
        work = Work(
            stage=stage.folder,
            device=self.device,
            data=self.data,
            seed=self.recipe.seed,
            dense=self.dense,
            stop=self.stop,
        )
        started, clock = datetime.now(UTC), time.monotonic()
        torch.manual_seed(self.recipe.seed)
        after = stage.step.run(model, work)
        if after is not model:
            checkpoint.save(after, stage.folder)
        write_json(
            stage.folder / FACTS,
            {
                "schema": SCHEMA,
                "stage": stage.name,
                "step": stage.word,
                "hash": key,
                "options": asdict(stage.step),  # type: ignore[call-overload]
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
                "cost": cost.cost(after.net).as_dict(),
                "facts": work.facts,
            },
        )
        return after

    def _note(self, stage: Stage, facts: dict[str, Any]) -> None:
        """Remember which back end a stage chose, for the manifest."""
        if "backend" in facts:
            choice, why = facts["backend"], facts["why"]
        elif "precision_why" in facts:
            choice, why = facts["precision"], facts["precision_why"]
        else:
            return
        self.choices.append({"stage": stage.name, "choice": choice, "why": why})

    def _write_manifest(self) -> None:
        write_json(self.out / "manifest.json", {**self.manifest, "backends": self.choices})


def _stages(recipe: Recipe, out: Path, until: str | None) -> list[Stage]:
    stages = [
        Stage(index, word, step, out / f"{index:02d}-{word}")
        for index, (word, step) in enumerate(recipe.steps)
    ]
    if until is None:
        return stages
    ends = [stage.index for stage in stages if until in (stage.word, stage.name)]
    if len(ends) != 1:
        names = ", ".join(stage.name for stage in stages)
        what = "is no step of the recipe" if not ends else "stands more than once in the recipe"
        raise UsageError(f"--until {until} {what}; its stages are {names}")
    return stages[: ends[0] + 1]


def _start(recipe: Recipe, out: Path) -> tuple[Model, Path | None]:
    """The dense network; where it starts from given weights, it is the baseline and is kept."""
    torch.manual_seed(recipe.seed)
    model = Model(net=recipe.model.build().eval(), origin=recipe.model)
    if recipe.model.weights is None:
        return model, None
    initial = out / "initial"
    initial.mkdir(exist_ok=True)
    checkpoint.save(model, initial)
    return model, initial


def _origin(options: checkpoint.ModelOptions) -> dict[str, Any]:
    """What decides the starting network: the weights by content, not by path."""
    from compress.files import sha256

    weights = None if options.weights is None else sha256(Path(options.weights))
    return {**asdict(options), "weights": weights, "folder": None}


def _finished(stage: Stage, key: str) -> dict[str, Any] | None:
    """The facts of a stage that was finished under the same hash, else None."""
    try:
        facts = read_json(stage.folder / FACTS)
    except (OSError, ValueError):
        return None
    if facts.get("hash") == key:
        return dict(facts)
    log.info("%s: recipe, data or seed changed, so it runs again", stage.name)
    return None


def _begin(stage: Stage, key: str) -> None:
    """Make the stage's folder ready; what an interrupted run left stays under one hash only."""
    begun = stage.folder / BEGUN
    try:
        same = read_json(begun)["hash"] == key
    except (OSError, ValueError, KeyError):
        same = False
    if not same and stage.folder.exists():
        shutil.rmtree(stage.folder)
    stage.folder.mkdir(exist_ok=True)
    (stage.folder / FACTS).unlink(missing_ok=True)
    write_json(begun, {"hash": key})


def _drop_stale(out: Path, names: set[str]) -> None:
    """Remove stages of an earlier form of the recipe, so that the folder tells one story."""
    for folder in out.iterdir():
        if folder.is_dir() and STAGE.fullmatch(folder.name) and folder.name not in names:
            log.info("%s: no longer in the recipe, removed", folder.name)
            shutil.rmtree(folder)
