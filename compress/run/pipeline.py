"""From a recipe to a run folder: every step in its order, once, with what was found written down.

A stage is done when its facts.json holds the hash of everything that decides its result: the step
and its options, the checkpoint that came in, the data, the seed and the stages before.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from compress import checkpoint
from compress.base import devices
from compress.base.errors import Stopped, UsageError
from compress.base.files import read_json, remove_partial, write_json
from compress.base.signals import interruptible
from compress.base.world import World, joined
from compress.checkpoint import Model
from compress.context import BASELINE, Step, Work
from compress.data import Data, DataOptions, load
from compress.graph import cost
from compress.recipe import Recipe
from compress.run import manifest, preview, sides
from compress.run.folder import locked, prepare
from compress.run.keys import keys
from compress.run.records import Backend, CostRecord, StageFacts
from compress.run.resume import FACTS, begin, done, drop_stale, finished, result
from compress.run.stages import Stage, stages
from compress.steps.prune import Prune
from compress.training import remaining
from compress.training.options import TrainOptions

log = logging.getLogger(__name__)

SCHEMA = 1
ELSEWHERE = DataOptions(source="folder", path=".")
"""A data source of which nothing is known before it is read."""


def run(
    recipe: Recipe,
    *,
    out: Path,
    data: Path | None = None,
    until: str | None = None,
    device: str | None = None,
    fallback: bool = True,
    profile: bool = False,
    loaded: Data | None = None,
) -> Path | None:
    """Run a recipe in the folder `out`, going on where an earlier run of it was stopped.

    Under `torchrun` every process calls this: all train, the first one does everything else.

    Args:
        recipe: what to do.
        out: run folder; made where missing.
        data: folder of pairs to use instead of the recipe's data source.
        until: the last step to run: a step's name, or a stage's, such as 03-retrain.
        device: cpu, cuda or cuda:N; by default the GPU where there is one.
        fallback: whether procedural phantoms may stand in for data that cannot be fetched.
        profile: whether training stages record where their time goes.
        loaded: the recipe's data where they are in memory already; `data` is then not read.

    Returns:
        The run folder; None in all but the first of several processes.

    Raises:
        UsageError: folder, device, data or model are not usable, or the target is unreachable.
        QualityError: a gate failed. Stopped: a signal came; run again to go on.
    """
    chosen = stages(recipe, out, until)
    with joined(device) as (world, device), interruptible() as stop:
        target = devices.choose(device)
        if target.type == "cuda" and target.index is not None:
            torch.cuda.set_device(target)  # streams and graphs are made on the current one
        # Slices of a folder have sides that nobody knows before they are read.
        unread = recipe.data if data is None and loaded is None else ELSEWHERE
        net = _refuse_early(replace(recipe, data=unread), chosen, target)
        with _held(out, world):
            with world.first_goes_first(), _threads_kept():  # the first one fills the cache
                found = loaded or slices(recipe, data, fallback=fallback)
            sides.refuse_slices(_named(chosen), net, found)
            with world.first_goes_first():
                model, dense = _start(recipe, out, world)
            work = Work(
                stage=out,
                device=target,
                data=found,
                seed=recipe.seed,
                dense=dense,
                stop=stop,
                world=world,
                profile=profile,
            )
            _Run(recipe, out, work).through(chosen, model)
        return out if world.first else None


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Undo what numba, which simulates low dose, does: OpenMP, torch's too, on every core."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@contextmanager
def _held(out: Path, world: World) -> Iterator[None]:
    """Make the run folder ready and ours, and wait until it is."""
    with world.together(), ExitStack() as stack:
        if world.first:
            prepare(out)
            stack.enter_context(locked(out))
            remove_partial(out)
        kept = stack.pop_all()
    with kept:
        yield


def slices(recipe: Recipe, folder: Path | None = None, *, fallback: bool = True) -> Data:
    """The data of a recipe, or the pairs in `folder` instead.

    Raises:
        UsageError: they are not usable, or cannot be fetched and there is no fallback.
    """
    options = recipe.data
    if folder is not None:
        options = replace(options, source="folder", path=str(folder.resolve()))
    return load(options, seed=recipe.seed, fallback=fallback)


class _Run:
    """One execution of a recipe: what does not change from stage to stage, and the hash chain."""

    def __init__(self, recipe: Recipe, out: Path, work: Work) -> None:
        self.recipe, self.out, self.work = recipe, out, work
        self.world = work.world
        self.compressed = False
        self.choices: list[Backend] = []
        self.manifest = manifest.manifest(recipe, work.device, work.data)

    def through(self, chosen: Sequence[Stage], model: Model) -> None:
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
        if self.world.any(finished(stage, key) is None):
            model = self._do(stage, model, key)
        else:
            log.info("%s: already done, skipping", stage.name)
            model = self._again(stage, model)
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
            begin(stage, key)
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


def _refuse_early(recipe: Recipe, chosen: Sequence[Stage], device: torch.device) -> nn.Module:
    """Refuse before training what this machine cannot do and what no pruning could reach.

    Returns:
        The dense network as it was built for that.
    """
    steps = [stage.step for stage in chosen]
    for step in steps:
        step.uses(device)
    if any(isinstance(step, Prune) for step in steps):
        preview.check(recipe)
    net = recipe.model.build().eval()
    cost.check_shape(net)
    cost.check_work(net)
    sides.refuse(_named(chosen), net, recipe.data)
    return net


def _named(chosen: Sequence[Stage]) -> list[sides.Named]:
    """Steps with their places in the recipe."""
    return [(f"steps[{stage.index}].{stage.word}", stage.step) for stage in chosen]


def _start(recipe: Recipe, out: Path, world: World) -> tuple[Model, Path | None]:
    """The dense network; where it starts from given weights, it is the baseline and is kept.

    The first process makes the folder tell of this recipe only.
    """
    torch.manual_seed(recipe.seed)
    model = Model(net=recipe.model.build().eval(), origin=recipe.model)
    cost.check_shape(model.net)
    initial = None if recipe.model.weights is None else out / "initial"
    if world.first:
        (out / "recipe.yaml").write_text(recipe.text, encoding="utf-8")
        drop_stale(out, {stage.name for stage in stages(recipe, out, None)})
        if initial is not None:
            initial.mkdir(exist_ok=True)
            checkpoint.save(model, initial)
    return model, initial
