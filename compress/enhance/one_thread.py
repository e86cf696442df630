"""Imported by the server of the workers before all else: libraries get one thread in each of them.

There are as many workers as cores. The command's own process, where torch wants every core, keeps
its environment.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
