"""`compress check`: what a recipe would do to its network, without training."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.checkpoint import Model, channels
from compress.data import DataOptions, folder
from compress.graph import cost, draws, trial
from compress.pruning.unstructured import KINDS
from compress.recipe import Recipe
from compress.reporting import asked
from compress.reporting.formatting import SPACE, count
from compress.run import sides
from compress.run.records import Eligible, Plan, PlannedLayer, PlannedPrune, StepBackend
from compress.sparsity.eligibility import RULES, Rule, reasons
from compress.steps.facts import LatencyFacts
from compress.steps.prune import Prune
from compress.steps.quantize import Quantize
from compress.steps.sparsify import Sparsify
from compress.steps.train import Train

log = logging.getLogger(__name__)
NAMED = 3
"""Layers that are named where there may be many."""


def check(recipe: Recipe) -> Plan:
    """The plan of a recipe as JSON-like values.

    Widths depend on the weights; without starting weights the network is a fresh one, and
    `estimated` is true. With `target: macs` and a coarse `round_to` most are fixed all the same.

    Returns:
        dense and pruned: params, macs; products: macs of these; removed: shares; sparse24:
        convolutions, eligible_backend, eligible_trt; backends: choice and reason by step; layers:
        every layer before and after;
        pruning: for every prune step where it stands, and what `Prune.describe` says: groups with
        mean, sigma, threshold, kept and width.

    Raises:
        UsageError: the network cannot be built, or a target is out of reach.
    """
    torch.manual_seed(recipe.seed)
    model = Model(net=recipe.model.build().eval(), origin=recipe.model)
    check_network(model.net, sides.named(recipe.steps), recipe.data)
    _check_training(recipe, model.net)
    dense, before = cost.cost(model.net), channels(model.net)
    backends: list[StepBackend] = []
    prunes: list[PlannedPrune] = []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for index, (word, step) in enumerate(recipe.steps):
        if isinstance(step, Prune) and step.criterion not in KINDS:
            rewritten, plan = step.plan(model, recipe.stage_seed(index), device=device)
            model = replace(rewritten, net=plan.apply(rewritten.net))
            where = f"steps[{index}].{word}"
            prunes.append({"where": where, **step.describe(rewritten, model, plan)})
        elif isinstance(step, Quantize | Sparsify):
            model = model.rewritten("deconv_to_conv")
        used = step.uses(device)
        if used.why:  # there was a choice
            where = f"steps[{index}].{word}"
            backends.append({"where": where, "choice": used.name, "why": used.why})
    pruned, way = cost.cost(model.net), cost.counted(model.net)
    return {
        "schema": 1,
        "recipe": recipe.name,
        "estimated": recipe.model.weights is None,
        "dense": {"params": dense.params, "macs": dense.macs},
        "pruned": {"params": pruned.params, "macs": pruned.macs},
        "products": sum(one.macs for one in way.products),
        "size": list(way.size),
        "removed": {
            "params": 1 - pruned.params / dense.params,
            "macs": 1 - pruned.macs / dense.macs,
        },
        "sparse24": sparse24(model),
        "backends": backends,
        "layers": _layers(before, model, _rule(recipe)),
        "pruning": prunes,
    }


def render(plan: Plan) -> None:
    """Print a plan as tables on standard output."""
    from rich.console import Console

    console = Console()
    for pruning in plan["pruning"]:
        console.print(_cut(pruning), soft_wrap=True, highlight=False, markup=False)
        console.print(_scores(pruning))
    console.print(_widths(plan["layers"], "MACs left" if plan["pruning"] else "MACs"))
    for sentence in (*_reasons(plan), *_sums(plan)):
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def _sums(plan: Plan) -> Iterator[str]:
    """What the whole recipe saves, beside what was asked, and what its steps would use."""
    guess = " (an estimate: these weights are not trained yet)" if plan["estimated"] else ""
    heads = {"macs": f"MACs of a {'x'.join(map(str, plan['size']))} slice", "params": "parameters"}
    for name in ("macs", "params"):
        before, after = plan["dense"][name], plan["pruned"][name]
        yield f"{heads[name]}: {before:,} -> {after:,}, {plan['removed'][name]:.1%} less{guess}"
    for pruning in plan["pruning"]:
        if said := asked.amount(pruning):
            yield f"{pruning['where']}: {said}".replace(SPACE, " ")
    if products := plan["products"]:
        yield f"of these, {products:,} MACs are products of values, as in attention"
    for pruning in plan["pruning"]:
        if found := pruning.get("latency"):
            yield _times(pruning["where"], found)
    yield _sparse(plan)
    for backend in plan["backends"]:
        yield f"{backend['where']}: {backend['choice']} ({backend['why']})"


def check_folder(recipe: Recipe) -> None:
    """Refuse what the first slice of the recipe's folder tells; warn where there is no such folder.

    Raises:
        UsageError: it is no folder of pairs, the slice is not usable, or a crop is larger.
    """
    data = recipe.data
    if data.path is not None and not Path(data.path).is_dir():  # as where a recipe is written
        log.warning("there is no data folder %s here, and no run without it", data.path)
    elif data.path is not None:
        path = Path(data.path)
        net = recipe.model.build().eval()
        sides.refuse(sides.named(recipe.steps), net, data, folder.shape(path))


def check_network(net: nn.Module, steps: Iterable[sides.Named], data: DataOptions) -> None:
    """Refuse a network that takes no slices, does no work, is random, or does not fit its steps.

    Raises:
        UsageError: says why.
    """
    trial.check_shape(net)
    cost.check_work(net)
    draws.check_steady(net)
    sides.refuse(steps, net, data)


def _check_training(recipe: Recipe, net: nn.Module) -> None:
    """Refuse a network that cannot be trained, where the recipe trains."""
    training = [step for _, step in recipe.steps if isinstance(step, Train)]
    if training:
        crops = [step.crop or recipe.data.image_size for step in training]
        trial.check_training(net, (min(crops), min(crops)))


def _widths(rows: list[PlannedLayer], macs: str) -> Any:
    """Every layer's channels before and after, narrow enough for 80 columns; names are folded."""
    from rich.table import Column, Table

    heads = ("in", "out", macs, "2:4")
    numbers = (Column(head, no_wrap=True, justify="right") for head in heads)
    table = Table(Column("layer", overflow="fold"), *numbers, box=None)
    for row in rows:
        sides = (
            f"{before} -> {after}" if before != after else str(before)
            for before, after in zip(row["before"], row["after"], strict=True)
        )
        table.add_row(row["name"], *sides, count(row["macs"]), "yes" if row["eligible"] else "no")
    return table


