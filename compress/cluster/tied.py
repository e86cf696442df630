"""`python -m compress.cluster.tied PARENT WORD...`: the command, tied to the process PARENT.

When that process ends, however, the command gets SIGTERM: it saves and ends. The kernel keeps the
tie when this process becomes the command (PR_SET_PDEATHSIG of prctl(2), Linux only). It also keeps
that SIGUSR2 is ignored: before a limit Slurm sends it to all processes of a task, and it would end
the command unsaved. It is for submitit, which asks `node.Command.end` to let the command save.
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
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if os.getppid() != int(parent):  # it ended before the tie was there
        raise SystemExit(-signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", "compress", *command])


if __name__ == "__main__":
    main(sys.argv[1:])
