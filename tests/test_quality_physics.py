"""NPS, TTF, d', bias and variance against theory: within 2 %, and not with a planted error."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, special

from compress.quality import detectability, nps, similarity, sites, tissues, ttf
from compress.quality.detectability import Outputs

SIDE, SPACING = 64, 0.7
CLOSE = 0.02
"""How far a value may be from theory."""


def white(count: int, sd: float, seed: int = 0, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sd, (count, side, side))


def filtered(images: np.ndarray, response: np.ndarray) -> np.ndarray:
    return np.fft.ifft2(np.fft.fft2(images) * response).real


def radial(spectrum: np.ndarray, spacing: float = SPACING) -> tuple[np.ndarray, np.ndarray]:
    rings = nps.Radial(0.7)
    rings.add(spectrum, spacing)
    return rings.curve()


def planted(module: object, old: str, new: str) -> dict[str, object]:
    """What a module defines with one piece of its source changed."""
    source = Path(module.__file__).read_text()
    assert old in source
    changed: dict[str, object] = {"__name__": "planted"}
    exec(compile(source.replace(old, new), "planted", "exec"), changed)
    return changed


def white_level(power) -> float:
    """The mean NPS of white noise of 20 HU over its theory, sd^2 times the area of a pixel."""
    return float(power(white(200, 20.0) + 500, SPACING).mean()) / (20.0**2 * SPACING**2)


def test_white_noise_has_a_flat_spectrum_of_variance_times_pixel_area() -> None:
    assert white_level(nps.power) == pytest.approx(1, rel=CLOSE)
    spectrum = nps.power(white(200, 20.0), SPACING)
    frequency, curve = radial(spectrum)
    assert curve[3:] == pytest.approx(400 * SPACING**2, rel=0.1)
    assert nps.mean_frequency(frequency, curve) == pytest.approx(frequency.mean(), rel=CLOSE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("spacing**2 /", "spacing /"),
        ("(count - 1)", "(2 * (count - 1))"),
        ("height * width", "height"),
        (")) ** 2", "))"),
    ],
)
def test_a_wrong_factor_of_the_spectrum_is_found(old: str, new: str) -> None:
    wrong = planted(nps, old, new)["power"]
    assert white_level(wrong) != pytest.approx(1, rel=CLOSE)


def band_limited() -> tuple[np.ndarray, np.ndarray]:
    """Realisations of a Gaussian band at 0.3 per mm, and their NPS by theory."""
    f = nps.frequencies((SIDE, SIDE), SPACING)
    response = np.exp(-(((f - 0.3) / 0.08) ** 2))
    return filtered(white(400, 30.0, 1), response), 30.0**2 * SPACING**2 * response**2


def test_band_limited_noise_has_its_spectrum_mean_and_peak() -> None:
    images, theory = band_limited()
    frequency, curve = radial(nps.power(images, SPACING))
    _, expected = radial(theory)
    strong = expected > 0.2 * expected.max()
    assert np.abs(curve[strong] / expected[strong] - 1).max() < CLOSE
    exact = nps.mean_frequency(frequency, expected)
    assert nps.mean_frequency(frequency, curve) == pytest.approx(exact, rel=CLOSE)
    assert exact == pytest.approx(0.3, rel=CLOSE)
    assert abs(nps.peak_frequency(frequency, curve) - 0.3) <= nps.BIN


def test_frequencies_in_a_wrong_unit_are_found() -> None:
    images, _ = band_limited()
    wrong = planted(nps, "np.fft.fftfreq(side, spacing)", "np.fft.fftfreq(side)")
    rings = wrong["Radial"](0.7)
    rings.add(nps.power(images, SPACING), SPACING)
    assert nps.mean_frequency(*rings.curve()) != pytest.approx(0.3, rel=CLOSE)


@settings(deadline=None, max_examples=20)
@given(gain=st.floats(0.1, 30), offset=st.floats(-500, 500), spacing=st.floats(0.3, 2))
def test_the_spectrum_scales_with_gain_squared_and_area(
    gain: float, offset: float, spacing: float
) -> None:
    images = white(6, 10.0, side=16)
    anatomy = np.random.default_rng(1).normal(0, 200, (16, 16))
    one = nps.power(images, 1.0)
    other = nps.power(gain * images + offset + anatomy, spacing)
    np.testing.assert_allclose(other, one * gain**2 * spacing**2, rtol=1e-6)
    variance = images.var(axis=0, ddof=1).mean()
    assert one.sum() / 16**2 == pytest.approx(variance, rel=1e-9), "Parseval"


@settings(deadline=None, max_examples=20)
@given(spacing=st.floats(0.4, 0.7), factor=st.floats(1.0, 1.7))
def test_frequencies_go_with_one_over_the_spacing(spacing: float, factor: float) -> None:
    f = nps.frequencies((16, 16), spacing)
    np.testing.assert_allclose(nps.frequencies((16, 16), spacing * factor) * factor, f, rtol=1e-12)


def f50_after(response, radius: float = 9.0, module=ttf) -> float | None:
    """The f50 that is found of a disc behind a linear system of this transfer function."""
    f = nps.frequencies((SIDE, SIDE), SPACING)
    shape = ttf.disc(SIDE, radius)
    transfer = module["Transfer"](0.7) if isinstance(module, dict) else module.Transfer(0.7)
    transfer.add(filtered(shape, response(f)), shape, SPACING)
    find = module["f50"] if isinstance(module, dict) else module.f50
    return find(*transfer.curve())


WIDTH = 0.35
"""Of a Gaussian transfer function exp(-(f / WIDTH)^2), whose half is at WIDTH sqrt(ln 2)."""
HALF = WIDTH * math.sqrt(math.log(2))


def gauss(f: np.ndarray) -> np.ndarray:
    return np.exp(-((f / WIDTH) ** 2))


def test_a_gaussian_low_pass_has_its_transfer_function() -> None:
    assert f50_after(gauss) == pytest.approx(HALF, rel=CLOSE)
    assert f50_after(lambda f: 0.8 * gauss(f)) == pytest.approx(HALF, rel=CLOSE), "a lost contrast"
    assert f50_after(np.ones_like) is None
    transfer, shape = ttf.Transfer(0.7), ttf.disc(SIDE, 9.0)
    f = nps.frequencies((SIDE, SIDE), SPACING)
    transfer.add(filtered(shape, gauss(f)), shape, SPACING)
    frequency, curve = transfer.curve()
    assert np.abs(curve - gauss(frequency)).max() < CLOSE


@pytest.mark.parametrize("cut", [0.2, 0.31, 0.45])
def test_an_ideal_low_pass_ends_where_it_ends(cut: float) -> None:
    f = nps.frequencies((SIDE, SIDE), SPACING)
    transfer, shape = ttf.Transfer(0.7), ttf.disc(SIDE, 9.0)
    transfer.add(filtered(shape, (f <= cut).astype(float)), shape, SPACING)
    frequency, curve = transfer.curve()
    assert curve[frequency < cut - nps.BIN] == pytest.approx(1, rel=CLOSE)
    assert curve[frequency > cut + nps.BIN] == pytest.approx(0, abs=CLOSE)
    assert ttf.f50(frequency, curve) == pytest.approx(cut, abs=nps.BIN), "within a ring"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(y * x.conj()).real", "np.abs(y) ** 2"),
        ("found / found[0]", "found"),
        ("share * (frequency[k] - frequency[k - 1])", "share"),
        ("frequencies(shape.shape, spacing)", "frequencies(shape.shape, 1.0)"),
    ],
)
def test_a_wrong_transfer_function_is_found(old: str, new: str) -> None:
    wrong = f50_after(lambda f: 0.8 * gauss(f), module=planted(ttf, old, new))
    assert wrong != pytest.approx(HALF, rel=CLOSE)


@settings(deadline=None, max_examples=20)
@given(radius=st.floats(2, 25))
def test_a_disc_has_its_area_and_its_spectrum(radius: float) -> None:
    shape = ttf.disc(SIDE, radius)
    assert shape.sum() == pytest.approx(math.pi * radius**2, rel=CLOSE)
    f = 1 / SIDE  # cycles a pixel, the lowest frequency but zero
    exact = radius * special.j1(2 * math.pi * radius * f) / f
    assert np.abs(np.fft.fft2(shape))[0, 1] == pytest.approx(abs(exact), abs=0.01 * shape.sum())


def test_contrast_and_noise_of_a_disc_are_its_own() -> None:
    shape = ttf.disc(SIDE, 9.0)
    blurred = ndimage.gaussian_filter(shape, 3.0)
    assert ttf.contrast(0.7 * shape, shape) == pytest.approx(0.7)
    assert ttf.contrast(blurred, shape) < 0.9
    assert ttf.noise(white(300, 12.0), shape) == pytest.approx(12.0, rel=CLOSE)


def disc_outputs(module, channels: np.ndarray, count: int = 6000) -> Outputs:
    """Channel outputs for `SIGNAL` in white noise of `SD`; the same noise without and with it."""
    noise = white(count, SD, 3, 32)
    return Outputs(*(module.outputs(i, channels)[None] for i in (noise, noise + SIGNAL)))


SD, CONTRAST, RADIUS = 20.0, 6.0, 8.0
SIGNAL = CONTRAST * ttf.disc(32, RADIUS)
IDEAL = CONTRAST * RADIUS * math.sqrt(math.pi) / SD
"""d' of the ideal observer in white noise: contrast / sd, times the root of the disc's pixels."""


def npw_in_white_noise(scale: float = 1.0) -> float:
    """The matched filter in white noise is the ideal observer."""
    return detectability.dprime(disc_outputs(detectability, scale * SIGNAL[None]))


def test_the_matched_filter_in_white_noise_reaches_the_closed_form() -> None:
    energy = math.sqrt((SIGNAL**2).sum()) / SD  # of the disc as drawn, its edge in shares of pixels
    assert npw_in_white_noise() == pytest.approx(energy, rel=CLOSE)
    assert energy == pytest.approx(IDEAL, rel=2 * CLOSE)


def test_npwe_in_white_noise_reaches_the_closed_form() -> None:
    eye = detectability.eye_filter(SIGNAL.shape, SPACING)
    power = np.abs(np.fft.fft2(SIGNAL)) ** 2
    seen, noise = (power * eye**2).sum(), (power * eye**4).sum()
    exact = seen / math.sqrt(noise) / (SD * 32)
    template = detectability.npwe(SIGNAL, SPACING)
    found = detectability.dprime(disc_outputs(detectability, template[None]))
    assert found == pytest.approx(exact, rel=CLOSE)
    assert found < IDEAL, "an observer with an eye filter is not the ideal one"


def test_the_hotelling_observer_in_white_noise_reaches_the_closed_form() -> None:
    channels = detectability.laguerre_gauss(32, detectability.WIDTH * RADIUS)
    span = np.linalg.qr(channels.reshape(len(channels), -1).T)[0]
    exact = float(np.linalg.norm(span.T @ SIGNAL.ravel())) / SD
    assert detectability.dprime(disc_outputs(detectability, channels)) == pytest.approx(
        exact, rel=CLOSE
    )
    assert 0.9 * IDEAL < exact <= IDEAL, "the channels keep nearly all of a disc"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/ (2 * freedom)", "/ freedom"),
        ("math.sqrt(max(squared, 0.0) * (freedom", "(max(squared, 0.0) * (freedom"),
        ("values - values.mean(1, keepdims=True)", "values"),
        ("(present - absent).mean((0, 1))", "present.mean((0, 1))"),
    ],
)
def test_a_wrong_detectability_is_found(old: str, new: str) -> None:
    wrong = planted(detectability, old, new)["dprime"]
    seen = disc_outputs(detectability, SIGNAL[None])
    shifted = Outputs(seen.absent + 5e4, seen.present + 5e4)  # a background of some HU
    assert detectability.dprime(shifted) == pytest.approx(detectability.dprime(seen))
    assert wrong(shifted) != pytest.approx(detectability.dprime(seen), rel=CLOSE)


def test_a_wrong_eye_filter_is_found() -> None:
    wrong = planted(detectability, "eye**2", "eye")["npwe"]
    ours, other = (t / np.abs(t).max() for t in (detectability.npwe(SIGNAL, SPACING),
                                                 wrong(SIGNAL, SPACING)))  # fmt: skip
    assert np.abs(ours - other).max() > CLOSE
    f = np.linspace(0.1, 2, 2000) / detectability.PER_DEGREE * 8
    eye = (f * detectability.PER_DEGREE) ** 1.3 * np.exp(
        -1.3 / (2 * detectability.PEAK**2) * (f * detectability.PER_DEGREE) ** 2
    )
    assert f[eye.argmax()] * detectability.PER_DEGREE == pytest.approx(4.0, rel=CLOSE)
    grid = nps.frequencies((128, 128), 0.3)
    seen = detectability.eye_filter((128, 128), 0.3)
    peak = grid.ravel()[seen.argmax()] * 500 * math.tan(math.radians(1))
    assert peak == pytest.approx(4.0, rel=0.1)


@settings(deadline=None, max_examples=20)
@given(gain=st.floats(0.01, 100), louder=st.floats(1.0, 5))
def test_d_prime_does_not_change_with_gain_and_falls_with_noise(gain: float, louder: float) -> None:
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 1, (3, 24, 4))
    signal = np.array([1.0, 0.3, -0.2, 0.1])
    one = detectability.dprime(Outputs(noise, noise + signal))
    same = detectability.dprime(Outputs(gain * noise, gain * (noise + signal)))
    assert same == pytest.approx(one, rel=1e-6)
    less = detectability.dprime(Outputs(louder * noise, louder * noise + signal))
    assert less == pytest.approx(one / louder, rel=1e-6)
    twice = detectability.dprime(Outputs(noise, noise + 2 * signal))
    assert twice == pytest.approx(2 * one, rel=1e-6)


def test_few_realisations_give_no_bias() -> None:
    """24 realisations at two places: without the correction d'^2 would be 15 % too high."""
    signal, draw = np.array([1.0, 0.5, 0.0, 0.0, 0.0]), np.random.default_rng(5)
    squared = []
    for _ in range(600):
        noise = draw.normal(0, 1, (2, 24, 5))
        squared.append(detectability.dprime(Outputs(noise, noise + signal)) ** 2)
    assert np.mean(squared) == pytest.approx(1.25, rel=2 * CLOSE)


