"""Imported by the server of the workers before all else: libraries get one thread in each of them.

There are as many workers as cores. The command's own process, where torch wants every core, keeps
its environment. Signals mean the command: a job's end is told to all of its processes, and the
server and its workers end with the command.
"""

import os
import signal

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
for _number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_IGN)
