"""How OpenMP's threads wait for each other, decided before torch loads it. Imports nothing heavy.

Threads that wait in a loop keep a core busy. Where other processes want that core, each barrier of
a training step waits until the system has run them in turn.
"""

import os

POLICY = "OMP_WAIT_POLICY"
SETTINGS = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What decides it: of the OpenMP standard, of GNU's runtime, of Intel's and LLVM's."""


def wait_asleep() -> None:
    """Let waiting threads sleep in this process and its children, unless the user set something."""
    if not any(name in os.environ for name in SETTINGS):
        os.environ[POLICY] = "passive"


def setting() -> str:
    """What is set, such as OMP_WAIT_POLICY=passive; empty for nothing."""
    return ", ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ)
