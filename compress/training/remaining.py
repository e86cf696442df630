"""How long the training of a run will still take, by the epochs that are done."""

import statistics

from compress.data import Pairs
from compress.reporting import formatting
from compress.training.options import TrainOptions


def work(options: TrainOptions, pairs: Pairs) -> int:
    """Pixels that a training stage will draw in all its epochs."""
    return options.epochs * _epoch(options, pairs)


def _epoch(options: TrainOptions, pairs: Pairs) -> int:
    crop = pairs.full[0].size if options.crop is None else options.crop**2
    return options.steps_per_epoch * options.batch * crop


class Remaining:
    """What is left of the training stages of a run, seen from one of them.

    Later stages are taken to need as long for a pixel as this one. They need less after channels
    were removed; how much less is measured when they begin. Stages that do not train are left out.

    Args:
        options: of this stage.
        pairs: what it draws from.
        epochs: that it has left.
        later: pixels that the stages after it will draw, see `work`.
    """

    def __init__(self, options: TrainOptions, pairs: Pairs, epochs: int, later: int) -> None:
        self.epochs, self.later = epochs, later / _epoch(options, pairs) if later else 0.0
        self.took: list[float] = []

    def done(self, seconds: float, share: float = 1.0) -> None:
        """One more epoch ended; this share of it took so long, what came before a stop left out."""
        self.epochs -= 1
        self.took.append(seconds / share)

    @property
    def seconds(self) -> float | None:
        """Estimate in seconds; None before the first epoch is done.

        The median: a first epoch that compiles, or one that others slowed down, does not matter.
        """
        if not self.took:
            return None
        return statistics.median(self.took) * (self.epochs + self.later)

    def words(self) -> str:
        """The estimate for the person who waits; empty before the first epoch is done.

        A sweep trains a stage that points share by itself: its end is not the sweep's.
        """
        left = self.seconds
        if left is None:
            return ""
        of = ", later stages included" if self.later else " in this stage"
        return f"about {formatting.seconds(left)} of training left{of}"
