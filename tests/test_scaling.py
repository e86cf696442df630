"""The bench of several devices runs on a CPU in two processes, and its claims hold there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).parent / "bench" / "scaling.py"
sys.path.insert(0, str(BENCH.parent))
try:
    import scaling
    import scaling_predict
    import scaling_process
finally:
    sys.path.pop(0)

SECONDS = st.floats(1e-6, 10)
VOLUME = st.floats(1, 1e12)
DEVICES = st.integers(2, 64)


def run(tmp_path: Path, *parts: str) -> dict[str, Any]:
    """What it writes about these parts, tiny."""
    out = tmp_path / "s.json"
    words = ["--device", "cpu", "--tiny", "--out", str(out)]
    words += [word for part in parts for word in ("--part", part)]
    done = subprocess.run(
        [sys.executable, str(BENCH), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(out.read_text())
    assert report == json.loads(done.stdout)
    assert report.keys() >= {"date", "commit", "versions", "machine", "sizes", "processes"}
    return report


@pytest.mark.slow
def test_two_processes_are_timed_in_turns_and_have_the_losses_of_one(tmp_path: Path) -> None:
    report = run(tmp_path, "speed", "losses")
    found = report["speed"]["batch 2 a device"]
    assert set(found) == {"ours, 1", "ddp, 1", "ours, 2", "ddp, 2"}
    assert [found[f"ours, {n}"]["batch"] for n in (1, 2)] == [2, 4]
    assert report["speed"]["batch 2 in all"]["ours, 2"]["batch"] == 2
    assert found["ddp, 2"]["wrapper"] == "DistributedDataParallel"
    assert found["ddp, 1"]["wrapper"] is None
    assert found["ours, 1"]["share_of_linear"] == 1
    for row in found.values():
        assert row["slices_per_second_min"] <= row["slices_per_second"]
        assert (
            0 < row["share_of_linear_min"] <= row["share_of_linear"] <= row["share_of_linear_max"]
        )
    assert report["speed"]["batch 2 in all, sync_norm"] == scaling.NO_GPU
    losses = report["losses"]["frozen BatchNorm"]["losses"]
    assert len(set(losses["1"])) == 5
    torch.testing.assert_close(
        torch.tensor(losses["2"]), torch.tensor(losses["1"]), rtol=1e-4, atol=0
    )
    assert report["claims"]["losses as on one"] is True
    assert report["claims"]["0.9 of linear on 8"] is None
    assert report["gradient_bytes"] == 178_380


@pytest.mark.slow
def test_a_sigterm_ends_both_with_75_and_they_go_on_to_the_same_bits(tmp_path: Path) -> None:
    report = run(tmp_path, "stop")
    assert report["stop"]["statuses"] == {
        "unbroken": [0, 0], "stopped": [75, 75], "resumed": [0, 0]
    }  # fmt: skip
    assert report["stop"]["in_the_middle"]
    assert report["stop"]["same_bits"]
    assert report["claims"]["stopped and went on to the same bits"] is True
    assert report["claims"]["losses as on one"] is None


@pytest.mark.slow
def test_a_sweep_has_a_process_on_each_device(tmp_path: Path) -> None:
    report = run(tmp_path, "sweep")
    found = report["sweep"]
    assert found["points_done"] == found["points"] == 2
    assert found["statuses"] == [0, 0]
    alive, at_points = found["share_of_time_with_a_process"], found["share_of_time_at_points"]
    assert max(alive) == 1
    assert all(0 <= b <= a for a, b in zip(alive, at_points, strict=True))
    assert sum(at_points) > 0
    assert report["claims"]["8 GPUs busy above 90 % of the sweep"] is None


@given(SECONDS, VOLUME, VOLUME, SECONDS)
def test_one_device_is_linear(compute: float, size: float, bandwidth: float, rest: float) -> None:
    assert scaling_predict.predicted_share(1, compute, size, bandwidth, rest) == 1.0


@given(DEVICES, SECONDS, VOLUME, VOLUME, VOLUME)
def test_a_faster_link_never_costs(
    devices: int, compute: float, size: float, one: float, other: float
) -> None:
    slow, fast = sorted((one, other))
    shares = [scaling_predict.predicted_share(devices, compute, size, b) for b in (slow, fast)]
    assert 0 < shares[0] <= shares[1] <= 1


@given(DEVICES, VOLUME, VOLUME)
def test_a_ring_sends_less_than_twice_the_gradients(
    devices: int, size: float, bandwidth: float
) -> None:
    seconds = scaling_predict.ring_seconds(devices, size, bandwidth)
    assert size / bandwidth <= seconds * (1 + 1e-12)
    assert seconds < 2 * size / bandwidth


@pytest.mark.parametrize("bandwidth", scaling_predict.LINKS.values())
def test_the_prediction_starts_from_what_two_gpus_have_shown(bandwidth: float) -> None:
    found = scaling_predict.prediction(bandwidth)
    measured = scaling_predict.MEASURED["two"] / scaling_predict.MEASURED["one"]
    assert found["16 in all, 2"]["with_the_rest"] == pytest.approx(measured)
    size = scaling_process.size(None, {"network": scaling.FULL.network})
    assert size["gradient_bytes"] == scaling_predict.MEASURED["gradient_bytes"]


FINE = {"stop": {
    "statuses": {"unbroken": [0, 0], "stopped": [75, 75], "resumed": [0, 0]},
    "in_the_middle": True, "all_ended_with_75": True, "same_bits": True,
}}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, True),
        ({"same_bits": False}, False),
        ({"all_ended_with_75": False}, False),
        ({"in_the_middle": False}, False),
        ({"statuses": {"unbroken": [0, 0], "resumed": [0, 1]}}, False),
    ],
)
def test_a_stop_that_fails_is_not_claimed(changes: dict[str, Any], shown: bool) -> None:
    claims = scaling.claims({"stop": FINE["stop"] | changes}, 2, "cpu")
    assert claims["stopped and went on to the same bits"] is shown


def test_losses_that_differ_are_not_claimed() -> None:
    assert scaling.furthest([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    claims = scaling.claims({"losses": {"frozen": {"as_on_one": False}}}, 2, "cpu")
    assert claims["losses as on one"] is False


@pytest.mark.parametrize(("share", "busy"), [(0.95, 0.95), (0.8, 0.8)])
def test_what_eight_gpus_must_show_is_compared_with_its_bound(share: float, busy: float) -> None:
    found = {
        "speed": {"batch 16 a device": {"ours, 8": {"share_of_linear": share}}},
        "sweep": {"points": 16, "points_done": 16, "statuses": [0] * 8,
                  "utilization": [{"mean": 100 * busy, "share_above_0": 1.0}] * 8},
    }  # fmt: skip
    claims = scaling.claims(found, 8, "cuda")
    assert claims["0.9 of linear on 8"] is (share >= 0.9)
    assert claims["8 GPUs busy above 90 % of the sweep"] is (busy > 0.9)


@pytest.mark.parametrize("count", ["3", "0"])
def test_other_counts_than_there_are_devices_are_refused(count: str) -> None:
    done = CliRunner().invoke(scaling.main, ["--device", "cpu", "--processes", count])
    assert done.exit_code == 2
    assert f"--processes {count}: there are 2 devices" in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_without_a_gpu_it_says_what_to_take() -> None:
    done = CliRunner().invoke(scaling.main, ["--tiny"])
    assert done.exit_code == 2
    assert "no GPU here; take --device cpu --tiny" in done.output
