"""What is said of work that takes long, where there is no terminal."""

import io
import logging
import re
import threading
import time

import rich.console

from compress.base import progress


def test_a_line_now_and_then(monkeypatch, caplog) -> None:
    monkeypatch.setattr(progress, "SELDOM", -1.0)
    with caplog.at_level(logging.INFO, logger="compress"):
        assert list(progress.track(range(3), "00-train")) == [0, 1, 2]
        assert list(progress.track(iter("ab"), "reading")) == ["a", "b"]
        assert list(progress.track(iter("c"), "reading", 1)) == ["c"]
    said = [record.getMessage() for record in caplog.records]
    assert said[:3] == [f"00-train: {done} of 3 done" for done in range(3)]
    assert said[3:] == ["reading: 0 done", "reading: 1 done", "reading: 0 of 1 done"]


def test_what_an_earlier_run_did_counts(monkeypatch, caplog) -> None:
    monkeypatch.setattr(progress, "SELDOM", -1.0)
    with caplog.at_level(logging.INFO, logger="compress"):
        assert list(progress.track(range(2), "00-train", before=12)) == [0, 1]
    said = [record.getMessage() for record in caplog.records]
    assert said == ["00-train: 12 of 14 done", "00-train: 13 of 14 done"]


def test_what_is_soon_done_says_nothing(caplog) -> None:
    with caplog.at_level(logging.INFO, logger="compress"):
        assert list(progress.track("ab", "looking")) == ["a", "b"]
    assert not caplog.records


def test_a_bar_beside_what_is_timed_is_drawn_between_items_only(monkeypatch) -> None:
    shown, seen = Terminal.install(monkeypatch), []
    before = threading.active_count()
    for _ in progress.track(range(3), "timing", still=True):
        drawn = shown.text()
        time.sleep(0.25)  # a bar that moves by itself is drawn ten times a second
        seen.append((threading.active_count() - before, shown.text() == drawn))
    assert seen == 3 * [(0, True)]
    assert "33%" in shown.text()
    assert "67%" in shown.text()


def test_a_meter_shows_the_time_left(monkeypatch) -> None:
    shown = Terminal.install(monkeypatch)
    with progress.meter(4, "slices") as advance:
        for _ in range(3):
            advance(1)
            time.sleep(0.15)
    assert "3/4" in shown.text()
    assert re.search(r"slices/s.*\d:\d\d:\d\d", shown.text())


def test_a_meter_of_nothing_draws_nothing(monkeypatch) -> None:
    shown = Terminal.install(monkeypatch)
    with progress.meter(0, "results"):
        pass
    assert shown.text() == ""


class Terminal:
    """What rich draws where standard error is a terminal."""

    def __init__(self) -> None:
        self.file = io.StringIO()

    @classmethod
    def install(cls, monkeypatch) -> "Terminal":
        made = cls()
        real = rich.console.Console

        def console(**_options):
            return real(file=made.file, force_terminal=True, width=120)

        monkeypatch.setattr(rich.console, "Console", console)
        return made

    def text(self) -> str:
        return self.file.getvalue()
