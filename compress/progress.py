"""Progress bars and the log: rich on a terminal, plain lines elsewhere."""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar on standard error; silent when that is no terminal.

    Args:
        items: anything iterable.
        description: what is being done, for the person who waits.
        total: number of items, where `items` has no length.
    """
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    yield from rich_track(
        items, description=description, total=total, console=console, transient=True
    )


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
