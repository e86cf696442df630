"""The torch scanner gives what the numba one gives; parallel rays are those of scikit-image."""

import numpy as np
import pytest
import torch

from compress.data import fanbeam, phantom
from compress.data.fanbeam_torch import TorchScanner
from compress.data.lowdose import Exposure, Slice, insert_noise
from compress.data.scanner import FanBeam

SCANNER = TorchScanner(torch.device("cpu"))
SPACING = 4.0
BEAMS = (FanBeam(views=40), FanBeam.parallel(views=40))


def attenuation(shape=(64, 48)) -> np.ndarray:
    """A chest in 1/mm, (H, W)."""
    hu = phantom.chest("P", 0, 64, 0).image[: shape[0], : shape[1]]
    return np.maximum(0.0192 * (1 + hu.astype(np.float32) / 1000), 0)


@pytest.mark.parametrize("fan", BEAMS, ids=("fan", "parallel"))
def test_same_projections(fan):
    image = attenuation()
    expected = fanbeam.project(image, SPACING, fan)
    found = SCANNER.project(image, SPACING, fan)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.mean(found != expected) < 1e-3, "or draws of the noise would part"


@pytest.mark.parametrize("fan", BEAMS, ids=("fan", "parallel"))
def test_same_reconstructions(fan):
    image = attenuation()
    sinogram = fanbeam.project(image, SPACING, fan)
    expected = fanbeam.reconstruct(sinogram, image.shape, SPACING, fan)
    found = SCANNER.reconstruct(sinogram, image.shape, SPACING, fan)
    assert np.abs(found - expected).max() * 1000 / 0.0192 < 0.01, "HU"


def test_parts_of_the_views_change_nothing(monkeypatch):
    image, fan = attenuation(), BEAMS[0]
    whole = SCANNER.project(image, SPACING, fan)
    back = SCANNER.reconstruct(whole, image.shape, SPACING, fan)
    monkeypatch.setattr("compress.data.fanbeam_torch.ELEMENTS", 100_000)
    assert np.array_equal(SCANNER.project(image, SPACING, fan), whole)
    found = SCANNER.reconstruct(whole, image.shape, SPACING, fan)
    np.testing.assert_allclose(found, back, atol=1e-7)


@pytest.mark.parametrize("fan", BEAMS, ids=("fan", "parallel"))
def test_same_low_dose(fan):
    slice_ = phantom.chest("P", 1, 64, 0)
    exposure = Exposure(photons=1e5, electronic=3.16, fan=fan)
    one, other = insert_noise(slice_, exposure, 0), insert_noise(slice_, exposure, 0, SCANNER)
    assert np.abs(one.astype(int) - other).max() <= 1
    assert np.mean(one != other) < 0.01


def test_what_the_cpu_refuses_is_refused():
    with pytest.raises(ValueError, match="the image's corners lie"):
        SCANNER.project(np.zeros((64, 64), np.float32), 100.0, BEAMS[0])
    with pytest.raises(ValueError, match="sinogram must be 40 x 736, got"):
        SCANNER.reconstruct(np.zeros((3, 4), np.float32), (8, 8), 1.0, BEAMS[0])


def test_parallel_rays_are_those_of_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    side = 65
    grid = np.arange(side) - side // 2
    image = np.zeros((side, side), np.float32)
    image[np.hypot(grid[:, None] - 5, grid[None] + 8) < 12] = 1
    image[np.hypot(grid[:, None] + 9, grid[None] - 10) < 6] = 0.5
    fan = FanBeam(source_centre=1e9, source_detector=1e9, pitch=1.0, detectors=65, views=72)
    ours = fanbeam.project(image, 1.0, fan)
    degrees = np.rad2deg(fan.angles())
    theirs = transform.radon(image, theta=degrees, circle=True).T
    # They turn the other way and begin at another angle.
    turned = [np.roll(view, k, axis=0) for view in (theirs, theirs[::-1]) for k in range(72)]
    assert max(np.corrcoef(view.ravel(), ours.ravel())[0, 1] for view in turned) > 0.995


def disk(side: int, spacing: float, radius: float) -> tuple[Slice, np.ndarray]:
    """Water in air, and the distance of every pixel from the centre in mm."""
    grid = (np.arange(side) - (side - 1) / 2) * spacing
    distance = np.hypot(grid[None], grid[:, None])
    image = np.where(distance < radius, 0, -1000).astype(np.int16)
    return Slice(name="P", patient="P", spacing=spacing, image=image), distance


def test_noise_of_parallel_beams_is_what_theory_says():
    """As for the fan in test_data_lowdose.py: the variance of filtered back-projection."""
    fan = FanBeam.parallel(views=360)
    scan = Exposure(photons=1e5, electronic=0, fan=fan)
    slice_, distance = disk(200, 1.2, 100)
    ring = (distance > 8) & (distance < 25)
    lows = [insert_noise(slice_, scan, seed)[ring] for seed in range(3)]
    view = np.exp(2 * 100 * scan.water) / (12 * scan.photons * fan.virtual_pitch**2)
    theory = 1000 / scan.water * np.pi * np.sqrt(view * (2 / 3 - 2 / np.pi**2) / fan.views)
    assert np.std(lows) == pytest.approx(theory, rel=0.04)


@pytest.mark.parametrize("fan", [FanBeam(views=360), FanBeam.parallel(views=360)],
                         ids=("fan", "parallel"))  # fmt: skip
def test_power_spectrum_is_a_ramp_times_the_interpolation(fan):
    """Riederer, Pelc and Chesler 1978: noise of filtered back-projection at the centre of a disk.

    All rays have the same variance s there, and the spectrum is (pi / views) s a |f| |S(f)|^2,
    where a is the pitch and S = sinc^2(f a) the response of linear interpolation. Pixels are
    smaller than the elements, or frequencies above theirs would fold down into the bands.
    """
    spacing, side, half, seeds = 0.5, 260, 40, 16
    slice_, _ = disk(side, spacing, 60)
    scan = Exposure(photons=1e5, electronic=0, fan=fan)
    middle = slice(side // 2 - half, side // 2 + half)
    hann = np.hanning(2 * half)[:, None] * np.hanning(2 * half)
    power = np.zeros((2 * half, 2 * half))
    for seed in range(seeds):
        noise = insert_noise(slice_, scan, seed)[middle, middle].astype(float)
        power += np.abs(np.fft.fft2((noise - noise.mean()) * hann)) ** 2
    power *= spacing**2 / (seeds * (hann**2).sum())  # HU^2 mm^2
    frequency = np.fft.fftfreq(2 * half, spacing)
    f = np.hypot(frequency[None], frequency[:, None])
    pitch = fan.virtual_pitch
    variance = np.exp(2 * 60 * scan.water) / scan.photons
    theory = (1000 / scan.water) ** 2 * np.pi / fan.views * variance * pitch
    theory = theory * f * np.sinc(f * pitch) ** 4
    for low, high in ((0.1, 0.3), (0.3, 0.5), (0.5, 0.65)):
        band = (f >= low) & (f < high)
        assert power[band].mean() == pytest.approx(theory[band].mean(), rel=0.12), (low, high)
