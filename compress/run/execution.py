"""Every step of a recipe in its order, once, with what was found written down.

A stage is done when its facts.json holds the hash of everything that decides its result: the step
and its options, the checkpoint that came in, the data, the seed and the stages before.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from compress import checkpoint
from compress.base.errors import Stopped, UsageError
from compress.base.files import read_json, write_json
from compress.checkpoint import Model
from compress.context import BASELINE, Step, Work
from compress.graph import cost
from compress.recipe import Recipe
from compress.run import manifest
from compress.run.keys import keys
from compress.run.records import Backend, CostRecord, StageFacts
from compress.run.resume import FACTS, begin, done, finished, result
from compress.run.stages import Stage
from compress.training import remaining
from compress.training.options import TrainOptions

log = logging.getLogger(__name__)

SCHEMA = 1


class Execution:
    """One execution of a recipe: what does not change from stage to stage, and the hash chain."""

    def __init__(self, recipe: Recipe, out: Path, work: Work, linked: int = 0) -> None:
        self.recipe, self.out, self.work, self.linked = recipe, out, work, linked
        self.world = work.world
        self.compressed = False
        self.before: str | None = None
        """Hash of the weights in the last checkpoint that a stage left."""
        self.again: str | None = None
        """The first stage that was done, not found done."""
        self.choices: list[Backend] = []
        self.manifest = manifest.manifest(recipe, work.device, work.data)

    def through(self, chosen: Sequence[Stage], model: Model) -> None:
        """Execute these stages; those that are done give the network that they gave before.

        Args:
            chosen: the stages, in order.
            model: what goes into the first one.

        Raises:
            Stopped: a signal came.
            CompressError: a step failed.
        """
        hashes = keys(self.recipe, self.work.data)
        left = [stage for stage in chosen if not done(stage, hashes[stage.index])]
        for stage in chosen:
            self._write_manifest()
            if self.world.any(self.work.stop.is_set()):
                raise Stopped(f"stopped before {stage.name}; run again to go on")
            later = [other.step for other in left if other.index > stage.index]
            self.work = replace(self.work, later=self._pixels(later))
            model = self._one(stage, model, hashes[stage.index])
        self._write_manifest()

    def _pixels(self, steps: Iterable[Step]) -> int:
        pairs = self.work.data.train
        return sum(remaining.work(step, pairs) for step in steps if isinstance(step, TrainOptions))

    def _one(self, stage: Stage, model: Model, key: str) -> Model:
        if self.world.any(finished(stage, key, self.before, self.again) is None):
            self.again = self.again or stage.name
            model = self._do(stage, model, key)
        else:
            level = logging.DEBUG if stage.index < self.linked else logging.INFO
            log.log(level, "%s: already done, skipping", stage.name)
            model = self._again(stage, model)
        self.before = checkpoint.weights_hash(stage.folder) or self.before
        self._note(stage, read_json(stage.folder / FACTS)["facts"])
        if stage.step.kind == "baseline":
            self.work = replace(self.work, dense=stage.folder / BASELINE)
        elif stage.step.kind != "training" and (stage.folder / "model.json").exists():
            self.compressed = True
        elif stage.step.kind == "training" and not self.compressed:
            self.work = replace(self.work, dense=stage.folder)
        return model

    def _again(self, stage: Stage, model: Model) -> Model:
        """What a stage gave when it was done before."""
        try:
            return result(stage, model)
        except UsageError as error:
            raise UsageError(f"{error}; remove {stage.folder} to have it done again") from error

    def _do(self, stage: Stage, model: Model, key: str) -> Model:
        """Do a stage: training in all processes, anything else in the first one only."""
        if self.world.first:
            begin(stage, key, self.before)
        self.world.wait()
        log.info("%s: starting", stage.name)
        torch.manual_seed(self.recipe.stage_seed(stage.index))
        alone = stage.step.kind not in ("training", "baseline")
        with self.world.together() if alone else nullcontext():
            if self.world.first:
                model = self._write(stage, model, key)
            elif not alone:
                stage.step.run(model, self._work(stage))
        self.world.wait()
        # Others take the first one's result: in training, BatchNorm has seen other slices there.
        return model if self.world.first else result(stage, model)

    def _work(self, stage: Stage) -> Work:
        seed = self.recipe.stage_seed(stage.index)
        return replace(self.work, stage=stage.folder, seed=seed, facts={})

    def _write(self, stage: Stage, model: Model, key: str) -> Model:
        """Run a step and write down what came of it."""
        work = self._work(stage)
        started, clock = datetime.now(UTC), time.monotonic()
        after = stage.step.run(model, work)
        if after is not model:
            checkpoint.save(after, stage.folder)
        facts: StageFacts = {
            "schema": SCHEMA,
            "stage": stage.name,
            "step": stage.word,
            "kind": stage.step.kind,
            "hash": key,
            "before": self.before,
            "weights": checkpoint.weights_hash(stage.folder) if after is not model else None,
            "options": asdict(stage.step),  # type: ignore[call-overload]
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
            "cost": cast("CostRecord", asdict(cost.cost(after.net))),
            "facts": work.facts,
        }
        write_json(stage.folder / FACTS, facts)
        return after

    def _note(self, stage: Stage, facts: Mapping[str, Any]) -> None:
        """Remember which back end a stage chose, for the manifest."""
        if "backend" in facts:
            choice, why = facts["backend"], facts["why"]
        elif "precision_why" in facts:
            choice, why = facts["precision"], facts["precision_why"]
        else:
            return
        self.choices.append({"stage": stage.name, "choice": choice, "why": why})

    def _write_manifest(self) -> None:
        if self.world.first:
            write_json(self.out / "manifest.json", {**self.manifest, "backends": self.choices})
