"""A signal ends a run with a saved state, and the next run ends like an unbroken one."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from children import ending
from test_world import port

from compress.base import signals
from compress.base.signals import SIGNALS, interruptible

RECIPE = """schema: 1
name: long
model: {name: ddnet, residual: true, trunk: 8, bottleneck: 8, decoder: 8}
data: {source: phantom, image_size: 32, train_slices: 2, test_slices: 1, views: 8}
seed: 0
steps:
  - train: {epochs: 60, batch: 2, crop: 32, slices_per_epoch: 4}
"""


def start(folder: Path, **place: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compress", "run", str(folder / "r.yaml"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **place}
    return subprocess.Popen(
        [*command, "--out", str(folder / "out")], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int) -> str:
    """What a process says on standard error until it ends with this exit code."""
    with ending([process]):
        _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def weights(folder: Path) -> bytes:
    return (folder / "out" / "00-train" / "model.safetensors").read_bytes()


def recipes(folder: Path) -> list[Path]:
    """Two folders with the recipe: for a run that ends, and for one that is stopped."""
    folders = [folder / name for name in ("whole", "parts")]
    for one in folders:
        one.mkdir()
        (one / "r.yaml").write_text(RECIPE)
    return folders


def until_an_epoch_is_done(process: subprocess.Popen[str], folder: Path) -> None:
    while process.poll() is None and not (folder / "out" / "00-train" / "log.csv").exists():
        time.sleep(0.005)


def start_two(folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes that train together, as torchrun starts them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "WORLD_SIZE": "2"}
    return [start(folder, RANK=rank, LOCAL_RANK=rank, **place) for rank in "01"]


def finish_two(processes: list[subprocess.Popen[str]], codes: tuple[int, int]) -> None:
    with ending(processes):
        outputs = [process.communicate(timeout=180) for process in processes]
    assert tuple(process.returncode for process in processes) == codes, outputs


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, parts = recipes(tmp_path)
    finish(start(whole), 0)
    process = start(parts)
    until_an_epoch_is_done(process, parts)
    process.send_signal(signal.SIGUSR1)
    said = finish(process, 75)
    assert "SIGUSR1: finishing the step, then saving" in said
    assert said.endswith("\n00-train: stopped and saved; run again to go on\n")
    assert "resuming from step" in finish(start(parts), 0)
    assert weights(parts) == weights(whole)
    losses = [(f / "out" / "00-train" / "log.csv").read_text() for f in (whole, parts)]
    assert losses[0] == losses[1]
    assert len(losses[0].splitlines()) == 61


@pytest.mark.slow
def test_more_ctrl_c_while_a_stopped_run_ends_do_not_change_its_exit_status(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    process = start(tmp_path)
    until_an_epoch_is_done(process, tmp_path)
    process.send_signal(signal.SIGINT)
    with process, ending([process]):
        assert process.stderr
        assert any("stopped and saved" in line for line in process.stderr)
        for _ in range(3):  # Python takes longer than this to shut down
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert process.wait(timeout=60) == 75


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_they_go_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, parts = recipes(tmp_path)
    finish_two(start_two(whole), (0, 0))
    processes = start_two(parts)
    until_an_epoch_is_done(processes[0], parts)
    processes[1].send_signal(signal.SIGUSR1)
    finish_two(processes, (75, 75))
    assert not (parts / "out" / "00-train" / "facts.json").exists(), "it was over before"
    finish_two(start_two(parts), (0, 0))
    assert weights(parts) == weights(whole)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = {other: signal.getsignal(other) for other in SIGNALS}
    with interruptible() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        for other in set(SIGNALS) - {number}:  # each of them ends the process now
            assert signal.getsignal(other) is before[other]
    assert {other: signal.getsignal(other) for other in SIGNALS} == before


@pytest.mark.parametrize(("seconds", "second"), [(0.9, False), (1.1, True)])
def test_the_same_signal_within_a_second_counts_as_one(
    seconds: float, second: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun sends every process a SIGINT after the one of a Ctrl-C."""
    now, passed_on = 100.0, []
    monkeypatch.setattr(signals, "monotonic", lambda: now)
    before = signal.signal(signal.SIGINT, lambda *_: passed_on.append(now))
    try:
        with interruptible() as stop:
            signal.raise_signal(signal.SIGINT)
            now += seconds
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()
            assert passed_on == [now] * second
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_touched() -> None:
    found = []

    def other() -> None:
        with interruptible() as stop:
            found.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [(False, before)]
