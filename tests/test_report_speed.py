"""What a first run on a CPU ends with: how many times as fast the compressed network is."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import run_folders
import torch
from networks import Plain
from pairs import data
from torch import Tensor, nn

from compress import checkpoint, reporting
from compress.base import timing
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.reporting import compare, formatting, speed
from compress.steps import cpu_speed
from compress.steps.report import Report
from compress.sweep import rows


class Sleeping(nn.Module):
    """A network that takes its time, and notes in `turns` where another one ran before."""

    def __init__(self, seconds: float, turns: list[float] | None = None) -> None:
        super().__init__()
        self.seconds, self.turns = seconds, [] if turns is None else turns

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> the same."""
        if self.turns[-1:] != [self.seconds]:
            self.turns.append(self.seconds)
        time.sleep(self.seconds)
        return x


def own(run: Path, low: float = 2.1, high: float = 2.6) -> None:
    """A run folder with what the step measured."""
    rows = [
        {"name": name, "how": "eager-fp32", "runs": "eager float32", "batch": 1, "p50_ms": ms,
         "p90_ms": ms, "slices_per_second": 9.0, "calls": 18, "ratio": ratio, "ratio_min": least,
         "ratio_max": most}
        for name, ms, ratio, least, most in (
            ("dense", 500.0, 1.0, 1.0, 1.0), ("compressed", 208.0, 2.4, low, high))
    ]  # fmt: skip
    place = {"gpu": None, "threads": 1, "torch": "2.13.0"}
    found = {"schema": 1, "place": place, "size": 256, "rounds": 6, "rows": rows}
    (run / speed.OWN).write_text(json.dumps(found))


def written(run: Path) -> tuple[dict[str, Any], str, str]:
    folder = max(run.glob("*-report"))
    reporting.write(run, folder)
    pages = [(folder / f"report.{end}").read_text() for end in ("html", "md")]
    return json.loads((folder / "report.json").read_text()), pages[0], pages[1]


def test_the_ratio_is_of_rounds_in_turns(monkeypatch) -> None:
    monkeypatch.setattr(cpu_speed, "BUDGET", timing.Budget(rounds=6, seconds=0.3))
    turns: list[float] = []
    found = cpu_speed.measure(Sleeping(0.02, turns), Sleeping(0.005, turns))
    assert found is not None
    assert len(turns) > 6, "each network runs in each round"
    dense, compressed = found["rows"]
    assert (dense["name"], compressed["name"]) == ("dense", "compressed")
    assert 2 < compressed["ratio_min"] <= compressed["ratio"] <= compressed["ratio_max"]
    assert (found["place"]["threads"], found["size"]) == (torch.get_num_threads(), cpu_speed.SIDE)


def test_a_network_that_does_not_run_costs_no_report(caplog) -> None:
    class Broken(nn.Module):
        def forward(self, _x: Tensor) -> Tensor:
            raise RuntimeError("out of memory\nand much more")

    assert cpu_speed.measure(Sleeping(0), Broken()) is None
    assert "speed was not measured: out of memory" in caplog.messages


