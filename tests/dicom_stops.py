"""Runs of `enhance` in a process of their own that hang or take their time, to be stopped.

    python dicom_stops.py hanging|slow|plain SOURCE OUT [BATCH]

hanging: files called crash are never decoded; slow: the network takes 100 s for a batch.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def session(pid: int) -> list[int]:
    """The processes that are left of a session, zombies aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, _group, number = path.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(number) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def begun(mode: str, source: Path, out: Path) -> subprocess.Popen:
    """Such a run, in a session of its own."""
    words = [sys.executable, __file__, mode, str(source), str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        words, start_new_session=True, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def heard(process: subprocess.Popen, words: str) -> bool:
    """Wait until a run has said something on standard error."""
    return any(words in line for line in iter(process.stderr.readline, ""))


def told(process: subprocess.Popen, number: int = signal.SIGTERM) -> float:
    """Seconds until a run ends after a signal."""
    start = time.monotonic()
    process.send_signal(number)
    process.wait(30)
    return time.monotonic() - start


def until(condition, seconds: float = 120.0) -> bool:
    """Wait for something; whether it came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def main(mode: str, source: str, out: str) -> int:
    """One run; its exit status."""
    import gc

    import dicom_desks
    import torch

    from compress.base.errors import CompressError
    from compress.base.progress import start_log
    from compress.imaging import command, inference

    class Slow(torch.nn.Module):
        def forward(self, x):
            print("computing", file=sys.stderr, flush=True)
            for _ in range(10_000):
                time.sleep(0.01)
            return x

    torch.set_num_threads(1)
    start_log()
    cpu = torch.device("cpu")
    slow = inference.Network(inference.AnySize(Slow()), cpu, 2, "0" * 64, "fp32")
    inference.load = lambda *_a, **_k: slow if mode == "slow" else dicom_desks.identity(2)
    if mode == "hanging":
        command.Desk = dicom_desks.Hanging
    options = {"source": Path(source), "model": Path(), "out": Path(out), "existing": "skip"}
    try:
        command.run(command.Options(**options))
    except CompressError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        gc.freeze()  # as the command does
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
