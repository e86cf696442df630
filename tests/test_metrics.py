"""Metrics against torchmetrics and scikit-image, and what must hold for any image."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.quality import metrics, ssim

WIDTH = 2924.0


def pair(*shape: int, seed: int = 0, noise: float = 60.0) -> tuple[Tensor, Tensor]:
    """A smooth body in HU with soft edges, and the same with noise: (N, 1, H, W), float64."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(shape[0], 1, 6, 6, generator=draw, dtype=torch.float64) * 1400 - 1000
    clean = torch.nn.functional.interpolate(coarse, shape[-2:], mode="bicubic")
    noisy = clean + noise * torch.randn(clean.shape, generator=draw, dtype=torch.float64)
    return noisy.clamp(-1024, 1900) + 1024, clean.clamp(-1024, 1900) + 1024


@pytest.mark.parametrize("size", [(64, 64), (37, 90)])
def test_ssim_and_psnr_equal_torchmetrics(size: tuple[int, int]) -> None:
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    a, b = pair(3, 1, *size)
    golden = structural_similarity_index_measure(a, b, data_range=WIDTH, reduction="none")
    assert isinstance(golden, Tensor)
    torch.testing.assert_close(ssim.ssim(a, b, WIDTH), golden, rtol=0, atol=1e-12)
    golden = peak_signal_noise_ratio(a[:1], b[:1], data_range=WIDTH)
    torch.testing.assert_close(metrics.psnr(a, b, WIDTH)[0], golden, rtol=1e-6, atol=0)


@pytest.mark.parametrize("noise", [5.0, 60.0, 400.0])
@pytest.mark.parametrize("size", [(176, 176), (201, 259)])
def test_ms_ssim_equals_torchmetrics(size: tuple[int, int], noise: float) -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    a, b = pair(2, 1, *size, noise=noise)
    golden = multiscale_structural_similarity_index_measure(
        a, b, data_range=WIDTH, reduction="none"
    )
    # torchmetrics rounds the exponents to float32.
    torch.testing.assert_close(ssim.ms_ssim(a, b, WIDTH), golden, rtol=0, atol=1e-7)


def test_ssim_equals_skimage_where_the_window_lies_inside() -> None:
    from skimage.metrics import structural_similarity

    a, b = pair(1, 1, 70, 53)
    _, golden = structural_similarity(  # type: ignore[no-untyped-call]
        a[0, 0].numpy(),
        b[0, 0].numpy(),
        data_range=WIDTH,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    ours = ssim._similarity(a, b, WIDTH)[0][0, 0].numpy()
    np.testing.assert_allclose(ours[5:-5, 5:-5], golden[5:-5, 5:-5], rtol=0, atol=1e-10)


@given(
    offset=st.floats(0.5, 300),
    low=st.sampled_from([-1350.0, -1024.0, -150.0]),
    width=st.sampled_from([400.0, 1500.0, 2924.0]),
)
def test_a_constant_error_gives_the_closed_form(offset: float, low: float, width: float) -> None:
    flat = torch.full((1, 1, 16, 16), low + 400.0, dtype=torch.float64)
    window = metrics.Window(low, low + width)
    a, b = window.apply(flat - offset), window.apply(flat)
    error = min(offset, 400.0)
    assert float(metrics.rmse(a, b)) == pytest.approx(error)
    assert float(metrics.psnr(a, b, width)) == pytest.approx(20 * math.log10(width / error))
    x, y, c1 = 400.0 - error, 400.0, (0.01 * width) ** 2
    assert float(ssim.ssim(a, b, width)) == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(1, 500), turns=st.integers(0, 3))
def test_what_holds_for_any_pair(seed: int, noise: float, turns: int) -> None:
    a, b = (x[0, 0] - 1024 for x in pair(1, 1, 32, 32, seed=seed, noise=noise))
    found = metrics.measure(a, b)
    swapped = metrics.measure(b, a)
    turned = metrics.measure(a.rot90(turns), b.rot90(turns).numpy())
    assert found.pop("ms_ssim") is None
    for name, value in found.items():
        assert value is not None
        assert value == pytest.approx(swapped[name], rel=1e-9, abs=1e-12)
        assert value == pytest.approx(turned[name], rel=1e-9, abs=1e-12)
        assert "ssim" not in name or -1 <= value <= 1


def test_equal_images_are_perfect_and_small_ones_have_no_ms_ssim() -> None:
    clean = pair(1, 1, 180, 176)[1][0, 0] - 1024
    found = metrics.measure(clean, clean)
    assert found["psnr"] is None
    assert found["rmse_hu"] == 0
    assert found["ssim_lung"] == pytest.approx(1)
    assert found["ms_ssim"] == pytest.approx(1)
    assert metrics.measure(clean[:, :175], clean[:, :175])["ms_ssim"] is None


def test_outside_of_a_window_nothing_counts() -> None:
    bone = np.full((16, 16), 700, dtype=np.int16)
    found = metrics.measure(bone + 100, bone)
    assert found["rmse_hu"] == pytest.approx(100)
    assert found["rmse_hu_lung"] == 0
    assert found["rmse_hu_mediastinum"] == 0
    metal = np.full((16, 16), 9000, dtype=np.int16)
    assert metrics.measure(metal, np.full((16, 16), 1900))["rmse_hu"] == 0


@pytest.mark.parametrize(
    ("a", "b"), [((16, 16), (16, 17)), ((10, 40), (10, 40)), ((1, 16, 16), (1, 16, 16))]
)
def test_wrong_shapes_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected two \(H, W\) slices"):
        metrics.measure(np.zeros(a), np.zeros(b))
