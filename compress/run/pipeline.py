"""From a recipe to a run folder: refusals before any training, data, the dense network, the stages.

The stages themselves are executed by execution.py.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress import checkpoint
from compress.base import devices, machine
from compress.base.errors import UsageError
from compress.base.files import remove_partial, write_atomic
from compress.base.signals import interruptible
from compress.base.torchrun import joined
from compress.base.world import World
from compress.checkpoint import Model
from compress.context import Use, Work
from compress.data import Data, DataOptions, load
from compress.data.folder import existing
from compress.graph import trial
from compress.recipe import Recipe
from compress.run import preview, sides
from compress.run.execution import Execution
from compress.run.folder import LOCK, locked, prepare
from compress.run.resume import drop_stale, refuse_foreign
from compress.run.stages import Stage, stages
from compress.steps.prune import Prune

log = logging.getLogger(__name__)
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
    linked: int = 0,
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
        linked: first stages, done elsewhere and linked into `out`; they are not told of again.

    Returns:
        The run folder; None in all but the first of several processes.

    Raises:
        UsageError: folder, device, data or model are not usable, or the target is unreachable.
        QualityError: a gate failed. Stopped: a signal came; run again to go on.
    """
    chosen = stages(recipe, out, until)
    with joined(device) as (world, device), interruptible() as stop:
        target = devices.choose(device)
        _begin(recipe, out, world, data, quietly=loaded is not None)  # a sweep has said more
        # Slices of a folder have sides that nobody knows before they are read.
        known = recipe if data is None and loaded is None else replace(recipe, data=ELSEWHERE)
        net = _refuse_early(known, chosen, target)
        with _held(out, world):
            refuse_foreign(chosen)
            with world.first_goes_first():  # it fills the cache
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
            Execution(recipe, out, work, linked).through(chosen, model)
        return out if world.first else None


def _begin(recipe: Recipe, out: Path, world: World, data: Path | None, *, quietly: bool) -> None:
    """Say so, and refuse before all that takes time.

    Data that are not there, and a folder that another run is at work in.
    """
    with world.together():
        if world.first and not quietly:
            log.info("%s: looking at the recipe, its network and this machine", recipe.name)
            given = data or recipe.data.path
            if given and not out.exists():  # what is done already may need no data
                existing(Path(given))
        if world.first and (out / LOCK).exists():
            with locked(out):
                pass


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
        UsageError: they are not usable, cannot be fetched and there is no fallback, or the recipe
            has options that a folder does not have.
    """
    options = recipe.data
    if folder is not None:
        try:
            options = replace(options, source="folder", path=str(folder.resolve()))
        except ValueError as error:  # options that another source alone has
            raise UsageError(f"data: {error}") from error
    return load(options, seed=recipe.seed, fallback=fallback)


def _refuse_early(recipe: Recipe, chosen: Sequence[Stage], device: torch.device) -> nn.Module:
    """Refuse before training what this machine cannot do and what no pruning could reach.

    Returns:
        The dense network as it was built for that.
    """
    steps = [stage.step for stage in chosen]
    for where, step in _named(chosen):
        _refuse_broken(where, step.uses(device))
    if any(isinstance(step, Prune) for step in steps):
        preview.check(recipe)  # the network, too
        return recipe.model.build().eval()
    net = recipe.model.build().eval()
    preview.check_network(net, _named(chosen), recipe.data)
    return net


def _refuse_broken(where: str, used: Use) -> None:
    """Refuse a step whose packages are not there, or cannot be imported."""
    for package in machine.packages():
        if package.module in used.needs and (why := machine.why_not(package.module)):
            raise UsageError(f"{where}: {package.module} {why}; {package.get} would help")


def _named(chosen: Sequence[Stage]) -> list[sides.Named]:
    """Steps with their places in the recipe."""
    return [(f"steps[{stage.index}].{stage.word}", stage.step) for stage in chosen]


def _start(recipe: Recipe, out: Path, world: World) -> tuple[Model, Path | None]:
    """The dense network; where it starts from given weights, it is the baseline and is kept.

    The first process makes the folder tell of this recipe only.
    """
    torch.manual_seed(recipe.seed)
    model = Model(net=recipe.model.build().eval(), origin=recipe.model)
    trial.check_shape(model.net)
    initial = None if recipe.model.weights is None else out / "initial"
    if world.first:
        write_atomic(out / "recipe.yaml", recipe.text.encode())
        drop_stale(out, {stage.name for stage in stages(recipe, out, None)})
        if initial is not None:
            initial.mkdir(exist_ok=True)
            checkpoint.save(model, initial)
    return model, initial