def test_the_verdict_ends_with_a_ratio_and_promises_no_time(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    own(run)
    report, html, markdown = written(run)
    way = "eager float32, 256x256 pixels, in turns on a CPU with 1 thread"
    said = f"it is 2.40 times as fast (2.10 to 2.60 in 6 rounds) as the dense one: {way}."
    assert report["verdict"].endswith(said)
    latency = next(n for n in report["numbers"] if n["key"] == "latency")
    assert (latency["kind"], latency["before"], latency["after"]) == ("times", None, 2.4)
    assert latency["note"] == f"2.10 to 2.60 in 6 rounds; {way}"
    for page in (html, markdown):
        assert "2.40 times as fast" in page
        assert "not measured" not in page
        assert formatting.milliseconds(500.0) not in page
    assert any("which says nothing of a GPU" in limit for limit in report["limits"])
    undone = {item["what"]: item["command"] for item in report["undone"]}
    assert "compress bench" in undone["Latency"], "a GPU's is still to be measured"


def test_a_spread_around_one_is_no_difference(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    own(run, low=0.98, high=2.6)
    report, _, _ = written(run)
    assert "(0.98 to 2.60 in 6 rounds, no difference beyond that)" in report["verdict"]


def test_a_benchmark_comes_first_and_an_old_ratio_is_left_out(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    own(run)
    run_folders.built(run)
    assert not written(run)[0]["speed"]["own"]
    (run / "bench.json").unlink()
    os.utime(run / speed.OWN, (0, 0))
    assert written(run)[0]["speed"] is None


def test_ratios_of_a_cpu_are_no_latencies_of_a_comparison(tmp_path: Path) -> None:
    for name in "ab":
        own(run_folders.make(tmp_path / name))
    rows = compare.compare([tmp_path / "a", tmp_path / "b"])["rows"]
    assert [row["latency"] for row in rows] == [None, None]


def test_what_2to4_alone_is_worth_is_said_as_it_was_measured(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    run_folders.built(run)
    path = run / speed.FILE
    said = (
        "2:4 in 43 of 45 layers at equal widths, batch 16, fused fp16: it is 1.034 times as fast "
        "as without 2:4 (1.024-1.042 over 10 rounds): faster in every round."
    )
    assert all(said not in page for page in written(run)[1:])
    pair = {"batch": 16, "how": "fused fp16", "dense": "a", "sparse": "b", "layers": 43, "of": 45,
            "ratio": 1.034, "ratio_min": 1.024, "ratio_max": 1.042}  # fmt: skip
    bench = {**json.loads(path.read_text()), "rounds": 10, "sparse_ab": [pair]}
    last = bench["rows"][-1]
    bench["rows"] += [{**last, "name": f"/data/x/without/{Path(last['name']).name}", "ratio": 0.5}]
    path.write_text(json.dumps(bench))
    found, *pages = written(run)
    assert all(said in page for page in pages)
    assert "without/" in pages[0]  # two engines of one name
    assert "/data/x" not in pages[0]
    engine = {"file": Path(last["name"]).name, "batch": last["batch"]}
    assert speed.of_engine(engine, found["speed"])["ratio"] == last["ratio"]


@pytest.mark.parametrize(("width", "measured"), [(8, True), (16, False)])
def test_the_step_measures_where_something_was_compressed(width, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_speed, "SIDE", 32)
    monkeypatch.setattr(cpu_speed, "BUDGET", timing.Budget(rounds=2, seconds=0.01))
    run = run_folders.make(tmp_path / "run")
    origin = ModelOptions(import_="networks:Plain", options={"width": 16})
    checkpoint.save(Model(net=Plain(16).eval(), origin=origin), run / "00-train")
    work = Work(stage=run / "07-report", device=torch.device("cpu"), data=data(), seed=0,
                dense=run / "00-train")  # fmt: skip
    (run / speed.OWN).write_text("of an earlier network")
    Report().run(Model(net=Plain(width).eval(), origin=origin), work)
    assert (run / speed.OWN).is_file() is measured


@pytest.mark.parametrize(
    ("value", "shown"),
    [(566_451, "566,451"), (999_999, "999,999"), (1_000_000, "1.00 M"), (8_388_608, "8.39 M"),
     (16_777_216, "16.78 M"), (19_086_442_496, "19.09 G")],
)  # fmt: skip
def test_counts_have_one_form_from_a_million_on(value: int, shown: str) -> None:
    assert formatting.count(value).replace(formatting.SPACE, " ") == shown


def test_a_metric_without_values_is_left_out_with_the_reason(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    path = run / "05-evaluate" / "facts.json"
    _, before, _ = written(run)
    assert ">MS-SSIM<" in before
    facts = json.loads(path.read_text())
    for found in facts["facts"]["summary"].values():
        found["ms_ssim"] = {"mean": None, "sd": None}
    path.write_text(json.dumps(facts))
    _, html, markdown = written(run)
    for page in (html, markdown):
        assert "MS-SSIM is left out: it needs slices of at least 176 pixels a side." in page
        assert ">MS-SSIM<" not in page
        assert "| MS-SSIM |" not in page


def test_runs_measured_before_a_metric_was_added_have_their_report(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    path = run / "05-evaluate" / "facts.json"
    facts = json.loads(path.read_text())
    summary = facts["facts"]["summary"]
    for table in (summary, *facts["facts"]["by_patient"].values()):
        for found in table.values():
            del found["ssim"]
    path.write_text(json.dumps(facts))
    _, html, markdown = written(run)
    for page in (html, markdown):
        assert "PSNR" in page
        assert "| SSIM |" not in page
        assert ">SSIM<" not in page
    older = {**facts["facts"], "slices": 3}
    assert rows._quality([older])["ssim"] is None
    assert rows._quality([older])["psnr"] == summary["compressed"]["psnr"]["mean"]