@pytest.mark.parametrize(("places", "count"), [(4, 24), (3, 12)])
def test_intervals_hold_the_true_value_about_as_often_as_they_say(places: int, count: int) -> None:
    draw, hits, runs = np.random.default_rng(6), 0, 120
    signal = np.array([1.0, 0.5, 0.0, 0.0, 0.0])
    for _ in range(runs):
        noise = draw.normal(0, 1, (places, count, 5))
        seen = Outputs(noise, noise + signal)
        drawn = detectability.resamples(range(places), count, 60, draw)
        found = detectability.interval(
            detectability.dprime(seen), detectability.bootstrap(seen, drawn)
        )
        hits += found.low <= math.sqrt(1.25) <= found.high
    assert 0.86 < hits / runs < 1


def test_places_of_one_slice_share_their_draws_and_others_do_not() -> None:
    drawn = detectability.resamples([0, 0, 1], 24, 5, np.random.default_rng(0))
    assert drawn.shape == (5, 3, 24)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 0] != drawn[:, 2]).any()


def test_too_few_images_give_no_d_prime() -> None:
    with pytest.raises(ValueError, match="2 places with 4 realisations each are too few"):
        detectability.dprime(Outputs(np.zeros((2, 4, 1)), np.ones((2, 4, 1))))
    with pytest.raises(ValueError, match="needs 2 realisations or more, got 1"):
        nps.power(np.zeros((1, 4, 4)), 1.0)


