import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from compress.data import lowdose
from compress.data.lowdose import Exposure, Slice, insert_noise, simulate
from compress.data.scanner import FanBeam

SCAN = Exposure(photons=1e5, electronic=math.sqrt(10), fan=FanBeam(views=90))


def water(name: str = "P-000", side: int = 64, spacing: float = 4.0, radius: float = 100) -> Slice:
    """A disk of water in air; `radius` in mm."""
    grid = (np.arange(side) - (side - 1) / 2) * spacing
    inside = np.hypot(grid[None], grid[:, None]) < radius
    image = np.where(inside, 0, -1000).astype(np.int16)
    return Slice(name=name, patient="P", spacing=spacing, image=image)


def noise(slice_: Slice, exposure: Exposure, seed: int = 0) -> np.ndarray:
    """Low minus full dose inside the disk."""
    low = insert_noise(slice_, exposure, seed)
    return (low.astype(float) - slice_.image)[slice_.image == 0]


def test_noise_at_the_centre_of_water_is_what_theory_says():
    """Barrett, Gordon and Hershel 1976: noise of filtered back-projection, here by our filter.

    A view's filtered noise has the variance e^p / (12 photons pitch^2) and, from element to
    element, the correlation -6 / pi^2; interpolation between two of them takes
    2/3 - 1/3 * 6/pi^2 of it; the image adds up (pi / views)^2 of each view.
    """
    scan = Exposure(photons=1e5, electronic=0, fan=FanBeam(views=360))
    slice_ = water(side=200, spacing=1.2)
    grid = (np.arange(200) - 99.5) * 1.2
    distance = np.hypot(grid[None], grid[:, None])
    ring = (distance > 8) & (distance < 25)
    lows = [insert_noise(slice_, scan, seed)[ring] for seed in range(3)]
    view = math.exp(2 * 100 * scan.water) / (12 * scan.photons * scan.fan.virtual_pitch**2)
    share = 2 / 3 - 1 / 3 * 6 / math.pi**2
    theory = 1000 / scan.water * math.pi * math.sqrt(view * share / scan.fan.views)
    assert np.std(lows) == pytest.approx(theory, rel=0.04)
    assert abs(np.mean(lows)) < theory / 20


def test_noise_falls_with_the_root_of_the_photons():
    ratio = noise(water(), SCAN).std() / noise(water(), replace(SCAN, photons=4e5)).std()
    assert ratio == pytest.approx(2, rel=0.05)


def test_electronic_noise_adds_to_it():
    more = noise(water(), replace(SCAN, electronic=300.0)).std()
    assert more > 1.1 * noise(water(), SCAN).std()


def test_result_depends_on_seed_and_name_and_not_on_order():
    a, b = water("A"), water("B")
    both = simulate([a, b], SCAN, 0, None)
    turned = simulate([b, a], SCAN, 0, None)
    assert np.array_equal(both.low[0], turned.low[1])
    assert np.array_equal(both.low[1], insert_noise(b, SCAN, 0))
    assert not np.array_equal(both.low[0], both.low[1])
    assert not np.array_equal(both.low[0], insert_noise(a, SCAN, 1))


def test_target_is_untouched_and_low_dose_is_int16_in_range():
    slice_ = water()
    metal = slice_.image.copy()
    metal[30:34, 30:34] = 3071
    pairs = simulate([replace(slice_, image=metal)], SCAN, 0, None)
    assert pairs.full[0] is metal
    assert pairs.low[0].dtype == np.int16
    assert pairs.low[0].min() >= -1024
    assert pairs.low[0].max() == 1900


def test_starved_rays_are_clamped_and_reported(caplog):
    caplog.set_level(logging.DEBUG, "compress.data.lowdose")
    low = insert_noise(water(), replace(SCAN, photons=20.0), 0)
    assert low.std() > 0
    starved = float(caplog.messages[0].removeprefix("P-000: ").split(" ")[0])
    assert 1 < starved < 100


def test_padding_below_air_attenuates_nothing():
    padded = replace(water(radius=0), image=np.full((64, 64), -1024, np.int16))
    air = replace(padded, image=np.full((64, 64), -1000, np.int16))
    np.testing.assert_array_equal(
        insert_noise(padded, SCAN, 0), np.maximum(insert_noise(air, SCAN, 0) - 24, -1024)
    )


def test_simulated_slices_are_kept(tmp_path, monkeypatch):
    first = simulate([water()], SCAN, 0, tmp_path)
    monkeypatch.setattr(lowdose, "insert_noise", None)  # whoever calls it fails
    again = simulate([water()], SCAN, 0, tmp_path)
    assert np.array_equal(first.low, again.low)


@pytest.mark.parametrize(
    ("slice_", "exposure", "seed"),
    [
        (water("other"), SCAN, 0),
        (water(spacing=3.9), SCAN, 0),
        (water(radius=80), SCAN, 0),
        (water(), replace(SCAN, photons=2e5), 0),
        (water(), replace(SCAN, water=0.02), 0),
        (water(), replace(SCAN, fan=FanBeam(views=91)), 0),
        (water(), SCAN, 1),
    ],
)
def test_whatever_changes_the_result_changes_where_it_is_kept(tmp_path, slice_, exposure, seed):
    simulate([water()], SCAN, 0, tmp_path)
    simulate([slice_], exposure, seed, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_slices_are_simulated_again(tmp_path, damage):
    first = simulate([water()], SCAN, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes({"cut": data[:-1000], "flipped": data, "empty": b""}[damage])
    again = simulate([water()], SCAN, 0, tmp_path)
    assert np.array_equal(first.low, again.low)
    assert np.array_equal(np.load(file)["low"], first.low[0])


def test_without_a_writable_folder_it_works_with_one_warning(tmp_path, caplog):
    place = tmp_path / "file"
    place.touch()
    pairs = simulate([water("A"), water("B")], SCAN, 0, place)
    assert len(pairs.low) == 2
    assert len(caplog.messages) == 1
    assert f"not kept in {place}" in caplog.messages[0]
