"""Processes for `scaling.py`: groups that train in turns, runs that are stopped, sweeps."""

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from children import ending

PROCESS = str(Path(__file__).parent / "scaling_process.py")
STOPPED = 75
"""Exit status of a run that a signal stopped and that can go on."""
TIMEOUT = 1800
"""Seconds that a run may take."""
RECIPE = """schema: 1
name: scaling
model: {network}
data: {{source: phantom, image_size: {side}, train_slices: {slices}, test_slices: 1, views: 8}}
seed: 0
steps:
  - train: {{epochs: {epochs}, batch: {batch}, crop: {side}, slices_per_epoch: {per_epoch}}}
"""


def command(*words: str) -> list[str]:
    """The command line of the project."""
    return [sys.executable, "-m", "compress", *words]


def started(count: int, words: list[str], logs: Path, **pipes: Any) -> list[subprocess.Popen[str]]:
    """`words` in `count` processes with torchrun's environment; each logs to LOGS/<rank>.log.

    `pipes` are arguments of Popen for the first process.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    place = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }  # fmt: skip
    processes = []
    for rank in range(count):
        own = place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        more = pipes if rank == 0 else {"stdout": subprocess.DEVNULL}
        with (logs / f"{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen(words, env=os.environ | own, stderr=log, text=True, **more)
            )
    return processes


def said(logs: Path) -> str:
    """The last lines of every process."""
    return "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in sorted(logs.glob("*.log")))


class Group:
    """Processes that train together when asked, and wait otherwise."""

    def __init__(self, processes: list[subprocess.Popen[str]], logs: Path) -> None:
        self.processes, self.logs = processes, logs

    def ask(self, request: str, **words: Any) -> dict[str, Any]:
        """What the first process answers.

        Raises:
            click.ClickException: it ended instead.
        """
        first = self.processes[0]
        assert first.stdin is not None
        assert first.stdout is not None
        try:
            first.stdin.write(json.dumps({"request": request, **words}) + "\n")
            first.stdin.flush()
        except BrokenPipeError:
            pass  # what it left to say is in its log
        for line in first.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise click.ClickException(f"{len(self.processes)} processes failed:\n{said(self.logs)}")


@contextmanager
def groups(counts: list[int], device: str, folder: Path) -> Iterator[dict[int, Group]]:
    """A group of each size, all alive at once so that rounds can take turns."""
    words = [sys.executable, PROCESS, "--device", device]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as stack:
        found = {}
        for count in counts:
            logs = folder / f"group-{count}"
            processes = started(count, words, logs, **pipes)
            stack.enter_context(ending(processes))
            found[count] = Group(processes, logs)
        yield found


def stopped(count: int, device: str, recipe: str, folder: Path) -> dict[str, Any]:
    """Train unbroken, and once more with a SIGTERM to the last process after the first epoch."""
    (path := folder / "stop.yaml").write_text(recipe)

    def run(name: str, number: signal.Signals | None = None) -> list[int]:
        words = command("run", str(path), "--out", str(folder / name), "--device", device)
        processes = started(count, words, folder / f"{name}-logs", stdout=subprocess.DEVNULL)
        with ending(processes):
            if number is not None:
                log = folder / name / "00-train" / "log.csv"
                while processes[0].poll() is None and not log.exists():
                    time.sleep(0.01)
                processes[-1].send_signal(number)
            return [process.wait(timeout=TIMEOUT) for process in processes]

    def weights(name: str) -> bytes | None:
        file = folder / name / "00-train" / "model.safetensors"
        return file.read_bytes() if file.exists() else None

    statuses = {"unbroken": run("whole"), "stopped": run("parts", signal.SIGTERM)}
    in_the_middle = weights("parts") is None
    statuses["resumed"] = run("parts")
    whole = weights("whole")
    found = {
        "processes": count, "signal": "SIGTERM to the last process", "statuses": statuses,
        "in_the_middle": in_the_middle,
        "all_ended_with_75": statuses["stopped"] == [STOPPED] * count,
        "same_bits": whole is not None and weights("parts") == whole,
    }  # fmt: skip
    if device == "cuda":  # on a CPU runs repeat to the bit; here a difference may not be the stop's
        run("again")
        found["an_unbroken_run_repeats_to_the_bit"] = whole == weights("again")
    return found


def swept(count: int, points: int, device: str, recipe: str, folder: Path) -> dict[str, Any]:
    """A sweep of `points` learning rates by a process for each device, and how busy they were.

    The recipe trains first. Each point does so on its own: nothing is shared that others wait for.
    """
    (path := folder / "sweep.yaml").write_text(recipe)
    rates = ",".join(f"{1e-3 * (1 - 0.5 * k / points):.6f}" for k in range(points))
    out = folder / "sweep"
    words = command("sweep", str(path), "--vary", f"steps.train.lr={rates}", "--out", str(out))
    words += ["--device", device, "--no-baseline"]
    (logs := folder / "sweep-logs").mkdir()
    begun = time.monotonic()
    processes = []
    for number, name in enumerate(visible(count)):
        own = {"CUDA_VISIBLE_DEVICES": name} if device == "cuda" else {}
        with (logs / f"{number}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    words, env=os.environ | own, stderr=log, stdout=subprocess.DEVNULL, text=True
                )
            )
    with ending(processes), utilization(count, device) as used:
        ends = ended(processes)
    seconds = max(ends) - begun
    return {
        "devices": count, "points": points, "seconds": seconds,
        "statuses": [process.returncode for process in processes],
        "share_of_time_with_a_process": [(end - begun) / seconds for end in ends],
        "share_of_time_at_points": at_points(out, logs, count, seconds),
        "points_done": len(rows(out)), "utilization": used,
    }  # fmt: skip


def visible(count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the first `count` GPUs."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names.split(",")[:count] if names else [str(number) for number in range(count)]


def ended(processes: list[subprocess.Popen[str]]) -> list[float]:
    """When each of them ended, on the monotonic clock."""
    ends: dict[int, float] = {}
    until = time.monotonic() + TIMEOUT
    while len(ends) < len(processes):
        for number, process in enumerate(processes):
            if number not in ends and process.poll() is not None:
                ends[number] = time.monotonic()
        if time.monotonic() > until:
            raise click.ClickException(f"the sweep has not ended within {TIMEOUT} s")
        time.sleep(0.02)
    return [ends[number] for number in range(len(processes))]


def rows(out: Path) -> dict[str, float]:
    """Seconds of each finished point, by its name."""
    found = (json.loads(path.read_text()) for path in out.glob("points/*/point.json"))
    return {row["point"]: row["seconds"] for row in found if row["status"] == "done"}


def at_points(out: Path, logs: Path, count: int, seconds: float) -> list[float]:
    """For each process the share of `seconds` that it spent at points, by what it logged."""
    taken = rows(out)
    shares = []
    for number in range(count):
        text = (logs / f"{number}.log").read_text()
        names = set(re.findall(r"point \d+ of \d+: (\S+)", text))
        shares.append(sum(taken.get(name, 0.0) for name in names) / seconds)
    return shares


@contextmanager
def utilization(count: int, device: str) -> Iterator[list[dict[str, float]]]:
    """Filled at the end: for each GPU what nvidia-smi calls utilization, percent, each second."""
    found: list[dict[str, float]] = []
    if device != "cuda":
        yield found
        return
    samples: list[list[float]] = [[] for _ in range(count)]
    done = threading.Event()

    def watch() -> None:
        query = ["nvidia-smi", f"--id={','.join(visible(count))}"]
        query += ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(1.0):
            text = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            for sample, line in zip(samples, text.splitlines(), strict=False):
                if line.strip().isdecimal():
                    sample.append(float(line))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found += [
            {"mean": statistics.fmean(one), "share_above_0": statistics.fmean(v > 0 for v in one)}
            for one in samples
            if one
        ]
