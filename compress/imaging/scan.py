"""What the input holds: the workers look at all headers before anything is decoded."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from compress.base.progress import meter
from compress.dicom import Reason, Refused
from compress.dicom.headers import Header
from compress.imaging.workers import Lost, Pool

CHUNK = 32
"""Most files of one task of looking at headers."""


class Look:
    """The headers of all files; the first are looked at at once, the others in `headers`."""

    def __init__(self, pool: Pool, names: Sequence[str]) -> None:
        size = max(1, min(CHUNK, -(-len(names) // pool.capacity)))
        self.pool, self.found = pool, dict[str, Header]()
        self.chunks = [names[k : k + size] for k in range(0, len(names), size)]
        self.todo = deque(range(len(self.chunks)))
        self.names, self.stopped = names, False
        self._feed()

    def stop(self) -> None:
        """Look at nothing more than what is under way; the headers are no longer wanted."""
        self.stopped = True

    def headers(self) -> list[Header]:
        """In the order of names."""
        with meter(len(self.names), "files") as advance:
            while self.pool.waiting and not self.stopped:
                answer = self.pool.answer(wait=True)
                if answer is not None:
                    (_, number), outcome = answer
                    before = len(self.found)
                    self._take(self.chunks[number], outcome)
                    advance(len(self.found) - before)
                self._feed()
        return [self.found[name] for name in self.names if not self.stopped]

    def _take(self, chunk: Sequence[str], outcome: Any) -> None:
        if isinstance(outcome, list):
            self.found |= {header.name: header for header in outcome}
        elif isinstance(outcome, Lost) and outcome.guilty and len(chunk) == 1:
            self.found[chunk[0]] = Header(name=chunk[0], reason=Reason.CRASHED, failed=True)
        elif isinstance(outcome, Refused):  # of the chunk as a whole: no memory
            failed = {name: Header(name=name, reason=outcome.reason, failed=True) for name in chunk}
            self.found |= failed
        else:
            for name in chunk:
                self.todo.append(len(self.chunks))
                self.chunks.append([name])

    def _feed(self) -> None:
        while self.todo and not self.stopped and self.pool.waiting < self.pool.capacity:
            number = self.todo.popleft()
            self.pool.submit("scan", number, list(self.chunks[number]))


def digests(pool: Pool, names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of files that may be the same; of those that can be read."""
    found = {}
    with meter(len(names), "files compared") as advance:
        for number, sha256 in pool.each("digest", {k: (name,) for k, name in enumerate(names)}):
            advance(1)
            if isinstance(sha256, str):
                found[names[number]] = sha256
    return found
