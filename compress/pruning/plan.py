"""From a network to what goes: channels, rings of kernels, its cost, the plan."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph.groups import Group, remove
from compress.graph.kernels import Rings
from compress.pruning import latency, network, ranking
from compress.pruning.ledger import Ledger, Share
from compress.pruning.network import Network
from compress.pruning.options import PruneOptions
from compress.pruning.proof import SECONDS, Failing
from compress.pruning.selection import Ranked, Selection, Unreachable
from compress.pruning.solving import ALIGNMENTS, Solved, Solver, pruned
from compress.pruning.worth import Worth

LEAST = 0.01
"""Share of the MACs from which products of values are named where an amount is out of reach."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A convolution whose kernel was larger than the smallest that was asked for."""

    name: str
    """Module name."""
    before: int
    """Its side, the longer one, in pixels."""
    after: int
    worth: float | None
    """Of the rings that it can lose, in the unit of channels' scores; None where not weighed."""
    kept: str
    """Why it can lose none; empty where it can."""


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
    """Largest difference of pruned and masked network, as a share of the largest output."""
    tried_in: torch.dtype
    """Arithmetic in which both ran for that."""
    failing: Mapping[str, str] = field(default_factory=dict)
    """Groups that were to be cut and stay, by name: the network would have changed, and how."""
    times: latency.Prediction | None = None
    """For target latency."""
    rings: Rings = field(default_factory=dict)
    """That go from kernels, by module name."""
    kernels: tuple[Kernel, ...] = ()
    """The larger kernels, in the order of the network; none where kernels are kept."""

    @property
    def pruned(self) -> dict[str, tuple[int, ...]]:
        """Channels that go, by group name."""
        return pruned(self.groups, self.selection)

    def apply(self, net: nn.Module) -> nn.Module:
        """A copy of `net`, the network that the plan was made for, without what goes."""
        return remove(net, self.found, self.pruned, self.rings)


def plan(
    net: nn.Module,
    options: PruneOptions,
    *,
    base: float = 1.0,
    seed: int = 0,
    importance: Mapping[str, Tensor] | Worth | None = None,
    size: tuple[int, int] | None = None,
    times: latency.Table | None = None,
) -> Plan:
    """Choose the channels of `net` that are removed, and the kernels that get smaller.

    Every plan is tried, see `proof.py`: where the pruned network would differ from the dense one
    with those channels and taps masked, or would not run, the groups and kernels at fault stay
    whole, with the reason, and the plan is made anew.

    Args:
        net: an (N, 1, H, W) network.
        options: how many channels, and by which criterion.
        base: how many times as large as `net` the network is that the amount is a share of, at
            least 1, in `options.target`; more than 1 where `net` was pruned before.
        seed: for the random criterion.
        importance: for taylor and variance: (out,) scores of every convolution by name, with those
            of rings where kernels are weighed.
        size: height and width of the slice that the plan is made and tried with; None: one that
            `net` takes, 64 x 64 where it can be.
        times: for target latency, measured; None: those of `options.latency_table`.

    Raises:
        UsageError: the amount cannot be reached, a name in `ignore` matches nothing, or the times
            of a layer are missing.
    """
    end = time.thread_time() + SECONDS
    known = network.known(net, options, base, seed, importance, size, times, end)
    return _tried(known, options)


def _tried(known: Network, options: PruneOptions) -> Plan:
    """A plan that changes nothing else than it says; groups and kernels at fault stay whole."""
    found, ledger = known.found, known.ledger
    failing = Failing({}, {})
    while True:
        whole = {**failing.groups, **known.held}
        ranked = tuple(ranking.ranked(found, known.values, known.ranks, whole, options.min_keep))
        solver = Solver(known, ranked, failing.kernels, options)
        try:
            solved = solver.solved()
        except Unreachable as error:
            raise _unreachable(known, options, solver, ranked, error) from None
        wrong = known.proof.failing(pruned(solved.groups, solved.picked), solved.rings)
        if not wrong:
            break
        failing = failing | wrong
    ledger = ledger.cut(solved.rings)
    return Plan(
        groups=solved.groups,
        found=found,
        selection=solved.picked,
        align=solved.align,
        removed=ledger.removed(solved.counts),
        difference=known.proof.measured,
        tried_in=known.proof.dtype,
        failing=failing.groups,
        times=_prediction(known, options, ledger, solved),
        rings=solved.rings,
        kernels=_about_kernels(known, {**solver.kept_kernels(solved), **failing.kernels}, solved),
    )


def _about_kernels(known: Network, stuck: Mapping[str, str], solved: Solved) -> tuple[Kernel, ...]:
    """What became of the larger kernels; `stuck` says why some stay."""
    return tuple(
        Kernel(
            name=name,
            before=side,
            after=side - 2 * solved.rings.get(name, 0),
            worth=float(known.worths[name].sum()) if name in known.worths else None,
            kept=stuck.get(name, known.kept_kernels.get(name, "")),
        )
        for name, side in known.sides.items()
    )


def _prediction(
    known: Network, options: PruneOptions, ledger: Ledger, solved: Solved
) -> latency.Prediction | None:
    """The milliseconds of a plan; None for other targets."""
    predictor = ledger.predictor
    if predictor is None:
        return None
    before = predictor.ms()
    left = None if options.amount is None else 1 - options.amount
    return latency.Prediction(
        table=predictor.table,
        before_ms=before,
        after_ms=predictor.ms(ledger.shapes(solved.counts)),
        budget_ms=None if left is None else left * known.base * before,
    )


def cut(group: Ranked, kept: Sequence[int]) -> float | None:
    """The score half way between the channels that go and those that stay; None where all stay."""
    assert group.scores is not None
    gone = sorted({*range(group.width)} - {*kept})
    if not gone:
        return None
    return float(group.scores[gone].max() + group.scores[list(kept)].min()) / 2


def _unreachable(
    known: Network,
    options: PruneOptions,
    solver: Solver,
    ranked: Sequence[Ranked],
    error: Unreachable,
) -> UsageError:
    """What to say where the amount cannot be removed."""
    align = solver.align
    asked = f"amount {options.amount} of {options.target} cannot be removed at round_to {align}"
    most = f"the most is {math.floor(error.largest * 1e4) / 1e4}"
    way = f", and no alignment reaches it{_held(ranked)}"
    if any(a < align and solver.reach(a) >= solver.goal for a in ALIGNMENTS):
        with contextlib.suppress(UsageError):  # groups that fail when they are tried stay
            free = replace(options, round_to=None)
            way = f", and round_to {_tried(known, free).align} reaches it"
    share = known.ledger.products if options.target == "macs" else 0.0
    products = (
        f"; {share:.0%} of the MACs are products of values, as in attention; target params "
        "leaves those out"
    )
    return UsageError(f"{asked}; {most}{way}{products if share >= LEAST else ''}")


def _held(ranked: Sequence[Ranked]) -> str:
    """What else stands in the way than the network's output, as the end of a sentence."""
    held = [g for g in ranked if g.fixed and not g.fixed.startswith("feeds")]
    return f"; {held[0].name} stays whole: {held[0].fixed}" if held else ""
