"""2:4 masks as mathematics, and on DDnet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Plain

from compress.graph import cost
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.pruning import plan
from compress.pruning.options import PruneOptions
from compress.sparsity import eligibility, masks, pattern

KERNELS = [(), (1,), (3,), (1, 1), (3, 2), (5, 5), (7, 7), (2, 3, 2)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    """Any (out, in, *kernel) with `in` in fours: any dtype, with ties, zeros and extremes."""
    out, fours = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    kernel = draw(st.sampled_from(KERNELS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(out, 4 * fours, *kernel, generator=generator)
    kind = draw(st.sampled_from(["normal", "ties", "zeros", "tiny", "infinite"]))
    if kind == "ties":  # coarse values make ties and zeros common
        weight = (2 * weight).round()
    elif kind == "zeros":
        weight.zero_()
    elif kind == "tiny":
        weight *= 1e-30
    elif kind == "infinite":
        weight[weight > 1] = float("inf")
    return weight.to(draw(st.sampled_from(DTYPES)))


@settings(max_examples=200)
@given(weights())
def test_mask_keeps_the_two_largest_of_every_four(weight: torch.Tensor) -> None:
    mask = pattern.mask_2to4(weight)
    assert mask.shape == weight.shape
    assert mask.dtype == torch.bool
    flat, kept = (t.movedim(1, -1).reshape(-1, 4) for t in (weight.abs(), mask))
    assert (kept.sum(1) == 2).all()
    for four, keep in zip(flat.tolist(), kept.tolist(), strict=True):
        best = sorted(range(4), key=lambda i: (-four[i], i))[:2]
        assert sorted(best) == [i for i in range(4) if keep[i]]


@given(weights())
def test_masking_is_idempotent_and_passes_the_check(weight: torch.Tensor) -> None:
    sparse = weight.masked_fill(~pattern.mask_2to4(weight), 0)
    assert pattern.is_2to4(sparse)
    assert pattern.violations(sparse) == []
    assert pattern.count_violations(sparse) == 0
    assert torch.equal(sparse.masked_fill(~pattern.mask_2to4(sparse), 0), sparse)


@given(weights(), st.randoms())
def test_the_mask_is_a_function_of_the_values_alone(weight: torch.Tensor, random) -> None:
    """Ties and all: the same again, in any memory layout, and whatever the sign."""
    mask = pattern.mask_2to4(weight)
    order = list(range(weight.dim()))
    random.shuffle(order)
    back = [order.index(axis) for axis in range(weight.dim())]
    strided = weight.permute(order).contiguous().permute(back)
    for same in (weight, -weight, strided, weight.double()):
        assert torch.equal(pattern.mask_2to4(same), mask)


@given(st.sampled_from(KERNELS), st.sampled_from(DTYPES), st.sampled_from([0.0, -0.0, 1.0, -3.0]))
def test_of_four_equal_weights_the_lower_channels_stay(kernel, dtype, value: float) -> None:
    mask = pattern.mask_2to4(torch.full((3, 8, *kernel), value, dtype=dtype))
    assert mask.movedim(1, -1).reshape(-1, 8).tolist() == [[True, True, False, False] * 2] * (
        mask.numel() // 8
    )


@given(weights(), st.data())
def test_a_planted_violation_is_found_and_located(
    weight: torch.Tensor, data: st.DataObject
) -> None:
    sparse = weight.masked_fill(~pattern.mask_2to4(weight), 0)
    out = data.draw(st.integers(0, weight.shape[0] - 1))
    first = 4 * data.draw(st.integers(0, weight.shape[1] // 4 - 1))
    tap = tuple(data.draw(st.integers(0, side - 1)) for side in weight.shape[2:])
    sparse[(out, slice(first, first + 4), *tap)] = torch.tensor([1.0, 2.0, 0.0, 3.0]).to(
        weight.dtype
    )
    assert not pattern.is_2to4(sparse)
    assert pattern.violations(sparse) == [pattern.Violation(out, first, tap, 3)]
    assert pattern.count_violations(sparse) == 1


def test_the_first_few_violations_and_the_count_of_all() -> None:
    dense = torch.ones(2, 8, 3, 3)
    assert len(pattern.violations(dense)) == pattern.count_violations(dense) == 36
    assert pattern.violations(dense, most=2) == pattern.violations(dense)[:2]


def test_channels_that_are_no_multiple_of_four() -> None:
    weight = torch.ones(8, 6, 3, 3)
    assert not pattern.is_2to4(weight)
    with pytest.raises(ValueError, match="6 input channels are no multiple of 4"):
        pattern.mask_2to4(weight)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (torch.nn.Conv2d(16, 8, 3), ""),
        (torch.nn.Conv2d(8, 8, 3), "8 input channels are no multiple of 16"),
        (torch.nn.Conv2d(16, 4, 3), "4 output channels are no multiple of 8"),
        (torch.nn.Conv2d(16, 16, 3, groups=2), "grouped convolution"),
        (torch.nn.ConvTranspose2d(16, 16, 4, stride=2), "deconvolution with stride"),
        (torch.nn.ConvTranspose2d(16, 16, 3, groups=2), "deconvolution that equals no convolution"),
        (torch.nn.Linear(16, 8), ""),
    ],
)
def test_refusals(layer: torch.nn.Module, reason: str) -> None:
    found = eligibility.refusal(layer)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


SIXTEEN = {"trunk": 16, "bottleneck": 16, "decoder": 16}


@pytest.mark.parametrize(("options", "amount"), [({}, None), ({}, 0.62), (SIXTEEN, None)])
def test_ddnet_has_43_sparse_convolutions_of_45(options: dict, amount: float | None) -> None:
    """Dense, pruned by MACs, and at widths 16/16/16."""
    net = deconv_to_conv(DDnet(**options))
    if amount is not None:
        net = plan.plan(net, PruneOptions(amount=amount)).apply(net)
    layers = cost.compressible(net)
    assert len(layers) == 45
    refused = [name for name, layer in layers.items() if eligibility.refusal(layer)]
    assert refused == ["stem.conv", "decoders.3.narrow.conv"]
    assert sum(not eligibility.refusal(layer, "trt") for layer in layers.values()) == 44
    held = masks.compute(net, "modelopt")
    masks.apply(net, held)
    assert len(held) == 43
    total = sum(layer.weight.numel() for layer in layers.values())
    covered = sum(layers[name].weight.numel() for name in held)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    assert covered >= 0.97 * total
    assert zeros >= 0.48 * total
    assert all(pattern.is_2to4(layers[name].weight) for name in held)


def test_modelopt_gives_our_mask_bit_for_bit() -> None:
    net = Plain(32)
    for name, mask in masks.compute(net, "modelopt").items():
        assert torch.equal(mask, pattern.mask_2to4(net.get_submodule(name).weight))
