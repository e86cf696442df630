"""What misbehaves on purpose: tasks that crash or hang, and runs that are killed."""

import errno
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from compress.base.files import PARTIAL
from compress.imaging.tasks import Desk

ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
"""Asks whether a process has ended, and no more than that."""


class Crashing(Desk):
    """Ends its whole process at files called crash, as a decoder that writes past its memory."""

    def decode(self, number, name, *given):
        if "crash" in name:
            os._exit(11)
        return super().decode(number, name, *given)


class CrashingScan(Desk):
    """The same, when it looks at the header."""

    def scan(self, number, names):
        if any("crash" in name for name in names):
            os._exit(11)
        return super().scan(number, names)


class CrashingEncode(Desk):
    """The same, when it encodes what the network gave for the third file."""

    def encode(self, number, *given):
        if number == 2:
            os._exit(11)
        return super().encode(number, *given)


class CrashingWrite(Desk):
    """The same, when the third result is written and has not got its name yet."""

    def encode(self, number, *given):
        if number == 2:
            Path.replace = lambda *_: os._exit(11)  # this process writes nothing else
        return super().encode(number, *given)


class Filling(Desk):
    """Has no space for the third result and what follows."""

    def encode(self, number, *given):
        if number >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().encode(number, *given)


class CrashingDigest(Desk):
    """The same, when it reads a file to compare it."""

    def digest(self, _number, name):
        if name == "crash":
            os._exit(11)
        return name


class Allocating(Desk):
    """Takes and leaves arrays as those of a slice, and says how many pages of them were new."""

    def digest(self, _number, _name):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(1 << 19) for _ in range(6)]
        del arrays
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


class Replacing(Desk):
    """Finds that another image has taken the place of the third file since the look at headers."""

    def decode(self, number, name, *given):
        if number == 2:
            path = self.source.path / name
            path.write_bytes((self.source.path.parent / "other").read_bytes())
        return super().decode(number, name, *given)


class Hanging(Desk):
    """Never comes back from files called crash."""

    def decode(self, number, name, *given):
        if "crash" in name:
            time.sleep(1000)
        return super().decode(number, name, *given)


class Broken(Desk):
    """Every task fails in a way that nobody thought of."""

    def decode(self, number, name, *given):
        raise AssertionError("Doe^Jane")


def identity(batch: int = 16):
    """A network that changes nothing."""
    import torch

    from compress.graph.padding import AnySize
    from compress.imaging.inference import Network

    device = torch.device("cpu")
    return Network(AnySize(torch.nn.Identity()), device, batch, "0" * 64, "fp32")


def started(source: str, folder: str, *, at_the_manifest: bool = False) -> int:
    """A run in a fork of this process; killed when its manifest is written but not named so."""
    from compress.imaging import command

    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if at_the_manifest:  # this process writes nothing else
            Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        options = {"source": Path(source), "model": Path(), "out": Path(folder)}
        command.run(command.Options(**options, existing="skip"))
        code = 0
    finally:
        os._exit(code)


def results(folder: str) -> int:
    return len(list(Path(folder).glob("*.dcm")))


def wait_for(count: int, folder: str, pid: int) -> None:
    """Until there are so many results, or the run has ended."""
    while results(folder) < count and not os.waitid(os.P_PID, pid, ENDED):
        time.sleep(0.001)


def killed_runs(source: str, out: str, times: int, seed: int) -> None:
    """Kill runs at random moments and go on after each; prints what was there, as JSON.

    The first at its manifest, then one after some time, the next at some number of results.
    One process imports torch, every run is a fork of it: 40 runs in the time of 40 imports.
    """
    import torch

    from compress.imaging import inference

    torch.set_num_threads(1)
    inference.load = lambda *_args, **_options: identity()
    draw = random.Random(seed)
    begin = time.perf_counter()
    assert os.waitpid(started(source, f"{out}/whole"), 0)[1] == 0
    whole = time.perf_counter() - begin
    found = []
    for k in range(times):
        folder = f"{out}/{k}"
        pid = started(source, folder, at_the_manifest=k == 0)
        if k % 2:
            time.sleep(draw.uniform(0, whole))
        else:
            wait_for(draw.randrange(100) if k else 101, folder, pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        before = results(folder)
        left = [path.stem.rpartition(".")[0] for path in Path(folder).glob(f".*{PARTIAL}")]
        code = os.waitpid(started(source, folder), 0)[1]
        found.append({"before": before, "left": left, "code": code})
    print(json.dumps(found))


if __name__ == "__main__":
    killed_runs(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
