"""Stops: at once whatever is under way, nothing half written, no process left behind."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import children
import dicom_desks
import dicom_stops
import pytest
from click.testing import CliRunner
from dicom_files import body, dataset, packed, uid, write_series
from dicom_stops import heard, session, told, until
from rich.console import Console

from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.files import PARTIAL
from compress.base.signals import at_once, interruptible
from compress.cli import main as cli
from compress.dicom import Reason, series, short
from compress.imaging import command, inference, output, simulate, workers
from compress.imaging.command import Options, run

SOON = 4.0
"""Seconds in which a run ends after a signal, on a busy machine too; alone it takes one or two."""
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


@pytest.fixture
def begun():
    """Begins runs; nothing of them outlives the test, not even of one that failed."""
    processes = []

    def begin(mode, source, out):
        processes.append(dicom_stops.begun(mode, source, out))
        return processes[-1]

    yield begin
    for process in processes:
        for left in session(process.pid):
            os.kill(left, signal.SIGKILL)
        with process:
            pass  # closes its pipes and waits


def hanging_late(folder):
    """A series with a file that hangs, behind more files than one worker decodes ahead."""
    source = write_series(folder, 60, side=16)
    (source / "IM0050").rename(source / "IM0050crash")
    return source


def results(out):
    return list(Path(out).rglob("*.dcm"))


def rows(out):
    return json.loads((out / "manifest.json").read_text())["files"]


def ended(process):
    """Standard error of a run of which nothing is left."""
    said = process.communicate(timeout=20)[1]  # who is left keeps it open
    assert until(lambda: not session(process.pid), 1.0), session(process.pid)
    return said


def test_a_decoder_that_hangs_does_not_hold_up_a_stop(begun, tmp_path):
    source = hanging_late(tmp_path / "in")
    process = begun("hanging", source, tmp_path / "out")
    assert until(lambda: results(tmp_path / "out"))
    time.sleep(0.3)
    assert told(process) < SOON
    assert process.returncode == 75, process.stderr.read()
    assert "run again with --skip-existing to go on" in ended(process)
    assert not list((tmp_path / "out").rglob(f"*{PARTIAL}"))
    status = [row["status"] for row in rows(tmp_path / "out")]
    assert status.count("enhanced") == len(results(tmp_path / "out"))
    assert set(status) == {"enhanced", "stopped"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_network_that_takes_its_time_does_not_either(number, begun, tmp_path):
    source = write_series(tmp_path / "in", 8, side=16)
    process = begun("slow", source, tmp_path / "out")
    assert heard(process, "computing")
    assert told(process, number) < SOON
    assert process.returncode == 75, process.stderr.read()
    ended(process)
    assert {row["status"] for row in rows(tmp_path / "out")} == {"stopped"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_is_one_to_the_command(number, begun, tmp_path):
    """As Slurm or a terminal sends it: no file may be blamed for a worker that it ended."""
    source = write_series(tmp_path / "in", 8, side=16)
    process = begun("slow", source, tmp_path / "out")
    assert heard(process, "computing")
    os.killpg(process.pid, number)
    process.wait(10)
    assert process.returncode == 75
    ended(process)
    assert {row["reason"] for row in rows(tmp_path / "out")} == {None}


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.2, 0.4])
def test_ctrl_c_while_the_workers_server_imports_says_one_sentence(seconds, tmp_path):
    source = write_series(tmp_path / "in", 1, side=16)
    words = ["enhance", source, "-m", tmp_path / "model", "-o", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "compress", *map(str, words)],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with children.ending([process]):
        # itself, multiprocessing's tracker of resources, and the server
        assert until(lambda: len(session(process.pid)) > 2, 20.0)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        said = ended(process)
    assert process.returncode == 75, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("enhance: stopped"), said


def test_workers_end_with_the_command_even_if_they_hang(begun, tmp_path):
    source = hanging_late(tmp_path / "in")
    process = begun("hanging", source, tmp_path / "out")
    assert until(lambda: results(tmp_path / "out"))
    time.sleep(0.3)
    assert len(session(process.pid)) > 2
    process.kill()
    ended(process)


def test_a_stop_while_duplicates_are_compared(begun, tmp_path):
    source = write_series(tmp_path / "in", 1, side=16)
    for k in range(6000):
        (source / f"copy{k}").hardlink_to(source / "IM0000")
    process = begun("plain", source, tmp_path / "out")
    assert heard(process, "INPUT holds 6001 files")
    time.sleep(0.5)
    assert told(process) < SOON
    assert process.returncode == 75
    ended(process)
    assert not (tmp_path / "out").exists()


def test_each_duplicate_is_read_once(tmp_path, monkeypatch):
    source = write_series(tmp_path / "in", 2, side=16)
    for k in range(30):
        (source / f"copy{k}").hardlink_to(source / "IM0000")
    known = []
    each = workers.Pool.each

    def counted(self, task, jobs):
        known.append((task, len(jobs)))
        return each(self, task, jobs)

    monkeypatch.setattr(workers.Pool, "each", counted)
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    content = run(Options(source=source, model=Path(), out=tmp_path / "out"))
    assert known == [("digest", 31)]
    assert content["counts"]["reason"] == {"duplicate": 30}


def test_headers_duplicates_and_results_are_looked_at_with_progress(tmp_path, monkeypatch, caplog):
    source, out = write_series(tmp_path / "in", 6, side=16), tmp_path / "out"
    (source / "copy").hardlink_to(source / "IM0000")
    monkeypatch.setattr("compress.base.progress.EVERY", -1.0)
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    caplog.set_level("INFO", "compress")
    run(Options(source=source, model=Path(), out=out))
    run(Options(source=source, model=Path(), out=out, existing="skip"))
    for words in ("INPUT holds 7 files", "7 of 7 files,", "2 of 2 files compared,", "6 of 6 resul"):
        assert words in caplog.text


def test_a_pipe_among_the_files_holds_up_nothing(tmp_path, monkeypatch):
    source = write_series(tmp_path / "in", 2, side=16)
    os.mkfifo(source / "pipe")
    (source / "x.dcm").touch()
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    with pytest.raises(CompressError, match=r"^1 of 4 files failed: 1 empty \(the file is empty"):
        run(Options(source=source, model=Path(), out=tmp_path / "out"))
    assert [row["reason"] for row in rows(tmp_path / "out")] == [None, None, "not-a-file", "empty"]


def interrupted(stop, then):
    """A block that is told to stop by a signal of its own."""
    with at_once(stop, Stopped("now")):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it goes on")
        except BaseException as error:
            if then == "passed on":
                raise
            if then == "made another":  # as modules in C do while they are imported
                raise TypeError("expected a message argument") from error


@pytest.mark.parametrize("then", ["passed on", "swallowed", "made another"])
def test_at_once_is_left_by_the_first_signal(then):
    with interruptible() as stop:
        with pytest.raises(Stopped, match="now"):
            interrupted(stop, then)
        assert stop.is_set()
        with pytest.raises(Stopped, match="again"), at_once(stop, Stopped("again")):
            pytest.fail("it is entered")


def test_at_once_in_another_thread_changes_nothing():
    done = []

    def work():
        with at_once(threading.Event(), Stopped("now")):
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


# --- the output -----------------------------------------------------------------------------


def enhance(source, out, **options):
    return run(Options(source=source, model=Path("/nowhere"), out=out, **options))


@pytest.fixture
def no_workers(monkeypatch):
    """Fails where anything is begun."""

    def begun_(*_args):
        raise AssertionError("work was begun")

    monkeypatch.setattr(command, "Pool", begun_)


@pytest.mark.usefixtures("no_workers")
def test_an_output_that_is_no_folder_is_refused_before_any_work(tmp_path):
    source = write_series(tmp_path / "in", 1, side=16)
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere/at/all")
    for name in ("file", "file/below", "gone"):
        with pytest.raises(
            UsageError, match=r"^OUT \S+ cannot be written: (Not a dir|No such file)"
        ):
            enhance(source, tmp_path / name)
        with pytest.raises(UsageError, match=r"^PAIRS \S+ cannot be written: (Not a|No such file)"):
            simulate.run(simulate.Options(source=source, out=tmp_path / name, device="cpu"))


@pytest.mark.usefixtures("no_workers")
def test_the_input_as_output_is_refused(tmp_path):
    source = write_series(tmp_path / "in", 1, side=16)
    (tmp_path / "link").symlink_to(source)
    for out in (source, tmp_path / "link", source / ".." / "in"):
        with pytest.raises(UsageError, match=r"^OUT \S+ is INPUT; give another folder"):
            enhance(source, out)


@pytest.mark.usefixtures("no_workers")
def test_a_full_disk_is_noticed_before_any_work(tmp_path, monkeypatch):
    source = write_series(tmp_path / "in", 1, side=16)

    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UsageError, match=r"^OUT \S+/out/deep cannot be written: No space left on device$"
    ):
        enhance(source, tmp_path / "out/deep")
    assert not (tmp_path / "out").exists()


def test_the_probe_leaves_nothing(tmp_path):
    output.check(tmp_path / "a/b", tmp_path)
    output.check(tmp_path, tmp_path / "elsewhere")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_ends_the_run_which_can_go_on(tmp_path, monkeypatch):
    source, out = write_series(tmp_path / "in", 40, side=16), tmp_path / "out"
    monkeypatch.setattr(command, "Desk", dicom_desks.Filling)
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(2))
    said = r"^the disk of OUT \S+/out is full: \d of 40 results are there; make space and"
    with pytest.raises(CompressError, match=said) as caught:
        enhance(source, out)
    assert caught.value.exit_code == 1
    status = [row["status"] for row in rows(out)]
    assert set(status) == {"enhanced", "stopped"}
    assert status.count("enhanced") == len(results(out)) <= 8
    assert not list(out.rglob(f"*{PARTIAL}"))
    monkeypatch.setattr(command, "Desk", dicom_desks.Desk)
    content = enhance(source, out, existing="skip")
    assert sum(content["counts"]["status"].values()) == len(results(out)) == 40


def test_a_disk_that_is_really_full(tmp_path):
    """In a file system of 1 MB, where the machine lets us make one."""
    source = write_series(tmp_path / "in", 60, side=128)
    (tmp_path / "disk").mkdir()
    mount = "mount -t tmpfs -o size=1m none disk"
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*shell, mount], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("no file system can be made here")
    command_ = f"{sys.executable} -m dicom_stops plain in disk/out; echo code $?"
    looks = "ls -A disk/out | grep -c tmp; ls disk/out/*.dcm | wc -l; ls disk/out | wc -l"
    words = [*shell, f"{mount} && {command_}; {looks}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "the disk of OUT disk/out is full" in done.stderr, done.stderr
    code, partial, images, files = done.stdout.split("\n")[-5:-1]
    assert (code, partial) == ("code 1", "0")
    assert 10 < int(images) < 32
    assert int(files) - int(images) in (0, 1)
    assert source.is_dir()


# --- own results ----------------------------------------------------------------------------


def test_an_archive_with_results_is_not_enhanced_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    source = write_series(tmp_path / "archive/ct", 3, side=16)
    enhance(source, tmp_path / "archive/enhanced")
    content = enhance(tmp_path / "archive", tmp_path / "out")
    assert content["counts"]["status"] == {"enhanced": 3, "skipped": 4}
    assert content["counts"]["reason"] == {"not-dicom": 1, "own-result": 3}
    only = tmp_path / "archive/enhanced"
    with pytest.raises(UsageError, match=r"3 own-result .*--include-results takes it"):
        enhance(only, tmp_path / "again")
    content = enhance(only, tmp_path / "again", include_results=True)
    assert content["counts"]["status"] == {"enhanced": 3, "skipped": 1}


def test_simulated_partners_are_what_is_enhanced_and_not_simulated_again(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    source = write_series(tmp_path / "in", 1, side=32)
    few = {"views": 24, "device": "cpu"}
    simulate.run(simulate.Options(source=source, out=tmp_path / "pairs", **few))
    low = tmp_path / "pairs/dicom/low"
    assert enhance(low, tmp_path / "out")["counts"]["status"] == {"enhanced": 1}
    with pytest.raises(UsageError, match=r"INPUT \S+/low holds no CT image: 1 own-result .*--incl"):
        simulate.run(simulate.Options(source=low, out=tmp_path / "twice", **few))
    more = {"include_results": True, **few}
    content = simulate.run(simulate.Options(source=low, out=tmp_path / "twice", **more))
    assert content["counts"]["status"] == {"simulated": 1}


# --- the table of series --------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_the_table_never_cuts_a_word(width, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    found = [
        series.Series(
            uid=uid("S", k), images=41234, slices=41234, matrix="512 x 512 to 1024 x 1024",
            body_part="CHESTABDPELVIS", kernel="Br40d_3_FBP",
        )
        for k in range(2)
    ]  # fmt: skip
    assert Console().width == width
    series.render(found)
    shown = capsys.readouterr().out
    assert "…" not in shown
    for one in found:
        assert one.key in shown


def headers_of_series(count):
    from compress.dicom.headers import Header

    return [
        Header(name=f"{k}", sop=uid("S", k), series=uid("S", k), rows=9, columns=9)
        for k in range(count)
    ]


def test_the_beginning_of_a_key_names_a_series():
    found = headers_of_series(3)
    keys = [short(header.series) for header in found]
    for header, key in zip(found, keys, strict=True):
        for name in (header.series, key, key[:4], key[:9], f"{key[:8]}…", key[:6].upper()):
            chosen = series.choose(found, [name])
            assert [h.name for h in chosen if h.reason is None] == [header.name]
    for name in (keys[0][:3], "", "…", f"{keys[0]}0", "zzzz", uid("S", 0)[:20]):
        with pytest.raises(UsageError, match="--series names a series that INPUT does not hold"):
            series.choose(found, [name])


def test_a_beginning_of_several_keys_names_none(monkeypatch):
    found = headers_of_series(2)
    monkeypatch.setattr(series, "short", lambda uid_: f"abcd{uid_[-8:]}")
    with pytest.raises(UsageError, match=r"^--series abcd names 2 series; give more of the key$"):
        series.choose(found, ["abcd"])


# --- what is counted ------------------------------------------------------------------------


def test_slices_without_anything_to_enhance_are_counted_and_named(tmp_path, monkeypatch, caplog):
    import numpy as np

    monkeypatch.setattr(inference, "load", lambda *_a, **_k: dicom_desks.identity(4))
    folder = tmp_path / "in"
    folder.mkdir()
    empty, plain = np.full((24, 24), -2000, np.int16), body(24)
    plain[5:9, 5] = 0
    (folder / "a").write_bytes(packed(dataset(empty, intercept=0)))
    (folder / "b").write_bytes(packed(dataset(plain, index=1, intercept=0, PixelPaddingValue=0)))
    caplog.set_level("INFO", "compress")
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    content = enhance(folder, tmp_path / "out")
    ignored = int((plain == 0).sum())
    assert content["counts"] == {
        "status": {"enhanced": 2}, "reason": {}, "slices": 2, "unchanged": 1,
        "padding_ignored": ignored,
    }  # fmt: skip
    assert [row["unchanged"] for row in content["files"]] == [1, 0]
    assert "1 slices hold nothing but padding and background, and were copied" in caplog.text
    assert f"{ignored} pixels have a value that is declared to be padding" in caplog.text


def test_the_command_takes_include_results():
    for name in ("enhance", "simulate"):
        said = CliRunner().invoke(cli.main, (name, "--help")).output
        assert "--include-results" in said
    assert Reason.OWN_RESULT == "own-result"
