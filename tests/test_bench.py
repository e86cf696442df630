"""The benchmarks run anywhere, small; the rebuilt loss of the training loops is the study's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent / "bench" / "train_step.py"
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


def test_the_studys_ms_ssim_has_its_known_values() -> None:
    """1 for equal images, and above the standard one for noisy images (facts of its evaluation)."""
    sys.path.insert(0, str(BENCH.parent))
    try:
        from train_step import study_ms_ssim
    finally:
        sys.path.pop(0)
    from compress.metrics import ms_ssim

    draw = torch.Generator().manual_seed(0)
    full = torch.nn.functional.interpolate(
        torch.rand(1, 1, 8, 8, generator=draw), (256, 256), mode="bilinear"
    )
    assert float(study_ms_ssim(full, full)) == pytest.approx(1, abs=1e-6)
    noisy = (full + 0.1 * torch.randn(full.shape, generator=draw)).clamp(0, 1)
    assert float(ms_ssim(noisy, full, 1.0)) < float(study_ms_ssim(noisy, full)) < 1


@pytest.mark.slow
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
