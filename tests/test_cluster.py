"""`--cluster`: tasks that are lost, stopped, wrong or failed; with real ones of this machine."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from children import ending
from cluster_runs import (
    begun,
    command,
    environment,
    frozen,
    lose,
    parent,
    results,
    retraining,
    running,
    starts,
    wait_for,
)

from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.locks import claimed, taken
from compress.cluster import engines, node, spread
from compress.cluster.submitit import visible_gpus
from compress.cluster.task import Cluster, Outcome, Task
from compress.sweep.options import Sweep

EPOCHS = 400
DONE, LOST = Outcome(status=0, note="here"), Outcome(status=None, note="its machine is gone")


def task(folder: Path, *words: str, name: str = "one", **more: object) -> Task:
    return Task(name=name, words=words, folder=folder, logs=folder, **more)


class Scripted:
    """An engine whose tasks end as told, one outcome each time that they are begun."""

    name, share = "script", 1

    def __init__(self, at_once: int | None = None, **ends: list[Outcome | None]) -> None:
        self.at_once, self.ends = at_once, {key: deque(own) for key, own in ends.items()}
        self.begun, self.cancelled, self.closed = [], [], False
        self.now, self.most = 0, 0

    def submit(self, task: Task) -> "Scripted.Run":
        self.begun.append(task.name)
        self.now += 1
        self.most = max(self.most, self.now)
        return self.Run(self, task.name)

    def close(self) -> None:
        self.closed = True

    class Run:
        def __init__(self, engine: "Scripted", name: str) -> None:
            self.engine, self.name = engine, name

        def outcome(self) -> Outcome | None:
            if self.name in self.engine.cancelled:
                self.engine.now -= 1
                return Outcome(status=75, note="here")
            found = self.engine.ends[self.name].popleft()
            if found is None:
                self.engine.ends[self.name].append(None)
            else:
                self.engine.now -= 1
            return found

        def cancel(self) -> None:
            self.engine.cancelled.append(self.name)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "TICK", 0.001)


def through(engine: Scripted, tmp_path: Path) -> None:
    spread.through(engine, [task(tmp_path, name=name) for name in engine.ends], "OUT/cluster")


def test_a_lost_task_is_begun_again(tmp_path: Path) -> None:
    stopped, killed = Outcome(status=75, note="here"), Outcome(status=-9, note="here")
    engine = Scripted(a=[LOST, stopped, killed, DONE], b=[DONE])
    through(engine, tmp_path)
    assert engine.begun == ["a", "b", "a", "a", "a"]
    assert engine.closed


def test_what_is_always_lost_is_given_up(tmp_path: Path) -> None:
    engine = Scripted(a=[LOST] * 9, b=[DONE])
    with pytest.raises(CompressError, match=r"^1 of 2 tasks failed: a; a.log in OUT/cluster says"):
        through(engine, tmp_path)
    assert engine.begun.count("a") == spread.TRIES


def test_a_failure_stops_no_other_and_is_named(tmp_path: Path) -> None:
    failed = {name: [Outcome(status=1, note="here")] for name in "abcd"}
    engine = Scripted(**failed, e=[DONE])
    with pytest.raises(CompressError) as caught:
        through(engine, tmp_path)
    assert str(caught.value) == (
        "4 of 5 tasks failed: a, b, c and 1 more; a.log in OUT/cluster says why"
    )
    assert engine.begun == [*"abcde"]  # a failure is not a loss


def test_a_wrong_command_ends_all(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("12:00:00 INFO x\nError: INPUT holds no CT image: 1 empty\n")
    engine = Scripted(at_once=2, a=[Outcome(status=2, note="here")], b=[None], c=[DONE])
    with pytest.raises(
        UsageError, match=r"^INPUT holds no CT image: 1 empty \(more in a.log in OUT/"
    ):
        through(engine, tmp_path)
    assert engine.begun == ["a", "b"]
    assert engine.cancelled == ["b"]


def test_an_engine_that_takes_no_more_leaves_none_behind(tmp_path: Path) -> None:
    engine = Scripted(a=[None], b=[None], c=[DONE])
    submit = engine.submit

    def refusing(task: Task) -> Scripted.Run:
        if task.name == "c":
            raise UsageError("sbatch refuses a task")
        return submit(task)

    engine.submit = refusing
    with pytest.raises(UsageError, match="sbatch refuses a task"):
        through(engine, tmp_path)
    assert engine.cancelled == ["a", "b"]


def test_gpus_keep_the_names_that_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2c, MIG-77aa")
    assert visible_gpus() == ["GPU-8f2c", "MIG-77aa"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]


def test_no_more_at_once_than_there_is_room_for(tmp_path: Path) -> None:
    engine = Scripted(at_once=2, **{name: [DONE] for name in "abcde"})
    through(engine, tmp_path)
    assert engine.most == 2


def test_a_signal_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted(at_once=2, a=[DONE], b=[None], c=[DONE], d=[None])
    submit = engine.submit

    def signalled(task: Task) -> Scripted.Run:
        if task.name == "d":
            signal.raise_signal(signal.SIGTERM)
        return submit(task)

    monkeypatch.setattr(engine, "submit", signalled)
    with pytest.raises(Stopped) as caught:
        through(engine, tmp_path)
    assert str(caught.value) == (
        "stopped: 2 of 4 tasks are done; run again to go on with the other 2"
    )
    assert sorted(engine.cancelled) == ["b", "d"]
    assert engine.closed


def test_a_command_where_it_runs(tmp_path: Path) -> None:
    found = node.run(task(tmp_path, "--version", settings=(("COMPRESS_CACHE", "x"),)))
    assert found.status == 0
    assert (tmp_path / "one.log").read_text().startswith("compress ")
    assert node.run(task(tmp_path, "nothing")).status == 2
    assert "No such command" in (tmp_path / "one.log").read_text()


def test_a_machine_without_the_folder_says_so(tmp_path: Path) -> None:
    found = node.run(task(tmp_path / "elsewhere", "--version"))
    assert found.status == 2
    assert "does not have the folders of this command; start it in, and write to, " in found.note


def test_a_task_never_runs_twice_at_once(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from compress.cluster import node, task; "
    code += "p = Path(sys.argv[1]); t = task.Task(name='one', words=('--version',), folder=p, "
    code += "logs=p); sys.exit(node.run(t).status)"
    with (tmp_path / ".one.log.lock").open("w") as other:
        assert taken(other)
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path], env=environment())
        with ending([process]):
            time.sleep(2)
            assert process.poll() is None
            assert not (tmp_path / "one.log").exists()
            other.close()
            assert process.wait(60) == 0
    assert (tmp_path / "one.log").read_text().startswith("compress ")


def test_a_task_that_waits_can_be_stopped(tmp_path: Path) -> None:
    with claimed(tmp_path / ".one.log.lock") as mine:
        assert mine
        command = node.Command(task(tmp_path, "--version"))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        former = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
        try:
            assert command().status == 75
        finally:
            signal.signal(signal.SIGALRM, former)
        assert command.child is None


def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with (
        pytest.raises(UsageError, match="no locks between processes"),
        claimed(tmp_path / "lock"),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("pbs", "--cluster pbs: expected ray, ray://HOST:PORT, slurm or local"),
        ("slurm", "--cluster slurm: there is no Slurm here (no srun)"),
    ],
)
def test_engines_that_are_not_there(
    address: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # the machine of the tests may submit jobs
    with pytest.raises(UsageError) as caught:
        engines.engine(Cluster(address=address), tmp_path, None)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("silent", [True, False])
def test_slurm_without_accounts_is_told(
    silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = "Slurm accounting storage is disabled"
    for name, script in (("srun", ""), ("sacct", f"echo {said} >&2; exit 1" if silent else "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    engines.engine(Cluster(address="slurm"), tmp_path, "cpu").close()
    assert (f"keeps no accounts here (sacct: {said})" in caplog.text) == silent


@pytest.mark.parametrize(
    ("address", "package", "extra"), [("ray", "ray", "ray"), ("local", "submitit", "slurm")]
)
def test_a_missing_package_names_its_extra(
    address: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as caught:
        engines.engine(Cluster(address=address), tmp_path, None)
    said = str(caught.value)
    assert said.startswith(f"--cluster {address} needs the package {package}, which is not inst")
    assert said.endswith(f"run pip install 'compress-ct[{extra}]'")


def test_more_gpus_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--gpus-per-task 99: this machine has \d+ GPUs"):
        engines.engine(Cluster(address="local", gpus=99), tmp_path, None)


def test_point_and_cluster_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--point and --cluster exclude each other"):
        Sweep(recipe=tmp_path, vary=(), out=tmp_path, point="x", cluster=Cluster(address="local"))


@pytest.mark.slow
def test_lost_processes_cost_no_point(tmp_path: Path) -> None:
    """Two ways to lose a machine: all of it at once, and the task but not its command."""
    out = tmp_path / "out"
    words = command(tmp_path, "out", "--cluster", "local", "--jobs", "2", epochs=EPOCHS)
    process = begun(words)
    with ending([process]):
        first, second = frozen(out, process)
        (dense,) = (out / "shared").rglob("00-train/model.safetensors")
        before = dense.stat().st_mtime_ns
        lose([first, parent(first), parent(parent(first))])
        lose([parent(second), parent(parent(second))])
        os.kill(second, signal.SIGCONT)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert said.count("reseed=0 was lost") == said.count("reseed=1 was lost") == 1
    assert dense.stat().st_mtime_ns == before
    assert sum(starts(out, "00-train").values()) == 1
    log = (out / "cluster" / "reseed=1.log").read_text()  # its command saved before it ended
    assert "SIGTERM: finishing the step, then saving" in log
    assert log.count("02-retrain: starting") - log.count("02-retrain: resuming") == 1
    assert "02-retrain: resuming from step" in log
    again = begun(command(tmp_path, "plain", epochs=EPOCHS))  # in one process, undisturbed
    with ending([again]):
        said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said
    assert results(out) == results(tmp_path / "plain")


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = command(tmp_path, "out", "--cluster", "local", epochs=100_000)
    process = begun(words)
    with ending([process]):
        wait_for(retraining(out, "reseed=0"), process)
        (first,) = running("reseed=0", process.pid)
        for one in (first, parent(first)):  # Slurm tells all processes before the limit
            os.kill(one, signal.SIGUSR2)
        log = out / "cluster" / "reseed=0.log"
        wait_for(lambda: "02-retrain: resuming from step" in log.read_text(), process)
        (task,) = running("reseed=0", process.pid)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 75, said
    assert "stopped: 0 of 2 tasks are done; run again to go on with the other 2" in said
    assert "was lost" not in said
    assert "SIGTERM: finishing the step, then saving" in log.read_text().partition("resuming")[0]
    assert task != first
    assert not Path(f"/proc/{task}").exists()
    assert not (out / "cluster" / "reseed=1.log").exists()
    assert list((out / "points" / "reseed=0").rglob("state.safetensors"))
