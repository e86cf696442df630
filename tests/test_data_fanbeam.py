import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.fanbeam import project, reconstruct
from compress.data.scanner import FanBeam

FAN = FanBeam(views=180)
SIDE, SPACING = 128, 2.0
GRID = (np.arange(SIDE) - (SIDE - 1) / 2) * SPACING  # mm


def disk(x: float, y: float, radius: float) -> np.ndarray:
    """The share of each pixel that a disk covers, (SIDE, SIDE)."""
    fine = (np.arange(8 * SIDE) - (8 * SIDE - 1) / 2) * SPACING / 8
    inside = np.hypot(fine[None] - x, fine[:, None] - y) <= radius
    return inside.reshape(SIDE, 8, SIDE, 8).mean((1, 3)).astype(np.float32)


def chords(fan: FanBeam, x: float, y: float, radius: float) -> np.ndarray:
    """Exact lengths of all rays in a disk, mm, (views, detectors), from the rays' equations."""
    angle, u = fan.angles()[:, None], fan.positions()[None]
    source = fan.source_centre * np.stack([np.cos(angle), np.sin(angle)])
    place = u * np.stack([-np.sin(angle), np.cos(angle)])  # on the virtual detector
    ray = place - source
    cross = ray[0] * (y - source[1]) - ray[1] * (x - source[0])
    distance = cross / np.hypot(*ray)
    return 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))


THREADS = """
import numpy as np
import torch
from compress.data.fanbeam import project
from compress.data.scanner import FanBeam
project(np.zeros((8, 8), np.float32), 1.0, FanBeam(views=2, detectors=2))
print(torch.get_num_threads())
"""


def test_numba_leaves_torch_as_many_threads_as_before():
    one = {**os.environ, "OMP_NUM_THREADS": "1"}  # numba starts its own on every core
    done = subprocess.run([sys.executable, "-c", THREADS], env=one, capture_output=True, check=True)
    assert int(done.stdout) == 1


@settings(max_examples=10, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(20, 60))
def test_projection_of_a_disk_is_its_chords(x, y, radius):
    found = project(disk(x, y, radius) * np.float32(0.02), SPACING, FAN)
    exact = 0.02 * chords(FAN, x, y, radius)
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.01 * exact.max()
    np.testing.assert_allclose(found.sum(1), exact.sum(1), rtol=0.01)


@settings(max_examples=10, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(20, 60))
def test_reconstruction_of_chords_is_the_disk(x, y, radius):
    sinogram = (0.02 * chords(FAN, x, y, radius)).astype(np.float32)
    found = reconstruct(sinogram, (SIDE, SIDE), SPACING, FAN)
    distance = np.hypot(GRID[None] - x, GRID[:, None] - y)
    inside, outside = distance < radius - 2 * SPACING, distance > radius + 2 * SPACING
    assert found[inside].mean() == pytest.approx(0.02, rel=2e-3)
    assert found[inside].std() < 0.02 * 0.02
    assert abs(found[outside].mean()) < 1e-4


def test_far_source_gives_the_parallel_projections_of_skimage():
    from skimage.transform import radon

    side = 129  # skimage turns about the pixel side // 2, the middle of an odd side
    image = np.zeros((side, side), np.float32)
    image[30:60, 40:90], image[70:100, 80:95], image[64, 20:110] = 1, 2, 3
    image = np.lib.stride_tricks.sliding_window_view(np.pad(image, 2), (5, 5)).mean((2, 3))
    far = FanBeam(source_centre=1e6, source_detector=1e6, detectors=side, pitch=1, views=36)
    found = project(image.astype(np.float32), 1.0, far)
    parallel = radon(image, theta=270 - np.degrees(far.angles()), circle=True).T
    assert np.sqrt(np.mean((found - parallel) ** 2)) < 0.005 * parallel.max()


def test_projections_along_the_axes_are_sums():
    image = np.random.default_rng(0).random((32, 32), np.float32)
    far = FanBeam(source_centre=1e7, source_detector=1e7, detectors=32, pitch=0.5, views=4)
    found = project(image, 0.5, far)
    right, below, left, above = image.sum(1), image.sum(0)[::-1], image.sum(1)[::-1], image.sum(0)
    for view, exact in zip(found, (right, below, left, above), strict=True):
        np.testing.assert_allclose(view, exact * 0.5, rtol=1e-3)


def test_reconstruction_is_linear():
    draw = np.random.default_rng(0)
    one, other = draw.random((2, FAN.views, FAN.detectors), np.float32)
    of_sum = reconstruct(one + 2 * other, (32, 32), 4.0, FAN)
    sum_of = reconstruct(one, (32, 32), 4.0, FAN) + 2 * reconstruct(other, (32, 32), 4.0, FAN)
    np.testing.assert_allclose(of_sum, sum_of, atol=1e-4 * abs(sum_of).max())


def test_rectangular_images_keep_their_shape_and_place():
    wide = np.pad(disk(0, 0, 40), ((0, 0), (10, 30)))
    found = reconstruct(project(wide, SPACING, FAN), wide.shape, SPACING, FAN)
    assert found.shape == wide.shape
    assert np.abs(found - wide)[wide == 1].mean() < 0.05


def test_bits_do_not_depend_on_the_number_of_threads():
    image = disk(10, -20, 50)
    results = []
    available = numba.get_num_threads()
    for threads in (1, available):
        numba.set_num_threads(threads)
        sinogram = project(image, SPACING, FAN)
        results.append((sinogram, reconstruct(sinogram, image.shape, SPACING, FAN)))
    numba.set_num_threads(available)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


def test_image_that_reaches_the_source_is_refused():
    with pytest.raises(ValueError, match="corners lie 724 mm from its centre"):
        project(np.zeros((1024, 1024), np.float32), 1.0, FAN)


def test_sinogram_of_another_scanner_is_refused():
    with pytest.raises(ValueError, match="sinogram must be 180 x 736"):
        reconstruct(np.zeros((180, 735), np.float32), (16, 16), 1.0, FAN)
