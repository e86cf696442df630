"""Running the points: shared stages once, finished points never again, in any number of processes.

A process claims a point, or a shared stage, by a lock that goes with it, however it ends. So the
same command may run twice at the same time, on two GPUs, and after a kill it simply goes on.
"""

import logging
import multiprocessing
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from threading import Event

from compress.base import devices
from compress.base.errors import CompressError, Stopped
from compress.base.files import read_json, write_json
from compress.base.locks import claimed
from compress.base.signals import interruptible
from compress.data import Data
from compress.recipe import Recipe
from compress.run import pipeline
from compress.run.folder import prepare
from compress.run.keys import keys
from compress.run.resume import FACTS
from compress.sweep import rows
from compress.sweep.grid import Point, less
from compress.sweep.options import Sweep

log = logging.getLogger(__name__)

ROW = "point.json"


class Worker:
    """One process of a sweep.

    Args:
        sweep: what is run; points that another process works on are left to it. Of one `point`
            alone the others say which of its stages are shared.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep, self._points = sweep, sweep.grid()
        self._loaded: tuple[object, Data] | None = None

    def run(self) -> int:
        """Run every point that is not finished; returns how many are left to other processes.

        Raises:
            Stopped: a signal came; run again to go on.
            UsageError: folder, data or device are not usable.
        """
        devices.choose(self._sweep.device)  # a wrong one is no matter of a single point
        prepare(self._sweep.out)
        busy = 0
        with interruptible() as stop:
            chains = [keys(p.recipe, self._data(p.recipe)) for p in self._points]
            shared = Counter(key for chain in chains for key in chain)
            for number, (point, chain) in enumerate(zip(self._points, chains, strict=True), 1):
                if self._sweep.point in (None, point.name):
                    ahead = [key for key in chain[:-1] if shared[key] > 1 or self._has(key)]
                    about = f"point {number} of {len(self._points)}: {point.name}"
                    while not self._claimed(point, chain, len(ahead), about, stop):
                        if self._sweep.point is None:
                            busy += 1
                            break
                        time.sleep(0.5)
        return busy

    def _claimed(
        self, point: Point, chain: list[str], shared: int, about: str, stop: Event
    ) -> bool:
        """Run a point unless it is finished; False where another process is at it."""
        _leave_if_asked(stop)
        folder = self._sweep.out / "points" / point.name
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder / ".claim") as mine:
            if mine and not _finished(folder, chain[-1]):
                log.info("%s", about)
                self._one(point, chain, shared, stop)
            return mine

    def _data(self, recipe: Recipe) -> Data:
        """The recipe's data, from memory where the point before had the same."""
        about = (recipe.data, recipe.seed)
        if self._loaded is None or self._loaded[0] != about:
            found = pipeline.slices(recipe, self._sweep.data, fallback=self._sweep.fallback)
            self._loaded = (about, found)
        return self._loaded[1]

    def _has(self, key: str) -> bool:
        return (self._sweep.out / "shared" / key[:16]).exists()

    def _one(self, point: Point, chain: list[str], shared: int, stop: Event) -> None:
        """Run a point and write its row; what cannot be done is a row with its reason."""
        folder = self._sweep.out / "points" / point.name
        started = time.monotonic()
        try:
            self._share(point, chain[:shared], stop)
            self._pipeline(point.recipe, folder, None, shared)
            found = rows.measured(folder, point.recipe)
        except Stopped:
            raise
        except CompressError as error:
            log.warning("%s: %s", point.name, error)
            found = {"status": "failed", "reason": str(error)}
        other = less(point.recipe, self._sweep.without)
        write_json(
            folder / ROW,
            {
                "point": point.name,
                "kind": "baseline" if point.baseline else "point",
                "values": dict(point.values),
                "status": "done",
                "reason": "",
                **found,
                "seconds": round(time.monotonic() - started, 3),
                "recipe": point.recipe.name,
                "command": self._sweep.command(),
                "key": chain[-1],
                "baseline_key": keys(other, self._data(other))[-1],
                "without": list(self._sweep.without),
                "jobs": self._sweep.jobs,
            },
        )

    def _share(self, point: Point, chain: list[str], stop: Event) -> None:
        """Do the stages that other points begin with too, once, and link them into this run."""
        before: Path | None = None
        for index, key in enumerate(chain):
            folder = self._sweep.out / "shared" / key[:16]
            folder.mkdir(parents=True, exist_ok=True)
            while True:
                _leave_if_asked(stop)
                with claimed(folder / ".claim") as mine:
                    if mine:
                        self._link(before, folder, point.recipe, chain[:index])
                        self._pipeline(point.recipe, folder, index, index)
                        break
                time.sleep(0.5)  # another process is at it
            before = folder
        self._link(before, self._sweep.out / "points" / point.name, point.recipe, chain)

    def _pipeline(self, recipe: Recipe, folder: Path, last: int | None, linked: int) -> None:
        until = None if last is None else f"{last:02d}-{recipe.steps[last][0]}"
        pipeline.run(
            recipe,
            out=folder,
            until=until,
            device=self._sweep.device,
            fallback=self._sweep.fallback,
            loaded=self._data(recipe),
            linked=linked,
        )

    def _link(self, source: Path | None, target: Path, recipe: Recipe, chain: list[str]) -> None:
        """The stages with these keys of the run folder `source` in `target`, as hard links."""
        for index, key in enumerate(chain):
            assert source is not None  # a stage comes before
            name = f"{index:02d}-{recipe.steps[index][0]}"
            if _key(target / name / FACTS) != key:
                _link_stage(source / name, target / name)


def _link_stage(source: Path, target: Path) -> None:
    """Put a stage's folder there at once: half of one with its facts.json would count as done."""
    half = target.with_name(f".linking-{target.name}")
    for folder in (half, target):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, half, copy_function=_linked)
    half.rename(target)


def _linked(source: str, target: str) -> str:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _leave_if_asked(stop: Event) -> None:
    parent = multiprocessing.parent_process()
    if stop.is_set() or (parent is not None and not parent.is_alive()):
        raise Stopped("stopped between two runs of the sweep; run again to go on")


def _finished(folder: Path, key: str) -> bool:
    """Whether the point in `folder` was done under this key; failed ones are tried again."""
    try:
        row = read_json(folder / ROW)
    except (OSError, ValueError):
        return False
    return bool(row["key"] == key and row["status"] == "done")


def _key(facts: Path) -> str | None:
    """The key that a stage was finished under."""
    try:
        return str(read_json(facts)["hash"])
    except (OSError, ValueError):
        return None
