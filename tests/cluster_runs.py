"""Sweeps on clusters of this machine, and machines that are lost while they work."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from children import descendants
from test_sweep import RECIPE, TESTS

POINTS = ("reseed=0", "reseed=1")


def command(folder: Path, out: str, *words: str, epochs: int) -> list[str]:
    """A sweep of two points in `folder`."""
    path = folder / "r.yaml"
    path.write_text(RECIPE.replace("EPOCHS", str(epochs)))
    own = ["--vary", "reseed=0,1", "--no-baseline", "--device", "cpu", "--out", str(folder / out)]
    return [sys.executable, "-m", "compress", "sweep", str(path), *own, *words]


def environment(**more: str) -> dict[str, str]:
    """With the networks of the tests, and the same number of threads wherever a task runs."""
    places = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, places))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def begun(words: list[str], **more: str) -> "subprocess.Popen[str]":
    """A command of this program."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, env=environment(**more), stdout=pipe, stderr=pipe, text=True, cwd=TESTS
    )


def wait_for(
    condition, process: "subprocess.Popen[str]", seconds: float = 300.0, every: float = 0.05
) -> None:
    """Until something is so, while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come"
        time.sleep(every)


def retraining(out: Path, point: str):
    """Whether a point is in the middle of its training."""
    return (out / "points" / point / "02-retrain" / "log.csv").exists


def running(point: str, pid: int) -> list[int]:
    """Processes below `pid` that run a point: the command, and who started it."""
    return [
        one for one in descendants(pid)
        if f"--point {point}" in _words(one)
    ]  # fmt: skip


def frozen(
    out: Path, process: "subprocess.Popen[str]", nodes: Sequence["subprocess.Popen[str]"] = ()
) -> list[int]:
    """The command of each point, stopped (SIGSTOP) as soon as it trains.

    Points train at once; on a fast machine one could end its training while a test looks at
    another. Points run below `process`, or below `nodes` where there are any.
    """
    tops = [one.pid for one in nodes or [process]]
    found: dict[str, int] = {}

    def all_are() -> bool:
        for point in POINTS:
            if point not in found and retraining(out, point)():
                (found[point],) = [pid for top in tops for pid in running(point, top)]
                os.kill(found[point], signal.SIGSTOP)
        return len(found) == len(POINTS)

    wait_for(all_are, process, every=0.01)
    return [found[point] for point in POINTS]


def lose(pids: list[int]) -> None:
    """End processes as a machine does that loses its power: all at once, none can react."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def parent(pid: int) -> int:
    """The process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def starts(out: Path, stage: str) -> dict[str, int]:
    """How often each task has begun a stage from its beginning, by the logs."""
    logs = {point: (out / "cluster" / f"{point}.log").read_text() for point in POINTS}
    return {point: log.count(f"{stage}: starting") for point, log in logs.items()}


def results(out: Path) -> dict[str, tuple[str, float]]:
    """Digest of the weights and PSNR of each point."""
    rows = json.loads((out / "sweep.json").read_text())["rows"]
    assert [(row["point"], row["status"]) for row in rows] == [(p, "done") for p in POINTS]
    return {row["point"]: (weights(out, row["point"]), row["psnr"]) for row in rows}


def weights(out: Path, point: str) -> str:
    """Digest of the weights that a point ended with."""
    path = out / "points" / point / "02-retrain" / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
