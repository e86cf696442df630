"""Low-dose partners: pairs that training accepts, the same noise everywhere, derived objects."""

import json
import logging
import math
import shutil
import signal

import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner
from dicom_files import SECRETS, body, dataset, enhanced, packed, uid, write_series
from pydicom import Dataset

from compress.base.errors import CompressError, Stopped, UsageError
from compress.cli import main
from compress.data import DataOptions, folder, load
from compress.data.fanbeam_torch import TorchScanner
from compress.data.lowdose import CPU
from compress.dicom import Reason, Refused
from compress.dicom.reading import read
from compress.dicom.spacing import spacing_of
from compress.imaging import simulate
from compress.imaging.simulate import Options, partners, run

FEW = {"views": 24, "device": "cpu"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two patients, three slices each."""
    root = tmp_path_factory.mktemp("pairs")
    write_series(root / "in/a", 3, side=32)
    write_series(root / "in/b", 3, side=32, series="T", PatientID="other")
    run(Options(source=root / "in", out=root / "out", series=("all",), **FEW))
    return root / "out"


@pytest.mark.parametrize("kind", ["npy", "dicom"])
def test_training_accepts_them(pairs, kind):
    data = load(DataOptions(source="folder", path=str(pairs / kind)), seed=0)
    assert len(data.train.low) == len(data.test.low) == 3
    assert set(data.train.patients).isdisjoint(data.test.patients)
    full = {image.tobytes() for image in (*data.train.full, *data.test.full)}
    assert full == {body(32, k).tobytes() for k in range(3)}
    change = data.train.low[0].astype(float) - data.train.full[0]
    assert 5 < change[body(32, 0) > -500].std() < 200


def test_both_kinds_hold_the_same_pixels(pairs):
    one, other = (folder.held_out(pairs / kind) for kind in ("npy", "dicom"))
    assert [name.split(".npy")[0] for name in one.names] == [
        name.split(".dcm")[0] for name in other.names
    ]
    for a, b in zip((*one.low, *one.full), (*other.low, *other.full), strict=True):
        assert np.array_equal(a, b)


def test_low_dose_images_are_derived_objects(pairs):
    paths = sorted((pairs / "dicom/low").rglob("*.dcm"))
    ds = pydicom.dcmread(paths[0])
    assert ds.ImageType[0] == "DERIVED"
    assert ds.SeriesDescription == "THORAX low dose"
    assert "100000 photons per ray" in ds.DerivationDescription
    assert "DerivationCodeSequence" not in ds
    assert ds.ContributingEquipmentSequence[-1].ManufacturerModelName == "compress simulate"
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in paths}) == 6
    full = pydicom.dcmread(pairs / "dicom/full" / paths[0].relative_to(pairs / "dicom/low"))
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == full.SOPInstanceUID


def test_names_show_no_patient(pairs):
    shown = "".join(str(path.relative_to(pairs)) for path in pairs.rglob("*"))
    shown += (pairs / "manifest.json").read_text()
    assert not [secret for secret in (*SECRETS, "other", uid("S")) if secret in shown]
    assert "patient-2/" in shown


def test_noise_depends_on_seed_and_slice_not_on_order(tmp_path):
    write_series(tmp_path / "in", 2, side=32)
    shutil.copytree(tmp_path / "in", tmp_path / "turned")
    (tmp_path / "turned/IM0000").rename(tmp_path / "turned/z")

    def lows(name, source, **options):
        out = tmp_path / name
        run(Options(source=tmp_path / source, out=out, **FEW, **options))
        return [np.load(path) for path in sorted((out / "npy/low").rglob("*.npy"))]

    first, turned, other = lows("a", "in"), lows("b", "turned"), lows("c", "in", seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, turned, strict=True))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("geometry", ["fan", "parallel"])
def test_the_torch_scanner_gives_the_same_partner(geometry):
    image = read(packed(dataset(body(32))))
    options = Options(source=None, out=None, geometry=geometry, **FEW)
    torch_scanner = TorchScanner(torch.device("cpu"))
    (_, one), (_, other) = (
        partners(image, "x", options, scanner)[0] for scanner in (CPU, torch_scanner)
    )
    assert np.abs(one.astype(int) - other).max() <= 1


def test_padding_stays_in_both(tmp_path):
    hu = body(32)
    hu[0] = -2000
    (tmp_path / "x").write_bytes(packed(dataset(hu, intercept=0, PixelPaddingValue=-2000)))
    run(Options(source=tmp_path / "x", out=tmp_path / "out", **FEW))
    (low,) = (tmp_path / "out/dicom/low").rglob("*.dcm")
    assert (pydicom.dcmread(low).pixel_array[0] == -2000).all()
    (low,) = (tmp_path / "out/npy/full").rglob("*.npy")
    assert np.load(low).min() == -1024


def test_enhanced_ct_gives_npy_of_every_frame(tmp_path):
    ds = enhanced(np.stack([body(32, k) for k in range(2)]), [(1, -1024)] * 2)
    (tmp_path / "x").write_bytes(packed(ds))
    content = run(Options(source=tmp_path / "x", out=tmp_path / "out", **FEW))
    assert content["counts"]["slices"] == 2
    assert len(list((tmp_path / "out/npy/low").rglob("*.npy"))) == 2
    assert not (tmp_path / "out/dicom").exists()


def test_spacing():
    assert spacing_of(dataset(PixelSpacing=[0.5, 0.5]), 0) == 0.5
    ds, measures = dataset(PixelSpacing=None), Dataset()
    measures.PixelSpacing = [0.8, 0.8]
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [measures]
    assert spacing_of(ds, 3) == 0.8
    for spacing in (None, [0.5, 0.6], [0, 0], [1]):
        with pytest.raises(Refused) as caught:
            spacing_of(dataset(PixelSpacing=spacing), 0)
        assert caught.value.reason == Reason.SPACING


def test_bad_files_stop_no_other(tmp_path):
    source = write_series(tmp_path / "in", 2, side=32)
    for index, spacing in ((2, [50.0, 50.0]), (3, None)):
        ds = dataset(body(32), index=index, PixelSpacing=spacing)
        (source / f"IM{index:04d}").write_bytes(packed(ds))
    said = "^2 of 4 files failed: 2 spacing "
    with pytest.raises(CompressError, match=said) as caught:
        run(Options(source=source, out=tmp_path / "out", **FEW))
    assert caught.value.exit_code == 1
    assert len(list((tmp_path / "out/npy/low").rglob("*.npy"))) == 2


OTHER = r"^PAIRS \S+/out is not empty, and not of this very command and input; give a new folder"


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"schema": 1, "files": []}'])
def test_a_folder_that_is_in_use_is_refused(tmp_path, content):
    source = write_series(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    if content is None:
        (tmp_path / "out/x").touch()
    else:
        (tmp_path / "out/manifest.json").write_text(content)
    with pytest.raises(UsageError, match=OTHER):
        run(Options(source=source, out=tmp_path / "out", **FEW))
    assert len(list((tmp_path / "out").iterdir())) == 1


def stopped_after(count, options, monkeypatch):
    """A run that a signal ends after so many pairs."""
    real, made = simulate._Run._pair, []

    def pair(self, header, folder):
        if len(made) == count:
            signal.raise_signal(signal.SIGTERM)
        made.append(header.name)
        return real(self, header, folder)

    with monkeypatch.context() as patch:
        patch.setattr(simulate._Run, "_pair", pair)
        with pytest.raises(Stopped, match="run the same command again"):
            run(options)
    return made


def arrays(out):
    return {
        str(path.relative_to(out)): np.load(path).tobytes()
        if path.suffix == ".npy"
        else pydicom.dcmread(path).PixelData
        for path in out.rglob("*")
        if path.suffix in (".npy", ".dcm")
    }


def two_patients(folder):
    write_series(folder / "a", 3, side=32)
    write_series(folder / "b", 3, side=32, series="T", PatientID="other")
    (folder / "notes.txt").write_text("no DICOM file")
    return folder


@pytest.mark.parametrize("count", [1, 4])
def test_the_same_command_goes_on_bit_by_bit(tmp_path, monkeypatch, count):
    source = two_patients(tmp_path / "in")
    whole, again = (
        Options(source=source, out=tmp_path / name, series=("all",), **FEW)
        for name in ("whole", "again")
    )
    run(whole)
    made = stopped_after(count, again, monkeypatch)
    assert len(made) == count
    written = {path: path.stat().st_mtime_ns for path in again.out.rglob("*.npy")}
    assert len(written) == 2 * count
    counts = run(again)["counts"]
    assert counts["status"] == {"existing": count, "simulated": 6 - count, "skipped": 1}
    assert counts["slices"] == 6
    assert {path: path.stat().st_mtime_ns for path in written} == written  # none written again
    assert arrays(whole.out) == arrays(again.out)
    assert run(again)["counts"]["status"] == {"existing": 6, "skipped": 1}


def test_a_pair_that_was_lost_is_made_again(tmp_path, pairs, monkeypatch):
    source = two_patients(tmp_path / "in")
    options = Options(source=source, out=tmp_path / "out", series=("all",), **FEW)
    stopped_after(2, options, monkeypatch)
    next((tmp_path / "out/dicom/low").rglob("*.dcm")).unlink()
    assert run(options)["counts"]["status"] == {"existing": 1, "simulated": 5, "skipped": 1}
    assert arrays(options.out) == arrays(pairs)


def test_a_full_disk_is_made_room_on_and_the_same_command_goes_on(tmp_path, pairs, monkeypatch):
    options = Options(
        source=two_patients(tmp_path / "in"), out=tmp_path / "out", series=("all",), **FEW
    )
    real, room = simulate.write_atomic, iter(range(10))

    def full(path, data):
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(simulate, "write_atomic", full)
        with pytest.raises(UsageError, match="No space left on"):
            run(options)
    assert run(options)["counts"]["status"] == {"existing": 2, "simulated": 4, "skipped": 1}
    assert arrays(options.out) == arrays(pairs)


@pytest.mark.parametrize("change", ["seed", "series", "files", "pixels", "version"])
def test_nothing_else_goes_on_in_its_folder(tmp_path, monkeypatch, change):
    source, more = two_patients(tmp_path / "in"), {"series": ("all",), **FEW}
    stopped_after(2, Options(source=source, out=tmp_path / "out", **more), monkeypatch)
    before = arrays(tmp_path / "out")
    if change == "seed":
        more["seed"] = 1
    elif change == "series":
        more["series"] = (uid("S"),)
    elif change == "files":
        (source / "b/IM0000").unlink()
    elif change == "pixels":
        (source / "a/IM0000").write_bytes(packed(dataset(body(32, 2))))
    else:
        monkeypatch.setattr(simulate, "__version__", "0")
    with pytest.raises(UsageError, match=OTHER) as caught:
        run(Options(source=source, out=tmp_path / "out", **more))
    assert caught.value.exit_code == 2
    assert arrays(tmp_path / "out") == before


def test_without_any_pair_there_is_no_hint_and_nothing_is_left(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    caplog.set_level("INFO", "compress")
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "text.dcm").write_text("no DICOM file")
    (source / "x").write_bytes(packed(dataset(body(32), PixelSpacing=None)))
    with pytest.raises(CompressError, match=r"no pair was made, and nothing written$"):
        run(Options(source=source, out=out, **FEW))
    assert not out.exists()
    assert "--data" not in caplog.text
    good = write_series(tmp_path / "good", 1, side=32)
    assert run(Options(source=good, out=out, **FEW))["counts"]["slices"] == 1
    assert f"1 pairs of slices: --data {out}/npy or {out}/dicom" in caplog.text


def test_a_stop_before_the_first_pair_leaves_nothing(tmp_path, monkeypatch):
    source = write_series(tmp_path / "in", 2, side=32)
    stopped_after(0, Options(source=source, out=tmp_path / "out", **FEW), monkeypatch)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    source = write_series(tmp_path / "in", 1, side=32)

    def full(*_args):
        raise OSError(28, "No space left on device", "secret path")

    monkeypatch.setattr(simulate, "write_atomic", full)
    with pytest.raises(
        UsageError, match=r"^PAIRS \S+/out cannot be written: No space left on device$"
    ):
        run(Options(source=source, out=tmp_path / "out", **FEW))


def test_a_signal_stops(tmp_path, monkeypatch):
    source = write_series(tmp_path / "in", 2, side=32)
    monkeypatch.setattr(simulate._Run, "_pair", None)
    with monkeypatch.context() as patch:
        patch.setattr("threading.Event.is_set", lambda _self: True)
        with pytest.raises(Stopped, match="simulate: stopped; run the same command again to go on"):
            run(Options(source=source, out=tmp_path / "out", **FEW))


def test_the_command(tmp_path):
    source = write_series(tmp_path / "in", 1, side=32)
    words = ("simulate", str(source), "-o", str(tmp_path / "out"), "--views", "24", "--device",
             "cpu", "--photons", "2e5", "--electronic", "0", "--geometry", "parallel")  # fmt: skip
    result = CliRunner().invoke(main.main, words)
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "out/manifest.json").read_text())["simulation"]
    assert said == (
        "200000 photons per ray, electronic noise of 0 photons, 24 views, parallel beam, seed 0"
    )
    status = json.loads((tmp_path / "out/manifest.json").read_text())["counts"]["status"]
    assert status == {"simulated": 1}
    assert math.isclose(Options(source=source, out=source).exposure().electronic ** 2, 10)


def test_a_slice_without_tissue_has_a_partner(tmp_path):
    empty = np.full((32, 32), -2000, np.int16)
    for index, hu in enumerate((body(32), empty)):
        (tmp_path / f"{index}").write_bytes(packed(dataset(hu, intercept=0, index=index)))
    content = run(Options(source=tmp_path, out=tmp_path / "out", **FEW))
    assert content["counts"]["status"] == {"simulated": 2}
    assert content["files"][1]["status"] == "simulated"
    lows = [pydicom.dcmread(path) for path in (tmp_path / "out/dicom/low").rglob("*.dcm")]
    assert [np.array_equal(ds.pixel_array, empty) for ds in lows].count(True) == 1
