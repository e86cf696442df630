"""The server that worker processes are forked from: it imports once what all of them need.

It starts without waiting, so a command begins with it and imports torch meanwhile.
"""

import multiprocessing
from collections.abc import Sequence
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
NEEDED = ("compress.imaging.one_thread", "compress.imaging.tasks", "compress.cli.main")
"""What the server imports: first its libraries' number of threads, last what a console script
imports again in each worker."""


def begin(modules: Sequence[str] = NEEDED) -> None:
    """Start the server, unless it runs already, without threads of numpy's libraries in it."""
    CONTEXT.set_forkserver_preload(list(modules))
    forkserver.ensure_running()
