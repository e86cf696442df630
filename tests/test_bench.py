"""The benchmarks run anywhere, small; the rebuilt loss of the training loops is the study's."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from compress.base.timing import Budget, Call, Case, Clock
from compress.bench import command
from compress.data import Data
from compress.training.update import Update

BENCH = Path(__file__).parent / "bench" / "train_step.py"
sys.path.insert(0, str(BENCH.parent))
try:
    import train_step
finally:
    sys.path.pop(0)
ENGINES = Path(__file__).parent / "gpu" / "engines.py"


@pytest.mark.slow
def test_it_prints_rates_and_ratios(tmp_path: Path) -> None:
    words = ["--size", "176", "--batch", "1", "--steps", "1", "--rounds", "2", "--slices", "2"]
    words += ["--network", "pruned"]
    loops = [word for name in ("ours", "study") for word in ("--loop", name)]
    out = tmp_path / "b.json"
    done = subprocess.run(
        [sys.executable, str(BENCH), *words, *loops, "--out", str(out)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    result = report["results"]["pruned, batch 1"]
    assert set(result) == {"ours", "study"}
    assert result["study"]["images_per_second"] > 0
    ours = result["ours"]
    assert ours["times_study_min"] <= ours["times_study"] <= ours["times_study_max"]
    assert ours["facts"]["cuda_graph"] is torch.cuda.is_available()
    assert ours["facts"].keys() >= {"precision", "loader", "device", "micro_batch"}
    assert not ours["facts"].keys() & {"loss", "lr"}
    assert report["untimed_rounds"] == report["untimed_steps"] == 1
    assert result["study"]["facts"]["precision"].startswith("float32")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--network", "prund"], "'prund' is not one of 'dense', 'pruned', 'sparse'"),
        (["--loop", "foo"], "'foo' is not one of 'ours'"),
        (["--rounds", "0"], "0 is not in the range x>=1"),
        (["--steps", "0"], "0 is not in the range x>=1"),
        (["--batch", "0"], "0 is not in the range x>=1"),
        (["--slices", "0"], "0 is not in the range x>=1"),
        (["--size", "16"], "16 is not in the range x>=32"),
        (["--size", "180"], "--size must be a multiple of 16, got 180; take 512"),
        (["--size", "160"], "needs --size 176 at least, got 160; or take --loss mse"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_any_work(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "pairs", lambda *_: pytest.fail("work began"))
    done = CliRunner().invoke(train_step.main, words)
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.stderr.split())


@pytest.mark.parametrize("count", [2, 3, 6])
def test_no_loop_always_follows_the_same_one(count: int) -> None:
    names = list("abcdef"[:count])
    rounds = [train_step.order(names, number) for number in range(4)]
    assert all(sorted(done) == names for done in rounds)
    run = [name for done in rounds for name in done]
    for name in names:
        assert len({run[k - 1] for k in range(1, len(run)) if run[k] == name}) > 1


def data() -> Data:
    found = train_step.pairs(2, 32)
    return Data(train=found, test=found, source="bench", fingerprint="bench")


def test_a_short_round_may_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    done, step = [], Update.__call__
    monkeypatch.setattr(Update, "__call__", lambda *words: (done.append(1), step(*words)))
    loop = train_step.ours(
        train_step.network("pruned"), data(), 3, 1, torch.device("cpu"), loss="mse"
    )
    for count in (1, 3, 3):
        done.clear()
        loop.round(count)
        assert len(done) == count


@pytest.mark.parametrize(("amp", "precision"), [(False, "float32"), (True, "bfloat16")])
def test_the_studys_loop_learns_on_a_cpu(amp: bool, precision: str) -> None:
    model, cpu = train_step.network("pruned"), torch.device("cpu")
    loop = train_step.study(model, data(), 30, 2, cpu, loss="mse", amp=amp)
    loop.round(30)
    sums = [total for _, _, total in loop.losses]
    assert len(sums) == 30
    assert sums[-1] < 0.5 * sums[0]
    assert loop.facts()["precision"] == precision


# What 2dnet's own msssim(normalize="simple") gave for these pairs, on a CPU with torch 2.13.
@pytest.mark.parametrize(
    ("sigma", "theirs"), [(0.0, 1.0), (0.02, 0.99874836), (0.1, 0.97245497), (0.3, 0.80927014)]
)
def test_the_studys_ms_ssim_is_2dnets(sigma: float, theirs: float) -> None:
    draw = torch.Generator().manual_seed(0)
    for earlier in (0.02, 0.1, 0.3):
        full = torch.rand(2, 1, 192, 192, generator=draw)
        noise = torch.randn(full.shape, generator=draw)
        if earlier == sigma:
            break
    noisy = full + sigma * noise
    assert float(train_step.study_ms_ssim(noisy, full)) == pytest.approx(theirs, abs=2e-6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_gpu_proof_of_engines_runs_small_on_a_cpu(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--formats", "onnx", "--size", "32", "--batch", "1"]
    words += ["--rounds", "2", "--seconds", "0", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(ENGINES), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert json.loads((tmp_path / "engines.json").read_text()) == report
    rows = [row for part in report["onnx"] for row in part["engines"]]
    assert [row["parity"]["ok"] for row in rows] == [True] * 3
    assert max(row["parity"]["max_hu"] for row in rows) > 0, "fp16 is not exact: f(x) is not zero"
    (timed,) = report["bench"]
    assert len(timed["rows"]) == 6
    assert {(ab["how"], ab["layers"]) for ab in timed["sparse_ab"]} == {
        ("eager-fp32", 43), ("onnx fp16", 43),
    }  # fmt: skip
    assert len(report["table"]) == 2 + 6
    assert report["claims"]["best"]["how"] == "onnx fp16"
    assert report["claims"]["times_dense_eager_fp32"] > 0
    assert report["table"][2].startswith("| dense | eager-fp32 | 1 |")


def test_a_part_that_hangs_is_ended_and_says_where_it_was(tmp_path: Path, monkeypatch) -> None:
    sys.path.insert(0, str(ENGINES.parent))
    try:
        import engines
    finally:
        sys.path.pop(0)
    words = ["engines.py", "--out", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setitem(engines.LIMITS, "onnx", 0.01)
    found = engines.part(engines.arguments(), "onnx", "dense", "1")
    assert found["part"] == "onnx dense 1"
    assert found["failed"] == "no end in 0.01 s"


def test_memory_is_unknown_where_another_program_let_some_go() -> None:
    assert command._taken(10, 7) == 3
    assert command._taken(7, 7) == 0
    assert command._taken(7, 10) is None
    assert command._taken(None, None) is None


def test_every_turn_moves_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def track(items: range, what: str, *, still: bool) -> Iterator[int]:
        assert (what, still) == ("timing, batch 4", True)  # no thread beside what is timed
        for item in items:
            seen.append(f"{item + 1} of {len(items)}")
            yield item

    def clock(name: str) -> Clock:
        def timed(_call: Call, count: int) -> list[float]:
            seen.append(name)
            return [0.1] * count

        return timed

    monkeypatch.setattr(command, "track", track)
    cases = [Case(call=list, batch=4, clock=clock(name)) for name in "ab"]
    found = command._timed(cases, Budget(rounds=2, seconds=0.4), 4)
    assert [len(turns) for turns in found] == [2, 2]
    names = "aabb" + "ab" + "ba"
    assert seen == [word for k, name in enumerate(names, 1) for word in (f"{k} of 8", name)]


def test_a_bench_that_is_interrupted_takes_its_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def track(items: range, _what: str, *, still: bool) -> Iterator[int]:
        try:
            yield from items
        finally:
            ended.append(still)

    def clock(_call: Call, _count: int) -> list[float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "track", track)
    with pytest.raises(KeyboardInterrupt):
        command._timed([Case(call=list, batch=1, clock=clock)], Budget(), 1)
    assert ended == [True]
