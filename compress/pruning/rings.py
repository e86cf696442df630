"""Which kernels lose rings beside the channels that go: the smallest loss of worth in the budget.

Rings and channels compete for one budget, and what a channel costs depends on the kernels that
read and make it. So channels are chosen anew for each set of rings that is tried, by the prices
that they have with it. Sets are tried in two ways: the rings are sorted by what they are worth for
what they save, and the first 0, 1, 2, ... of them go, twice, the second time by what they save
beside the channels of the best plan so far; then single rings are put back or taken off as long as
that helps.

This is a greedy search, as the choice of channels within it is: with n kernels there are 2^n sets.
It keeps the budget, and loses at most as much worth as channels alone would in the same budget. It
may miss a better set.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from compress.graph.kernels import Rings

TURNS = 2
"""Times that rings are sorted anew."""
WORK, LEAST, MOST = 200_000, 20, 400
"""Sets that are tried at most: work over the square of the groups of channels, within bounds. So a
plan takes about a minute of one core at most, and the same on any machine."""


def sets(groups: int) -> int:
    """Sets that are tried at most where so many groups of channels are chosen beside them."""
    return max(LEAST, min(MOST, WORK // max(1, groups) ** 2))


class Tried(Protocol):
    """A plan with some rings gone."""

    @property
    def lost(self) -> float:
        """Worth that is gone, of channels and rings; infinite where the budget is not kept."""

    @property
    def rings(self) -> Rings:
        """Those that are gone in it."""


T = TypeVar("T", bound=Tried)


class Unit(NamedTuple):
    """One ring of one kernel."""

    name: str
    """Module name of the convolution."""
    place: int
    """How many rings of it have to go before this one."""
    worth: float


class Search(Generic[T]):
    """Looks for the set of rings with which least is lost.

    Args:
        worth: of the rings that kernels can lose, by module name, the outermost first.
        solve: rings that go -> the plan with them.
        saved: rings that go, and a plan -> what is saved beside the plan's channels.
        most: sets that are tried at most.
    """

    def __init__(
        self,
        worth: Mapping[str, Sequence[float]],
        solve: Callable[[Rings], T],
        saved: Callable[[Rings, T], float],
        most: int = MOST,
    ) -> None:
        self._units = [
            Unit(name, place, one)
            for name, rings in worth.items()
            for place, one in enumerate(rings)
        ]
        self._solve, self._saved, self._most = solve, saved, most
        self._known: dict[tuple[tuple[str, int], ...], T] = {}

    def best(self) -> T:
        """The plan that loses least; with as few rings as do."""
        best = self._tried({})
        for _ in range(TURNS):
            before = best
            for rings in _prefixes(self._sorted(best), self._most // (TURNS + 1)):
                best = self._better(best, rings)
            if best is before:
                break
        while (after := self._exchanged(best)) is not best:
            best = after
        return best

    def _sorted(self, plan: T) -> list[Unit]:
        """The rings by worth for what each saves alone, an outer one before those inside it."""
        keys: dict[tuple[str, int], float] = {}
        for unit in self._units:
            inner = self._saved({unit.name: unit.place + 1}, plan)
            price = inner - self._saved({unit.name: unit.place}, plan)
            key = unit.worth / price if price > 0 else float("inf")
            keys[unit.name, unit.place] = max(key, keys.get((unit.name, unit.place - 1), 0.0))
        return sorted(self._units, key=lambda unit: (keys[unit.name, unit.place], unit.place))

    def _exchanged(self, plan: T) -> T:
        """The plan with one ring more or less, where that loses less."""
        for unit in self._units:
            count = plan.rings.get(unit.name, 0)
            if count in (unit.place, unit.place + 1):
                changed = {**plan.rings, unit.name: 2 * unit.place + 1 - count}
                plan = self._better(plan, changed)
        return plan

    def _better(self, plan: T, rings: Rings) -> T:
        tried = self._tried(rings)
        return tried if tried.lost < plan.lost else plan

    def _tried(self, rings: Rings) -> T:
        key = tuple(sorted((name, count) for name, count in rings.items() if count))
        if key not in self._known:
            if len(self._known) >= self._most:
                return self._known[()]
            self._known[key] = self._solve(dict(key))
        return self._known[key]


def _prefixes(units: Sequence[Unit], most: int) -> Iterator[Rings]:
    """The first ring, the first two, and so on; so many sets at most, evenly."""
    rings: dict[str, int] = {}
    step = -(-len(units) // most)
    for number, unit in enumerate(units, start=1):
        rings[unit.name] = unit.place + 1
        if number % step == 0 or number == len(units):
            yield dict(rings)
