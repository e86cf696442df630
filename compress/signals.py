"""Signals that ask for the end: SIGTERM, SIGUSR1 (Slurm, before the limit) and Ctrl-C."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first signal sets; the second one ends the process as usual.

    Outside the main thread, where Python allows no handlers, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.set()
        log.info("%s: finishing the step, then saving", signal.Signals(number).name)
        for other, handler in former.items():
            signal.signal(other, handler)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
