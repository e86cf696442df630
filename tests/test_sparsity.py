"""2:4 masks as mathematics, and on DDnet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Plain

from compress import masks, pruning, sparsity
from compress.rewrite import deconv_to_conv
from models.ddnet import DDnet


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    out, fours = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    kernel = draw(st.sampled_from([(), (1, 1), (3, 2), (5, 5)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(out, 4 * fours, *kernel, generator=generator)
    # Coarse values make ties and zeros common.
    return (2 * weight).round() if draw(st.booleans()) else weight


@settings(max_examples=100)
@given(weights())
def test_mask_keeps_the_two_largest_of_every_four(weight: torch.Tensor) -> None:
    mask = sparsity.mask_2to4(weight)
    assert mask.shape == weight.shape
    assert mask.dtype == torch.bool
    flat, kept = (t.movedim(1, -1).reshape(-1, 4) for t in (weight.abs(), mask))
    assert (kept.sum(1) == 2).all()
    for four, keep in zip(flat.tolist(), kept.tolist(), strict=True):
        best = sorted(range(4), key=lambda i: (-four[i], i))[:2]
        assert sorted(best) == [i for i in range(4) if keep[i]]


@given(weights())
def test_masking_is_idempotent_and_passes_the_check(weight: torch.Tensor) -> None:
    sparse = weight * sparsity.mask_2to4(weight)
    assert sparsity.is_2to4(sparse)
    assert sparsity.violations(sparse) == []
    assert torch.equal(sparse * sparsity.mask_2to4(sparse), sparse)


@given(weights(), st.data())
def test_a_planted_violation_is_found_and_located(
    weight: torch.Tensor, data: st.DataObject
) -> None:
    sparse = weight * sparsity.mask_2to4(weight)
    out = data.draw(st.integers(0, weight.shape[0] - 1))
    first = 4 * data.draw(st.integers(0, weight.shape[1] // 4 - 1))
    tap = tuple(data.draw(st.integers(0, side - 1)) for side in weight.shape[2:])
    sparse[(out, slice(first, first + 4), *tap)] = torch.tensor([1.0, 2.0, 0.0, 3.0])
    assert not sparsity.is_2to4(sparse)
    assert sparsity.violations(sparse) == [sparsity.Violation(out, first, tap, 3)]


def test_channels_that_are_no_multiple_of_four() -> None:
    weight = torch.ones(8, 6, 3, 3)
    assert not sparsity.is_2to4(weight)
    with pytest.raises(ValueError, match="6 input channels are no multiple of 4"):
        sparsity.mask_2to4(weight)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (torch.nn.Conv2d(16, 8, 3), ""),
        (torch.nn.Conv2d(8, 8, 3), "8 input channels are no multiple of 16"),
        (torch.nn.Conv2d(16, 4, 3), "4 output channels are no multiple of 8"),
        (torch.nn.Conv2d(16, 16, 3, groups=2), "grouped convolution"),
        (torch.nn.ConvTranspose2d(16, 16, 4, stride=2), "deconvolution with stride"),
        (torch.nn.Linear(16, 8), ""),
    ],
)
def test_refusals(layer: torch.nn.Module, reason: str) -> None:
    found = sparsity.refusal(layer)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("amount", [None, 0.62])
def test_ddnet_has_43_eligible_convolutions_dense_and_pruned(amount: float | None) -> None:
    net = deconv_to_conv(DDnet())
    if amount is not None:
        net = pruning.plan(net, amount=amount).apply(net)
    layers = sparsity.candidates(net)
    assert len(layers) == 45
    refused = [name for name, layer in layers.items() if sparsity.refusal(layer)]
    assert refused == ["stem.conv", "decoders.3.narrow.conv"]
    assert sum(not sparsity.refusal(layer, "trt") for layer in layers.values()) == 44
    held = masks.compute(net, "modelopt")
    masks.apply(net, held)
    total = sum(layer.weight.numel() for layer in layers.values())
    covered = sum(layers[name].weight.numel() for name in held)
    zeros = sum(int((layers[name].weight == 0).sum()) for name in held)
    assert len(held) == 43
    assert covered / total >= 0.97
    assert zeros / covered >= 0.48


def test_modelopt_gives_our_mask_bit_for_bit() -> None:
    net = Plain(32)
    for name, mask in masks.compute(net, "modelopt").items():
        assert torch.equal(mask, sparsity.mask_2to4(net.get_submodule(name).weight))