def _reasons(plan: Plan) -> Iterator[str]:
    """What becomes of kernels, and why groups of channels and layers stay, a sentence each."""
    for pruning in plan["pruning"]:
        yield from _kernels(pruning)
        for group in pruning["groups"]:
            if group["fixed"]:
                yield f"{pruning['where']}: {group['name']} stays whole: {group['fixed']}"
        for name, reason in pruning["proof"]["failing"].items():
            yield f"{pruning['where']}: {name} stays whole: {reason}"
    for row in plan["layers"]:
        if not row["eligible"]:
            yield f"{row['name']}: not for 2:4: {row['reason']}"


def _kernels(pruning: PlannedPrune) -> Iterator[str]:
    """Which kernels get smaller, and why others do not."""
    sizes: dict[str, list[str]] = {}
    for kernel in pruning.get("kernels", []):
        before, after = (f"{side}x{side}" for side in (kernel["before"], kernel["after"]))
        if kernel["kept"]:
            yield f"{pruning['where']}: the kernel of {kernel['name']} stays: {kernel['kept']}"
        else:
            change = f"that stay {before}" if before == after else f"{before} -> {after}"
            sizes.setdefault(change, []).append(kernel["name"])
    for change, names in sorted(sizes.items()):
        yield f"{pruning['where']}: kernels {change} ({len(names)}): {', '.join(names)}"


def _cut(pruning: PlannedPrune) -> str:
    step = f"{pruning['where']}: {pruning['criterion']}"
    return f"{step}, {asked.threshold(pruning)}, kept counts in multiples of {pruning['align']}"


def _scores(pruning: PlannedPrune) -> Any:
    from rich.table import Column, Table

    heads = ("mean", "sigma", "cut at", "kept")
    numbers = (Column(head, no_wrap=True, justify="right") for head in heads)
    table = Table(Column("channels of", overflow="fold"), *numbers, box=None)
    for group in pruning["groups"]:
        cut = "" if group["threshold"] is None else f"{group['threshold']:.4f}"
        kept = f"{group['kept']}/{group['width']}"
        table.add_row(group["name"], f"{group['mean']:.4f}", f"{group['sigma']:.4f}", cut, kept)
    return table


def _times(where: str, found: LatencyFacts) -> str:
    """What a plan by latency predicts, and by which table, in a sentence."""
    table = f"{found['shapes']} shapes timed with {found['engine']} on {found['device']}"
    note = f"; {found['note']}" if found["note"] else ""
    file = f", table {found['table']}" if found["table"] else ""
    return (
        f"{where}: predicted {found['before_ms']:.4g} -> {found['after_ms']:.4g} ms for the "
        f"convolutions of a slice of {found['size']} x {found['size']} ({table}{file}{note})"
    )


def _sparse(plan: Plan) -> str:
    """How many layers each rule takes, and which ones TensorRT's takes besides."""
    found = plan["sparse24"]
    more = [row["name"] for row in plan["layers"] if row["eligible_by"] == ["trt"]]
    names = ", ".join(more[:NAMED]) + (f" and {len(more) - NAMED} more" if more[NAMED:] else "")
    besides = f", which takes {names} besides" if more else ""
    return (
        f"2:4: {found['eligible_backend']} of {found['convolutions']} convolutions by the rule "
        f"of ModelOpt and ASP, {found['eligible_trt']} by TensorRT's{besides}"
    )


def sparse24(model: Model) -> Eligible:
    """How many layers 2:4 is open to, deconvolutions rewritten, and by whose rule."""
    net = model.rewritten("deconv_to_conv").net
    able = {rule: [not why for why in reasons(net, rule).values()] for rule in RULES}
    return {
        "convolutions": len(able["backend"]),
        "eligible_backend": sum(able["backend"]),
        "eligible_trt": sum(able["trt"]),
    }


def _rule(recipe: Recipe) -> Rule:
    """Whose rule the recipe's last sparsify step asks; that of the back ends without one."""
    steps = [step for _, step in recipe.steps if isinstance(step, Sparsify)]
    return steps[-1].rule if steps else "backend"


def _layers(before: dict[str, list[int]], model: Model, rule: Rule) -> list[PlannedLayer]:
    net = model.rewritten("deconv_to_conv").net
    by_rule = {one: reasons(net, one) for one in RULES}
    whys, after, macs = by_rule[rule], channels(net), cost.layers(net)
    return [
        {
            "name": name,
            "before": before[name],
            "after": after[name],
            "macs": macs[name].macs if name in macs else 0,  # a layer that is never called
            "eligible": not whys[name],
            "eligible_by": [one for one in RULES if not by_rule[one][name]],
            "reason": whys[name],
        }
        for name in before
    ]
