"""`python -m compress.cluster.tied PARENT WORD...`: the command, tied to the process PARENT.

When that process ends, however, the command gets SIGTERM: it saves and ends. The kernel keeps the
tie when this process becomes the command (PR_SET_PDEATHSIG of prctl(2), Linux only).
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

DEATH = 1
"""PR_SET_PDEATHSIG of linux/prctl.h."""


def main(words: Sequence[str]) -> None:
    """Become `compress WORD...`."""
    parent, *command = words
    ctypes.CDLL(None).prctl(DEATH, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the tie was there
        raise SystemExit(-signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", "compress", *command])


if __name__ == "__main__":
    main(sys.argv[1:])
