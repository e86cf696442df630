"""What only a GPU can show: flights that overlap, half precision, the scanner in torch."""

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import body, write_series

from compress import checkpoint
from compress.checkpoint import Model, ModelOptions
from compress.data import fanbeam, phantom
from compress.data.fanbeam_torch import TorchScanner
from compress.data.lowdose import Exposure, insert_noise
from compress.data.scanner import FanBeam
from compress.graph import padding
from compress.imaging import inference
from compress.imaging.command import Options, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.mark.parametrize("residual", [True, False], ids=["fp16", "fp32"])
def test_identity_gives_the_sources_pixels(residual, tmp_path):
    """With fp16 inside a residual network the input still goes past it in float32."""
    if residual:
        narrow = {"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
        origin = ModelOptions(name="ddnet", options=narrow)
    else:
        origin = ModelOptions(import_="torch.nn:Identity")
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), folder)
    source = write_series(tmp_path / "in", 37, side=72)
    content = run(Options(source=source, model=folder, out=tmp_path / "out", device="cuda"))
    assert content["precision"] == ("fp16" if residual else "fp32")
    found = [pydicom.dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
    assert len(found) == 37
    for ds in found:
        expected = body(72, int(ds.InstanceNumber) - 1).astype(int) + 1024
        assert np.array_equal(ds.pixel_array, expected)


def test_a_smaller_batch_gives_the_same_bits():
    """It is filled up, so the kernels are those of the others."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(1, 1, 3, padding=1).eval().to("cuda", torch.half)
    half = padding.AnySize(lambda x: net(x.half()))
    flights = inference.Network(half, torch.device("cuda"), 8, "0" * 64, "fp16")
    slices = [body(64, k).astype(np.float32) for k in range(8)]
    whole = flights.launch(slices).land()[0].copy()
    few = flights.launch(slices[:3])
    output, seconds = few.land()
    assert few.done()
    assert seconds > 0
    assert np.array_equal(output, whole[:3])


@pytest.mark.parametrize("fan", [FanBeam(), FanBeam.parallel()], ids=("fan", "parallel"))
def test_the_scanner_gives_what_numba_gives(fan):
    slice_ = phantom.chest("P", 0, 512, 0)
    attenuation = np.maximum(0.0192 * (1 + slice_.image.astype(np.float32) / 1000), 0)
    scanner = TorchScanner(torch.device("cuda"))
    expected = fanbeam.project(attenuation, slice_.spacing, fan)
    found = scanner.project(attenuation, slice_.spacing, fan)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.mean(found != expected) < 1e-3
    back = fanbeam.reconstruct(expected, attenuation.shape, slice_.spacing, fan)
    again = scanner.reconstruct(expected, attenuation.shape, slice_.spacing, fan)
    assert np.abs(again - back).max() * 1000 / 0.0192 < 0.05, "HU"
    exposure = Exposure(photons=1e5, electronic=3.16, fan=fan)
    one, other = insert_noise(slice_, exposure, 0), insert_noise(slice_, exposure, 0, scanner)
    assert np.mean(np.abs(one.astype(int) - other) > 1) < 0.01
