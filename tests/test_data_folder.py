from pathlib import Path

import numpy as np
import pytest
import tifffile
from dicom_files import body, dataset, enhanced, packed

from compress.base.errors import UsageError
from compress.data import DataOptions, load
from compress.data import folder as source

SLICE = np.arange(-600, 600, 10, dtype=np.int16).reshape(10, 12)


def npy(path, values=SLICE):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def tiff(path, values, description="", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, description=description, metadata=None, **options)


def dicom(path, hu, patient="P", slope=2.0, intercept=-1024.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = ((hu - intercept) / (slope or 1)).astype("<u2").tobytes()
    line = {"RescaleSlope": slope, "RescaleIntercept": None if slope is None else intercept}
    path.write_bytes(packed(dataset(hu, PatientID=patient, PixelData=stored, **line)))


def pair_of(root, name, low=SLICE - 1, full=SLICE):
    npy(root / "low" / name, low)
    npy(root / "full" / name, full)


@pytest.fixture
def split(tmp_path):
    """Training and held-out folders with two pairs each."""
    for part in ("train", "test"):
        for name in ("b.npy", "a.npy"):
            pair_of(tmp_path / part, name)
    return tmp_path


def test_npy_pairs_by_name(split):
    npy(split / "train/low/c.npy", SLICE + 5)
    npy(split / "train/full/c.npy", SLICE + 6)
    train, test = source.load(split)
    assert train.names == ("a.npy", "b.npy", "c.npy")
    assert np.array_equal(train.low[2], SLICE + 5)
    assert np.array_equal(train.full[2], SLICE + 6)
    assert test.names == ("a.npy", "b.npy")
    assert train.low[0].dtype == np.int16


def test_tiff_with_and_without_imagej_calibration(tmp_path):
    text = "ImageJ=1.11a\nmin=0.0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"
    for part in ("train", "test"):
        raw = (SLICE.astype(np.int32) + 32768).astype(np.uint16)
        tiff(tmp_path / part / "HQ/x.tif", raw, text)
        tiff(tmp_path / part / "LQ/x.tif", SLICE.astype(np.float32) - 1.4)
    tiff(tmp_path / "test/HQ/y.tiff", np.zeros((4, 4), np.uint16), text)
    tiff(tmp_path / "test/LQ/y.tiff", np.zeros((4, 4), np.uint16), "no calibration")
    train, test = source.load(tmp_path)
    assert np.array_equal(train.full[0], SLICE)
    assert np.array_equal(train.low[0], SLICE - 1)
    assert (test.full[1] == -1024).all(), "clipped from -32768"
    assert (test.low[1] == 0).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["i2", "f4", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_any_number_type(tmp_path, order, kind, compression):
    for part in ("train/LQ", "train/HQ", "test/LQ", "test/HQ"):
        values = SLICE.astype(order + kind)
        tiff(tmp_path / part / "x.tif", values, byteorder=order, compression=compression)
    assert np.array_equal(source.load(tmp_path)[0].full[0], SLICE)


def test_tiff_stacks_are_refused(tmp_path):
    for side in ("LQ", "HQ"):
        tiff(tmp_path / side / "x.tif", np.zeros((5, 20, 20), np.uint16))
    with pytest.raises(UsageError, match=r"LQ/x.tif is not usable: it holds 5 images"):
        source.load(tmp_path)


def test_validation_folder_is_held_out_where_there_is_no_test(split):
    (split / "test").rename(split / "val")
    npy(split / "val/low/v.npy")
    npy(split / "val/full/v.npy")
    assert "v.npy" in source.load(split)[1].names


def test_dicom_in_hu_with_the_last_patient_held_out(tmp_path):
    hu = SLICE.astype(int)
    for patient, name in (("P1", "one/IM0"), ("P2", "two/IM0"), ("P2", "two/IM1.dcm")):
        dicom(tmp_path / "full" / name, hu, patient)
        dicom(tmp_path / "low" / name, hu - 8, patient, slope=1.0, intercept=-1000.0)
    (tmp_path / "low/notes.txt").write_text("not a slice")
    train, test = source.load(tmp_path)
    assert (train.names, train.patients) == (("one/IM0",), ("patient-1",))
    assert (test.names, test.patients) == (("two/IM0", "two/IM1.dcm"), ("patient-2", "patient-2"))
    assert np.array_equal(train.full[0], hu)
    assert np.array_equal(train.low[0], hu - 8)
    assert (train.spacings, test.spacings) == ((0.7,), (0.7, 0.7))


def test_patients_are_the_first_subfolders(tmp_path):
    for name in ("L506/a.npy", "L067/a.npy", "L067/deep/b.npy"):
        pair_of(tmp_path, name)
    train, test = source.load(tmp_path)
    assert set(train.patients) == {"L067"}
    assert test.patients == ("L506",)


def test_a_tenth_of_a_single_patient_is_held_out_whatever_else_there_is(tmp_path):
    for k in range(20):
        pair_of(tmp_path, f"{k}.npy")
    train, test = source.load(tmp_path)
    assert len(test.names) == 2
    assert set(train.names).isdisjoint(test.names)
    assert len(train.names) == 18
    assert source.load(tmp_path)[1].names == test.names


def test_shared_patients_are_a_notice(split, caplog):
    data = load(DataOptions(source="folder", path=str(split)), seed=0)
    assert "same patients (unknown)" in data.notices[0]
    assert "give each a subfolder in low and in full" in data.notices[0]
    assert list(data.notices) == caplog.messages
    assert data.source == "folder"


def test_padding_is_raised_and_fractions_are_rounded(split):
    pair_of(split / "train", "c.npy", SLICE - 5000.0, SLICE + 0.6)
    train, _ = source.load(split)
    assert (train.low[2] == -1024).all()
    assert np.array_equal(train.full[2], SLICE + 1)


def test_missing_folder(tmp_path):
    with pytest.raises(UsageError, match=r"there is no data folder .*nowhere"):
        source.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("train/low/a.npy", r"train/full/a.npy has no partner .*train/low/a.npy \(1 of 3 files\)$"),
        ("test/full/b.npy", r"test/low/b.npy has no partner .*test/full/b.npy"),
        ("train/full", r"train has a folder low, but none called full"),
        ("test", r"has a folder train, but none called test or val"),
    ],
)
def test_what_is_missing_is_named(split, gone, sentence):
    (split / gone).rename(split / "elsewhere")
    with pytest.raises(UsageError, match=sentence):
        source.load(split)


