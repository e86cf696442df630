"""A sweep from end to end: one dense network, every point once, tables that can be merged."""

import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from children import ending
from pairs import data

from compress.base.errors import CompressError, UsageError
from compress.run import pipeline
from compress.sweep import rows, tables, work
from compress.sweep.latency import latency
from compress.sweep.options import Sweep
from compress.sweep.run import run

TESTS = Path(__file__).parent
RECIPE = """schema: 1
name: tiny
model: {import: "networks:Plain", width: 16}
data: {source: phantom, image_size: 32, train_slices: 2, test_slices: 1, views: 45}
reseed: 0
steps:
  - train: {epochs: 1, batch: 2, crop: 16, slices_per_epoch: 4}
  - prune: {amount: 0.5, round_to: 1}
  - retrain: {epochs: EPOCHS, batch: 2, crop: 16, slices_per_epoch: 4}
  - evaluate: {compare: false, pictures: 0}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("EPOCHS", "1"))
    monkeypatch.setattr(pipeline, "slices", lambda *_a, **_k: data(side=32, train=2, test=2))
    return path


def sweep(recipe: Path, *vary: str, out: str = "out", **more: object) -> Sweep:
    return Sweep(recipe=recipe, vary=vary, out=recipe.parent / out, **more)


def started(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Stages that ran since the last call."""
    found = [r.getMessage() for r in caplog.records if r.getMessage().endswith(": starting")]
    caplog.clear()
    return [text.partition(":")[0] for text in found]


