"""Which of the measured kernels compute a network: by their own times, then in the whole network.

A kernel that is fastest alone, ten times in a row, finds its data in the caches; in the network it
need not be the fastest one. So the choice that follows from the times of single kernels is changed
layer by layer, the costliest first, and a change stays where the whole network gains by it.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from compress.engines.base import NotBuilt
from compress.engines.kernels.cuda.moves import Move
from compress.engines.kernels.cuda.products import SPARSE
from compress.engines.kernels.cuda.window import Window
from compress.engines.kernels.plan import Chain
from compress.engines.kernels.route import Layer, Unit, cheapest, merges
from compress.engines.kernels.search import FAR, Search
from compress.engines.kernels.session import Choices, Cut, Key, Session
from compress.engines.kernels.tiling import Tiling
from compress.engines.kernels.timed import NEVER, Race

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found."""

    choices: Choices
    units: list[tuple[Unit, Cut | None, float]]
    """What each kernel computes, how it is cut, and its time in ms; in order."""


@dataclass(frozen=True)
class Way:
    """A way to compute a network, from measured kernels.

    Args:
        searches: by shape.
        joined: pairs of operations that one kernel computes, whatever their times.
        apart: pairs that two kernels compute.
    """

    searches: Mapping[Key, Search]
    joined: frozenset[Key] = field(default_factory=frozenset)
    apart: frozenset[Key] = field(default_factory=frozenset)

    def found(self, session: Session) -> Found:
        """The fastest cuts, and the fastest way to merge operations.

        Raises:
            NotBuilt: nothing runs.
        """
        convs = dict(self._convs())
        moved = {key: one.best for key, one in self.searches.items() if isinstance(one.best, Move)}
        units = [(one, *self._of(session, one)) for one in self._units(session)]
        merged = {
            session.key(unit): cut for unit, cut, _ in units if isinstance(unit, Chain | Layer)
        }
        chains = {key: cut for key, cut in merged.items() if isinstance(cut, Tiling)}
        layers = {key: cut for key, cut in merged.items() if isinstance(cut, Window)}
        choices = Choices(conv=convs, chain=chains, layer=layers, move=moved)
        return Found(choices=choices, units=units)

    def _convs(self) -> Iterator[tuple[Key, Cut]]:
        for key, one in self.searches.items():
            if one.job.merged or not one.tried or not one.job.size:
                continue
            if one.ms == NEVER or one.best is None:
                what = f"{one.job.size}x{one.job.size}"
                raise NotBuilt(f"no tiling of a {what} convolution runs on this GPU")
            yield key, one.best

    def _units(self, session: Session) -> list[Unit]:
        """The cheapest units; where a time is missing, operations stay by themselves."""

        def cost(unit: Unit) -> float:
            key = session.key(unit)
            if key in self.apart:
                return NEVER
            ms = self.ms(session, unit)
            alone = NEVER if isinstance(unit, Chain | Layer) else 1e6
            return 0.0 if key in self.joined else ms if ms < NEVER else alone

        return cheapest(session.plan, cost)

    def ms(self, session: Session, unit: Unit) -> float:
        """The time of a unit's fastest kernel by itself; infinite where none was measured."""
        return self._of(session, unit)[1]

    def _of(self, session: Session, unit: Unit) -> tuple[Cut | None, float]:
        """How a unit is cut, and its time."""
        found = self.searches.get(session.key(unit))
        return (None, NEVER) if found is None else (found.best, found.ms)


class _Best:
    """The fastest way so far, and what computes by it."""

    def __init__(self, session: Session, way: Way) -> None:
        self.session, self.way, self.found = session, way, way.found(session)
        self.race = Race(session, self.found.choices)
        self.pairs = {session.key(pair): pair for pair in merges(session.plan).values()}

    def take_if_faster(self, way: Way | None) -> bool:
        """Whether the whole network is faster another way, which is then the best one."""
        if way is None:
            return False
        found = way.found(self.session)
        if found.choices == self.found.choices or not self.race.won_by(found.choices):
            return False
        self.way, self.found = way, found
        return True

    def used(self, key: Key) -> bool:
        """Whether a kernel of this shape runs."""
        return any(self.session.key(unit) == key for unit, _, _ in self.found.units)


def in_network(
    session: Session, searches: Mapping[Key, Search], until: float
) -> tuple[Mapping[Key, Search], Found]:
    """The kernels that make the whole network fastest, with 2:4 ones among them and without.

    Args:
        session: the network, its batch and size.
        searches: measured kernels by shape.
        until: when to stop, on the clock of time.monotonic; with and without 2:4 kernels the
            network is measured in any case.

    Returns:
        searches, without what lost in the network; what was chosen.

    Raises:
        NotBuilt: nothing runs.
    """
    now, way = time.monotonic(), Way(searches)
    both = _dense(way) != way
    best = _changed(_Best(session, way), now + (until - now) / 2 if both else until)
    if both:
        dense = _changed(_Best(session, _dense(best.way)), until).way  # its graphs are freed
        if best.take_if_faster(dense):
            log.info("fused: the network is faster without those of its 2:4 kernels")
    return best.way.searches, best.found


def _dense(way: Way) -> Way:
    """The same without 2:4 kernels; where an earlier search left nothing else, it stays."""
    searches = {key: one.without(SPARSE) for key, one in way.searches.items()}
    return replace(way, searches=searches)


def _changed(best: _Best, until: float) -> _Best:
    """Change it layer by layer, the costliest first, where the whole network gains by it."""
    searches = best.way.searches
    for key in sorted(searches, key=lambda key: -searches[key].ms):
        for change in (_another_kind, _another_cut, _regrouped):
            if time.monotonic() < until and best.take_if_faster(change(best, key)):
                log.info("fused: the network is faster%s", _words(best, key))
    log.info("fused: %d changes measured in the whole network", best.race.raced)
    return best


def _words(best: _Best, key: Key) -> str:
    search = best.way.searches[key]
    if not best.used(key):
        return f" with two kernels instead of one: {key}"
    return f" with {search.best}: {key}"


def _another_kind(best: _Best, key: Key) -> Way | None:
    return _with(best, key, best.way.searches[key].another_kind())


def _another_cut(best: _Best, key: Key) -> Way | None:
    return _with(best, key, best.way.searches[key].another_cut())


def _with(best: _Best, key: Key, search: Search | None) -> Way | None:
    if search is None or not best.used(key):
        return None
    return replace(best.way, searches={**best.way.searches, key: search})


def _regrouped(best: _Best, key: Key) -> Way | None:
    """Two operations in one kernel where two compute them, or the other way round.

    Not where that is far slower by the times of the kernels.
    """
    search, way = best.way.searches[key], best.way
    pair = best.pairs.get(key)
    if pair is None or search.ms == NEVER:
        return None
    two = sum(way.ms(best.session, one) for one in (pair.first, pair.second))
    if best.used(key):
        changed = replace(way, joined=way.joined - {key}, apart=way.apart | {key})
        return changed if two <= FAR * search.ms else None
    changed = replace(way, joined=way.joined | {key}, apart=way.apart - {key})
    return changed if search.ms <= FAR * two else None
