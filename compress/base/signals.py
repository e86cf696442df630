"""Signals that ask for the end: SIGTERM, SIGUSR1 (Slurm, before the limit) and Ctrl-C."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
REPEAT = 1.0
"""Seconds in which the same signal again is the same wish: torchrun passes Ctrl-C on to processes
that have had it from the terminal."""


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first signal sets; the second one ends the process as usual.

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
            log.info("%s: finishing the step, then saving", signal.Signals(number).name)
            for other in former.keys() - {number}:
                signal.signal(other, former[other])
        elif monotonic() - heard > REPEAT:
            signal.signal(number, former[signal.Signals(number)])
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
