"""Which measured kernels compute a network: by their own times, then by the whole network's."""

import itertools
from types import SimpleNamespace

import pytest
from fused_cases import halved, network

from compress.engines.kernels import choose, jobs, search, tune
from compress.engines.kernels.choose import Way, in_network
from compress.engines.kernels.cuda.moves import Move
from compress.engines.kernels.cuda.window import Window
from compress.engines.kernels.plan import compiled
from compress.engines.kernels.session import Session
from compress.engines.kernels.tiling import Tiling

TRITON, OTHER = Tiling(), Tiling(gx=2)
WGMMA, MMA, SPARSE = (Window(kind=kind, strip=8) for kind in ("wgmma", "mma", "wgmma.sp"))
CONV = "5x5 16-16 2:4 16x8 b1"
"""A shape of the network below, of growth layers."""
LAYER = "1x1 32-16 + 5x5 16-16 2:4 16x8 b1"
"""The first of them with the bottleneck before it."""


class Race:
    """In the place of timed.Race: a rival wins where `prefers` says so of both choices."""

    prefers = staticmethod(lambda best, rival: False)

    def __init__(self, _session, first):
        self.best, self.raced = first, 0

    def won_by(self, rival):
        assert rival != self.best, "nothing to be measured"
        self.raced += 1
        seen.append(rival)
        won = self.prefers(self.best, rival)
        self.best = rival if won else self.best
        return won


seen: list = []
"""Rivals of all races, in order."""


@pytest.fixture
def session(as_on_hopper, monkeypatch):
    monkeypatch.setattr(choose, "Race", Race)
    monkeypatch.setattr(choose, "time", SimpleNamespace(monotonic=lambda: 0.0))
    seen.clear()
    plan, tensors = compiled(halved(network(bottleneck=16, decoder=16)))
    return Session(plan, tensors, (1, 32, 16))


def searches(session, **times):
    """Every shape with one Triton kernel of 1 ms, one kernel for two operations of 9 ms."""
    found = {}
    for key, job in jobs.jobs(session).items():
        first = WGMMA if job.merged and not job.first else TRITON
        found[key] = search.Search(job, None, {first: 9.0 if job.merged else 1.0})
    for key, some in times.items():
        found[key].times = dict(some)
    return found


def prefer(monkeypatch, said):
    monkeypatch.setattr(Race, "prefers", staticmethod(said))


def test_a_max_pool_in_cuda_is_taken_where_it_is_faster(session):
    moved = {
        key: {TRITON: 2.0, Move(strip=4): 1.0} for key in jobs.jobs(session) if "pool" in key[:4]
    }
    moved = {key: times for key, times in moved.items() if "+" not in key}
    assert moved
    chosen, found = in_network(session, searches(session, **moved), 1.0)
    assert set(found.choices.move) == set(moved)
    assert set(found.choices.move.values()) == {Move(strip=4)}
    assert all(one.known is None for one in chosen.values())
    cuts = {session.key(unit): (cut, ms) for unit, cut, ms in found.units}
    assert {cuts[key] for key in moved} == {(Move(strip=4), 1.0)}


@pytest.mark.parametrize("slower", [1.1, 1.3])
def test_another_instruction_is_tried_unless_it_is_far_slower(session, monkeypatch, slower):
    prefer(monkeypatch, lambda _, rival: rival.conv[CONV] == MMA)
    made = searches(session, **{CONV: {WGMMA: 1.0, MMA: slower}})
    chosen, found = in_network(session, made, 1.0)
    taken = MMA if slower < search.FAR else WGMMA
    assert found.choices.conv[CONV] == taken == chosen[CONV].best
    assert len(seen) == (slower < search.FAR)


def test_a_kernel_that_does_not_run_is_not_raced(session):
    """The 5x5 of a layer that one kernel computes with its bottleneck."""
    layers = {key: {WGMMA: 0.1} for key in jobs.jobs(session) if key.endswith(f" + {CONV}")}
    assert layers
    made = searches(session, **layers, **{CONV: {WGMMA: 1.0, MMA: 1.1}})
    assert layers.keys() <= in_network(session, made, 1.0)[1].choices.layer.keys()
    assert not seen


