"""evaluate: what is compared with what, the numbers, the pictures, and what stops it."""

import copy
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import checkpoint
from compress.base.errors import QualityError, Stopped
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data import Data, Pairs
from compress.quality import metrics
from compress.steps.evaluate import Evaluate

NARROW = ModelOptions(
    name="ddnet", options={"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
)


class Shift(nn.Module):
    """A network that adds a constant and remembers the batches that it saw."""

    amount: Tensor

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.register_buffer("amount", torch.tensor(amount))

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return x + self.amount


def pairs(shapes: list[tuple[int, int]], patients: str) -> Pairs:
    draw = np.random.default_rng(0)
    full = tuple(draw.integers(-900, 800, shape, dtype=np.int16) for shape in shapes)
    low = tuple(image + np.int16(100) for image in full)
    for image in (*full, *low):
        image.flags.writeable = False  # as memory-mapped data are
    names = tuple(f"slice{i}" for i in range(len(shapes)))
    return Pairs(low=low, full=full, names=names, patients=tuple(patients))


def work(folder: Path, test: Pairs, dense: Path | None = None) -> Work:
    stage = folder / "03-evaluate"
    stage.mkdir()
    data = Data(train=test, test=test, source="phantom", fingerprint="0", notices=())
    return Work(stage=stage, device=torch.device("cpu"), data=data, seed=0, dense=dense)


def shift(hu: float) -> Model:
    return Model(net=Shift(hu / 2924), origin=ModelOptions())


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A checkpoint whose network gives back its input: residual, last layer zero."""
    folder = tmp_path / "00-train"
    folder.mkdir()
    checkpoint.save(Model(net=NARROW.build().eval(), origin=NARROW), folder)
    return folder


def test_three_networks_by_slice_and_patient(tmp_path: Path, dense: Path) -> None:
    given = work(tmp_path, pairs([(32, 32)] * 3, "AAB"), dense)
    model = shift(-70)
    assert Evaluate(batch=2, pictures=2).run(model, given) is model
    facts = given.facts
    assert facts["networks"] == ["input", "dense", "compressed"]
    assert facts["slices"] == 3
    means = {name: found["rmse_hu"]["mean"] for name, found in facts["summary"].items()}
    assert means == pytest.approx({"input": 100, "dense": 100, "compressed": 30}, abs=0.01)
    psnr = 20 * np.log10(2924 / 30)
    assert facts["summary"]["compressed"]["psnr"]["mean"] == pytest.approx(psnr, abs=0.01)
    assert facts["by_patient"].keys() == {"A", "B"}
    assert facts["by_patient"]["B"]["input"]["rmse_hu"] == {"mean": pytest.approx(100), "sd": None}
    assert len(facts["rows"]) == 9
    row = facts["rows"][-1]
    assert (row["slice"], row["patient"], row["network"]) == ("slice2", "B", "compressed")
    assert row["ms_ssim"] is None  # 32 pixels are too few
    assert facts["summary"]["input"]["ms_ssim"] == {"mean": None, "sd": None}


def test_summary_is_mean_and_sample_deviation_of_the_rows(tmp_path: Path, dense: Path) -> None:
    given = work(tmp_path, pairs([(32, 32)] * 3, "AAA"), dense)
    Evaluate().run(shift(-70), given)
    found = [row["ssim"] for row in given.facts["rows"] if row["network"] == "input"]
    expected = {"mean": np.mean(found), "sd": np.std(found, ddof=1)}
    assert given.facts["summary"]["input"]["ssim"] == pytest.approx(expected)


@pytest.mark.parametrize("known", [False, True])
def test_before_compression_the_model_is_the_dense_network(
    tmp_path: Path, dense: Path, known: bool
) -> None:
    given = work(tmp_path, pairs([(32, 32)], "A"), dense if known else None)
    Evaluate().run(checkpoint.load(dense), given)
    assert given.facts["networks"] == ["input", "dense"]
    with np.load(given.stage / "pictures.npz") as found:
        assert set(found) == {"low", "dense", "full", "names"}


def test_pictures_are_slices_in_hu_spread_over_the_set(tmp_path: Path, dense: Path) -> None:
    test = pairs([(32, 32), (16, 48), (32, 32), (32, 32), (32, 32)], "AAAAA")
    given = work(tmp_path, test, dense)
    Evaluate(pictures=2, batch=3).run(shift(-70), given)
    with np.load(given.stage / given.facts["pictures"]) as found:
        assert list(found["names"]) == ["slice2", "slice4"]  # of one shape
        assert found["compressed"].shape == (2, 32, 32)
        np.testing.assert_allclose(found["low"][0], test.low[2], atol=1e-3)
        np.testing.assert_allclose(found["compressed"], found["full"] + 30, atol=1e-2)


def test_no_pictures_when_none_are_wanted(tmp_path: Path, dense: Path) -> None:
    given = work(tmp_path, pairs([(32, 32)], "A"), dense)
    Evaluate(pictures=0).run(shift(0), given)
    assert "pictures" not in given.facts
    assert not any(given.stage.iterdir())


def test_outputs_beyond_the_range_are_clipped(tmp_path: Path, dense: Path) -> None:
    given = work(tmp_path, pairs([(32, 32)], "A"), dense)
    Evaluate().run(shift(9000), given)
    bright = np.full((32, 32), 1900)
    expected = metrics.measure(bright, given.data.test.full[0])
    assert given.facts["rows"][-1]["rmse_hu"] == pytest.approx(expected["rmse_hu"], rel=1e-5)


def test_nan_fails_and_names_network_and_slice(tmp_path: Path, dense: Path) -> None:
    given = work(tmp_path, pairs([(32, 32)], "A"), dense)
    with pytest.raises(QualityError, match=r"compressed network gives NaN .* on slice slice0"):
        Evaluate().run(shift(float("nan")), given)


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    given = work(tmp_path, pairs([(32, 32)], "A"))
    model = Model(net=NARROW.build().train(), origin=NARROW)
    before = copy.deepcopy(model.net.state_dict())
    Evaluate().run(model, given)
    assert model.net.training
    assert all(torch.equal(t, before[n]) for n, t in model.net.state_dict().items())


def test_a_signal_stops_it(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    given = replace(work(tmp_path, pairs([(32, 32)], "A")), stop=stop)
    with pytest.raises(Stopped, match="run again"):
        Evaluate().run(shift(0), given)


@pytest.mark.parametrize("options", [{"batch": 0}, {"pictures": -1}])
def test_counts_without_meaning_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Evaluate(**options)
