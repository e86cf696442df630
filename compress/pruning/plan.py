"""From a network to the channels that go: what is kept at a threshold, its cost, the plan."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph.groups import Group, groups, remove
from compress.graph.trial import slice_size
from compress.pruning import knapsack, latency, ranking, selection
from compress.pruning.ledger import Ledger, Share
from compress.pruning.options import PruneOptions
from compress.pruning.proof import SECONDS, Proof
from compress.pruning.selection import Ranked, Selection

ALIGNMENTS = (16, 8, 4, 2, 1)
"""What `align` None chooses from: the largest that reaches the amount."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What pruning would do to one network."""

    groups: tuple[Ranked, ...]
    found: tuple[Group, ...]
    """The groups with the tensors that carry them, in the same order."""
    selection: Selection
    align: int
    """Kept counts are multiples of it."""
    removed: Mapping[Share, float]
    """Share removed of MACs, parameters and output channels."""
    difference: float
    """Largest difference of pruned and masked network, as a share of the largest output, when both
    ran in"""
    tried_in: torch.dtype
    failing: Mapping[str, str] = field(default_factory=dict)
    """Groups that were to be cut and stay, by name: the network would have changed, and how."""
    times: latency.Prediction | None = None
    """For target latency."""

    @property
    def pruned(self) -> dict[str, tuple[int, ...]]:
        """Channels that go, by group name."""
        return pruned(self.groups, self.selection)

    def apply(self, net: nn.Module) -> nn.Module:
        """A copy of `net`, the network that the plan was made for, without those channels."""
        return remove(net, self.found, self.pruned)


def plan(
    net: nn.Module,
    options: PruneOptions,
    *,
    base: float = 1.0,
    seed: int = 0,
    importance: Mapping[str, Tensor] | None = None,
    size: tuple[int, int] | None = None,
    times: latency.Table | None = None,
) -> Plan:
    """Choose the channels of `net` that are removed.

    Every plan is tried, see `proof.py`: where the pruned network would differ from the dense one
    with those channels masked, or would not run, the groups at fault stay whole, with the reason,
    and the plan is made anew.

    Args:
        net: an (N, 1, H, W) network.
        options: how many channels, and by which criterion.
        base: how many times as large as `net` the network is that the amount is a share of, at
            least 1, in `options.target`; more than 1 where `net` was pruned before.
        seed: for the random criterion.
        importance: for taylor and variance: (out,) scores of every convolution by name.
        size: height and width of the slice that the plan is made and tried with; None: one that
            `net` takes, 64 x 64 where it can be.
        times: for target latency, measured; None: those of `options.latency_table`.

    Raises:
        UsageError: the amount cannot be reached, a name in `ignore` matches nothing, or the times
            of a layer are missing.
    """
    end = time.thread_time() + SECONDS
    size = size or slice_size(net)
    found = groups(net, size)
    values = importance or ranking.values(net, found, options, seed, size)
    if not values:
        raise UsageError(f"{type(net).__name__} has no convolution or linear layer to prune")
    network = _Network(
        found=found,
        values=values,
        ranks=ranking.ranks(found, values, options),
        held=ranking.ignored(net, found, options.ignore),
        ledger=Ledger(net, found, _predictor(net, options, times)),
        proof=Proof(net, found, size, end),
        base=base,
    )
    return _tried(network, options)


def _predictor(
    net: nn.Module, options: PruneOptions, times: latency.Table | None
) -> latency.Predictor | None:
    """What tells the time of a network; None where nobody asks."""
    if options.target != "latency":
        return None
    if times is None and options.latency_table is None:
        raise UsageError(
            "target latency needs measured times: give latency_table, or prune by a recipe, which "
            "measures them"
        )
    table = times or latency.read(Path(str(options.latency_table)))
    return latency.Predictor(net, table, (options.latency_size, options.latency_size))


@dataclass(frozen=True, kw_only=True)
class _Network:
    """What is known of a network before channels are chosen."""

    found: tuple[Group, ...]
    values: Mapping[str, Tensor]
    ranks: Mapping[str, Tensor]
    held: Mapping[str, str]
    """Groups that the recipe keeps whole."""
    ledger: Ledger
    proof: Proof
    base: float
    """As in `plan`."""


