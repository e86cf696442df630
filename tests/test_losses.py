"""Losses: value, gradient, precision, refusal."""

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from compress.base.errors import UsageError
from compress.training.losses import loss

MIX = loss("mse+0.1*(1-ms_ssim)")


def batch(side: int = 176, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Smooth targets in network range and noisy versions, (2, 1, side, side) float32."""
    draw = torch.Generator().manual_seed(0)
    full = torch.nn.functional.interpolate(
        torch.rand(2, 1, 8, 8, generator=draw), (side, side), mode="bilinear"
    )
    return full + noise * torch.randn(full.shape, generator=draw), full


def test_mse_is_the_mean_square() -> None:
    x, y = batch(8)
    assert float(loss("mse")(x, y)) == pytest.approx(float(((x - y) ** 2).mean()), rel=1e-6)


@pytest.mark.parametrize("noise", [0.005, 0.05, 0.3])
def test_mix_equals_torchmetrics(noise: float) -> None:
    x, y = batch(noise=noise)
    golden = multiscale_structural_similarity_index_measure(x, y, data_range=1.0)
    expected = ((x - y) ** 2).mean() + 0.1 * (1 - golden)
    torch.testing.assert_close(MIX(x, y), expected, rtol=0, atol=1e-5)


def test_gradient_is_the_derivative() -> None:
    x, y = (t[:1].double() for t in batch())
    assert torch.autograd.gradcheck(MIX, (x.requires_grad_(), y), fast_mode=True)


def test_gradient_stays_finite_where_images_disagree_or_are_flat() -> None:
    _, full = batch()
    for image in (1 - full, torch.zeros_like(full), full.clone()):
        enhanced = image.requires_grad_()
        MIX(enhanced, full).backward()  # type: ignore[no-untyped-call]
        assert enhanced.grad is not None
        assert enhanced.grad.isfinite().all()


def test_descending_it_repairs_an_image() -> None:
    noisy, full = batch()
    image = noisy.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        MIX(image, full).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert MIX(image, full) < 0.7 * MIX(noisy, full)


def test_autocast_and_half_precision_compute_in_float32() -> None:
    x, y = batch()
    halved = x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MIX(halved, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, MIX(halved.float(), y), rtol=0, atol=0)


def test_small_sides_are_refused_in_a_sentence() -> None:
    x, y = batch(175)
    with pytest.raises(UsageError, match="at least 176 pixels, got 175x175; enlarge crop"):
        MIX(x, y)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_it_is_the_same(
    dtype: torch.dtype, near: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filter has another form there, which also runs uncompiled."""
    one, full = (t.to(dtype) for t in batch(181))
    other = one.clone().requires_grad_()
    expected = MIX(other, full)
    expected.backward()  # type: ignore[no-untyped-call]
    if not compiled:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    mix = torch.compile(MIX, backend="aot_eager", fullgraph=True) if compiled else MIX
    found = mix(one.requires_grad_(), full)
    found.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected, rtol=0, atol=near)
    assert one.grad is not None
    assert other.grad is not None
    scale = float(other.grad.abs().max())
    torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=100 * near * scale)


def test_gradient_is_the_derivative_in_the_compiled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    test_gradient_is_the_derivative()
