"""Padding and background: what no network may touch, and what only seems to be it."""

import io
from datetime import datetime

import numpy as np
import pydicom
import pytest
from dicom_files import body, dataset, enhanced, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.dicom import Reason, Refused
from compress.dicom.padding import padded
from compress.dicom.reading import read
from compress.dicom.writing import Process, derive

PROCESS = Process(model="ab" * 32, precision="fp32")


def signed(hu, **changes):
    """A signed image in HU: 16 bits, intercept 0."""
    return packed(dataset(hu.astype(np.int16), intercept=0, **changes))


def derived(image, change=0.0):
    """The derived image of a network that adds something, and what was counted."""
    output = [(image.hu(k) + change).clip(-1024, 1900) for k in range(len(image.stored))]
    result = derive(image, output, PROCESS, datetime(2024, 1, 1))
    return pydicom.dcmread(io.BytesIO(result.data)), result


def mostly(value: int, tissue: int = 8):
    """A corner of tissue in much background."""
    hu = np.full((48, 48), value)
    hu[:tissue, :tissue] = body(48)[20 : 20 + tissue, 20 : 20 + tissue]
    return hu


@pytest.mark.parametrize(
    ("hu", "declared", "copied"),
    [
        (np.full((48, 48), -2000), -2000, 48 * 48),
        (np.full((48, 48), -2000), None, 48 * 48),
        (np.full((48, 48), -32768), None, 48 * 48),
        (body() - 1000 - 1024, None, 48 * 48),
        (mostly(-2048), None, 48 * 48 - 64),
        (mostly(-3024), -3024, 48 * 48 - 64),
        (mostly(-8192, 3), None, 48 * 48 - 9),
    ],
)
def test_slices_of_padding_and_background_are_copied(hu, declared, copied):
    more = {} if declared is None else {"PixelPaddingValue": declared}
    image = read(signed(hu, **more))
    assert image.kept.sum() == copied
    out, result = derived(image, 5.0)
    assert np.array_equal(out.pixel_array[image.kept[0]], hu[image.kept[0]])
    assert np.array_equal(out.pixel_array[~image.kept[0]], hu[~image.kept[0]] + 5)
    assert result.unchanged == (copied == 48 * 48)
    assert result.copied + result.padding == copied


def test_an_empty_frame_does_not_cost_the_whole_object():
    hu = np.stack([body(), np.full((48, 48), -1024), body(seed=2)])
    ds = enhanced(hu, [(1, -2048)] * 3)
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(hu.shape).copy()
    stored[1] = 0
    ds.PixelData, ds.PixelPaddingValue = stored.tobytes(), 0
    image = read(packed(ds))
    out, result = derived(image, 5.0)
    assert (out.pixel_array[1] == 0).all()
    assert np.array_equal(out.pixel_array[[0, 2]], stored[[0, 2]] + 5)
    assert (result.unchanged, result.padding) == (1, 48 * 48)


@pytest.mark.parametrize("intercept", [-20000, -9000, 20000, 2500])
def test_wrong_intercepts_are_still_refused(intercept):
    with pytest.raises(Refused) as caught:
        read(packed(dataset(RescaleIntercept=str(intercept))))
    assert caught.value.reason == Reason.HU_RANGE


def water(side=64, seed=0):
    """Water of 0 HU with noise in air, and how many of its pixels are 0 by chance."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = np.hypot(x, y) < 0.8
    hu = np.where(inside, 0, -1000) + draw.normal(0, 12, x.shape)
    return np.rint(hu).clip(-1020).astype(int)


def test_padding_of_0_in_signed_hu_is_no_padding_in_water():
    hu = water()
    zeros = int((hu == 0).sum())
    assert zeros > 20
    image = read(signed(hu, PixelPaddingValue=0))
    assert np.array_equal(image.hu(0), hu)
    assert (image.padding, image.ignored) == (0, zeros)
    assert not image.kept.any()
    out, _ = derived(image, 3.0)
    assert np.array_equal(out.pixel_array, hu + 3)
    assert "PixelPaddingValue" not in out, "what is water here would be padding"


def test_padding_of_0_outside_the_body_is_padding():
    hu = water()
    zeros = int((hu == 0).sum())
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    outside = np.hypot(x, y) > 1
    hu[outside] = 0
    image = read(signed(hu, PixelPaddingValue=0))
    assert (image.padding, image.ignored) == (outside.sum(), zeros)
    assert (image.hu(0)[outside] == -1024).all()
    assert np.array_equal(image.hu(0)[~outside], hu[~outside])
    out, _ = derived(image, -3.0)
    found = out.pixel_array
    assert out.PixelPaddingValue == 0
    assert (found[outside] == 0).all()
    assert not ((found == 0) & ~outside).any(), "tissue never turns into padding"
    assert np.abs(found - (hu - 3))[~outside].max() == 1


@pytest.mark.parametrize(
    ("changes", "padding"),
    [
        ({"PixelPaddingValue": -30, "PixelPaddingRangeLimit": 30}, 0),  # a range of tissue
        ({"PixelPaddingValue": -3000, "PixelPaddingRangeLimit": -1010}, None),  # ends the scale
        ({"PixelPaddingValue": -950}, 0),  # lung: what is lower is air and no padding
        ({"PixelPaddingValue": 3071}, 0),  # metal
    ],
)
def test_other_values_of_tissue_that_are_declared(changes, padding):
    hu = water()
    hu[30:33, 30:33], hu[20, 20:24] = 3071, -950
    image = read(signed(hu, **changes))
    assert image.padding == (int((hu <= -1010).sum()) if padding is None else padding)
    if padding == 0:
        assert np.array_equal(image.hu(0), hu)


def test_the_lowest_stored_value_is_padding_though_its_hu_are_those_of_air():
    hu = np.maximum(body(), -1000)
    hu[0] = -1000
    ds = dataset(hu, intercept=-1000, PixelPaddingValue=0)
    assert read(packed(ds)).padding == (hu == -1000).sum()


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    st.integers(-32768, 32767), st.integers(-32768, 32767), st.sampled_from((1.0, -1.0, 0.5)),
    st.integers(0, 3), st.floats(-50, 50),
)  # fmt: skip
def test_nothing_turns_into_padding_and_padding_never_changes(value, limit, slope, seed, change):
    hu = body(24, seed)
    hu[0], hu[12, 3:9] = -1024, value // 20
    stored = np.clip(np.rint(hu / slope), -32768, 32767).astype("<i2")
    ds = dataset(hu, intercept=0, RescaleSlope=str(slope), PixelData=stored.tobytes())
    ds.add_new("PixelPaddingValue", "SS", value)
    if seed % 2:
        ds.add_new("PixelPaddingRangeLimit", "SS", limit)
    try:
        image = read(packed(ds))
    except Refused as error:
        assert error.reason == Reason.HU_RANGE
        return
    out, result = derived(image, change)
    mask = padded(image.stored[0], image.scale, 0)
    assert result.padding == mask.sum()
    assert np.array_equal(out.pixel_array[mask], stored[mask])
    if "PixelPaddingValue" in out:
        ends = sorted((value, limit if seed % 2 else value))
        found = (out.pixel_array >= ends[0]) & (out.pixel_array <= ends[1])
        before = (stored >= ends[0]) & (stored <= ends[1])
        assert not (found & ~before & ~image.kept[0]).any()
