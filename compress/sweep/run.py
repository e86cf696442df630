"""A whole sweep: the grid, one or several processes, then the tables and plots."""

import logging
import multiprocessing
import time
from pathlib import Path

from compress.base import openmp
from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.progress import start_log
from compress.base.signals import interruptible
from compress.cluster import spread
from compress.cluster.task import Cluster, Task
from compress.sweep import rows, tables
from compress.sweep.options import Sweep
from compress.sweep.work import ROW, Worker

log = logging.getLogger(__name__)


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
        Worker(sweep).run()
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
    return Worker(sweep).run() if sweep.jobs == 1 else _processes(sweep)


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
        Worker(sweep).run()
    except CompressError as error:
        log.error("%s", error)
        raise SystemExit(error.exit_code) from None
