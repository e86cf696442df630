"""Memory that the network's process and its workers share: slots for the slices under way.

A file without a name and not in /dev/shm, which containers limit to 64 MB. Pages that are not
touched take no memory. There are only so many slots: that is what bounds the memory of a run.
"""

import mmap
import os
import tempfile

import numpy as np

from compress.dicom.rescale import HU

BUDGET = 2 << 30
"""Bytes of all slots together, unless a single file needs more."""


class Arena:
    """Slots of one size.

    Args:
        slots: how many at most; fewer where they would not fit into BUDGET, but two.
        size: bytes of a slot.
        handle: an open file to share; None makes one.
    """

    def __init__(self, slots: int, size: int, handle: int | None = None) -> None:
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.slots = slots if handle is not None else max(2, min(slots, BUDGET // self.size))
        self.handle = _file() if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, self.slots * self.size)
        self._memory = mmap.mmap(self.handle, self.slots * self.size)

    def view(self, slot: int, shape: tuple[int, ...]) -> HU:
        """The slot as an array of float32 HU."""
        count = int(np.prod(shape))
        flat = np.frombuffer(self._memory, np.float32, count, slot * self.size)
        return flat.reshape(shape)


def _file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("compress")
    with tempfile.TemporaryFile() as file:  # systems other than Linux
        return os.dup(file.fileno())
