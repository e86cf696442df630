"""From a network to the channels that go: ranks of its groups, what they cost, the plan."""

import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import cast, get_args

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph.cost import CONVOLUTIONS, slice_size
from compress.graph.groups import Group, Part, groups, remove
from compress.pruning import knapsack, selection, variance
from compress.pruning.ledger import Ledger, Share
from compress.pruning.options import PruneOptions
from compress.pruning.proof import SECONDS, Proof
from compress.pruning.selection import Criterion, Ranked, Selection

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

    Raises:
        UsageError: the amount cannot be reached, or a name in `ignore` matches nothing.
    """
    end = time.thread_time() + SECONDS
    size = size or slice_size(net)
    found = groups(net, size)
    values = importance or _values(net, found, options, seed, size)
    if not values:
        raise UsageError(f"{type(net).__name__} has no convolution or linear layer to prune")
    ranks = _ranks(found, values, options)
    held = _ignored(net, found, options.ignore)
    ledger, proof = Ledger(net, found), Proof(net, found, size, end)
    failing: dict[str, str] = {}
    while True:
        ranked = tuple(_ranked(found, values, ranks, failing | held, options.min_keep))
        if options.knapsack:
            ranked = knapsack.ranked(ranked, knapsack.prices(found, ledger, options.target))
        step, ranked, picked = _picked(ranked, found, options, base, ledger)
        wrong = proof.failing(pruned(ranked, picked))
        if not wrong:
            break
        failing = failing | wrong
    return Plan(
        groups=ranked,
        found=found,
        selection=picked,
        align=step,
        removed=ledger.removed(_counts(picked.kept)),
        difference=proof.measured,
        tried_in=proof.dtype,
        failing=failing,
    )


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


def _ranks(
    found: Sequence[Group], values: Mapping[str, Tensor], options: PruneOptions
) -> dict[str, Tensor]:
    """Scores by producer -> the numbers that one threshold cuts through.

    layer: z for gaussian, else the place in the layer. global: z in the normal distribution of all
    scores for gaussian, else the scores as they are (Molchanov et al., CVPR 2019, for taylor).
    """
    if options.knapsack:
        return dict(values)
    if options.scope == "global":
        if options.criterion != "gaussian":
            return dict(values)
        scaled = selection.zscores(torch.cat([*values.values()]))
        parts = torch.split(scaled, [len(v) for v in values.values()])
        return dict(zip(values, parts, strict=True))
    if options.criterion == "gaussian":
        return {name: selection.zscores(scores) for name, scores in values.items()}
    return {
        part.module: selection.quantiles(values[part.module], (index + 0.5) / len(found))
        for index, group in enumerate(found)
        for part in group.producers
    }


def _ranked(
    found: Sequence[Group],
    values: Mapping[str, Tensor],
    ranks: Mapping[str, Tensor],
    held: Mapping[str, str],
    floor: float,
) -> Iterator[Ranked]:
    """The groups with the rank of every channel."""
    for group in found:
        fits = [selection.fit(values[part.module]) for part in group.producers]
        yield Ranked(
            name=group.name,
            rank=_over_producers(group, ranks),
            fixed=group.fixed or held.get(group.name, ""),
            mean=float(torch.stack([mean for mean, _ in fits]).mean()),
            sigma=float(torch.stack([sigma for _, sigma in fits]).mean()),
            least=math.ceil(floor * group.width),
            scores=_over_producers(group, values),
        )


def _over_producers(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    """(width,) mean over the group's producers of what each says of its channels."""
    total, count = torch.zeros(2, group.width, dtype=torch.float64)
    for part in group.producers:
        members = torch.tensor(part.members)
        total.index_add_(0, members, values[part.module].double()[list(part.channels)])
        count.index_add_(0, members, torch.ones(len(members), dtype=torch.float64))
    mean: Tensor = total / count
    return mean