def _tried(network: _Network, options: PruneOptions) -> Plan:
    """A plan that changes nothing else than it says; groups at fault stay whole."""
    found, ledger = network.found, network.ledger
    failing: dict[str, str] = {}
    while True:
        whole = {**failing, **network.held}
        ranked = tuple(
            ranking.ranked(found, network.values, network.ranks, whole, options.min_keep)
        )
        if options.knapsack:
            ranked = _weighed(network, ranked, options)
        step, ranked, picked = _picked(network, ranked, options)
        wrong = network.proof.failing(pruned(ranked, picked))
        if not wrong:
            break
        failing = failing | wrong
    counts = _counts(picked.kept)
    return Plan(
        groups=ranked,
        found=found,
        selection=picked,
        align=step,
        removed=ledger.removed(counts),
        difference=network.proof.measured,
        tried_in=network.proof.dtype,
        failing=failing,
        times=_prediction(network, options, counts),
    )


def _prediction(
    network: _Network, options: PruneOptions, counts: Mapping[str, int]
) -> latency.Prediction | None:
    """The milliseconds of a plan; None for other targets."""
    predictor = network.ledger.predictor
    if predictor is None:
        return None
    before = predictor.ms()
    left = None if options.amount is None else 1 - options.amount
    return latency.Prediction(
        table=predictor.table,
        before_ms=before,
        after_ms=predictor.ms(network.ledger.shapes(counts)),
        budget_ms=None if left is None else left * network.base * before,
    )


def _weighed(
    network: _Network, ranked: tuple[Ranked, ...], options: PruneOptions
) -> tuple[Ranked, ...]:
    """The groups, ranked by worth for price."""
    found, ledger = network.found, network.ledger
    if options.target == "latency":
        return knapsack.ranked_on_curves(
            ranked, knapsack.curve_prices(found, ledger, options.target)
        )
    return knapsack.ranked(ranked, knapsack.prices(found, ledger, options.target))


def pruned(groups: Sequence[Ranked], picked: Selection) -> dict[str, tuple[int, ...]]:
    """Members that go, by group name."""
    return {g.name: tuple(sorted({*range(g.width)} - {*picked.kept[g.name]})) for g in groups}


def cut(group: Ranked, kept: Sequence[int]) -> float | None:
    """The score half way between the channels that go and those that stay; None where all stay."""
    assert group.scores is not None
    gone = sorted({*range(group.width)} - {*kept})
    if not gone:
        return None
    return float(group.scores[gone].max() + group.scores[list(kept)].min()) / 2


def _picked(
    network: _Network, ranked: tuple[Ranked, ...], options: PruneOptions
) -> tuple[int, tuple[Ranked, ...], Selection]:
    """The multiple, the groups, and what is kept at a threshold that is given or solved."""
    if options.threshold is None:
        return _solved(network, ranked, options)
    step = options.round_to or 1
    chosen = selection.select(ranked, options.threshold, step)
    share = network.ledger.removed(_counts(chosen))[options.target]
    return step, ranked, Selection(options.threshold, chosen, share)


def _solved(
    network: _Network, ranked: tuple[Ranked, ...], options: PruneOptions
) -> tuple[int, tuple[Ranked, ...], Selection]:
    """The same, so that the amount of `base` times the network is removed."""
    amount, align = options.amount, options.round_to
    assert amount is not None

    def removed(counts: Mapping[str, int]) -> float:
        return 1 - (1 - network.ledger.removed(counts)[options.target]) / network.base

    # So much that was gone before counts as reached, whatever its last bit.
    goal = amount - 1e-12 if network.base > 1 else amount
    reach = {a: removed(_smallest(ranked, a)) for a in ALIGNMENTS}
    if align is None:
        align = next((a for a in ALIGNMENTS if reach[a] >= goal), 1)
    try:
        if options.knapsack:
            return align, *knapsack.solve(ranked, network.found, goal, align, removed)
        return align, ranked, selection.solve(ranked, goal, align, removed)
    except selection.Unreachable as error:
        asked = f"amount {amount} of {options.target} cannot be removed at round_to {align}"
        most = f"the most is {math.floor(error.largest * 1e4) / 1e4}"
        way = f", and no alignment reaches it{_held(ranked)}"
        if any(a < align and reach[a] >= goal for a in ALIGNMENTS):
            with contextlib.suppress(UsageError):  # groups that fail when they are tried stay
                free = replace(options, round_to=None)
                way = f", and round_to {_tried(network, free).align} reaches it"
        raise UsageError(f"{asked}; {most}{way}") from None


def _held(ranked: Sequence[Ranked]) -> str:
    """What else stands in the way than the network's output, as the end of a sentence."""
    held = [g for g in ranked if g.fixed and not g.fixed.startswith("feeds")]
    return f"; {held[0].name} stays whole: {held[0].fixed}" if held else ""


def _smallest(ranked: Sequence[Ranked], align: int) -> dict[str, int]:
    """The kept counts below which no threshold gets."""
    return _counts(selection.select(ranked, math.inf, align))


def _counts(kept: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    return {name: len(channels) for name, channels in kept.items()}
