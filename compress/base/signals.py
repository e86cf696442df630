"""Signals that ask for the end: SIGTERM, SIGUSR1 (Slurm, before the limit) and Ctrl-C."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
REPEAT = 1.0
"""Seconds in which the same signal again is the same wish: torchrun passes Ctrl-C on to processes
that have had it from the terminal."""


class _Signalled(BaseException):
    """Passes through whatever catches errors on its way out of `at_once`."""


@contextmanager
def interruptible(
    response: str = "finishing the step, then saving",
) -> Iterator[threading.Event]:
    """An event that the first signal sets; the second one ends the process as usual.

    Args:
        response: what is done about the signal, for the log.

    The same signal within `REPEAT` of the first counts as the first. Outside the main thread, where
    Python allows no handlers, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}
    heard = 0.0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        if not stop.is_set():
            heard = monotonic()
            stop.set()
            log.info("%s: %s", signal.Signals(number).name, response)
            for other in former.keys() - {number}:
                signal.signal(other, former[other])
        elif monotonic() - heard > REPEAT:
            signal.signal(number, former[signal.Signals(number)])
            signal.raise_signal(number)

    with _handled_by(handle):
        yield stop


@contextmanager
def at_once(stop: threading.Event, error: Exception) -> Iterator[None]:
    """Leave the block with `error` at the first signal, instead of at its end; or do not enter it.

    For work that leaves nothing half done behind. A call in C is waited for; outside the main
    thread nothing is interrupted.

    Args:
        stop: of `interruptible`, which is around the block.
        error: what is raised.
    """
    if stop.is_set():
        raise error
    former = {number: signal.getsignal(number) for number in SIGNALS}
    heard = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        first, handler = not stop.is_set(), former[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        if first and stop.is_set():
            heard = True
            raise _Signalled

    try:
        with _handled_by(handle):
            yield
    except BaseException:  # a module in C may have made another one of it
        if not heard:
            raise
    if heard:  # even where a library has swallowed it
        raise error


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
