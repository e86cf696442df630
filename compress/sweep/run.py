"""A whole sweep: the grid, one or several processes, then the tables and plots."""

import logging
import multiprocessing
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from compress.base import openmp
from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.progress import start_log
from compress.base.signals import interruptible
from compress.cluster import spread
from compress.cluster.task import Cluster, Task
from compress.sweep import rows, tables
from compress.sweep.grid import COMPRESSING, Point, baselines, points
from compress.sweep.work import ROW, Worker

log = logging.getLogger(__name__)


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

    def work(self) -> int:
        """Run in this process what no other is at; returns how many points are left to others."""
        worker = Worker(
            self.out,
            self.grid(),
            data=self.data,
            device=self.device,
            fallback=self.fallback,
            command=self.command(),
            without=self.without,
            jobs=self.jobs,
            only=self.point,
        )
        return worker.run()


def run(sweep: Sweep) -> Path:
    """Run a sweep, or go on with it, and write its tables and plots.

    Args:
        sweep: what to run; where it varies nothing, only the tables and plots of the points that
            lie in its folder are written.

    Returns:
        The path of sweep.json; of one point, of its point.json.

    Raises:
        CompressError: tasks of a cluster failed.
        UsageError: the grid, folder, data or device are not usable.
        Stopped: a signal came; run again to go on.
    """
    from compress.reporting import plots

    only_tables = not sweep.vary and (sweep.out / "points").is_dir()
    left = 0
    if not only_tables:
        names = [point.name for point in sweep.grid()]  # a wrong one before any process starts
        if sweep.point not in (None, *names):
            raise UsageError(f"--point {sweep.point}: the sweep has no such point")
        sweep.out.mkdir(parents=True, exist_ok=True)
    if sweep.point is not None:
        sweep.work()
        return sweep.out / "points" / sweep.point / ROW
    try:
        if not only_tables:
            left = _all(sweep)
    finally:
        found = tables.write(sweep.out, sweep.command())
    for figure in plots.sweep(rows.summary(found), sweep.out):
        log.info("%s", figure)
    if left:
        log.info("%d points are another process's; run again to have them in the tables", left)
    return sweep.out / "sweep.json"


def _all(sweep: Sweep) -> int:
    """Run all points; returns how many are left to others."""
    if sweep.cluster is not None:
        _tasks(sweep, sweep.cluster)
        return 0
    return sweep.work() if sweep.jobs == 1 else _processes(sweep)


def _tasks(sweep: Sweep, cluster: Cluster) -> None:
    """Each point as a task of a cluster."""
    logs = (sweep.out / "cluster").absolute()
    engine = spread.opened(cluster, logs, sweep.device)
    words = [*sweep.words(), "--out", str(sweep.out), "--jobs", str(engine.share)]
    words += ["--data", str(sweep.data)] if sweep.data else []
    words += ["--device", sweep.device] if sweep.device else []
    words += [] if sweep.fallback else ["--no-fallback"]
    tasks = [
        Task(
            name=point.name,
            words=(*words, "--point", point.name),
            folder=Path.cwd(),
            logs=logs,
            settings=spread.settings(),
        )
        for point in sweep.grid()
    ]
    spread.through(engine, tasks, str(sweep.out / "cluster"))


def _processes(sweep: Sweep) -> int:
    """`sweep.jobs` processes that share the points; a signal is passed on to them."""
    openmp.share()
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    workers = [context.Process(target=_process, args=(sweep,)) for _ in range(sweep.jobs)]
    with interruptible() as stop:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            if stop.is_set():
                for worker in workers:
                    worker.terminate()
                break
            time.sleep(0.2)
        for worker in workers:
            worker.join()
    codes = [worker.exitcode for worker in workers]
    if stop.is_set() or Stopped.exit_code in codes:
        raise Stopped("the processes of the sweep were stopped; run again to go on")
    if any(codes):
        raise CompressError(f"a process of the sweep failed, exit codes {codes}; see its message")
    return 0


def _process(sweep: Sweep) -> None:
    start_log()
    try:
        sweep.work()
    except CompressError as error:
        log.error("%s", error)
        raise SystemExit(error.exit_code) from None
