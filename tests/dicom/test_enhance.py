"""The whole command: what is written, what is refused, what is said, and how it goes on."""

import json
import logging
import os
import platform
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import dicom_desks
import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner
from dicom_files import (
    LOSSLESS,
    SECRETS,
    body,
    bundled,
    dataset,
    enhanced,
    packed,
    pycerr,
    pydicom_data,
    uid,
    write_series,
)
from pydicom.uid import MRImageStorage

from compress import checkpoint
from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.files import PARTIAL
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.dicom import short, sources
from compress.graph import padding
from compress.imaging import command as enhance
from compress.imaging import inference, scan, stream, workers
from compress.imaging.command import Options, run

NARROW = ModelOptions(
    name="ddnet", options={"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A checkpoint whose network gives back its input: residual, last layer zero."""
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(Model(net=NARROW.build().eval(), origin=NARROW), folder)
    return folder


@pytest.fixture
def logged(caplog):
    """All that is logged, at every level."""
    logger = logging.getLogger("compress")
    before = (logger.level, logger.propagate, list(logger.handlers))
    logger.propagate, logger.handlers[:] = True, []
    caplog.set_level(logging.DEBUG)
    yield caplog
    logger.level, logger.propagate, logger.handlers[:] = before


def enhance_all(source, model, out, **options):
    return run(Options(source=source, model=model, out=out, **options))


def rows(out, name="manifest.json"):
    return json.loads((out / name).read_text())["files"]


def images(out):
    """Derived data sets by their folder in the output and instance number."""
    found = {}
    for path in sorted(out.rglob("*.dcm")):
        ds = pydicom.dcmread(path)
        assert path.stem == ds.SOPInstanceUID
        found[path.parent.relative_to(out).as_posix(), int(ds.InstanceNumber)] = ds
    return dict(sorted(found.items()))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
def test_identity_gives_the_sources_pixels(syntax, model, tmp_path):
    write_series(tmp_path / "in/deep", 5, side=40, syntax=syntax)
    content = enhance_all(tmp_path / "in", model, tmp_path / "out")
    assert content["counts"] == {"status": {"enhanced": 5}, "reason": {}, "slices": 5}
    found = images(tmp_path / "out")
    assert list(found) == [("deep", k) for k in range(1, 6)]
    for k in range(5):
        stored = found["deep", k + 1].pixel_array
        assert np.array_equal(stored, body(40, k).astype(int) + 1024)
    assert len({ds.SeriesInstanceUID for ds in found.values()}) == 1


def test_any_size_and_several_frames(model, tmp_path):
    sizes = [(16, 16), (17, 31), (40, 56), (1, 5), (96, 33)]
    folder = tmp_path / "in"
    folder.mkdir()
    for index, (rows_, columns) in enumerate(sizes):
        draw = np.random.default_rng(index)
        hu = draw.integers(-900, 900, (rows_, columns)).astype(np.int16)
        (folder / f"{index}").write_bytes(packed(dataset(hu, index=index)))
    stack = np.stack([body(20, k, 24) for k in range(5)])
    ds = enhanced(stack, [(1, -1024)] * 5)
    ds.SOPInstanceUID, ds.InstanceNumber = uid("stack"), 99
    (folder / "stack").write_bytes(packed(ds))
    content = enhance_all(folder, model, tmp_path / "out")
    assert content["counts"]["slices"] == 10
    found = images(tmp_path / "out")
    for index, size in enumerate(sizes):
        assert found[".", index + 1].pixel_array.shape == size
        draw = np.random.default_rng(index)
        expected = draw.integers(-900, 900, size) + 1024
        assert np.array_equal(found[".", index + 1].pixel_array, expected)
    assert np.array_equal(found[".", 99].pixel_array, stack.astype(int) + 1024)


def test_the_seconds_of_the_parts_are_in_the_manifest(model, tmp_path):
    write_series(tmp_path / "in", 3)
    before = time.perf_counter()
    seconds = enhance_all(tmp_path / "in", model, tmp_path / "out")["seconds"]
    whole = time.perf_counter() - before
    parts = ("workers", "torch", "load", "scan", "choose", "prepare", "stream", "sync")
    assert set(seconds) == {*parts, "work", "first", "for_workers", "for_network", "network"}
    assert sum(seconds[part] for part in parts) < whole
    work = sum(seconds[part] for part in parts[3:])
    assert seconds["work"] == pytest.approx(work, abs=0.001)
    waiting = seconds["for_workers"] + seconds["for_network"]
    assert 0 < seconds["first"] < seconds["stream"]
    assert 0 < waiting < seconds["stream"]


def test_names_of_results_last_before_the_manifest_tells_of_them(model, tmp_path, monkeypatch):
    write_series(tmp_path / "in/a", 2)
    write_series(tmp_path / "in/b", 2, series="T")
    synced = []

    def sync(folder):
        assert not (tmp_path / "out/manifest.json").exists()
        synced.append((folder.name, len(list(folder.glob("*.dcm")))))

    monkeypatch.setattr(enhance, "sync_folder", sync)
    enhance_all(tmp_path / "in", model, tmp_path / "out", series=("all",))
    assert sorted(synced) == sorted([("a", 2), ("b", 2), ("out", 0), (tmp_path.name, 0)])


def test_folders_of_results_that_were_there_are_synced_too(model, tmp_path, monkeypatch):
    write_series(tmp_path / "in/a", 2)
    enhance_all(tmp_path / "in", model, tmp_path / "out")
    synced = []
    monkeypatch.setattr(enhance, "sync_folder", lambda folder: synced.append(folder.name))
    content = enhance_all(tmp_path / "in", model, tmp_path / "out", existing="skip")
    assert content["counts"]["status"] == {"existing": 2}
    assert "a" in synced
    assert {"prepare", "sync"} <= content["seconds"].keys()


def test_a_wrong_model_is_said_before_a_large_archive_is_looked_at(tmp_path, monkeypatch):
    write_series(tmp_path / "in", 200, side=16)
    monkeypatch.setattr(scan, "CHUNK", 1)
    looked = []
    take = scan.Look._take

    def slow(self, chunk, outcome):
        time.sleep(0.02)
        looked.extend(chunk)
        take(self, chunk, outcome)

    monkeypatch.setattr(scan.Look, "_take", slow)
    with pytest.raises(UsageError, match="there is no such checkpoint folder, engine or sidecar"):
        enhance_all(tmp_path / "in", tmp_path / "no-model", tmp_path / "out")
    assert len(looked) < 150


def test_workers_have_one_thread_each_and_the_command_all_of_its_own(tmp_path):
    code = """
import os
from compress.imaging import forking
forking.begin()
name = "OMP_NUM_THREADS"
before = os.environ.get(name)
pool = forking.CONTEXT.Pool(1)
print(before, pool.apply(os.getenv, (name,)), os.environ.get(name))
pool.close()  # not terminate(): the workers ignore SIGTERM
pool.join()
"""
    clean = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=clean)
    assert done.stdout == "None 1 None\n", done.stderr


def test_all_tasks_have_an_outcome_where_several_of_many_workers_crash(tmp_path):
    names = ["crash" if k in (3, 4, 30) else f"{k}" for k in range(40)]
    pool = workers.Pool(dicom_desks.CrashingDigest, (sources.open_source(tmp_path),), 4)
    try:
        found = list(pool.each("digest", {k: (name,) for k, name in enumerate(names)}))
    finally:
        pool.close()
    assert sorted(number for number, _ in found) == list(range(40))
    lost = {number: one for number, one in found if isinstance(one, workers.Lost)}
    assert {number for number, one in lost.items() if one.guilty} == {3, 4, 30}
    assert all(one == names[number] for number, one in found if number not in lost)


def test_workers_that_die_with_nothing_to_do_are_replaced_at_the_next_task(tmp_path):
    pool = workers.Pool(dicom_desks.CrashingDigest, (sources.open_source(tmp_path),), 2)
    try:
        jobs = {k: (f"{k}",) for k in range(8)}
        assert len(list(pool.each("digest", jobs))) == 8
        for worker in pool._workers:
            worker.process.kill()
            worker.process.join()
        assert pool.answer(wait=True) is None
        found = list(pool.each("digest", jobs))
    finally:
        pool.close()
    assert sorted(number for number, _ in found) == list(range(8))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_workers_use_the_memory_of_a_slice_for_the_next_one(tmp_path):
    pool = workers.Pool(dicom_desks.Allocating, (sources.open_source(tmp_path),), 1)
    try:
        new = [pages for _, pages in pool.each("digest", dict.fromkeys(range(5), ("",)))]
    finally:
        pool.close()
    assert new[0] > 300  # 24 MB in pages of 4 KB to 64 KB
    assert max(new[1:]) < 100


def test_the_workers_server_starts_before_anything_heavy_is_imported():
    code = """
import sys
from compress.cli import main as cli
from compress.imaging import forking
heavy = {"torch", "pydicom", "numpy"}
forking.begin = lambda: print(heavy & set(sys.modules))
cli.main(["enhance", "nowhere", "-m", "x", "-o", "y"], standalone_mode=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
    assert "INPUT nowhere does not exist" in done.stderr


def test_workers_do_not_import_what_they_do_not_need():
    code = "import sys, compress.imaging.tasks; print({'torch', 'pydicom.sr'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


class Slow:
    """A flight that takes a while, as on a GPU."""

    def __init__(self, output):
        self.output, self.end = output, time.perf_counter() + 0.05

    def done(self):
        return time.perf_counter() >= self.end

    def land(self):
        time.sleep(max(0.0, self.end - time.perf_counter()))
        return self.output, 0.05


def test_a_network_that_takes_its_time_is_waited_for_and_the_order_kept(tmp_path, monkeypatch):
    net = dicom_desks.identity(4)
    flown = []

    def launch(slices):
        flown.append(len(slices))
        return Slow(np.stack(slices))

    monkeypatch.setattr(net, "launch", launch)
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: net)
    write_series(tmp_path / "in", 10, side=16)
    content = enhance_all(tmp_path / "in", Path(), tmp_path / "out")
    assert content["counts"]["status"] == {"enhanced": 10}
    assert flown == [4, 4, 2]
    assert content["seconds"]["for_network"] > 0.05
    for (_, number), ds in images(tmp_path / "out").items():
        assert np.array_equal(ds.pixel_array, body(16, number - 1).astype(int) + 1024)


class Plus(torch.nn.Module):
    """Adds HU that depend on nothing else."""

    def forward(self, x):
        return x + 10 / 2924


def test_what_the_network_gives_is_written_in_order(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    net = inference.Network(padding.AnySize(Plus()), cpu, 3, "1" * 64, "fp32")
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: net)
    write_series(tmp_path / "in", 11, side=32)
    enhance_all(tmp_path / "in", Path(), tmp_path / "out")
    for (_, number), ds in images(tmp_path / "out").items():
        expected = body(32, number - 1).astype(int) + 1034
        assert np.array_equal(ds.pixel_array, expected)
    assert [row["file"] for row in rows(tmp_path / "out")] == list(range(11))


def test_a_zip_and_a_single_file(model, tmp_path):
    write_series(tmp_path / "in/a", 3)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in sorted((tmp_path / "in").rglob("IM*")):
            file.write(path, path.relative_to(tmp_path))
        file.writestr("../evil", packed(dataset(index=50)))
    with pytest.raises(CompressError, match="1 of 4 files failed: 1 unsafe-name"):
        enhance_all(tmp_path / "x.zip", model, tmp_path / "z")
    assert list(images(tmp_path / "z")) == [("in/a", 1), ("in/a", 2), ("in/a", 3)]
    assert not (tmp_path / "evil").exists()
    enhance_all(tmp_path / "in/a/IM0001", model, tmp_path / "one")
    assert list(images(tmp_path / "one")) == [(".", 2)]


def test_a_bad_file_stops_no_other(model, tmp_path):
    folder = write_series(tmp_path / "in", 6)
    whole = (folder / "IM0003").read_bytes()
    (folder / "IM0003").write_bytes(whole[:-500])
    (folder / "IM0004").write_bytes(packed(dataset(index=4, RescaleSlope=None)))
    (folder / "notes.txt").write_text("x")
    (folder / "mr").write_bytes(packed(dataset(SOPClassUID=MRImageStorage, Modality="MR")))
    said = r"^2 of 8 files failed: 1 no-rescale \(rescale slope or intercept missing\), 1 undecod"
    with pytest.raises(CompressError, match=said) as caught:
        enhance_all(folder, model, tmp_path / "out")
    assert caught.value.exit_code == 1
    assert len(images(tmp_path / "out")) == 4
    status = [(row["status"], row["reason"]) for row in rows(tmp_path / "out")]
    assert status == [
        ("enhanced", None), ("enhanced", None), ("enhanced", None), ("failed", "undecodable"),
        ("failed", "no-rescale"), ("enhanced", None), ("skipped", "not-ct"),
        ("skipped", "not-dicom"),
    ]  # fmt: skip
    assert not list((tmp_path / "out").rglob(f"*{PARTIAL}"))


def test_only_bad_files_is_code_1(model, tmp_path):
    (tmp_path / "x").write_bytes(packed(dataset())[:900])
    with pytest.raises(CompressError, match="1 of 1 files failed") as caught:
        enhance_all(tmp_path / "x", model, tmp_path / "out")
    assert caught.value.exit_code == 1


def test_a_series_must_be_chosen(model, tmp_path):
    write_series(tmp_path / "in/a", 2)
    write_series(tmp_path / "in/b", 3, series="T")
    with pytest.raises(UsageError, match="choose one by --series"):
        enhance_all(tmp_path / "in", model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    content = enhance_all(tmp_path / "in", model, tmp_path / "out", series=(short(uid("T")),))
    assert content["counts"]["reason"] == {"other-series": 2}
    assert len(images(tmp_path / "out")) == 3


def test_results_are_not_replaced_unless_told(model, tmp_path):
    folder = write_series(tmp_path / "in", 3)
    out = tmp_path / "out"
    enhance_all(folder, model, out)
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.dcm")}
    with pytest.raises(
        UsageError, match=r"^OUT \S+/out already holds 3 of these results; give --skip-exi"
    ):
        enhance_all(folder, model, out)
    content = enhance_all(folder, model, out, existing="skip")
    assert content["counts"]["status"] == {"existing": 3}
    assert first == {path.name: path.stat().st_mtime_ns for path in out.glob("*.dcm")}
    content = enhance_all(folder, model, out, existing="overwrite")
    assert content["counts"]["status"] == {"enhanced": 3}
    assert first.keys() == {path.name for path in out.glob("*.dcm")}


def test_going_on_completes_what_is_missing_or_damaged(model, tmp_path):
    folder = write_series(tmp_path / "in", 4)
    out = tmp_path / "out"
    enhance_all(folder, model, out)
    a, b, c, _ = sorted(out.glob("*.dcm"))
    kept = c.read_bytes()
    a.unlink()
    b.write_bytes(b.read_bytes()[:2000])
    (out / f".{a.name}.abc{PARTIAL}").write_bytes(b"half")
    (out / f".manifest.json.abc{PARTIAL}").write_bytes(b"half")
    (out / f".manifest-2-of-2.json.abc{PARTIAL}").write_bytes(b"another shard's")
    (out / f".other.dcm.abc{PARTIAL}").write_bytes(b"another shard's")
    content = enhance_all(folder, model, out, existing="skip")
    assert content["counts"]["status"] == {"enhanced": 2, "existing": 2}
    assert len(images(out)) == 4
    assert c.read_bytes() == kept
    assert sorted(path.name for path in out.glob(f".*{PARTIAL}")) == [
        f".manifest-2-of-2.json.abc{PARTIAL}",
        f".other.dcm.abc{PARTIAL}",
    ]


def test_the_output_in_the_input_is_not_an_input(model, tmp_path):
    write_series(tmp_path, 2)
    enhance_all(tmp_path, model, tmp_path / "out")
    content = enhance_all(tmp_path, model, tmp_path / "out", existing="skip")
    assert content["counts"]["status"] == {"existing": 2}


def test_shards_do_everything_once(model, tmp_path):
    folder, out = write_series(tmp_path / "in", 9), tmp_path / "out"
    done = [
        enhance_all(folder, model, out, shard=(k, 3))["counts"]["status"]["enhanced"]
        for k in (1, 2, 3)
    ]
    assert sum(done) == 9
    assert len(images(out)) == 9
    assert len(rows(out, "manifest-2-of-3.json")) == 9


def test_other_options_are_another_series(model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    plain = {"RescaleSlope": None, "RescaleIntercept": None}
    (folder / "x").write_bytes(packed(dataset(intercept=0, **plain)))
    with pytest.raises(CompressError, match="no-rescale"):
        enhance_all(folder, model, tmp_path / "out")
    enhance_all(folder, model, tmp_path / "out", assume_hu=True)
    enhance_all(folder, model, tmp_path / "out", assume_hu=True, strip_private=True)
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 2


def test_no_patient_data_and_no_path_are_shown(model, tmp_path, logged):
    folder = write_series(tmp_path / "Doe^Jane", 3)
    bad = {"a": dataset(index=7, RescaleSlope=""), "b": dataset(index=8, Rows=9)}
    for name, ds in bad.items():
        (folder / name).write_bytes(packed(ds))
    (folder / "c").write_bytes(packed(dataset(index=9))[:700])
    out = tmp_path / "out"
    words = ("enhance", str(folder), "-m", str(model), "-o", str(out))
    result = CliRunner().invoke(main.main, words)
    assert result.exit_code == 1, result.output
    shown = result.output + logged.text + (out / "manifest.json").read_text()
    shown += "".join(str(path.relative_to(tmp_path)) for path in out.rglob("*"))
    for secret in (*SECRETS, "Jane", str(folder), uid("S"), uid("S", 0)):
        assert secret not in shown, secret
    assert "Traceback" not in shown
    assert "3 of 6 files failed" in result.stderr


def test_the_last_line_names_the_folder(model, tmp_path):
    folder, out = write_series(tmp_path / "in", 2), tmp_path / "out"
    (folder / "notes.txt").write_text("no DICOM file")
    words = [sys.executable, "-m", "compress", "enhance", str(folder), "-m", str(model)]
    done = subprocess.run([*words, "-o", str(out)], capture_output=True, text=True, check=True)
    said = done.stderr.splitlines()[-1]
    assert "2 files enhanced (2 slices, " in said
    assert said.endswith(f"0 there already, 1 skipped, 0 failed: {out}")


def test_only_folders_of_the_input_are_mirrored_and_files_get_new_names(model, tmp_path):
    folder = write_series(tmp_path / "in/x", 1)
    (folder / "IM0000").rename(folder / "Doe^Jane.dcm")
    enhance_all(tmp_path / "in", model, tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.dcm")
    assert path.parent.name == "x"
    assert path.stem.replace(".", "").isdigit()


def run_with(desk, monkeypatch, source, out, **options):
    monkeypatch.setattr(enhance, "Desk", desk)
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    return enhance_all(source, Path(), out, **options)


def reasons(out):
    return [row["reason"] for row in rows(out)]


@pytest.mark.parametrize("desk", [dicom_desks.Crashing, dicom_desks.CrashingScan])
def test_a_crash_takes_one_file_with_it(desk, monkeypatch, tmp_path):
    folder = write_series(tmp_path / "in", 20, side=16)
    (folder / "IM0005").rename(folder / "IM0005crash")
    with pytest.raises(CompressError, match="1 of 20 files failed: 1 crashed"):
        run_with(desk, monkeypatch, folder, tmp_path / "out")
    assert reasons(tmp_path / "out") == [None] * 5 + ["crashed"] + [None] * 14
    assert len(images(tmp_path / "out")) == 19


def test_a_crash_of_the_encoder(monkeypatch, tmp_path):
    folder = write_series(tmp_path / "in", 12, side=16)
    with pytest.raises(CompressError, match="1 of 12 files failed: 1 crashed"):
        run_with(dicom_desks.CrashingEncode, monkeypatch, folder, tmp_path / "out")
    assert reasons(tmp_path / "out").index("crashed") == 2


def test_a_crash_while_a_result_is_written_leaves_no_part_of_it(monkeypatch, tmp_path):
    folder, out = write_series(tmp_path / "in", 12, side=16), tmp_path / "out"
    out.mkdir()
    others = out / f".9.9.dcm.0123abcd{PARTIAL}"  # another shard may be writing it
    others.touch()
    with pytest.raises(CompressError, match="1 of 12 files failed: 1 crashed"):
        run_with(dicom_desks.CrashingWrite, monkeypatch, folder, out)
    assert list(out.rglob(f".*{PARTIAL}")) == [others]
    assert len(images(out)) == 11


def test_a_file_that_becomes_another_image_is_not_enhanced_under_its_name(monkeypatch, tmp_path):
    folder = write_series(tmp_path / "in", 6, side=16)
    (tmp_path / "other").write_bytes(packed(dataset(body(16), SOPInstanceUID=uid("other"))))
    with pytest.raises(CompressError, match="1 of 6 files failed: 1 damaged"):
        run_with(dicom_desks.Replacing, monkeypatch, folder, tmp_path / "out")
    assert reasons(tmp_path / "out") == [None, None, "damaged", None, None, None]
    assert len(images(tmp_path / "out")) == 5


def test_a_hanging_decoder_is_ended(monkeypatch, tmp_path):
    folder = write_series(tmp_path / "in", 6, side=16)
    (folder / "IM0002").rename(folder / "IM0002crash")
    monkeypatch.setattr(workers, "LIMIT", 10.0)
    monkeypatch.setattr(workers, "TICK", 0.1)
    with pytest.raises(CompressError, match="1 of 6 files failed: 1 crashed"):
        run_with(dicom_desks.Hanging, monkeypatch, folder, tmp_path / "out")


def test_what_nobody_thought_of_is_a_reason_without_words(monkeypatch, tmp_path, logged):
    folder = write_series(tmp_path / "in", 2, side=16)
    with pytest.raises(CompressError, match="2 of 2 files failed: 2 damaged"):
        run_with(dicom_desks.Broken, monkeypatch, folder, tmp_path / "out")
    assert "Jane" not in logged.text


def test_a_signal_stops_and_going_on_completes(monkeypatch, tmp_path):
    folder, out = write_series(tmp_path / "in", 30, side=16), tmp_path / "out"
    take = stream.Stream._take

    def stopping(self, *given):
        self.stop.set()
        take(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(stream.Stream, "_take", stopping)
        with pytest.raises(Stopped, match="run again with --skip-existing") as caught:
            run_with(dicom_desks.Desk, patch, folder, out)
    assert caught.value.exit_code == 75
    assert {row["status"] for row in rows(out)} >= {"stopped"}
    content = run_with(dicom_desks.Desk, monkeypatch, folder, out, existing="skip")
    assert sum(content["counts"]["status"].values()) == len(images(out)) == 30


def test_an_output_that_cannot_be_written(model, tmp_path):
    folder = write_series(tmp_path / "in", 1)
    (tmp_path / "out").touch()
    with pytest.raises(
        UsageError, match=r"^OUT \S+/out cannot be written: (File exists|Not a directory)"
    ):
        enhance_all(folder, model, tmp_path / "out")


def test_errors_of_the_system_name_no_file(model, tmp_path, monkeypatch):
    def closed(_path):
        raise PermissionError(13, "Permission denied", "/data/Doe^Jane")

    monkeypatch.setattr("compress.dicom.sources.open_source", closed)
    words = ("enhance", "x", "-m", str(model), "-o", str(tmp_path / "out"))
    result = CliRunner().invoke(main.main, words)
    said = "Error: a file or folder cannot be used: Permission denied\n"
    assert (result.exit_code, result.stderr) == (1, said)


def test_a_full_disk_is_a_reason_per_file(model, tmp_path):
    write_series(tmp_path / "in/a", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").touch()  # stands where a folder must be
    with pytest.raises(CompressError, match="2 of 2 files failed: 2 unwritable"):
        enhance_all(tmp_path / "in", model, tmp_path / "out")


def test_usage_errors_end_with_code_2(model, tmp_path):
    folder = write_series(tmp_path / "in", 1)
    base = ("enhance", str(folder), "-m", str(model), "-o", str(tmp_path / "out"))
    for words, said in (
        ((*base, "--skip-existing", "--overwrite"), "exclude each other"),
        ((*base, "--shard", "5/4"), "is no i/n with i from 1 to n"),
        ((*base, "--shard", "x"), "is no i/n with i from 1 to n"),
        ((*base, "--series", "1.2"), f"--series names a series that INPUT {folder} does not hold"),
        ((*base, "--device", "tpu"), "there is no such device"),
        (("enhance", "nowhere", *base[2:]), "INPUT nowhere does not exist"),
        ((*base[:3], str(folder / "IM0000"), *base[4:]), "neither a checkpoint folder nor an"),
    ):
        result = CliRunner().invoke(main.main, words)
        assert result.exit_code == 2, result.output
        assert said in " ".join(result.stderr.split())
    result = CliRunner().invoke(main.main, (*base, "--shard", "1/1", "--batch", "2"))
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path):
    source = write_series(tmp_path / "in", 100, side=24)
    script = Path(dicom_desks.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(source), str(tmp_path / "out"), "20", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert [run_["code"] for run_ in found] == [0] * 20
    assert len({run_["before"] for run_ in found}) > 2, "some were killed half way"
    assert found[0] == {"before": 100, "left": [".manifest.json"], "code": 0}
    whole = images(tmp_path / "out/whole")
    for k in range(20):
        out = tmp_path / f"out/{k}"
        again = images(out)
        assert again.keys() == whole.keys()
        assert all(again[key].PixelData == whole[key].PixelData for key in whole)
        assert len(list(out.iterdir())) == 101, "100 images, the manifest and nothing else"


@pytest.mark.network
def test_real_series(model, tmp_path):
    content = enhance_all(pycerr(), model, tmp_path / "out", series=("all",))
    assert content["counts"]["status"]["enhanced"] == 203
    sizes = {ds.pixel_array.shape for ds in images(tmp_path / "out").values()}
    assert {(201, 204), (138, 141), (137, 136), (172, 178)} == sizes


@pytest.mark.network
def test_real_odds_and_ends(model, tmp_path):
    for name in ("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "CT_small.dcm"):
        (tmp_path / name).write_bytes(bundled(name))
    for path in pydicom_data().iterdir():
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(CompressError, match=r"1 no-uid .*, 1 not-hu"):
        enhance_all(tmp_path, model, tmp_path / "out", series=("all",))
    names = {row["output"] for row in rows(tmp_path / "out") if row["status"] == "enhanced"}
    assert len(names) == len(list((tmp_path / "out").glob("*.dcm"))) >= 5
