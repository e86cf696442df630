"""The arithmetic of timing, with a clock that says what it is told; never a real time."""

import pytest
import torch

from compress.base import timing
from compress.base.timing import Budget, Case


class Script:
    """A clock: every call of a case takes the seconds of its turn; remembers who was asked."""

    def __init__(self, *turns: float, asked: list | None = None) -> None:
        self.turns, self.asked, self.counts = list(turns), asked if asked is not None else [], []

    def __call__(self, call, count: int) -> list[float]:
        self.asked.append(self)
        self.counts.append(count)
        seconds = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return [seconds] * count


def case(clock: Script, batch: int = 1) -> Case:
    return Case(call=lambda: None, batch=batch, clock=clock)


def test_rounds_go_in_turns_and_start_with_another_case_each_time() -> None:
    asked: list = []
    a, b = Script(0.1, asked=asked), Script(0.2, asked=asked)
    timing.rounds([case(a), case(b)], Budget(rounds=3, seconds=3))
    names = "".join("a" if one is a else "b" for one in asked)
    assert names == "aabb" + "ab" + "ba" + "ab"  # warm-up and estimate of each, then the rounds
    assert a.counts == [timing.WARM_UP, timing.FEWEST, 10, 10, 10]
    assert b.counts[2:] == [5, 5, 5]


def test_a_slow_case_still_has_a_few_calls_a_round() -> None:
    clock = Script(100.0)
    (found,) = timing.rounds([case(clock)], Budget(rounds=2, seconds=1))
    assert [len(turn) for turn in found] == [timing.FEWEST] * 2


def test_times_are_per_slice() -> None:
    (found,) = timing.rounds([case(Script(0.32), batch=16)], Budget(rounds=1))
    assert found[0][0] == pytest.approx(0.02)
    said = timing.summary(found, found)
    assert said["p50_ms"] == pytest.approx(20)
    assert said["slices_per_second"] == pytest.approx(50)
    assert said["ratio"] == said["ratio_min"] == said["ratio_max"] == 1


def test_percentiles_and_the_spread_of_ratios() -> None:
    first = [[0.010] * 10, [0.012] * 10, [0.010] * 10]
    own = [[0.005] * 10, [0.004] * 10, [0.005] * 9 + [0.1]]
    said = timing.summary(own, first)
    assert said["p50_ms"] == pytest.approx(5)
    assert said["p90_ms"] == pytest.approx(5)
    assert said["ratio"] == pytest.approx(2)
    assert (said["ratio_min"], said["ratio_max"]) == (pytest.approx(2), pytest.approx(3))
    tail = timing.summary([[0.001] * 8 + [0.009] * 2], [[0.001] * 10])
    assert tail["p90_ms"] == pytest.approx(9)


def test_the_fastest_by_median(monkeypatch) -> None:
    slow, quick = Script(0.3), Script(0.1)
    clocks = {"slow": slow, "quick": quick}
    monkeypatch.setattr(timing, "clock", lambda _device: lambda call, n: clocks[call()](call, n))
    calls = {name: lambda name=name: name for name in clocks}
    chosen, ms = timing.fastest(calls, torch.device("cpu"))
    assert chosen == "quick"
    assert ms == {"slow": pytest.approx(300), "quick": pytest.approx(100)}


def test_the_wall_clock_times_every_call() -> None:
    done: list = []
    seconds = timing.clock(torch.device("cpu"))(lambda: done.append(1), 4)
    assert len(seconds) == len(done) == 4
    assert min(seconds) >= 0
