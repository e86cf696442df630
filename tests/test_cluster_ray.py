"""Sweeps on Ray: two machines, of which one is lost; skipped where Ray is not installed."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import descendants, ending
from cluster_runs import (
    begun,
    command,
    environment,
    frozen,
    lose,
    results,
    retraining,
    running,
    starts,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("ray", "grpc"))), reason="needs ray[client]"
    ),
]
EPOCHS = 400
"""So many that a point still trains when it is looked at."""
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
"""Whoever reaches a Ray may run code on it."""


RAY = str(Path(sys.executable).with_name("ray"))


def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def node(*words: str) -> "subprocess.Popen[str]":
    """A machine of a Ray cluster, as `ray start` makes it."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [RAY, "start", "--block", *words, "--disable-usage-stats"],
        env=environment(**TOKEN),
        stdout=quiet,
        stderr=quiet,
        text=True,
    )


@pytest.fixture
def nodes() -> Iterator[tuple[str, list["subprocess.Popen[str]"]]]:
    """Where the client connects; a head without CPU cores for tasks, then two machines of one."""
    gcs, client = free(), free()
    ports = (f"--port={gcs}", f"--ray-client-server-port={client}")
    head = node("--head", "--num-cpus=0", "--include-dashboard=false", *ports)
    started = [head]
    with ending(started):
        wait_for(lambda: _answers(gcs) and _answers(client), head)
        for count in (1, 2):  # two that start at once may choose the same port, and one ends
            started.append(node(f"--address=127.0.0.1:{gcs}", "--num-cpus=1"))
            wait_for(lambda count=count: _cores(gcs) == count, started[-1], every=0.5)
        yield f"ray://127.0.0.1:{client}", started[1:]


def _cores(gcs: int) -> int:
    """CPU cores that the cluster has for tasks."""
    words = [RAY, "status", "--address", f"127.0.0.1:{gcs}"]
    said = subprocess.run(
        words, env=environment(**TOKEN), capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"/(\d+)\.0 CPU", said)
    return int(found[1]) if found else 0


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_a_lost_machine_costs_no_point(nodes, tmp_path: Path) -> None:
    address, others = nodes
    out = tmp_path / "out"
    process = begun(command(tmp_path, "out", "--cluster", address, epochs=EPOCHS), **TOKEN)
    with ending([process]):
        _, second = frozen(out, process, others)
        (dense,) = (out / "shared").rglob("00-train/model.safetensors")
        before = dense.stat().st_mtime_ns
        (lost,) = [one for one in others if running("reseed=0", one.pid)]
        lose([*descendants(lost.pid), lost.pid])
        os.kill(second, signal.SIGCONT)
        lost.wait()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "reseed=0 was lost" in said
    assert "reseed=1 was lost" not in said
    assert dense.stat().st_mtime_ns == before
    assert sum(starts(out, "00-train").values()) == 1
    assert starts(out, "02-retrain")["reseed=1"] == 1
    again = begun(command(tmp_path, "plain", epochs=EPOCHS))  # in one process, undisturbed
    with ending([again]):
        said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said
    assert results(out) == results(tmp_path / "plain")


def test_a_signal_lets_tasks_save(tmp_path: Path) -> None:
    """On a Ray of this machine, as the only one there."""
    out = tmp_path / "out"
    words = command(tmp_path, "out", "--cluster", "ray", epochs=100_000)
    environ = {key: "" for key in ("RAY_ADDRESS",) if key in os.environ}
    process = begun(words, **environ)
    with ending([process]):
        wait_for(retraining(out, "reseed=0"), process)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 75, said
    assert "0 of 2 tasks are done; run again to go on with the other 2" in said
    log = (out / "cluster" / "reseed=0.log").read_text()
    assert "SIGTERM: finishing the step, then saving" in log
    assert list((out / "points" / "reseed=0").rglob("*state*")), "nothing was saved"
