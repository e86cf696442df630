"""The bench of pruning programs: its arms train alike, keep their budgets, and its figures hold."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import checkpoint
from compress.base.hu import DATA_RANGE
from compress.graph import cost
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.sparsity import pattern

BENCH = Path(__file__).parent / "bench" / "pruners.py"
sys.path.insert(0, str(BENCH.parent))
try:
    import pruners
    import pruners_arms
    import pruners_int8
    import pruners_others
    import pruners_parts
    import pruners_plot
    from pruners_settings import Arm, Settings
    from pruners_stats import paired
finally:
    sys.path.pop(0)


def run(out: Path, *words: str) -> list[dict[str, Any]]:
    """The rows of a tiny comparison on the CPU."""
    command = [sys.executable, str(BENCH), "--tiny", "--device", "cpu", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads((out / "rows.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_kind_of_arm_is_trained_and_timed_and_a_second_run_has_nothing_to_do(
    tmp_path: Path,
) -> None:
    words = ["--jobs", "1", "--no-compile", "--batches", "1", "--latency-from", "eager"]
    words += [
        "--arms",
        "dense,macs-60,latency-60,latency-free-60,latency-3x3-60,torch_pruning-60,k3-75",
    ]
    rows = {row["name"]: row for row in run(tmp_path, *words)}
    assert [row["status"] for row in rows.values()] == ["done"] * 7
    assert all(row["eager_b1_ms"] > 0 for row in rows.values())
    assert rows["dense"]["macs_removed"] == 0
    for name, least in {"macs-60": 0.6, "torch_pruning-60": 0.6, "k3-75": 0.75}.items():
        assert least <= rows[name]["macs_removed"] < least + 0.06, name
    for name in ("latency-60", "latency-free-60", "latency-3x3-60"):
        budget, by_macs = rows[name]["budget_ms"], rows["macs-60"]["predicted_ms"]
        assert rows[name]["predicted_ms"] <= budget == pytest.approx(by_macs)
    assert rows["latency-60"]["kernels_cut"] == 0
    assert rows["latency-3x3-60"]["kernels_cut"] == 21
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("work/arms/*/row.json")}
    run(tmp_path, *words)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("work/arms/*/row.json")}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_criteria_are_compared_seed_by_seed(tmp_path: Path) -> None:
    words = ["--part", "criteria", "--seeds", "0,1", "--arms", "variance,random", "--jobs", "1"]
    rows = run(tmp_path, *words)
    assert len(rows) == 6
    assert all(row["one_shot_psnr"] > 0 for row in rows)
    found = json.loads((tmp_path / "paired.json").read_text())
    psnr = {(row["name"], row["seed"]): row["psnr"] for row in rows}
    gain = sum(psnr[f"variance-{s}", s] - psnr[f"random-{s}", s] for s in (0, 1)) / 2
    assert found["random"]["variance"]["psnr"]["gain"] == pytest.approx(gain)
    assert found["random-knapsack"]["variance"]["psnr"]["p"] <= 1


def test_a_process_that_trains_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert pruners.visible("cuda") == ["0", "1"]
    assert pruners.visible("cpu") == [""]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert pruners.visible("cuda") == ["3", "5"]
    monkeypatch.syspath_prepend(BENCH.parent)  # the process imports what it runs
    with pruners.workers(["5"]) as pool:
        assert pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() == "5"


def test_an_arm_that_cannot_be_pruned_has_a_row_with_the_reason(tmp_path: Path) -> None:
    settings = Settings(
        out=tmp_path, report=tmp_path, device="cpu", data=pruners.TINY, epochs=2, at=0.5,
        slices_per_epoch=2, tiny=True,
    )  # fmt: skip
    row = pruners_arms.run(Arm(name="a", how="latency", removed=0.6), settings)
    assert row["status"] == "failed"
    assert "latency_table" in row["reason"]
    assert json.loads((tmp_path / "arms" / "a" / "row.json").read_text()) == row
    late = replace(settings, until=0.0)
    assert pruners_arms.run(Arm(name="b"), late)["status"] == "not begun"


def test_an_arm_may_be_2_to_4_and_int8(tmp_path: Path) -> None:
    settings = Settings(
        out=tmp_path, report=tmp_path, device="cpu", data=pruners.TINY, epochs=2, at=0.5,
        slices_per_epoch=2, tiny=True, rounded=1,
    )  # fmt: skip
    row = pruners_arms.run(Arm(name="a", removed=0.6, sparse=True, int8="fused"), settings)
    assert row["status"] == "done", row["reason"]
    assert row["int8_layers"] == 20
    assert 0 < row["error_hu"] <= 1
    assert abs(row["psnr"] - row["half_psnr"]) < 0.5
    assert 0 < row["change_rms_hu"] < 5
    assert abs(row["bias_hu_soft_tissue"]) < 5
    layers = json.loads((tmp_path / "arms" / "a" / "layers.json").read_text())
    assert sum(layer["int8"] for layer in layers) == 20
    net = checkpoint.load(tmp_path / "arms" / "a").net
    names = {layer["name"] for layer in layers if layer["int8"]}
    weights = [layer.weight for name, layer in net.named_modules() if name in names]
    eligible = [one for one in weights if not (len(one) % 8 or one.shape[1] % 16)]
    assert len(eligible) > 3
    assert all(pattern.is_2to4(one) for one in eligible)


def test_the_change_by_int8_is_a_root_mean_square_and_a_bias_by_tissue(tmp_path: Path) -> None:
    class Shift(torch.nn.Module):
        def __init__(self, hu: float) -> None:
            super().__init__()
            self.hu = hu

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.25 + 0.5 * x + self.hu / DATA_RANGE  # nothing leaves the range

    settings = Settings(
        out=tmp_path, report=tmp_path, device="cpu", data=pruners.TINY, epochs=1, at=0.5,
        slices_per_epoch=2, tiny=True,
    )  # fmt: skip
    found = pruners_int8.changed(Shift(0), Shift(-2), Arm(name="a"), settings)
    assert found["change_rms_hu"] == pytest.approx(2, abs=1e-3)
    assert found["bias_hu_soft_tissue"] == pytest.approx(-2, abs=1e-3)


def test_arms_have_names_of_their_own() -> None:
    for part in pruners_parts.PARTS.values():
        arms = part.arms([0, 1, 2])
        assert len({arm.name for arm in arms}) == len(arms)


def test_the_plot_has_means_over_seeds_and_the_front(tmp_path: Path) -> None:
    rows = [
        {"name": name, "seed": seed, "status": "done", "psnr": psnr, "fused_b1_ms": ms}
        for name, seed, psnr, ms in [
            ("dense-0", 0, 45.0, 0.2), ("dense-1", 1, 46.0, 0.4), ("macs-60-0", 0, 44.0, 0.1),
            ("macs-75-0", 0, 43.0, 0.2),
        ]
    ]  # fmt: skip
    found = pruners_plot.points([*rows, {"name": "a", "status": "failed"}], "fused_b1_ms")
    assert found["dense"] == [pytest.approx((0.3, 45.5, 0.5**0.5))]
    assert found["macs"] == [(0.1, 44.0, 0.0), (0.2, 43.0, 0.0)]
    best = pruners_plot.front([*found["dense"], *found["macs"]])
    assert [point.psnr for point in best] == [44.0, 45.5]
    assert pruners_plot.plot(rows, tmp_path / "a.png") == ["fused_b1_ms"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert pruners_plot.plot([], tmp_path / "b.png") == []


def test_torch_pruning_keeps_the_budget_and_the_image() -> None:
    torch.manual_seed(0)
    net = deconv_to_conv(DDnet(residual=True)).eval()
    whole = cost.cost(net).macs
    budget = round(0.5 * whole)
    small, align = pruners_others.torch_pruning(net, budget, None, torch.device("cpu"))
    assert 0.4 * whole < cost.cost(small).macs <= budget
    assert align in pruners_others.ALIGNMENTS
    x = torch.rand(1, 1, 32, 32)
    assert small(x).shape == x.shape


def test_paired_differences() -> None:
    rows = [
        {"name": f"{name}-{seed}", "seed": seed, "status": "done", "psnr": psnr, "ssim": 0.9,
         "one_shot_psnr": psnr}
        for name, values in {"a": (2.0, 3.0, 4.5), "random": (1.0, 2.0, 3.0)}.items()
        for seed, psnr in enumerate(values)
    ]  # fmt: skip
    rows.append({"name": "a-3", "seed": 3, "status": "failed"})
    found = paired(rows, "random")
    # Differences 1, 1, 1.5: mean 7/6, deviation sqrt(1/12), t = mean / (deviation / sqrt 3) = 7.
    assert found["a"]["psnr"]["gain"] == pytest.approx(7 / 6)
    assert found["a"]["psnr"]["t"] == pytest.approx(7.0)
    assert found["a"]["psnr"]["p"] == pytest.approx(0.0198, abs=1e-3)
    assert found["random"]["psnr"]["p"] is None
    assert found["a"]["ssim"]["p"] is None
