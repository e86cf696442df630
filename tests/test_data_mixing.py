"""Fresh noise: mixtures keep mean and covariance, loaders agree, a stopped training goes on."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Plain
from pairs import data, pairs

from compress.base.errors import Stopped
from compress.base.hu import to_hu, to_network
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data import DataOptions, load
from compress.data.crops import Crop, draws, sides
from compress.data.loaders import Resident, Streamed, choose
from compress.data.lowdose import Exposure, simulate
from compress.data.mixing import UNIT, draw, factors
from compress.data.phantom import chest
from compress.data.realisations import bank
from compress.data.scanner import FanBeam
from compress.steps.train import Train

CPU = torch.device("cpu")
SCAN = Exposure(photons=1e4, electronic=3.0, fan=FanBeam(views=90))
PHANTOM = DataOptions(source="phantom", image_size=32, train_slices=2, test_slices=1, views=30)


def noisy(versions, count=3, side=24):
    """Blobs with a bank of versions with noise of their own, 60 HU each."""
    found = pairs(count, side, 0, "P")
    generator = np.random.default_rng(9)
    versions_ = tuple(
        (low, *(np.rint(full + generator.normal(0, 60, full.shape)).astype(np.int16) for _ in more))
        for low, full in zip(found.low, found.full, strict=True)
        for more in [range(versions - 1)]
    )
    return replace(found, bank=versions_ if versions > 1 else ())


@given(st.floats(0, 2 * math.pi))
def test_factors_keep_mean_and_covariance(angle):
    found = factors(angle)
    assert sum(found) == UNIT
    assert sum(one**2 for one in found) == pytest.approx(UNIT**2, rel=1e-4)


@given(st.integers(1, 64), st.integers(0, 2**32))
def test_a_draw_is_of_different_versions_there_are(versions, seed):
    mix = draw(versions, np.random.default_rng(seed))
    assert len(mix) == {1: 0, 2: 1}.get(versions, 3)
    assert len({version for version, _ in mix}) == len(mix)
    assert all(0 <= version < versions for version, _ in mix)
    assert not mix or sum(factor for _, factor in mix) == UNIT


@pytest.mark.parametrize("versions", [2, 3, 6])
def test_mixtures_have_mean_variance_and_correlation_of_one_version(versions):
    """Noise with correlated neighbours, a bank of its own for each draw, so that draws are iid."""
    generator = np.random.default_rng(1)
    count, side = 3000, 8
    white = generator.normal(0, 50, (count, versions, side, side + 1))
    noise = white[..., :-1] + 0.6 * white[..., 1:]  # variance 2500 * 1.36, neighbours 1500
    images = np.rint(100 + noise).astype(np.int64)
    mixed = np.empty((count, side, side))
    for versions_, out in zip(images, mixed, strict=True):
        mix = draw(versions, generator)
        out[:] = sum(versions_[version] * factor for version, factor in mix) / UNIT
    error = 5 * math.sqrt(3400 / (count * side * side))  # five standard errors, and correlation
    assert mixed.mean() == pytest.approx(100, abs=2 * error)
    centred = mixed - 100
    assert (centred**2).mean() == pytest.approx(3400, rel=0.02)
    assert (centred[..., 1:] * centred[..., :-1]).mean() == pytest.approx(1500, rel=0.04)
    assert (centred[..., 2:] * centred[..., :-2]).mean() == pytest.approx(0, abs=40)


@given(st.integers(0, 2**32))
def test_what_all_versions_share_is_in_the_mixture(seed):
    same = pairs(1, 16, 0, "P")
    same = replace(same, bank=((same.low[0],) * 3,))
    for loader in (Streamed(same, CPU, 0), Resident(same, (16, 16), CPU)):
        (raw,) = loader.batches(draws(same, count=1, batch=2, crop=None, seed=(seed,)))
        low, _ = loader.decode(raw)
        plain = to_network(torch.from_numpy(same.low[0]))
        # Mirrored at random; sorted, all are the slice.
        assert torch.equal(low.flatten(1).sort().values, plain.flatten().sort().values.repeat(2, 1))


@pytest.mark.parametrize("versions", [2, 3, 5])
@pytest.mark.parametrize("crop", [9, None])
def test_all_loaders_mix_alike(versions, crop):
    some = noisy(versions)
    shape = sides(some, crop)
    drawn = list(draws(some, count=10, batch=4, crop=crop, seed=(3,)))
    one, *others = [
        [torch.stack(loader.decode(raw)) for raw in loader.batches(iter(drawn))]
        for loader in (Streamed(some, CPU, 0), Streamed(some, CPU, 2), Resident(some, shape, CPU))
    ]
    assert one[0].shape == (2, 4, 1, *shape)
    for other in others:
        assert all(map(torch.equal, one, other))
    (top, down, n), (left, right, m) = drawn[0][0].rows, drawn[0][0].columns
    window = np.ix_(top + down * np.arange(n), left + right * np.arange(m))
    image = drawn[0][0].image
    versions_ = some.bank[image]
    exact = sum(versions_[v][window] * (factor / UNIT) for v, factor in drawn[0][0].mix)
    expected = to_network(torch.from_numpy(np.floor(exact + 0.5)))
    assert torch.equal(one[0][0, 0, 0], expected)


def test_one_version_is_drawn_as_before():
    crops = list(draws(noisy(1), count=5, batch=4, crop=9, seed=(0,)))
    assert all(crop.mix == () for batch in crops for crop in batch)
    assert noisy(1).versions == 1
    assert noisy(4).versions == 4


def test_memory_counts_all_versions(monkeypatch):
    monkeypatch.setattr("compress.data.loaders._free", lambda _: 10**9)
    said = choose("auto", noisy(4), torch.device("cuda")).why
    assert f"takes {5 * 3 * 24 * 24 * 2:,} bytes" in said


def test_further_versions_have_noise_of_their_own_and_as_much():
    slice_ = chest("P1", 0, 64, 0)
    first = simulate([slice_], SCAN, 0, None).low[0]
    (more,) = bank([slice_], SCAN, 0, 4, None)
    assert np.array_equal(first, more[0].clip(-1024, 1900))
    noises = [image.astype(float) - slice_.image for image in more]
    inside = slice_.image > -500
    deviations = [noise[inside].std() for noise in noises]
    assert max(deviations) < 1.15 * min(deviations)
    for k, one in enumerate(noises):
        for other in noises[:k]:
            assert abs(np.corrcoef(one[inside], other[inside])[0, 1]) < 0.15
    (fewer,) = bank([slice_], SCAN, 0, 3, None)
    assert all(map(np.array_equal, fewer, more[:3]))
    assert bank([slice_], SCAN, 0, 1, None) == ()


def test_simulated_mixtures_have_the_mean_and_covariance_of_the_low_dose_also_in_air():
    options = replace(PHANTOM, image_size=128, train_slices=1, views=180, realisations=24)
    train = load(options, seed=0).train
    full, generator = train.full[0].astype(float), np.random.default_rng(0)
    versions = np.stack(train.bank[0]).clip(-1024, 1900) - full
    whole = (0, 1, 128)
    crops = ([Crop(0, whole, whole, draw(24, generator))] for _ in range(300))
    loader = Streamed(train, CPU, 0)
    batches = [to_hu(loader.decode(raw)[0])[0, 0].numpy() for raw in loader.batches(crops)]
    mixed = np.stack(batches) - full
    for where in (full < -980, (full > -950) & (full < -600), (full > -150) & (full < 300)):
        assert mixed[:, where].mean() == pytest.approx(versions[:, where].mean(), abs=0.5)
        assert mixed[:, where].std() == pytest.approx(versions[:, where].std(), rel=0.02)
        beside = where[:, 1:] & where[:, :-1]
        one, other = ((x[..., 1:] * x[..., :-1])[:, beside].mean() for x in (mixed, versions))
        assert one == pytest.approx(other, abs=0.02 * versions[:, where].var())


def test_further_versions_are_kept_and_more_are_added(tmp_path, monkeypatch):
    slice_ = chest("P1", 0, 32, 0)
    (first,) = bank([slice_], SCAN, 0, 3, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    (more,) = bank([slice_], SCAN, 0, 4, tmp_path)
    assert all(map(np.array_equal, first, more[:3]))
    monkeypatch.setattr("compress.data.realisations.noise", None)  # whoever calls it fails
    (again,) = bank([slice_], SCAN, 0, 4, tmp_path)
    assert all(map(np.array_equal, more, again))


def test_a_recipe_trains_with_versions_and_measures_with_one():
    found = load(replace(PHANTOM, realisations=3), seed=0)
    plain = load(PHANTOM, seed=0)
    assert (found.train.versions, found.test.versions) == (3, 1)
    assert all(map(np.array_equal, found.train.low, plain.train.low))
    assert found.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"realisations": 0}, r"realisations must lie in \[1, 64\], got 0"),
        ({"realisations": 65}, r"realisations must lie in \[1, 64\], got 65"),
        (
            {"realisations": 2, "source": "folder", "path": "x"},
            "realisations needs simulated low dose; source folder has its own",
        ),
        ({"realisations": 3, "neighbours": 1}, "give realisations or neighbours, not both"),
    ],
)
def test_impossible_versions_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        DataOptions(**options)


def test_a_stopped_training_goes_on_with_the_same_bits(tmp_path):
    step = Train(epochs=2, batch=2, crop=16, slices_per_epoch=8, transposes=True)
    slices = replace(data(), train=noisy(3))

    def run(name, **stop):
        folder = tmp_path / name / "00-train"
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = Model(net=Plain(16), origin=ModelOptions(import_="networks:Plain"))
        return step.run(model, Work(stage=folder, device=CPU, data=slices, seed=0, **stop)).net

    class Later(threading.Event):
        left = 3

        def is_set(self):
            self.left -= 1
            return self.left <= 0

    whole = run("whole")
    with pytest.raises(Stopped):
        run("again", stop=Later())
    again = run("again")
    assert all(map(torch.equal, whole.state_dict().values(), again.state_dict().values()))
