import numpy as np
import pytest

from compress.data import DataOptions
from compress.data.phantom import chest, load

SMALL = DataOptions(source="phantom", image_size=64, train_slices=3, test_slices=2, views=60)


def test_slices_depend_on_their_arguments_alone():
    one, again = chest("P1", 2, 64, seed=7), chest("P1", 2, 64, seed=7)
    assert np.array_equal(one.image, again.image)
    others = [chest("P2", 2, 64, 7), chest("P1", 3, 64, 7), chest("P1", 2, 64, 8)]
    assert not any(np.array_equal(one.image, other.image) for other in others)


@pytest.mark.parametrize("size", [32, 65, 200])
def test_slices_look_like_a_chest(size):
    slice_ = chest("P1", 0, size, seed=0)
    hu = slice_.image
    assert hu.shape == (size, size)
    assert hu.dtype == np.int16
    assert slice_.spacing * size == pytest.approx(360)
    assert (hu[0] < -900).all()
    assert 0.05 < ((hu > -900) & (hu < -700)).mean() < 0.3, "lungs"
    assert 0.15 < ((hu > -50) & (hu < 150)).mean() < 0.6, "soft tissue"
    assert 0.005 < (hu > 200).mean() < 0.1, "bone"


def test_pairs_are_as_asked_for():
    train, test = load(SMALL, seed=0)
    assert train.names == ("P1-000", "P1-001", "P1-002")
    assert test.names == ("P2-000", "P2-001")
    assert set(train.patients).isdisjoint(test.patients)
    for low, full in zip(train.low, train.full, strict=True):
        assert low.shape == full.shape == (64, 64)
        assert 20 < (low.astype(float) - full).std() < 300


def test_null_takes_the_defaults():
    train, test = load(
        DataOptions(source="phantom", image_size=16, views=2, train_slices=None, test_slices=None),
        seed=0,
    )
    assert (len(train.names), len(test.names)) == (24, 6)
