"""Progress bars and the log: rich on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
EVERY = 10.0
"""Seconds between two lines about progress, where there is no terminal."""
SELDOM = 60.0
"""The same for what may take hours, such as training."""
log = logging.getLogger(__name__)


def _nothing() -> str:
    return ""


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    note: Callable[[], str] = _nothing,
    before: int = 0,
    still: bool = False,
) -> Generator[T, None, None]:
    """Yield `items` under a progress bar on standard error, or with a line in the log each minute.

    Args:
        items: anything iterable.
        description: what is being done, for the person who waits.
        total: number of items, where `items` has no length.
        note: what to add after each item, such as the time left; the first one is said at once.
        before: how many were done earlier, by a run that was stopped; they count.
        still: draw between items only, not by a thread beside them, which may be timed.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if total is None and isinstance(items, Sized):
        total = before + len(items)
    if console.is_terminal:
        yield from _drawn(items, description, total, note, before, still)
    else:
        yield from _told(items, description, total, note, before)


def _drawn(
    items: Iterable[T],
    description: str,
    total: int | None,
    note: Callable[[], str],
    before: int,
    still: bool,
) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    left = TimeRemainingColumn() if note is _nothing else TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), left)
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, auto_refresh=not still) as progress:
        bar = progress.add_task(description, total=total, completed=before, note="")
        for item in items:
            yield item
            progress.update(bar, advance=1, note=note(), refresh=still)


def _told(
    items: Iterable[T], description: str, total: int | None, note: Callable[[], str], before: int
) -> Iterator[T]:
    first = True
    of, said = "" if total is None else f" of {total}", time.perf_counter()
    for done, item in enumerate(items, before):
        added = note()
        if time.perf_counter() - said > SELDOM or (added and first):
            said, first = time.perf_counter(), first and not added
            log.info("%s: %s", description, ", ".join(filter(None, (f"{done}{of} done", added))))
        yield item


@contextmanager
def meter(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar with speed and time left on standard error, or a line in the log now and then.

    Nothing is drawn where there is nothing to count.

    Args:
        total: how many there are.
        what: what is counted, such as slices.

    Yields:
        A function that takes how many more are done.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    told = not console.is_terminal  # looks at the environment each time
    drawn = not told and total > 0
    speeds = TextColumn("{task.fields[speed]}")
    columns = (BarColumn(), MofNCompleteColumn(), speeds, TimeRemainingColumn())
    start = said = time.perf_counter()
    done = 0
    with Progress(*columns, console=console, disable=not drawn) as progress:
        bar = progress.add_task(what, total=total, speed="")

        def advance(count: int) -> None:
            nonlocal said, done
            done += count
            now = time.perf_counter()
            speed = f"{done / max(now - start, 1e-9):.1f} {what}/s"
            if drawn:
                progress.update(bar, advance=count, speed=speed)
            elif told and now - said > EVERY:
                said = now
                log.info("%d of %d %s, %s", done, total, what, speed)

        yield advance


def start_log(*, verbose: bool = False) -> None:
    """Send the `compress` log to standard error: time, level when it is not INFO, message."""
    from rich.console import Console
    from rich.logging import RichHandler

    logger = logging.getLogger("compress")
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    if logger.handlers:
        return
    console = Console(stderr=True)
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, markup=False, log_time_format="%X")
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%X"))
    logger.addHandler(handler)
    logger.propagate = False
