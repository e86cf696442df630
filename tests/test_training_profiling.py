"""`--profile`: a trace that tools read, a table of ten operators, and nothing where it is off."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from test_train import SMALL, model, same, work

from compress.training.profiling import ACTIVE, SKIP, TABLE, TRACE, Recorder


def test_a_stage_leaves_a_trace_and_a_table(tmp_path: Path) -> None:
    place = work(tmp_path / "00-train", profile=True)
    options = replace(SMALL, epochs=8)
    profiled = options.run(model(), place)
    events = json.loads((place.stage / TRACE).read_text())["traceEvents"]
    names = [event.get("name") for event in events if event.get("cat") == "user_annotation"]
    assert {name: names.count(name) for name in ("step", "forward", "backward", "optimizer")} == {
        "step": ACTIVE, "forward": ACTIVE, "backward": ACTIVE, "optimizer": ACTIVE,
    }  # fmt: skip
    table = (place.stage / TABLE).read_text()
    rows = [line for line in table.splitlines() if line and line[0] != "-"]
    assert "Self CPU %" in rows[0]
    assert len(rows) == 1 + 10 + 1  # head, operators, total
    assert "convolution_backward" in table
    (tmp_path / "other").mkdir()
    plain = work(tmp_path / "other" / "00-train")
    assert same(options.run(model(), plain), profiled)
    assert sorted(p.name for p in plain.stage.iterdir()) == ["log.csv"]


def recorded(folder: Path, steps: int, done: int) -> bool:
    folder.mkdir()
    recorder = Recorder(folder, steps, torch.device("cpu"))
    for _ in range(done):
        recorder.step()
        torch.ones(3).sum()
    recorder.close()
    recorder.close()
    return (folder / TRACE).exists() and (folder / TABLE).exists()


def test_short_and_broken_off_stages_are_recorded_as_far_as_they_go(tmp_path: Path) -> None:
    assert recorded(tmp_path / "one", 1, 1)
    assert recorded(tmp_path / "few", 5, 5)
    assert recorded(tmp_path / "broken", 100, SKIP + 1)
    assert not recorded(tmp_path / "early", 100, SKIP)
