"""How a process of several ends. Imports nothing heavy, because every command ends here."""

import logging
import os
import sys


def processes() -> int:
    """How many processes train together, by what `torchrun` tells each; empty means 1.

    Raises:
        ValueError: what is told is no number from 1 on.
    """
    size = int(os.environ.get("WORLD_SIZE", "").strip() or 1)
    if size < 1:
        raise ValueError(f"{size} processes")
    return size


def undisturbed(now: bool) -> None:
    """Let no more Ctrl-C change the exit status of this process, stopped and ending `now`.

    Python takes up to a second to shut down, and dies by the signal then. SIGTERM still ends it.
    """
    import signal
    import threading

    if now and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave(status: int) -> None:
    """End this process here and now where it is one of several; alone, do nothing.

    Threads of torch.distributed outlive its end and, rarely, abort a process whose Python is
    shutting down, which turns any exit status into 134.
    """
    try:
        several = processes() > 1
    except ValueError:  # `torchrun.joined` says so, where several may train
        several = False
    if several:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
