"""What a sweep is asked for: plain values, the command line that says the same, its points."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from compress.base.errors import UsageError
from compress.cluster.task import Cluster
from compress.sweep.grid import COMPRESSING, Point, baselines, points


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to run where: plain values, so that another process can be given them."""

    recipe: Path
    vary: tuple[str, ...]
    """`KEY=VALUES` each, see `grid.points`."""
    overrides: tuple[str, ...] = ()
    """`KEY=VALUE` each, the same for all points."""
    out: Path
    """Folder of the sweep; made where missing."""
    data: Path | None = None
    device: str | None = None
    fallback: bool = True
    without: tuple[str, ...] = COMPRESSING
    """Steps left out of the networks to compare with, trained as long; none: compare with none."""
    jobs: int = 1
    """Processes that share the points and the device."""
    point: str | None = None
    """Run only this one, and write no tables; it is waited for while another process has it."""
    cluster: Cluster | None = None
    """Where points run as tasks; None: in processes of this machine."""

    def __post_init__(self) -> None:
        """Refuse a number of processes that cannot be."""
        if self.jobs < 1:
            raise UsageError(f"--jobs must be at least 1, got {self.jobs}")
        if self.point is not None and self.cluster is not None:
            raise UsageError("--point and --cluster exclude each other")

    def command(self) -> str:
        """The command line that says the same, for the rows."""
        return shlex.join(["compress", *self.words()])

    def words(self) -> list[str]:
        """What follows `compress`, as far as it decides which points there are."""
        words = ["sweep", str(self.recipe)]
        for option, values in (("--vary", self.vary), ("--set", self.overrides)):
            words += [word for value in values for word in (option, value)]
        if self.without != COMPRESSING:
            words += ["--without", ",".join(self.without)] if self.without else ["--no-baseline"]
        return words

    def grid(self) -> list[Point]:
        """Baselines, then all points.

        Raises:
            UsageError: a value or a point's recipe is wrong, or two points have one name.
        """
        found = points(self.recipe, self.vary, self.overrides)
        if self.without:
            found = baselines(found, self.without) + found
        if len({point.name for point in found}) < len(found):
            raise UsageError("two points of the sweep would have one folder; shorten the values")
        return found
