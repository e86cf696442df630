import numpy as np
import pytest
import torch
from pairs import pairs as blobs

from compress.base.errors import UsageError
from compress.base.hu import to_hu
from compress.data import Pairs
from compress.data.crops import draws
from compress.data.loaders import Streamed

CPU = torch.device("cpu")


def numbered(*shapes: tuple[int, int]) -> Pairs:
    """Slices whose pixels all differ; low dose is full dose minus 1000."""
    full, start = [], 0
    for height, width in shapes:
        full.append(np.arange(start, start + height * width, dtype=np.int16).reshape(height, width))
        start += height * width
    low = tuple(image - np.int16(1000) for image in full)
    names = tuple(f"s{k}" for k in range(len(full)))
    return Pairs(low=low, full=tuple(full), names=names, patients=("P",) * len(full))


def draw(pairs, *, count=2, batch=4, crop=8, seed=(0, 1)):
    drawn = draws(pairs, count=count, batch=batch, crop=crop, seed=seed)
    loader = Streamed(pairs, CPU, 0)
    return [torch.stack(loader.decode(raw)) for raw in loader.batches(drawn)]


def test_shape_type_and_range():
    drawn = draw(blobs(3, 32, 0, "P"))
    assert len(drawn) == 2
    for pair in drawn:
        assert pair.shape == (2, 4, 1, 8, 8)
        assert pair.dtype == torch.float32
        assert 0 <= pair.min() <= pair.max() <= 1


def test_same_seed_same_crops():
    data = blobs(3, 32, 0, "P")
    assert all(map(torch.equal, draw(data), draw(data)))
    for other in ((0, 2), (1, 0), (0,)):
        assert not torch.equal(draw(data)[0], draw(data, seed=other)[0])


def test_a_longer_draw_begins_like_a_shorter_one():
    data = blobs(3, 32, 0, "P")
    assert all(map(torch.equal, draw(data, count=2), draw(data, count=5)))


def test_low_and_full_show_the_same_place():
    for low, full in draw(numbered((20, 30), (12, 12)), count=20, crop=5):
        torch.testing.assert_close(to_hu(full) - to_hu(low), torch.full((4, 1, 5, 5), 1000.0))


def test_crops_are_mirrored_windows_from_everywhere():
    image = numbered((10, 10))
    starts, flips = set(), set()
    for _, full in draw(image, count=200, batch=1, crop=9):
        hu = to_hu(full)[0, 0].round().int().numpy()
        down, right = hu[1, 0] - hu[0, 0], hu[0, 1] - hu[0, 0]
        flips.add((int(down), int(right)))
        starts.add(int(hu.min()))
        assert np.array_equal(np.diff(hu, axis=0), np.full((8, 9), down))
    assert flips == {(10, 1), (10, -1), (-10, 1), (-10, -1)}
    assert starts == {0, 1, 10, 11}


def test_every_slice_is_drawn():
    lows = {float(full.min()) for _, full in draw(numbered(*[(8, 8)] * 5), count=50, batch=1)}
    assert len(lows) == 5


def test_whole_slices():
    ((_, full),) = draw(numbered((6, 9)), count=1, crop=None)
    assert full.shape == (4, 1, 6, 9)


def test_crop_as_large_as_the_slice_fits():
    assert draw(numbered((8, 8)))[0].shape == (2, 4, 1, 8, 8)


def test_too_large_a_crop_is_refused_at_once():
    with pytest.raises(UsageError, match=r"crop of 9 x 9 pixels .* slice s1 with 8 x 30"):
        draws(numbered((9, 9), (8, 30)), count=1, batch=1, crop=9, seed=(0,))


def test_whole_slices_of_different_sizes_are_refused():
    with pytest.raises(UsageError, match=r"slice s1 has 9 x 8 pixels and slice s0 8 x 8; give a"):
        draw(numbered((8, 8), (9, 8)), crop=None)


def test_no_slices_are_refused():
    with pytest.raises(UsageError, match="no slices to train with"):
        draw(numbered())