def test_folder_without_the_layout(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"neither folders low and full nor LQ and HQ$"):
        source.load(tmp_path)


@pytest.mark.parametrize(
    ("given", "there", "said"),
    [
        ("pairs", ["pairs/npy"], "try pairs/npy$"),
        ("pairs", ["pairs/npy", "pairs/dicom"], "try pairs/dicom or pairs/npy$"),
        ("pairs", ["pairs/own/train"], "try pairs/own$"),
        ("pairs/low", ["pairs"], "try pairs$"),
    ],
)
def test_a_folder_with_the_layout_near_by_is_named(tmp_path, monkeypatch, given, there, said):
    monkeypatch.chdir(tmp_path)
    for folder in there:
        pair_of(Path(folder), "a.npy")
    for use in (source.load, source.held_out, source.shape):
        with pytest.raises(UsageError, match=f"nor LQ and HQ; {said}"):
            use(Path(given))


def test_folder_without_images(tmp_path):
    for side in ("low", "full"):
        (tmp_path / side).mkdir()
        (tmp_path / side / ".hidden.npy").touch()
    with pytest.raises(UsageError, match="low holds no npy, TIFF or DICOM file"):
        source.load(tmp_path)


def test_partners_of_different_size(split):
    npy(split / "train/low/a.npy", SLICE[:4])
    with pytest.raises(UsageError, match=r"has 4 x 12 pixels, its partner .* has 10 x 12"):
        source.load(split)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((3, 4, 5), np.int16), r"array of shape \(3, 4, 5\)"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.linspace(0, 1, 16).reshape(4, 4), "between 0.06667 and 0.9333, .* scaled to 0..1"),
        (np.array([[None]]), "allow_pickle"),
    ],
)
def test_unusable_values(split, values, reason):
    npy(split / "train/low/a.npy", values)
    with pytest.raises(UsageError, match=f"train/low/a.npy is not usable: .*{reason}"):
        source.load(split)


def test_dicom_without_rescale_slope(tmp_path):
    for side in ("low", "full"):
        dicom(tmp_path / side / "x.dcm", SLICE + 100, slope=None, intercept=0)
    with pytest.raises(UsageError, match="not usable: rescale slope or intercept missing"):
        source.load(tmp_path)


def test_damaged_files(tmp_path):
    for side in ("low", "full"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.tif").write_bytes(b"II*\0 and then nothing")
    with pytest.raises(UsageError, match=r"low/x.tif is not usable: "):
        source.load(tmp_path)


def test_a_single_pair_is_too_few(tmp_path):
    pair_of(tmp_path, "a.npy")
    with pytest.raises(UsageError, match="holds a single pair"):
        source.load(tmp_path)


def test_patient_ids_are_never_shown(tmp_path, caplog):
    for part in ("train", "test"):
        for side in ("low", "full"):
            dicom(tmp_path / part / side / "x.dcm", SLICE, "ID-4711")
    data = load(DataOptions(source="folder", path=str(tmp_path)), seed=0)
    assert "same patients (patient-1)" in data.notices[0]
    assert "subfolder" not in data.notices[0]
    assert "4711" not in repr(data) + caplog.text


def test_dicom_stacks_are_refused(tmp_path):
    stack = packed(enhanced(np.stack([body(seed=k) for k in range(2)]), [(1, -1024)] * 2))
    for side in ("low", "full"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.dcm").write_bytes(stack)
    with pytest.raises(UsageError, match=r"it holds an array of shape \(2, 48, 48\)"):
        source.load(tmp_path)


def test_2dnet_layout_with_validation_only(tmp_path):
    """{train,val,test}/{HQ,LQ}/*.tif with the offset in tag 270; test wins over val."""
    text = "ImageJ=1.11a\nc0=-32768.0\nc1=1.0\n"
    raw = (SLICE.astype(np.int32) + 32768).astype(np.uint16)
    for part in ("train", "val", "test"):
        for side in ("HQ", "LQ"):
            tiff(tmp_path / part / side / f"{part}.tif", raw, text)
    train, test = source.load(tmp_path)
    assert (train.names, test.names) == (("train.tif",), ("test.tif",))
    assert np.array_equal(test.full[0], SLICE)
    assert source.held_out(tmp_path).names == ("test.tif",)


def test_all_pairs_are_measured_where_nothing_is_for_training(tmp_path):
    for name in ("a/1.npy", "b/1.npy"):
        pair_of(tmp_path, name)
    found = source.held_out(tmp_path)
    assert (found.names, found.patients) == (("a/1.npy", "b/1.npy"), ("a", "b"))
    with pytest.raises(UsageError, match="there is no data folder"):
        source.held_out(tmp_path / "nowhere")
