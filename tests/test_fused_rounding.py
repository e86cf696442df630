"""Weights of the fused engine in float16: their errors cancel, and nothing else changes."""

import fused_cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.base.hu import to_network
from compress.data import phantom
from compress.engines.kernels import rounding
from compress.engines.kernels.plan import compiled
from compress.engines.kernels.session import Session
from compress.engines.kernels.two_of_four import is_two_of_four

OPTIONS = {"bottleneck": 16, "decoder": 16, "residual": True}


def held_out() -> torch.Tensor:
    """Phantoms that are no calibration slices, (2, 1, 96, 112) float64 with other noise."""
    images = [torch.from_numpy(phantom.chest("P2", k, 128, 0).image) for k in range(2)]
    clean = to_network(torch.stack(images))[:, None, 16:112, 8:120].double()
    draw = torch.Generator().manual_seed(3)
    noise = torch.randn(clean.shape, generator=draw, dtype=torch.float64)
    return (clean + 0.015 * noise).clamp(min=0)


def output(plan, tensors, x: torch.Tensor) -> torch.Tensor:
    shape = (len(x), *x.shape[2:])
    return Session(plan, tensors, shape, kernels=False, dtype=torch.float64)(x)


def in_half(value: torch.Tensor) -> bool:
    return torch.equal(value.half().double(), value)


def inputs(seed: int, columns: int, alike: float) -> torch.Tensor:
    """(500, columns) float64 that vary together the more, the smaller `alike` is."""
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randn(500, 1, generator=draw, dtype=torch.float64)
    own = torch.randn(500, columns, generator=draw, dtype=torch.float64)
    return 1 + shared + alike * own


def moment(x: torch.Tensor) -> torch.Tensor:
    z = torch.cat((x, torch.ones(len(x), 1, dtype=x.dtype)), dim=1)
    return z.T @ z / len(z)


@given(
    seed=st.integers(0, 2**31), columns=st.integers(1, 24), alike=st.sampled_from([0, 1e-2, 1]),
    exponent=st.integers(-6, 3), dropped=st.floats(0, 0.9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_rows_err_no_more_than_those_rounded_to_nearest(seed, columns, alike, exponent, dropped):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, columns, generator=draw, dtype=torch.float64) * 10.0**exponent
    rows[torch.rand(rows.shape, generator=draw) < dropped] = 0
    square = moment(inputs(seed, columns, alike))
    found, shift = rounding.rounded(rows, square)
    assert in_half(found)
    assert not found[rows == 0].any()
    change = torch.cat((found - rows, shift[:, None]), dim=1)
    nearest = torch.cat((rows.half().double() - rows, torch.zeros(5, 1)), dim=1)
    off, most = (((d @ square) * d).sum(1) for d in (change, nearest))
    assert (off <= most * (1 + 1e-9)).all()


def test_errors_cancel_where_channels_vary_together():
    x, draw = inputs(0, 16, 1e-2), torch.Generator().manual_seed(1)
    rows = 4 * torch.randn(8, 16, generator=draw, dtype=torch.float64)
    found, shift = rounding.rounded(rows, moment(x))
    off = (x @ (found - rows).T + shift).square().mean().sqrt()
    nearest = (x @ (rows.half().double() - rows).T).square().mean().sqrt()
    assert off < nearest / 5


@pytest.mark.parametrize("kernels", [[5, 5, 5, 5, 5], [3, 3, 3, 3, 3]])
def test_a_network_comes_nearer_to_its_output_in_float64_on_other_slices(kernels):
    plan, tensors = compiled(fused_cases.network(**OPTIONS, kernels=kernels))
    found, x = rounding.in_half(plan, tensors), held_out()
    weights = [name for name in tensors if name.endswith("weight")]
    assert found.keys() == tensors.keys()
    assert all(in_half(found[name]) for name in weights)
    nearest = tensors | {name: tensors[name].half().double() for name in weights}
    exact = output(plan, tensors, x)
    off, most = ((output(plan, one, x) - exact).square().mean().sqrt() for one in (found, nearest))
    assert off < most / 2


def test_2to4_weights_stay_2to4():
    plan, tensors = compiled(fused_cases.halved(fused_cases.network(**OPTIONS)))
    found = rounding.in_half(plan, tensors)
    sparse = [op.name for op in plan.convs() if op.sparse]
    assert len(sparse) == 20
    for name in sparse:
        assert is_two_of_four(found[f"{name}.weight"])
        assert not found[f"{name}.weight"][tensors[f"{name}.weight"] == 0].any()


def test_what_pytorch_computes_stays_as_it_is():
    net = fused_cases.network(**OPTIONS)
    with torch.no_grad():
        net.blocks[1][2].growth.conv.weight *= 1e7
    plan, tensors = compiled(net)
    name = "blocks.1.2.growth.weight"
    assert [op.name for op in plan.convs() if op.plain] == ["blocks.1.2.growth"]
    assert torch.equal(rounding.in_half(plan, tensors)[name], tensors[name])


def test_a_network_that_is_not_finite_keeps_its_weights():
    net = fused_cases.network(**OPTIONS)
    with torch.no_grad():
        net.stem.conv.bias[0] = float("inf")
    plan, tensors = compiled(net)
    found = rounding.in_half(plan, tensors)
    name = "blocks.0.0.bottleneck.weight"
    assert torch.equal(found[name], tensors[name])


def test_the_slices_are_always_the_same():
    slices = rounding.slices()
    assert slices.shape == (len(rounding.NOISE), 1, rounding.SIDE, rounding.SIDE)
    assert slices.dtype == torch.float64
    rounding.slices.cache_clear()
    assert torch.equal(rounding.slices(), slices)
