"""The benchmark of training loops runs anywhere, small, and its rebuilt loss is the study's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent / "bench" / "train_step.py"


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
