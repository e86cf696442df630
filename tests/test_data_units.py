"""Whether pixel values are HU: real units pass, every other one is refused by its name."""

import random
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.base.errors import UsageError
from compress.data import folder, images, units


def slice_(side: int = 160, seed: int = 0, padding: float | None = None) -> np.ndarray:
    """Tissue, fat, lung and bone in air, HU, (side, side) float64; padding outside the circle."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    hu = np.full((side, side), -1000.0)
    for radius, value in ((0.85, -100.0), (0.8, 45.0)):
        hu[np.hypot(x, y / 0.8) < radius] = value
    hu[np.hypot(x - 0.35, y) < 0.25] = -850.0
    hu[np.hypot(x, y - 0.45) < 0.08] = 900.0
    hu += draw.normal(0, 20, hu.shape)
    hu = np.clip(hu, -1024, 3071)
    if padding is not None:
        hu[np.hypot(x, y) > 1] = padding
    return hu


def one(values: np.ndarray, place: int, value: float) -> np.ndarray:
    """The same with one pixel changed."""
    values = values.copy()
    values.flat[place] = value
    return values


HU = slice_()
WINDOW = np.clip((HU + 160) / 400, 0, 1)
OTHERS = {
    "scaled to 0..1, not clipped": ((one(HU, 7, -2000) + 1024) / 4096, "scaled to 0..1"),
    "scaled to 0..1, metal": ((one(HU, 7, 30000) + 1024) / 4096, "scaled to 0..1"),
    "a window, 0..1": (WINDOW, "scaled to 0..1"),
    "a window, not clipped": ((HU + 160) / 400, "look normalised"),
    "a window, -1..1": (2 * WINDOW - 1, r"scaled to -1\.\.1"),
    "a window, 8 bits": (np.uint8(WINDOW * 255), "8-bit grey values"),
    "a window, 8 bits as float": (np.rint(WINDOW * 255).astype(np.float32), "8-bit grey values"),
    "a window, 16 bits": (np.uint16(WINDOW * 65535), "16-bit grey values"),
    "HU / 1000": (HU / 1000, "look normalised"),
    "standard scores": ((HU - HU.mean()) / HU.std(), "look normalised"),
    "attenuation in 1/cm": (0.2 * (1 + HU / 1000), "scaled to 0..1"),
    "HU + 1024, unsigned": (np.uint16(HU + 1024), r"HU \+ 1024"),
    "HU + 1024, padded with -2000": (slice_(padding=-2000) + 1024, r"HU \+ 1024"),
    "HU + 1000": (np.maximum(HU + 1000, 0), r"HU \+ 1024"),
    "HU + 32768": (np.uint16(HU + 32768), r"HU \+ 32768"),
}
SAME = {
    "HU": HU,
    "whole HU": np.int16(np.rint(HU)),
    "padded": slice_(padding=-3024),
    "padded with 0": slice_(padding=0),
    "mostly padded with the lowest number": np.where(
        np.hypot(*np.mgrid[-1:1:160j, -1:1:160j]) < 0.07, HU, -32768
    ).astype(np.int16),
    "metal": one(HU, 7, 30000.0),
    "clipped to a lung window": np.clip(HU, -1000, 400),
    "air alone": np.random.default_rng(0).normal(-1000, 10, (160, 160)),
}


def pairs(root: Path, low: np.ndarray, full: np.ndarray, count: int = 2) -> Path:
    for side, values in (("low", low), ("full", full)):
        for k in range(count):
            path = root / side / f"{k}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values)
    return root


@pytest.mark.parametrize("side", ["low", "full"])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_units_are_refused_by_name(kind: str, side: str, tmp_path: Path) -> None:
    values, looks = OTHERS[kind]
    pairs(tmp_path, **({"low": HU, "full": HU} | {side: values}))
    with pytest.raises(UsageError, match=f"{side}.* is not usable: its values are not HU.*{looks}"):
        folder.load(tmp_path)


@pytest.mark.parametrize(
    "kind", ["a window, not clipped", "a window, 8 bits", "HU + 1024, unsigned"]
)
def test_one_slice_of_another_unit_is_found_among_many(kind: str, tmp_path: Path) -> None:
    pairs(tmp_path, HU, HU, count=5)
    np.save(tmp_path / "low" / "3.npy", OTHERS[kind][0])
    with pytest.raises(UsageError, match=r"low/3.npy is not usable: its values are not HU"):
        folder.load(tmp_path)


@pytest.mark.parametrize("kind", OTHERS)
def test_patches_of_other_units_are_refused_together(kind: str, tmp_path: Path) -> None:
    patch = OTHERS[kind][0][64:112, 40:88]  # inside the body
    with pytest.raises(UsageError, match="its values are not HU"):
        folder.load(pairs(tmp_path, patch, patch))


@pytest.mark.parametrize("kind", SAME)
def test_hu_of_any_kind_are_taken(kind: str, tmp_path: Path) -> None:
    train, _ = folder.load(pairs(tmp_path, SAME[kind], SAME[kind]))
    assert train.full[0].min() <= units.AIR


def test_patches_without_air_are_taken_where_others_hold_some(tmp_path: Path) -> None:
    patch = HU[64:96, 40:72]
    assert patch.min() > units.AIR
    pairs(tmp_path, patch, patch)
    with pytest.raises(UsageError, match="patches of HU without air, add some slices"):
        folder.load(tmp_path)
    for side in ("low", "full"):
        np.save(tmp_path / side / "air.npy", HU)
    assert len(folder.load(tmp_path)[0].names) == 2


@pytest.mark.parametrize("value", [0, -1024])
def test_blank_slices_are_taken_among_others(value: int, tmp_path: Path) -> None:
    pairs(tmp_path, HU, HU)
    for side in ("low", "full"):
        np.save(tmp_path / side / "blank.npy", np.full((32, 32), value))
    assert len(folder.load(tmp_path)[0].names) == 2
    for side in ("low", "full"):
        for path in (tmp_path / side).glob("*.npy"):
            np.save(path, np.full((32, 32), value))
    with pytest.raises(UsageError, match="its values are not HU"):
        folder.load(tmp_path)


@settings(max_examples=200)
@given(
    scale=st.floats(-4, 4).map(lambda power: 10**power),
    offset=st.floats(-40000, 40000),
    seed=st.integers(0, 5),
)
def test_any_straight_line_far_from_hu_is_refused(scale: float, offset: float, seed: int) -> None:
    """Values are scale * HU + offset; what passes puts air and tissue where HU has them."""
    values = scale * slice_(64, seed) + offset
    try:
        units.check(values)
        clipped = np.rint(values.clip(-1024, 32767)).astype(np.int16)
        units.check_all([clipped], Path("low"))
    except (ValueError, UsageError) as error:
        assert "its values are not HU" in str(error)
        return
    air = scale * -1000 + offset
    assert air < units.AIR + 60 * scale
    assert scale > units.FEW / 3000


@settings(max_examples=100)
@given(seed=st.integers(0, 1000), side=st.integers(12, 200), noise=st.floats(0, 300))
def test_no_noise_makes_hu_look_like_another_unit(seed: int, side: int, noise: float) -> None:
    values = slice_(side, seed) + np.random.default_rng(seed).normal(0, noise, (side, side))
    units.check(values)
    units.check_all([np.rint(values.clip(-1024, 32767)).astype(np.int16)], Path("low"))


MUTANTS = 420
"""Of files of each kind, as of DICOM files in tests/dicom/test_fuzz.py."""


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_damaged_files_give_slices_in_hu_or_one_sentence(suffix: str, tmp_path: Path) -> None:
    """Bytes are flipped or cut off at random: what is read holds air, or the file is named."""
    draw = random.Random(0)
    path, whole = tmp_path / f"x.{suffix}", np.rint(slice_(24)).astype(np.int16)
    if suffix == "npy":
        np.save(path, whole)
    else:
        tifffile.imwrite(path, whole, description="ImageJ=1.11a\nc0=0\nc1=1\n", metadata=None)
    original = path.read_bytes()
    ends = {"slices": 0, "refused": 0}
    for _ in range(MUTANTS):
        data = bytearray(original)
        for _ in range(draw.choice((1, 2, 8))):
            data[draw.randrange(min(len(data), draw.choice((200, len(data)))))] = draw.randrange(
                256
            )
        path.write_bytes(data[: draw.choice((len(data), len(data), draw.randrange(len(data))))])
        try:
            hu, _ = images.read(path)
        except UsageError as error:
            assert str(error).startswith(f"{path} is not usable: ")
            assert "\n" not in str(error)
            ends["refused"] += 1
        else:
            assert (hu.ndim, hu.dtype) == (2, np.int16)
            ends["slices"] += 1
    assert min(ends.values()) > MUTANTS / 20, ends
