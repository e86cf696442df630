import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.base.hu import DATA_RANGE, HU_MAX, HU_MIN, to_hu, to_network

WHOLE = st.lists(st.integers(-32768, 32767), min_size=1, max_size=50)


@given(WHOLE)
def test_whole_hu_survive_the_way_there_and_back(values):
    hu = torch.tensor(values, dtype=torch.int16)
    back = to_hu(to_network(hu)).round().to(torch.int16)
    assert torch.equal(back, hu.clamp(int(HU_MIN), int(HU_MAX)))


@given(WHOLE)
def test_network_range_is_exactly_zero_to_one(values):
    hu = torch.tensor(values, dtype=torch.int16)
    x = to_network(hu)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 1


def test_ends_and_slope():
    ends = to_network(torch.tensor([HU_MIN, HU_MAX, -1e9, 1e9]))
    assert ends.tolist() == [0, 1, 0, 1]
    step = to_network(torch.tensor([100.0])) - to_network(torch.tensor([0.0]))
    torch.testing.assert_close(step, torch.tensor([100 / DATA_RANGE]))


def test_shape_is_kept_and_half_precision_becomes_float32():
    x = torch.rand(2, 1, 3, 4, dtype=torch.float16)
    assert to_hu(x).shape == x.shape
    assert to_hu(x).dtype == torch.float32
