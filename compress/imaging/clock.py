"""Where the time of a command goes."""

import time


class Clock:
    """Seconds of the command's parts, which follow each other, and what happens within them."""

    def __init__(self) -> None:
        self.seconds = dict[str, float]()
        self._parts: list[str] = []
        self._start = time.perf_counter()

    def lap(self, part: str) -> None:
        """What was done since the last lap was `part`."""
        now = time.perf_counter()
        self.seconds[part] = now - self._start
        self._parts.append(part)
        self._start = now

    def whole(self) -> dict[str, float]:
        """Everything, with `work`: what came after the network was loaded."""
        after = self._parts[self._parts.index("load") + 1 :]
        return {**self.seconds, "work": sum(self.seconds[part] for part in after)}
