"""Several processes on one machine, without GPUs: they learn what one process learns."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from children import ending
from forked import Python

from compress.base import torchrun, world
from compress.base.errors import CompressError, UsageError
from compress.base.torchrun import joined
from compress.base.world import World

TESTS = Path(__file__).parent
CURVE = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pairs import data
from compress.checkpoint import Model, ModelOptions
from compress.base.ending import leave
from compress.steps.train import Train
from compress.context import Work
from compress.base.torchrun import joined
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN

torch.manual_seed(0)
net = {net}
options = Train(epochs=20, batch=4, crop=32, slices_per_epoch=4, lr=1e-4, **{options!r})
with joined("cpu") as (world, _):
    stage = Path({folder!r}) / f"{{world.rank}}-train"
    stage.mkdir(parents=True)
    # The stage's name seeds the draws, so it is the same in all processes.
    stage = stage / "00-train"
    stage.mkdir()
    work = Work(stage=stage, device=torch.device("cpu"), data=data(), seed=0, world=world)
    options.run(Model(net=net, origin=ModelOptions(name="ddnet")), work)
    (Path({folder!r}) / f"{{world.rank}}.json").write_text(json.dumps(work.facts))
leave(0)
"""
"""Twenty steps, with the loss of each."""
NETWORKS = {
    "RedCNN(channels=8)": {},  # no BatchNorm
    "DDnet(residual=True)": {"freeze_norm": True},
}
SHORT = """
if os.environ["RANK"] == "1":
    from compress.training.parts import Objective
    forward = Objective.forward
    def full(self, low, *rest):
        if len(low) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, low, *rest)
    Objective.forward = full
"""
"""A memory of the second process that holds one crop."""
LEAVING = """
import os, sys
import torch
from compress.base.errors import CompressError
from compress.base.torchrun import joined
with joined("cpu") as (world, _):
    world.wait()
    if world.rank == 1:
        os._exit(7)
    try:
        world.average([torch.ones(3)])
    except CompressError as error:
        print(error)
        sys.stdout.flush()
        os._exit(0)
"""
WHOLE = """schema: 1
name: whole
model: {name: redcnn, channels: 16}
data: {source: phantom, image_size: 32, train_slices: 2, test_slices: 1, views: 8}
seed: 0
steps:
  - train: {epochs: 1, batch: 4, crop: 32, slices_per_epoch: 4}
  - prune: {amount: 0.1, round_to: 8}
  - retrain: {epochs: 1, batch: 4, crop: 32, slices_per_epoch: 4}
  - evaluate
"""


