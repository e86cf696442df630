"""The server that worker processes are forked from: it imports once what all of them need.

It starts without waiting, so a command begins with it and imports torch meanwhile.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker

CONTEXT = multiprocessing.get_context("forkserver")
NEEDED = ("compress.imaging.one_thread", "compress.imaging.tasks", "compress.cli.main")
"""What the server imports: first its libraries' number of threads, last what a console script
imports again in each worker."""


def begin(modules: Sequence[str] = NEEDED) -> None:
    """Start the server, unless it runs already, without threads of numpy's libraries in it.

    A terminal sends Ctrl-C to the server, too, which ignores it only after its imports and would
    show where it was. It inherits that SIGINT is blocked; here one that came is heard at the end.
    """
    CONTEXT.set_forkserver_preload(list(modules))
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts, so not in the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
