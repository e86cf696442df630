"""How a process of several ends. Imports nothing heavy, because every command ends here."""

import logging
import os
import sys


def processes() -> int:
    """How many processes train together, by what `torchrun` tells each."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave(status: int) -> None:
    """End this process here and now where it is one of several; alone, do nothing.

    Threads of torch.distributed outlive its end and, rarely, abort a process whose Python is
    shutting down, which turns any exit status into 134.
    """
    if processes() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