def port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start(command: list[str], processes: int) -> list[subprocess.CompletedProcess[str]]:
    """A command as torchrun starts it: in so many processes that know of each other."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as name:
        running: list[Python] = []
        with ending(running):
            for rank in range(processes):
                known = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                running.append(Python(*command, folder=Path(name), environment=place | known))
            outputs = [process.communicate(timeout=500) for process in running]
    return [
        subprocess.CompletedProcess(command, process.returncode, *output)
        for process, output in zip(running, outputs, strict=True)
    ]


def run(recipe: Path, out: Path) -> list[subprocess.CompletedProcess[str]]:
    words = ["-m", "compress", "run", str(recipe), "--out", str(out), "--device", "cpu"]
    return start(words, 2)


@pytest.mark.slow
@pytest.mark.parametrize("net", NETWORKS)
def test_two_processes_learn_what_one_learns(net: str, tmp_path: Path) -> None:
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        known = {"options": NETWORKS[net], "folder": str(folder), "tests": str(TESTS)}
        code = CURVE.format(net=net, **known)
        for done in start(["-c", code], processes):
            assert done.returncode == 0, done.stderr
        found = [json.loads((folder / f"{n}.json").read_text()) for n in range(processes)]
        assert all(facts["processes"] == processes for facts in found)
        losses += [facts["loss"] for facts in found]
    one, *two = losses
    assert len(set(one)) == 20
    for curve in two:
        torch.testing.assert_close(torch.tensor(curve), torch.tensor(one), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_whole_recipe_in_two_processes(tmp_path: Path) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(WHOLE)
    first, second = run(recipe, out)
    assert first.returncode == second.returncode == 0, second.stderr
    assert (first.stdout, second.stdout, second.stderr) == (f"{out}\n", "", "")
    facts = json.loads((out / "03-evaluate" / "facts.json").read_text())["facts"]
    assert facts["networks"] == ["input", "dense", "compressed"]
    recipe.write_text(WHOLE.replace("  - evaluate", "  - sparsify: {at_least: 1.0}"))
    first, second = run(recipe, out)
    assert (first.returncode, second.returncode) == (3, 1)
    assert first.stderr.count("already done, skipping") == 3
    assert "Error: sparsify: " in first.stderr
    assert second.stderr == "Error: another process failed; its own message says why\n"
    recipe.write_text(WHOLE.replace("batch: 4", "batch: 3"))
    for done in run(recipe, tmp_path / "other"):
        assert done.returncode == 2
        assert "Error: a batch of 3 cannot be shared by 2 processes equally" in done.stderr


@pytest.mark.slow
def test_early_pruning_and_a_baseline_in_two_processes(tmp_path: Path) -> None:
    """Both train in both processes, and go on from the disk as every training does."""
    text = WHOLE.replace("epochs: 1", "epochs: 2").replace("round_to: 8", "round_to: 8, at: 0.25")
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(text.replace("  - evaluate", "  - baseline\n  - evaluate"))
    for _ in range(2):
        first, second = run(recipe, out)
        assert first.returncode == second.returncode == 0, second.stderr
    assert first.stderr.count("already done, skipping") == 5
    stages = ("00-train", "02-retrain", "03-baseline")
    facts = [json.loads((out / name / "facts.json").read_text())["facts"] for name in stages]
    assert [(one["epochs"], one["processes"]) for one in facts] == [(1, 2), (3, 2), (3, 2)]
    assert (out / "03-baseline" / "dense" / "model.safetensors").exists()


@pytest.mark.slow
def test_processes_agree_on_smaller_parts_where_one_is_short_of_memory(tmp_path: Path) -> None:
    curves = {}
    for kind, seed in (("whole", ""), ("short", SHORT)):
        code = CURVE.replace("torch.manual_seed(0)", f"torch.manual_seed(0){seed}").format(
            net="RedCNN(channels=8)", options={}, folder=str(tmp_path / kind), tests=str(TESTS)
        )
        for done in start(["-c", code], 2):
            assert done.returncode == 0, done.stderr
        curves[kind] = [json.loads((tmp_path / kind / f"{n}.json").read_text()) for n in range(2)]
    assert [facts["micro_batch"] for facts in curves["whole"]] == [2, 2]
    for short, whole in zip(curves["short"], curves["whole"], strict=True):
        assert short["micro_batch"] == 1
        torch.testing.assert_close(short["loss"], whole["loss"], rtol=1e-5, atol=0)


@pytest.mark.slow
def test_where_one_process_ends_the_other_says_so() -> None:
    first, second = start(["-c", LEAVING], 2)
    assert second.returncode == 7
    assert first.stdout.split("\n")[-2] == "another process failed; its own message says why"


@pytest.mark.parametrize(("processes", "status"), [(1, -signal.SIGABRT), (2, 2)])
def test_one_of_several_ends_before_anything_can_abort_it(processes: int, status: int) -> None:
    code = (
        "import atexit, os; from compress.cli.main import main; "
        "atexit.register(os.abort); main(['?'])"
    )
    command = [sys.executable, "-c", code]
    for rank in range(processes):
        known = {"RANK": str(rank), "WORLD_SIZE": str(processes)}
        done = subprocess.run(command, env=os.environ | known, capture_output=True, text=True)
        assert done.returncode == status
        assert "No such command" in done.stderr


def test_alone_nothing_has_an_effect() -> None:
    world, x = World(), torch.ones(3)
    world.average([x])
    assert torch.equal(x, torch.ones(3))
    assert world.first
    assert world.share(4) == slice(0, 4)
    assert [world.any(value) for value in (True, False)] == [True, False]
    with joined("cuda:1") as (found, device):
        assert (found, device) == (world, "cuda:1")


def test_shares_cover_a_batch() -> None:
    batch = list(range(12))
    assert [n for rank in range(3) for n in batch[World(rank, 3).share(12)]] == batch


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            "cuda:0",
            "--device cuda:0: with torchrun, pass --device cuda; each process picks its own GPU",
        ),
        ("cuda", "4 processes need 4 GPUs, PyTorch sees 2 here"),
    ],
)
def test_devices_that_several_processes_cannot_have(device, said, monkeypatch) -> None:
    known = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}
    known |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=said), joined(device):
        pass


TORCHRUN = "start several processes by torchrun, or unset WORLD_SIZE"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"WORLD_SIZE": "2"}, "but RANK, MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "but MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', no number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', no number of processes"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', no number of processes"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x', no whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, but there are 2 processes, counted from 0"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "p"}, "MASTER_PORT is 'p', no whole"),
    ],
)
def test_half_of_what_torchrun_says_is_one_sentence(known, said, monkeypatch) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} if "RANK" in known else {}
    if said.startswith("but"):
        place = {}
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (place | known).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{said}.*{TORCHRUN}"), joined("cpu"):
        pass


@pytest.mark.parametrize("size", ["", " ", "1", " 1 "])
def test_an_empty_world_is_this_process_alone(size: str, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", "")
    with joined("cpu") as (found, device):
        assert (found, device) == (World(), "cpu")


@pytest.mark.parametrize("size", ["", "two"])
def test_no_command_ends_in_a_traceback_for_the_environments_sake(size: str) -> None:
    """It did after all work was done, when the exit status was given."""
    done = subprocess.run(
        [sys.executable, "-m", "compress", "--version"],
        env={**os.environ, "WORLD_SIZE": size}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("rank", [0, 1])
def test_partners_that_never_come_are_waited_for_and_named(rank, monkeypatch, caplog) -> None:
    caplog.set_level("INFO", "compress")
    known = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port()}
    for name, value in (known | {"RANK": str(rank)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torchrun, "JOIN", timedelta(seconds=2))
    where = f"127.0.0.1:{known['MASTER_PORT']}"
    said = f"not all of 2 processes came to {where} within 0:00:02: "
    with pytest.raises(CompressError, match=said), joined("cpu"):
        pass
    if rank == 0:
        assert f"waiting at {where} for all of 2 processes, 0:00:02 at most" in caplog.messages


def test_long_waits_are_said(monkeypatch, caplog) -> None:
    monkeypatch.setattr(world, "SILENCE", 0.1)
    monkeypatch.setattr(world, "_reduce", lambda *_: time.sleep(0.9))
    World(rank=1, size=3).wait()
    said = [text for text in caplog.messages if text.startswith("process 1 has waited ")]
    assert said[0].endswith(" minutes for the other 2: they may be at work, or gone")
    assert 2 <= len(said) <= 3, "after 0.1, 0.3 and 0.7 seconds"
