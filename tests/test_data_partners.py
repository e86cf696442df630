"""Which low-dose file belongs to which full-dose file, and which files there are at all."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SECRETS, body, dataset, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.base.errors import UsageError
from compress.data import DataOptions, folder, listing, load
from compress.data.partners import match
from compress.dicom import position

COUNT = 5
MUTANTS = 420
"""Of headers of pairs, see `tests/dicom/test_fuzz.py`."""


def dicom(path: Path, index: int, noise: int = 0, **changes) -> None:
    """Slice `index` of a series; a low dose is the same slice with noise."""
    hu = body(seed=index)
    if noise:
        hu = hu + np.random.default_rng(99 + index).normal(0, noise, hu.shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(dataset(hu.clip(-1024, 2000), index=index, **changes)))


def series(root: Path, names=None, low=None, count=COUNT, **changes) -> Path:
    """A series in both doses; `names` of its low dose, `low` changes of the low dose's headers."""
    for index in range(count):
        name = f"IM{index:03d}"
        dicom(root / "full" / name, index, **changes)
        other = names[index] if names else name
        dicom(root / "low" / other, index, 30, **(changes | (low or {})))
    return root


def test_names_that_count_from_opposite_ends_are_paired_by_position(tmp_path, caplog) -> None:
    series(tmp_path, [f"IM{COUNT - 1 - index:03d}" for index in range(COUNT)])
    train, test = folder.load(tmp_path)
    for pairs in (train, test):
        for low, full in zip(pairs.low, pairs.full, strict=True):
            assert np.abs(low.astype(int) - full).mean() < 40
    (said,) = [text for text in caplog.messages if "pairs are made" in text]
    assert "are not the same slice: they are 10 mm apart" in said
    assert said.endswith("; pairs are made by patient and position")


def test_names_that_are_not_the_same_are_paired_by_position(tmp_path: Path) -> None:
    series(tmp_path, [f"other/{(7 * index) % COUNT}.dcm" for index in range(COUNT)])
    train, test = folder.load(tmp_path)
    assert sorted(train.names + test.names) == [f"IM{index:03d}" for index in range(COUNT)]
    for pairs in (train, test):
        for low, full in zip(pairs.low, pairs.full, strict=True):
            assert np.abs(low.astype(int) - full).mean() < 40