def assert_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Of each stage of a point it is said once that it starts, or that it is done."""
    stages: list[str] = []
    for message in (record.getMessage() for record in caplog.records):
        name = re.match(r"(\d\d-\w+): (starting|already done)", message)
        if message.startswith("point "):
            stages = []
        elif name:
            assert name[1] not in stages, message
            stages.append(name[1])
    assert stages, "nothing was said"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    caplog.set_level("INFO", logger="compress")
    return caplog


def test_a_sweep(recipe: Path, log) -> None:
    asked = sweep(recipe, "steps.prune.amount=0.3,0.6,0.9999", "reseed=0,1")
    path = run(asked)
    assert_told_once(log)
    stages = started(log)
    assert stages.count("00-train") == 1
    assert stages.count("01-retrain") == 2  # the baselines
    assert stages.count("02-retrain") == 4  # two amounts, two repetitions
    written = json.loads(path.read_text())
    table = {row["point"]: row for row in written["rows"]}
    assert len(table) == 8
    good = table["prune.amount=0.3_reseed=1"]
    assert (good["status"], good["slices"], good["convolutions"]) == ("done", 2, 3)
    assert 0.3 <= good["macs_removed"] < 0.5
    assert good["macs_removed"] == pytest.approx(good["zeros"], abs=1e-9)
    base = table["baseline_reseed=1"]
    assert (base["macs_removed"], base["delta_psnr"]) == (0, 0)
    assert good["delta_psnr"] == good["psnr"] - base["psnr"]
    assert good["seconds_dense"] == base["seconds_dense"] > 0
    assert good["latency_ms"] > 0
    assert good["times_as_fast"] > 0
    assert good["command"].endswith("--vary reseed=0,1")
    lost = table["prune.amount=0.9999_reseed=0"]
    assert lost["status"] == "failed"
    assert "amount 0.9999 of macs cannot be removed at round_to 1; the most is" in lost["reason"]
    assert lost["delta_psnr"] is None
    first = asked.out / "points" / "prune.amount=0.3_reseed=0" / "00-train" / "model.safetensors"
    assert first.stat().st_nlink >= 7  # linked, not copied

    run(asked)  # what is finished is not run again; what cannot be reached is refused again
    assert not started(log)


def test_tables(recipe: Path) -> None:
    asked = sweep(recipe, "steps.prune.amount=0.3,0.9999", "reseed=0,1")
    run(asked)
    with (asked.out / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["kind"] for row in table].count("point") == 4
    assert {row["reseed"] for row in table} == {"0", "1"}
    for name in ("commit", "recipe", "command", "psnr", "psnr_sd", "delta_ssim", "seconds_extra"):
        assert name in table[0]
    means = json.loads((asked.out / "sweep.json").read_text())["summary"]
    line = next(m for m in means if m["values"].get("steps.prune.amount") == "0.3")
    own = [float(r["psnr"]) for r in table if r["steps.prune.amount"] == "0.3"]
    assert line["count"] == 2
    assert line["psnr"]["mean"] == pytest.approx(sum(own) / 2)
    text = (asked.out / "sweep.md").read_text()
    (dense,) = (line for line in text.splitlines() if line.startswith("| dense |"))
    assert dense.startswith("| dense | – | 2 | 0.0 % |")  # noqa: RUF001
    assert dense.endswith("| – |")  # noqa: RUF001  # it is not timed against itself
    (smaller,) = (line for line in text.splitlines() if "| 0.3 |" in line)
    assert float(smaller.split("|")[-2].split("±")[0]) > 0
    assert "cannot be removed at round_to 1" in text
    cells = dict(zip(text.splitlines()[0].split(" | "), dense.split(" | "), strict=True))
    assert re.fullmatch(r"\d of 3", cells["convolutions eligible for 2:4"])
    for head, key in (("first training, s", "dense"), ("retraining, s", "extra")):
        of = next(m for m in means if m["name"] == "dense")[f"seconds_{key}"]["mean"]
        assert cells[head] == f"{of:.1f}"
    as_sparse = {
        **line,
        **{f"{name}_removed": {"mean": 0.0, "sd": None} for name in ("macs", "params")},
    }
    low, high = line["times_as_fast_range"]
    assert low <= line["times_as_fast"]["mean"] <= high
    assert smaller.endswith(f" ({low:.2f} to {high:.2f}) |")
    as_sparse |= {"times_as_fast": {"mean": 1.25, "sd": None}, "times_as_fast_range": None}
    assert tables.markdown([as_sparse]).endswith("| 1.25 |\n")  # nothing removed, yet 2:4 or INT8
    for name in ("quality.png", "seconds.png", "speed.png"):
        assert (asked.out / name).read_bytes().startswith(b"\x89PNG")


def test_two_sweeps_share_a_folder_and_merge(recipe: Path, log) -> None:
    run(sweep(recipe, "steps.prune.criterion=gaussian,l1"))
    started(log)
    run(sweep(recipe, "steps.prune.criterion=random"))
    assert_told_once(log)
    stages = started(log)
    assert "00-train" not in stages  # from the other sweep
    assert "01-retrain" not in stages  # the baseline too
    found = rows.gather(recipe.parent / "out")
    assert {r["values"].get("steps.prune.criterion") for r in found if r["kind"] == "point"} == {
        "gaussian", "l1", "random",
    }  # fmt: skip
    # Rows from another machine count when its points are copied beside these.
    run(sweep(recipe, "steps.prune.criterion=l2", "reseed=0,1", out="other"))
    for point in (recipe.parent / "other" / "points").iterdir():
        shutil.copytree(point, recipe.parent / "out" / "points" / point.name, dirs_exist_ok=True)
    started(log)
    run(sweep(recipe))  # without --vary: the tables alone
    assert started(log) == []
    merged = json.loads((recipe.parent / "out" / "sweep.json").read_text())["rows"]
    assert len([r for r in merged if r["kind"] == "point"]) == 5
    assert all(r["delta_psnr"] is not None for r in merged)


def test_a_changed_recipe_runs_again(recipe: Path, log) -> None:
    run(sweep(recipe, "reseed=0,1", without=()))
    started(log)
    run(sweep(recipe, "reseed=0,1", overrides=("steps.train.lr=5e-3",), without=()))
    stages = started(log)
    assert stages.count("00-train") == 1
    assert stages.count("02-retrain") == 2


def test_points_of_another_process_are_left_to_it(recipe: Path, log) -> None:
    asked = sweep(recipe, "reseed=0,1", without=())
    folder = asked.out / "points" / "reseed=0"
    folder.mkdir(parents=True)
    with work.claimed(folder / ".claim") as mine:
        assert mine
        run(asked)
    assert "1 points are another process's; run again to have them in the tables" in log.text
    assert [row["point"] for row in rows.gather(asked.out)] == ["reseed=1"]


def test_what_a_step_alone_is_worth(recipe: Path) -> None:
    """Each point against the same recipe without one of its steps, trained as long."""
    asked = sweep(recipe, "reseed=0,1", without=("prune",), overrides=("name=x",))
    run(asked)
    found = {row["point"]: row for row in rows.gather(asked.out)}
    assert set(found) == {"baseline_reseed=0", "baseline_reseed=1", "reseed=0", "reseed=1"}
    assert found["reseed=0"]["delta_psnr"] is not None
    assert found["reseed=0"]["without"] == ["prune"]
    assert "| without prune | 2 |" in (asked.out / "sweep.md").read_text()
    assert asked.command().endswith("--without prune")


def test_seconds_are_of_rows_that_had_the_device_alone() -> None:
    def row(jobs: int, seconds: float) -> dict:
        about = {"kind": "point", "values": {"reseed": str(seconds)}, "reason": "", "psnr": 40.0}
        return about | {"jobs": jobs, "seconds_extra": seconds, "seconds_dense": 1.0}

    (line,) = rows.summary([row(1, 10.0), row(2, 19.0), row(1, 12.0)])
    assert line["seconds_extra"]["mean"] == 11.0
    assert line["count"] == 3
    (line,) = rows.summary([row(2, 18.0), row(2, 20.0)])
    assert line["seconds_extra"]["mean"] == 19.0  # better than none


def test_a_network_that_cannot_be_timed_keeps_its_point(caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    wrong = torch.nn.Conv2d(3, 3, 1)  # slices have one channel
    found = latency(wrong, wrong, torch.device("cpu"))
    assert {*found.values()} == {None}
    assert "no latency: " in caplog.text


def test_the_range_of_times_is_over_all_rounds_and_of_older_rows_unknown() -> None:
    def row(low: float | None, high: float | None) -> dict:
        about = {"kind": "point", "values": {}, "reason": "", "jobs": 1, "times_as_fast": 1.5}
        return about | {"times_as_fast_min": low, "times_as_fast_max": high}

    (line,) = rows.summary([row(1.2, 1.6), row(1.1, 1.5), row(None, None)])
    assert line["times_as_fast_range"] == [1.1, 1.6]
    (line,) = rows.summary([{"kind": "point", "values": {}, "reason": "", "times_as_fast": 1.5}])
    assert (line["times_as_fast_range"], line["widths"]) == (None, [])


def test_points_of_the_same_widths_are_said_to_be_so(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("round_to: 1}", "round_to: 8}"))
    asked = sweep(recipe, "steps.prune.amount=0.1,0.3,0.6")
    run(asked)
    removed = {
        r["point"]: r["macs_removed"] for r in rows.gather(asked.out) if r["kind"] == "point"
    }
    one, two, three = removed.values()
    assert one == two < three  # so the first two are the same in size
    note = (asked.out / "sweep.md").read_text().splitlines()[-1]
    assert note == (
        "`prune.amount=0.1` and `prune.amount=0.3` came to the same widths: networks of one size "
        "and speed, so that `times as fast` differs by chance."
    )
    points = [r for r in rows.gather(asked.out) if r["kind"] == "point"]
    other = [
        r | {"values": {**r["values"], "steps.train.epochs": str(i)}} for i, r in enumerate(points)
    ]
    assert "same widths" not in tables.markdown(rows.summary(other))  # they differ in more


def test_of_two_rows_of_one_key_the_one_alone_counts(tmp_path: Path) -> None:
    for name, jobs in (("a", 2), ("b", 1), ("c", 1)):
        folder = tmp_path / "points" / name
        folder.mkdir(parents=True)
        about = {"kind": "baseline", "key": "k", "baseline_key": "k", "jobs": jobs}
        (folder / "point.json").write_text(json.dumps(about | {"point": name, "psnr": 40.0}))
    assert [row["point"] for row in rows.gather(tmp_path)] == ["b"]


def test_wrong_calls(recipe: Path) -> None:
    with pytest.raises(UsageError, match="--jobs must be at least 1, got 0"):
        sweep(recipe, "reseed=0", jobs=0)
    with pytest.raises(UsageError, match="two points of the sweep would have one folder"):
        run(sweep(recipe, """model.width='16',"16\""""))


