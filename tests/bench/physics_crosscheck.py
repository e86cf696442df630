"""NPS, TTF and d' beside two independent implementations on the same images.

    pip install pylinac micro-ct-image-quality-toolbox
    python tests/bench/physics_crosscheck.py

The noise is that of the simulator, 100 realisations of a phantom at several places; the disc of
8 mm and 40 HU is blurred by a Gaussian. Prints a table; docs/physics.md explains the differences.
"""

import math

import numpy as np
from microct_iq_toolbox import d_prime_calculator, nps_calculator, ttf_calculator
from microct_iq_toolbox.results import crossing, positive_half
from pylinac.core import nps as pylinac_nps
from scipy import ndimage

from compress.data import phantom
from compress.data.lowdose import Exposure, line_integrals
from compress.data.realisations import noise
from compress.data.scanner import FanBeam
from compress.quality import detectability, nps, sites, ttf
from compress.quality.detectability import Outputs

COUNT, SIDE, BLUR = 100, 64, 1.2
"""Realisations, side of a region in pixels, standard deviation of the blur in pixels."""
DIAMETER, CONTRAST = 8.0, 40.0


def realisations() -> tuple[np.ndarray, float]:
    """Noise of M regions, (M, COUNT, SIDE, SIDE) HU, and the side of a pixel in mm."""
    one = phantom.chest("P2", 0, 512, 0)
    exposure = Exposure(photons=1e5, electronic=3.0, fan=FanBeam(views=360))
    p = line_integrals(one, exposure)
    found = [noise(one, p, exposure, 20, seed) for seed in range(COUNT // 20)]
    whole = np.concatenate(found)
    regions = [sites.region(whole, site, SIDE) for site in sites.places(one.image)]
    return np.stack(regions), one.spacing


def compare_nps(images: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Print the two spectra beside ours; gives ours, radial."""
    ours = np.mean([nps.power(region, spacing) for region in images], axis=0)
    deviations = images - images.mean(1, keepdims=True)
    deviations = deviations.reshape(-1, SIDE, SIDE) * math.sqrt(COUNT / (COUNT - 1))
    theirs = np.fft.ifftshift(pylinac_nps.noise_power_spectrum_2d(spacing, list(deviations)))
    apart = np.abs(theirs - ours)
    apart[0, 0] = 0  # pylinac subtracts each region's mean
    print(f"NPS, pylinac: at most {apart.max() / ours.max():.1e} of the largest value apart")
    rings = nps.Radial(0.5 / spacing)
    rings.add(ours, spacing)
    curve = rings.curve()
    bounds = np.array([[0, SIDE, 0, SIDE]])
    theirs_1d = nps_calculator.get_NPS(deviations, bounds, spacing)
    means = [nps.mean_frequency(*curve), nps.mean_frequency(*theirs_1d)]
    print(f"NPS, toolbox: mean frequency {means[0]:.4f} ours, {means[1]:.4f} theirs, 1/mm")
    level = [float(np.interp(0.3, *one)) for one in (curve, theirs_1d)]
    print(f"NPS, toolbox: at 0.3 /mm {level[0]:.1f} ours, {level[1]:.1f} theirs, HU^2 mm^2")
    return curve


def compare_ttf(spacing: float) -> None:
    """Print f50 of a blurred disc by theory, ours and theirs."""
    shape = ttf.disc(SIDE, 20.0)
    blurred = ndimage.gaussian_filter(shape, BLUR)
    found = ttf.Transfer(0.5 / spacing)
    found.add(blurred, shape, spacing)
    theory = math.sqrt(math.log(2) / 2) / (math.pi * BLUR * spacing)
    # Their profile starts at a pixel's centre, so the disc is moved by half a pixel.
    image = 1000 + 400 * ndimage.shift(blurred, 0.5, order=3)
    image += np.random.default_rng(0).normal(0, 0.1, image.shape)
    places = [[32, 32]] * 2  # it cannot take a single one
    f, rows, _ = ttf_calculator.get_TTF(image, places, 32, ["disc"] * 2, pixel_size=spacing)
    f, rows = positive_half(f, np.asarray(rows))
    theirs = crossing(f, rows[0], 0.5)
    ours = ttf.f50(*found.curve())
    print(f"TTF, toolbox: f50 {ours:.4f} ours, {theirs:.4f} theirs, {theory:.4f} theory, 1/mm")


def compare_dprime(
    images: np.ndarray, spacing: float, curve: tuple[np.ndarray, np.ndarray]
) -> None:
    """Print d' from images and from curves."""
    radius = DIAMETER / 2 / spacing
    signal = CONTRAST * ndimage.gaussian_filter(ttf.disc(SIDE, radius), BLUR)
    frequency = np.linspace(0, 0.5 / spacing, 200)
    transfer = np.exp(-2 * (math.pi * BLUR * spacing * frequency) ** 2)
    size = {"disc_diameters_mm": [DIAMETER], "contrast_hu": CONTRAST}
    cut = math.sqrt(2 * detectability.PEAK**2 / 1.3)  # of Burgess' filter with its peak at 4
    for name, template, theirs in (
        ("NPW", signal, d_prime_calculator.get_d_prime_npw(frequency, transfer, *curve, **size)),
        (
            "NPWE",
            detectability.npwe(signal, spacing),
            d_prime_calculator.get_d_prime_npwe(
                frequency, transfer, *curve, **size, eye_filter_fc_cy_per_deg=cut
            ),
        ),
    ):
        pair = [
            np.stack([detectability.outputs(region, template[None]) for region in stack])
            for stack in (images, images + signal)
        ]
        ours = detectability.dprime(Outputs(*pair))
        raw = float(theirs["d_prime"][0])
        whole = raw * math.sqrt(2 * math.pi)
        print(f"d' {name}: {ours:.3f} ours, {raw:.3f} theirs, {whole:.3f} theirs x sqrt(2 pi)")


def compare_flat(spacing: float) -> None:
    """Print d' of NPWE in white noise of 20 HU, where nothing is estimated."""
    signal = CONTRAST * ndimage.gaussian_filter(ttf.disc(SIDE, DIAMETER / 2 / spacing), BLUR)
    template = detectability.npwe(signal, spacing)
    ours = float((template * signal).sum() / (20 * np.linalg.norm(template)))
    frequency = np.linspace(0, 0.5 / spacing, 400)
    transfer = np.exp(-2 * (math.pi * BLUR * spacing * frequency) ** 2)
    flat = np.full_like(frequency, (20 * spacing) ** 2)
    cut = math.sqrt(2 * detectability.PEAK**2 / 1.3)
    theirs = d_prime_calculator.get_d_prime_npwe(
        frequency, transfer, frequency, flat, [DIAMETER], CONTRAST, eye_filter_fc_cy_per_deg=cut
    )
    whole = float(theirs["d_prime"][0]) * math.sqrt(2 * math.pi)
    print(f"d' NPWE, flat NPS: {ours:.3f} ours, {whole:.3f} theirs x sqrt(2 pi)")


def main() -> None:
    """Print the table."""
    images, spacing = realisations()
    curve = compare_nps(images, spacing)
    compare_ttf(spacing)
    compare_dprime(images, spacing, curve)
    compare_flat(spacing)


if __name__ == "__main__":
    main()