@given(order=st.permutations(range(COUNT)), other=st.booleans())
@settings(max_examples=30)
def test_any_order_of_names_gives_the_same_pairs(order, other, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("pairs")
    for index in range(COUNT):
        dicom(root / "full" / f"IM{index}", index)
        dicom(root / "low" / f"{'X' if other else 'IM'}{order[index]}", index, 20)
    names = [{p.name: p for p in (root / side).iterdir()} for side in ("low", "full")]
    for name, (low, full) in match(root / "low", root / "full", *names).items():
        assert full.name == name
        assert order[int(name[2:])] == int(low.name.strip("IMX"))


@pytest.mark.parametrize(
    ("low", "why"),
    [
        ({"PatientID": "another"}, "they are of different patients"),
        ({"ImagePositionPatient": [-100, -100, 400]}, r"they are 400 mm apart"),
        ({"ImagePositionPatient": [-90, -100, 0]}, r"they are 10 mm apart"),
        ({"PixelSpacing": [0.8, 0.8]}, r"pixels of 0.8 x 0.8 mm and of 0.7 x 0.7 mm"),
        ({"SliceThickness": "5"}, r"slices of 5 mm and of 2.5 mm"),
        (
            {"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]},
            ".* other directions",
        ),
        ({"Rows": 24, "Columns": 96}, "24 x 96 and 48 x 48 pixels"),
    ],
)
def test_partners_that_are_not_the_same_slice(low, why: str, tmp_path: Path, caplog) -> None:
    series(tmp_path, low=low)
    first = rf"low/IM000 and .*full/IM000 are not the same slice: {why}; .* has no partner"
    with pytest.raises(UsageError, match=first) as error:
        folder.load(tmp_path)
    assert not [secret for secret in SECRETS if secret in str(error.value) + caplog.text]


def test_one_slice_too_few_or_twice_is_named(tmp_path: Path) -> None:
    names = [f"x{index}" for index in range(COUNT)]
    series(tmp_path, names)
    (tmp_path / "low" / "x3").unlink()
    said = (
        rf"^{tmp_path}/full/IM003 has no partner of that name and none by position \(1 of 9 files"
    )
    with pytest.raises(UsageError, match=said):
        folder.load(tmp_path)
    dicom(tmp_path / "low" / "x3", 3)
    dicom(tmp_path / "full" / "IM9", 3)
    with pytest.raises(UsageError, match=r"full/IM003 and .*full/IM9 are at the same position"):
        folder.load(tmp_path)
    (tmp_path / "full" / "IM9").unlink()
    dicom(tmp_path / "low" / "y", 3)
    with pytest.raises(UsageError, match=r"low/(x3|y) has no partner of that name and none by pos"):
        folder.load(tmp_path)


def test_what_a_header_does_not_say_is_not_compared(tmp_path: Path) -> None:
    gone = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    series(tmp_path, low=dict.fromkeys((*gone, "PatientID")))
    train, test = folder.load(tmp_path)
    assert len(train.names + test.names) == COUNT


def test_slices_of_another_patient_are_a_notice_where_no_header_tells(tmp_path: Path) -> None:
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    for index in range(4):
        for side, shift in (("low", 0.5), ("full", -0.5)):
            hu = np.where(np.hypot(x - shift * (index == 1), y) < 0.5, 40, -1000)
            path = tmp_path / side / f"{'AB'[index == 3]}/{index}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, hu)
    found = load(DataOptions(source="folder", path=str(tmp_path)), seed=0)
    assert found.notices == (
        "1 of 3 pairs hardly show the same slice in both doses, the first is A/1.npy: "
        "are their partners the right ones?",
    )


def test_neither_noise_nor_a_patch_without_contrast_is_a_notice(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for index in range(4):
        hu = body(96, index) if index < 3 else np.full((96, 96), -1000)
        for side, noise in (("low", 300), ("full", 5)):
            path = tmp_path / side / f"{index}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, hu + draw.normal(0, noise, hu.shape))
    found = load(DataOptions(source="folder", path=str(tmp_path)), seed=0)
    assert not [text for text in found.notices if "hardly" in text]


def test_damaged_headers_give_pairs_or_one_sentence(tmp_path: Path) -> None:
    """Bytes of both headers are flipped at random: never another exception."""
    series(tmp_path, count=2)
    draw, files = random.Random(0), sorted(tmp_path.rglob("IM*"))
    original = {path: path.read_bytes() for path in files}
    ends = {"pairs": 0, "refused": 0}
    for _ in range(MUTANTS):
        for path in draw.sample(files, 2):
            data = bytearray(original[path])
            for _ in range(draw.choice((1, 2, 8))):
                data[draw.randrange(128, data.rfind(b"\xe0\x7f\x10\x00"))] = draw.randrange(256)
            path.write_bytes(data)
        try:
            train, test = folder.load(tmp_path)
            assert len(train.names + test.names) <= 2
            ends["pairs"] += 1
        except UsageError as error:
            assert "\n" not in str(error)
            ends["refused"] += 1
        for path, data in original.items():
            if path.read_bytes() != data:
                path.write_bytes(data)
    assert min(ends.values()) > MUTANTS / 20, ends


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_no_bytes_break_the_reading_of_a_place(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("place") / "x"
    path.write_bytes(bytes(128) + b"DICM" + data)
    assert isinstance(position.read(path), position.Place)


def pair(root: Path, name: str) -> None:
    for side in ("low", "full"):
        path = root / side / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, body(48, 1))


def test_folders_that_are_links_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for patient in ("L067", "L096"):
        for side in ("low", "full"):
            store = tmp_path / "store" / f"{patient}-{side}"
            (store / "deep").mkdir(parents=True)
            np.save(store / "deep" / "1.npy", body(48, 1))
            (root / side).mkdir(parents=True, exist_ok=True)
            (root / side / patient).symlink_to(store)
    pair(root, "L000/1.npy")
    train, test = folder.load(root)
    assert train.patients == ("L000", "L067")
    assert test.names == ("L096/deep/1.npy",)


def test_links_that_lead_back_end(tmp_path: Path, caplog) -> None:
    for name in ("A/1.npy", "B/1.npy"):
        pair(tmp_path, name)
    for side in ("low", "full"):
        (tmp_path / side / "A" / "up").symlink_to("..")
        (tmp_path / side / "C").symlink_to("B")
        (tmp_path / side / "self").symlink_to(".")
    train, test = folder.load(tmp_path)
    assert (train.names, test.names) == (("A/1.npy",), ("B/1.npy",))
    assert f"{tmp_path / 'low' / 'C'} leads to a folder that was read already" in caplog.text


def test_a_link_to_a_folder_around_a_read_one_gives_the_rest_once(tmp_path: Path) -> None:
    (tmp_path / "store" / "in").mkdir(parents=True)
    for name in ("in/a.npy", "b.npy"):
        (tmp_path / "store" / name).touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "1").symlink_to(tmp_path / "store" / "in")
    (root / "2").symlink_to(tmp_path / "store")
    assert [p.relative_to(root).as_posix() for p in listing.files(root)] == ["1/a.npy", "2/b.npy"]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    for name in ("A/1.npy", "B/1.npy"):
        pair(tmp_path, name)
    for side in ("low", "full"):
        (tmp_path / side / "B" / "2.npy").symlink_to(tmp_path / "gone.npy")
    with pytest.raises(UsageError, match=r"low/B/2.npy is a link to .*gone.npy, which does not"):
        folder.load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "A/1.npy")
    (tmp_path / "low" / "A").chmod(0)
    with pytest.raises(UsageError, match=r"low/A cannot be read: Permission denied"):
        folder.load(tmp_path)
    (tmp_path / "low" / "A").chmod(0o700)


def test_hidden_folders_and_pipes_are_no_slices(tmp_path: Path) -> None:
    for name in ("A/1.npy", "B/1.npy"):
        pair(tmp_path, name)
    hidden = tmp_path / "low" / ".snapshot" / "1.npy"
    hidden.parent.mkdir()
    np.save(hidden, body(48, 1))
    os.mkfifo(tmp_path / "low" / "pipe.npy")
    assert folder.load(tmp_path)[0].names == ("A/1.npy",)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer: .*lfs"),
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_files_of_another_kind_are_named(content: bytes, what: str, suffix, tmp_path) -> None:
    pair(tmp_path, "A/1.npy")
    for side in ("low", "full"):
        (tmp_path / side / "A" / f"2.{suffix}").write_bytes(content)
    with pytest.raises(UsageError, match=rf"low/A/2.{suffix} is not usable: it is {what}"):
        folder.load(tmp_path)