def command(recipe: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "compress", "sweep", str(recipe), *words]


def environment() -> dict[str, str]:
    places = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("EPOCHS", "200"))
    words = command(path, "--vary", "reseed=0,1", "--no-baseline", "--out", str(tmp_path / "out"))
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    epochs = tmp_path / "out" / "points" / "reseed=0" / "02-retrain" / "log.csv"
    with ending([process]):
        wait_for(epochs, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "run again to go on" in said
    dense = (tmp_path / "out" / "shared").rglob("00-train/model.safetensors")
    before = [path.stat().st_mtime_ns for path in dense]
    assert before
    again = subprocess.Popen(
        [*words, "--jobs", "2"], env=environment(), stderr=subprocess.PIPE, text=True
    )
    with ending([again]):
        _, said = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert "02-retrain: resuming from step" in said
    dense = (tmp_path / "out" / "shared").rglob("00-train/model.safetensors")
    assert [path.stat().st_mtime_ns for path in dense] == before
    done = json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]
    assert [(row["point"], row["status"]) for row in done] == [
        ("reseed=0", "done"), ("reseed=1", "done"),
    ]  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):  # five minutes, on a busy machine
        if path.exists():
            return
        assert process.poll() is None, "the sweep ended too soon"
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


def test_a_worker_that_fails_is_an_error(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sweep(recipe, "reseed=0", device="cuda:99", jobs=2)
    with pytest.raises(CompressError, match="a process of the sweep failed, exit codes"):
        run(asked)