def _values(
    net: nn.Module,
    found: Sequence[Group],
    options: PruneOptions,
    seed: int,
    size: tuple[int, int],
) -> dict[str, Tensor]:
    """Scores of every channel by producer."""
    if options.criterion not in get_args(Criterion):
        raise UsageError(f"criterion {options.criterion} removes no channels")
    if options.criterion == "variance":
        if missing := variance.unscaled(found, variance.from_batchnorm(net, size)):
            raise UsageError(
                f"criterion variance needs slices where no BatchNorm scales what a layer reads, as "
                f"in {min(missing)}; prune by a recipe"
            )
        return variance.importance(net)
    criterion = cast(Criterion, options.criterion)
    modules = dict(net.named_modules())
    parts = [part for group in found for part in group.producers]
    return {p.module: _scores(modules[p.module], p, criterion, seed) for p in parts}


def _scores(module: nn.Module, part: Part, criterion: Criterion, seed: int) -> Tensor:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    if isinstance(module, nn.ConvTranspose2d) and module.groups == 1:
        weight = weight.transpose(0, 1)
    own = zlib.crc32(part.module.encode()) + seed  # every layer draws for itself
    return selection.scores(weight, bias, criterion, own)


def _ignored(net: nn.Module, found: Sequence[Group], ignore: Sequence[str]) -> dict[str, str]:
    """Why groups stay that a pattern names a layer of, by the group's name."""
    names = [n for n, m in net.named_modules() if isinstance(m, (*CONVOLUTIONS, nn.Linear))]
    layers: dict[str, str] = {}
    for pattern in ignore:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            near = get_close_matches(pattern, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"ignore: no convolution is named {pattern!r}{hint}")
        layers |= dict.fromkeys(matches, f"protected by {pattern!r}")
    held = {}
    for group in found:
        if reason := next(filter(None, (layers.get(p.module) for p in group.producers)), ""):
            held[group.name] = reason
    return held


def _picked(
    ranked: tuple[Ranked, ...],
    found: Sequence[Group],
    options: PruneOptions,
    base: float,
    ledger: Ledger,
) -> tuple[int, tuple[Ranked, ...], Selection]:
    """The multiple, the groups, and what is kept at a threshold that is given or solved."""
    if options.threshold is None:
        return _solved(ranked, found, options, base, ledger)
    step = options.round_to or 1
    chosen = selection.select(ranked, options.threshold, step)
    share = ledger.removed(_counts(chosen))[options.target]
    return step, ranked, Selection(options.threshold, chosen, share)


def _solved(
    ranked: tuple[Ranked, ...],
    found: Sequence[Group],
    options: PruneOptions,
    base: float,
    ledger: Ledger,
) -> tuple[int, tuple[Ranked, ...], Selection]:
    """The same, so that the amount of `base` times the network is removed."""
    amount, align = options.amount, options.round_to
    assert amount is not None

    def removed(counts: Mapping[str, int]) -> float:
        return 1 - (1 - ledger.removed(counts)[options.target]) / base

    # So much that was gone before counts as reached, whatever its last bit.
    goal = amount - 1e-12 if base > 1 else amount
    reach = {a: removed(_smallest(ranked, a)) for a in ALIGNMENTS}
    if align is None:
        align = next((a for a in ALIGNMENTS if reach[a] >= goal), 1)
    try:
        if options.knapsack:
            return align, *knapsack.solve(ranked, found, goal, align, removed)
        return align, ranked, selection.solve(ranked, goal, align, removed)
    except selection.Unreachable as error:
        asked = f"amount {amount} of {options.target} cannot be removed at round_to {align}"
        most = f"the most is {math.floor(error.largest * 1e4) / 1e4}"
        ways = (
            f", and round_to {a} reaches it" for a in ALIGNMENTS if a < align and reach[a] >= goal
        )
        way = next(ways, f", and no alignment reaches it{_held(ranked)}")
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
