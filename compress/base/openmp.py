"""How OpenMP's threads wait for each other, decided before torch loads it. Imports nothing heavy.

Threads that wait in a loop keep a core busy. Where other processes want that core, each barrier of
a training step waits until the system has run those in turn: there threads had better sleep. On
cores of their own they lose a quarter of their time to falling asleep and waking up.
"""

import os
import time
from pathlib import Path

POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SETTINGS = (POLICY, SPINS, "KMP_BLOCKTIME")
"""What decides it: of the OpenMP standard, of GNU's runtime, of Intel's and LLVM's."""
LOAD = Path("/proc/loadavg")
SHORT = "10000"
"""Turns of the waiting loop before a thread sleeps; 300000 in libgomp where nothing is set."""
LOOKS, APART = 5, 0.01
"""How often running processes are counted, and seconds between."""
_decided: dict[str, str] = {}
"""What was chosen here and not by the user."""


def decide() -> None:
    """Choose for this process and its children, unless the user set something.

    Threads sleep at once if other processes leave them too few cores now, or if nobody knows;
    otherwise they wait in a loop for a short while.
    """
    if any(name in os.environ for name in SETTINGS):
        return
    _decided.update({POLICY: "passive"} if _crowded() else {SPINS: SHORT})
    os.environ.update(_decided)


def share() -> None:
    """Let children that start from now on, which share the cores, sleep; not against the user."""
    if _decided.pop(SPINS, None):
        del os.environ[SPINS]
        os.environ[POLICY] = "passive"


def setting() -> str:
    """What is set, such as OMP_WAIT_POLICY=passive; empty for nothing."""
    return ", ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ)


def _crowded() -> bool:
    """Whether all threads of this process and what else runs want more cores than there are."""
    counts = list[int]()
    for look in range(LOOKS):
        time.sleep(APART if look else 0)
        try:
            counts.append(int(LOAD.read_text().split()[3].split("/")[0]))
        except (OSError, ValueError, IndexError):
            return True
    others = sorted(counts)[LOOKS // 2] - 1  # this process runs, too
    return others + _threads() > (os.cpu_count() or 1)


def _threads() -> int:
    """Threads that OpenMP will start here."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(wanted) if wanted.isdecimal() else len(os.sched_getaffinity(0))