def test_laguerre_gauss_channels_are_orthonormal() -> None:
    flat = detectability.laguerre_gauss(64, 16.0).reshape(5, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(5), atol=0.01)


def test_bias_and_variance_by_tissue_add_up_to_the_error() -> None:
    full = np.full((SIDE, SIDE), 50.0)
    full[:, 32:] = -800.0
    images = full + white(24, 15.0, 7)
    images[:, :, 32:] += 3.0
    found = tissues.moments(images, full)
    own = {}
    for name, mask in tissues.masks(full).items():
        own[name] = tissues.Tissue()
        own[name].add(found, mask)
    assert own["lung"].bias == pytest.approx(3.0, abs=0.3)
    assert own["lung"].bias_rms == pytest.approx(3.0, abs=0.3), "noise of the mean is taken out"
    assert own["soft tissue"].bias == pytest.approx(0.0, abs=0.3)
    assert own["lung"].sd == pytest.approx(15.0, rel=CLOSE)
    assert own["bone"].pixels == 0
    assert math.isnan(own["bone"].bias)
    error = ((images - full) ** 2).mean()
    total = (found.bias**2 + found.variance * 23 / 24).mean()
    assert total == pytest.approx(error, rel=1e-9)


def test_tissues_leave_out_pixels_that_two_share() -> None:
    full = np.full((32, 32), -800.0)
    full[:, 16] = -90.0  # an edge that looks like fat
    full[:, 17:] = 50.0
    found = tissues.masks(full)
    assert not found["fat"].any()
    assert found["lung"][:, :15].sum() > 0


