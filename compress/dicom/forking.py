"""The server that worker processes are forked from: it imports once what all of them need.

It starts without waiting, so a command begins with it and imports torch meanwhile.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
NEEDED = ("compress.dicom.desk", "compress.cli")
"""What the server imports; the second one is what a console script imports again in each worker."""


def begin(modules: Sequence[str] = NEEDED) -> None:
    """Start the server, unless it runs already, without threads of numpy's libraries in it."""
    CONTEXT.set_forkserver_preload(list(modules))
    with single_threaded():
        forkserver.ensure_running()


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Processes started meanwhile have libraries with one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
