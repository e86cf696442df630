"""What stays of a network at a threshold that is given or solved, and which kernels get smaller."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compress.graph.kernels import Rings
from compress.pruning import knapsack, selection
from compress.pruning.ledger import Ledger
from compress.pruning.network import Network
from compress.pruning.options import PruneOptions
from compress.pruning.rings import Search, sets
from compress.pruning.selection import Ranked, Removed, Selection, Unreachable

ALIGNMENTS = (16, 8, 4, 2, 1)
"""What `align` None chooses from: the largest that reaches the amount."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """Which channels and kernels stay."""

    align: int
    groups: tuple[Ranked, ...]
    picked: Selection
    rings: Rings
    lost: float = 0.0
    """Worth of the channels and rings that go, where kernels are weighed; infinite where the amount
    is out of reach."""

    @property
    def counts(self) -> dict[str, int]:
        """Channels that stay by group name."""
        return {name: len(channels) for name, channels in self.picked.kept.items()}


class Solver:
    """Solves for one network.

    Args:
        known: what is known of it.
        ranked: its groups, those that must stay fixed.
        stuck: kernels that must stay.
        options: what is asked for.
    """

    def __init__(
        self,
        known: Network,
        ranked: tuple[Ranked, ...],
        stuck: Mapping[str, str],
        options: PruneOptions,
    ) -> None:
        self._known, self._ranked, self._options = known, ranked, options
        self.most = {name: n for name, n in known.rings.items() if name not in stuck}

    def solved(self) -> Solved:
        """What stays.

        Raises:
            Unreachable: the amount cannot be removed.
        """
        options = self._options
        if options.threshold is not None:
            return self._at_threshold(options.threshold)
        align = self.align
        if options.kernels != "weigh":
            return self._at(align, self.most)
        worths = {n: self._known.worths[n][:count].tolist() for n, count in self.most.items()}
        most = sets(len(self._ranked))
        best = Search(worths, lambda rings: self._weighed(align, rings), self._saved, most).best()
        return self._at(align, self.most) if math.isinf(best.lost) else best  # says what can be

    @property
    def align(self) -> int:
        """What kept counts are multiples of."""
        if self._options.round_to is not None:
            return self._options.round_to
        return next((a for a in ALIGNMENTS if self.reach(a) >= self.goal), 1)

    @property
    def goal(self) -> float:
        """The share to remove."""
        assert self._options.amount is not None
        # So much that was gone before counts as reached, whatever its last bit.
        return self._options.amount - 1e-12 * (self._known.base > 1)

    def reach(self, align: int) -> float:
        """The share that can be removed at most."""
        least = selection.select(self._ranked, math.inf, align)
        counts = {name: len(channels) for name, channels in least.items()}
        return self._removed(self._known.ledger.cut(self.most))(counts)

    def _removed(self, ledger: Ledger) -> Removed:
        target, base = self._options.target, self._known.base
        return lambda counts: 1 - (1 - ledger.removed(counts)[target]) / base

    def _groups(self, ledger: Ledger) -> tuple[Ranked, ...]:
        """The groups, where channels are weighed by their prices with these kernels."""
        found, target = self._known.found, self._options.target
        if not self._options.knapsack:
            return self._ranked
        if target == "latency":
            prices = knapsack.curve_prices(found, ledger, target)
            return knapsack.ranked_on_curves(self._ranked, prices)
        return knapsack.ranked(self._ranked, knapsack.prices(found, ledger, target))

    def _at_threshold(self, threshold: float) -> Solved:
        step, ledger = self._options.round_to or 1, self._known.ledger.cut(self.most)
        groups = self._groups(ledger)
        kept = selection.select(groups, threshold, step)
        counts = {name: len(channels) for name, channels in kept.items()}
        picked = Selection(threshold, kept, ledger.removed(counts)[self._options.target])
        return Solved(align=step, groups=groups, picked=picked, rings=self.most)

    def _at(self, align: int, rings: Rings) -> Solved:
        """Channels chosen beside smaller kernels; kernels stay that the table ends before.

        Raises:
            Unreachable: the amount cannot be removed.
        """
        ledger = self._known.ledger.cut(rings)
        groups, removed = self._groups(ledger), self._removed(ledger)
        if self._options.knapsack:
            groups, picked = knapsack.solve(groups, self._known.found, self.goal, align, removed)
        else:
            picked = selection.solve(groups, self.goal, align, removed)
        made = Solved(align=align, groups=groups, picked=picked, rings=rings)
        narrow = ledger.narrow(made.counts)
        if narrow & rings.keys():
            return self._at(align, {n: count for n, count in rings.items() if n not in narrow})
        return made

    def _weighed(self, align: int, rings: Rings) -> Solved:
        """The same with what is lost; infinite where the amount cannot be removed."""
        try:
            found = self._at(align, rings)
        except Unreachable:
            whole = {group.name: tuple(range(group.width)) for group in self._ranked}
            picked = Selection(0.0, whole, 0.0)
            none = Solved(align=align, groups=self._ranked, picked=picked, rings=rings)
            return replace(none, lost=math.inf)
        lost = sum(_gone(group, found.picked) for group in found.groups)
        lost += sum(
            float(self._known.worths[name][:count].sum()) for name, count in found.rings.items()
        )
        return replace(found, lost=lost)

    def kept_kernels(self, solved: Solved) -> dict[str, str]:
        """Why kernels stay that `cut` would have cut, by module name."""
        if self._options.kernels != "cut":
            return {}
        why = "the engine has no smaller kernel for the channels that are left"
        return dict.fromkeys(self.most.keys() - solved.rings.keys(), why)

    def _saved(self, rings: Rings, beside: Solved) -> float:
        """The share that rings save beside the channels of a plan."""
        return self._known.ledger.cut(rings).removed(beside.counts)[self._options.target]


def _gone(group: Ranked, picked: Selection) -> float:
    """Worth of the channels of a group that go."""
    assert group.scores is not None
    gone = sorted({*range(group.width)} - {*picked.kept[group.name]})
    return float(group.scores[gone].sum())


def pruned(groups: Sequence[Ranked], picked: Selection) -> dict[str, tuple[int, ...]]:
    """Members that go, by group name."""
    return {g.name: tuple(sorted({*range(g.width)} - {*picked.kept[g.name]})) for g in groups}