def test_places_lie_in_even_soft_tissue_apart_from_each_other() -> None:
    full = np.full((256, 256), -1000.0)
    full[40:220, 30:230] = 50.0
    full[40:220, 30:110] += np.random.default_rng(0).normal(0, 80, (180, 80))
    found = sites.places(full.astype(np.int16))
    assert 2 <= len(found) <= sites.MOST
    assert found[0][1] > 110, "the even half comes first"
    for k, (row, column) in enumerate(found):
        inside = sites.region(full, (row, column), 64)
        assert inside.shape == (64, 64)
        for other in found[:k]:
            assert max(abs(row - other[0]), abs(column - other[1])) >= 48
    assert sites.places(np.full((256, 256), -1000, np.int16)) == []


def test_ssim_is_that_of_two_libraries_named_apart() -> None:
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import structural_similarity_index_measure as by_torchmetrics

    full = np.where(np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 24, 800.0, -1024.0)
    low = full + np.random.default_rng(0).normal(0, 200, full.shape) * (full > 0)
    low = low.clip(-1024, 1900)
    found = similarity.indices(torch.from_numpy(low), torch.from_numpy(full))
    one, other = ((image + 1024) / 2924 for image in (low, full))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    by_skimage = structural_similarity(one, other, data_range=1.0, **options)
    assert found["ssim_inside"] == pytest.approx(by_skimage, abs=1e-5)
    pair = [torch.from_numpy(image)[None, None] for image in (one, other)]
    assert found["ssim_all"] == pytest.approx(
        float(by_torchmetrics(*pair, data_range=1.0)), abs=1e-5
    )
    assert abs(found["ssim_all"] - found["ssim_inside"]) > 0.01


def test_vif_and_gmsd_are_those_of_piq_or_the_reason_is_given() -> None:
    full = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) * 2000 - 1000
    same, noisy = similarity.indices(full, full), similarity.indices(full + 100 * full.sin(), full)
    if why := similarity.lacking():
        assert "VIF and GMSD were left out" in why
        assert same["vif"] is same["gmsd"] is noisy["vif"] is None
        pytest.skip(why)
    assert (same["vif"], same["gmsd"]) == pytest.approx((1, 0), abs=1e-4)
    assert noisy["vif"] < 0.99
    assert noisy["gmsd"] > 0.001
    assert similarity.indices(full[:32, :32], full[:32, :32])["vif"] is None, "too small"