@pytest.mark.parametrize("slower", [1.1, 1.3])
def test_strips_are_measured_of_each_instruction_that_is_not_far_slower(session, slower):
    job = jobs.jobs(session)[CONV]
    two = [Window(kind="wgmma", strip=8, stages=stages) for stages in (3, 4)]
    found = search.Search(job, None, {two[0]: 1.0, two[1]: 1.05, MMA: slower, SPARSE: 2.0})
    kinds = {cut.kind for cut in found.cuts(1) if isinstance(cut, Window)}
    assert kinds == ({"wgmma", "mma"} if slower < search.FAR else {"wgmma"})


def test_another_cut_of_an_instruction_is_tried(session, monkeypatch):
    prefer(monkeypatch, lambda _, rival: rival.conv[CONV] == OTHER)
    made = searches(session, **{CONV: {TRITON: 1.0, OTHER: 1.1}})
    assert in_network(session, made, 1.0)[1].choices.conv[CONV] == OTHER


@pytest.mark.parametrize(("ms", "tried"), [(1.9, True), (2.3, True), (2.5, False), (1.6, False)])
def test_one_kernel_or_two_is_tried_unless_the_change_is_far_slower(session, ms, tried):
    """Of 2 ms: less is one kernel at first, more two."""
    made = searches(session, **{LAYER: {WGMMA: ms}})
    _, found = in_network(session, made, 1.0)
    assert (LAYER in found.choices.layer) == (ms < 2)
    assert len(seen) == tried


def test_what_was_changed_stays_for_the_next_change(session, monkeypatch):
    prefer(monkeypatch, lambda *_: True)
    made = searches(session, **{CONV: {WGMMA: 1.0, MMA: 1.1}, LAYER: {WGMMA: 2.1}})
    _, found = in_network(session, made, 1.0)
    assert found.choices.conv[CONV] == MMA
    assert LAYER in found.choices.layer


def test_the_costliest_layer_comes_first(session, monkeypatch):
    prefer(monkeypatch, lambda *_: True)
    costly, cheap = "5x5 32-16-1 2:4 32x16 b1", CONV
    made = searches(session, **{costly: {WGMMA: 5.0, MMA: 5.5}, cheap: {WGMMA: 1.0, MMA: 1.1}})
    in_network(session, made, 1.0)
    assert [(one.conv[costly], one.conv[cheap]) for one in seen] == [(MMA, WGMMA), (MMA, MMA)]


def test_the_time_is_kept_and_half_of_it_is_for_the_way_without_2to4_kernels(session, monkeypatch):
    clock = itertools.count()  # a second from one look at it to the next
    monkeypatch.setattr(choose, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    times = {WGMMA: 1.0, MMA: 1.1, OTHER: 1.15}
    keys = [key for key, job in jobs.jobs(session).items() if job.size and not job.merged]
    made = searches(session, **{**dict.fromkeys(keys, times), CONV: {SPARSE: 0.9, **times}})
    in_network(session, made, 4.5 * len(made))  # of 3 looks for each in each half
    with_sparse = [one.conv[CONV] == SPARSE for one in seen]
    assert 0 < sum(with_sparse) < len(seen)
    assert with_sparse == sorted(with_sparse, reverse=True)
    monkeypatch.setattr(choose, "time", SimpleNamespace(monotonic=lambda: 0.0))
    cut_off = len(seen)
    in_network(session, made, 1.0)
    whole = [one.conv[CONV] == SPARSE for one in seen[cut_off:]]
    assert sum(with_sparse) < sum(whole)
    assert cut_off - sum(with_sparse) < len(whole) - sum(whole)
    before = len(seen)
    in_network(session, made, -1.0)
    (last,) = seen[before:]  # with and without them in any case
    assert last.conv[CONV] == WGMMA


def test_2to4_kernels_stay_where_an_earlier_search_left_nothing_else(session):
    made = searches(session, **{CONV: {SPARSE: 0.9}})
    assert Way(made).found(session).choices.conv[CONV] == SPARSE
    assert in_network(session, made, 1.0)[1].choices.conv[CONV] == SPARSE
    assert not seen


def test_single_convolutions_are_not_raced(session, monkeypatch):
    monkeypatch.setattr(tune.compiler, "ahead", lambda *_: None)
    monkeypatch.setattr(search, "_measured", lambda _, cut, *__: 1.0 + (cut == TRITON))
    tune.tune(session, 60.0, network=False)
    assert not seen
    tune.tune(session, 60.0)
    assert seen
