"""Whole runs of recipes/smoke.yaml: repeatable to the bit, whatever kills them, one clear word."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress import checkpoint
from compress.base.files import PARTIAL

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
STAGES = ["train", "prune", "retrain", "sparsify", "retrain", "evaluate", "export", "report"]
NAMES = [f"{index:02d}-{word}" for index, word in enumerate(STAGES)]


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "compress", "run", str(SMOKE), "--out", str(out), *words]


def finish(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(out, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def weights(out: Path) -> dict[str, bytes]:
    return {name: (out / name / "model.safetensors").read_bytes() for name in NAMES[:5]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert finish(out).stdout == f"{out}\n"
    return out


def test_the_run_folder_repeats_the_recipe(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == NAMES
    assert (whole / "recipe.yaml").read_text() == SMOKE.read_text()
    report = json.loads((whole / "07-report" / "report.json").read_text())
    assert [stage["step"] for stage in report["stages"]] == STAGES[:-1]
    assert report["removed"]["macs"] >= 0.3
    assert report["sparse24"]["done"] == 43
    assert {"input", "dense", "compressed"} == report["quality"].keys()
    assert (whole / "07-report" / "report.html").stat().st_size > 20_000


def test_twice_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    finish(tmp_path / "again", "--until", "04-retrain")
    assert weights(tmp_path / "again") == weights(whole)


def test_a_finished_run_is_not_done_again(whole: Path) -> None:
    before = {name: (whole / name / "facts.json").stat().st_mtime_ns for name in NAMES}
    said = finish(whole).stderr
    assert all(f"{name}: already done, skipping" in said for name in NAMES)
    assert before == {name: (whole / name / "facts.json").stat().st_mtime_ns for name in NAMES}


def test_an_altered_checkpoint_is_refused_with_a_remedy(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    file = run / "02-retrain" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = subprocess.run(command(run), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = f"was altered: its hash is not in model.json; remove {file.parent} to have it done again"
    assert done.stderr.splitlines()[-1].endswith(said)
    shutil.rmtree(file.parent)
    finish(run)
    assert weights(run) == weights(whole)


def test_every_checkpoint_loads_from_its_folder_alone(whole: Path, tmp_path: Path) -> None:
    for name in NAMES[:5]:
        shutil.copytree(whole / name, tmp_path / name)
        model = checkpoint.load(tmp_path / name)
        assert checkpoint.fingerprint(model) == checkpoint.fingerprint(
            checkpoint.load(whole / name)
        )


def until(process: subprocess.Popen[str], out: Path, stage: str, extra: float) -> None:
    """Wait until a stage has begun, and `extra` seconds more."""
    while process.poll() is None and not (out / stage / "begun.json").exists():
        time.sleep(0.005)
    time.sleep(extra)


@pytest.mark.slow
@pytest.mark.parametrize("stage", NAMES)
def test_killed_in_any_stage_it_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, stage: str
) -> None:
    """SIGKILL at a random moment of a stage; stages before it are taken from the whole run."""
    out = tmp_path / "run"
    trains = stage in NAMES[:5]
    words = ("--until", NAMES[4]) if trains else ()  # what comes after would be the same again
    shutil.copytree(whole, out)
    for name in NAMES[NAMES.index(stage) :]:
        shutil.rmtree(out / name)
    process = subprocess.Popen(command(out, *words), stderr=subprocess.PIPE, text=True)
    until(process, out, stage, random.Random(stage).uniform(0, 0.8))
    process.kill()
    process.communicate()
    (out / f".run.json.abc{PARTIAL}").write_bytes(
        b"half"
    )  # it may have been writing there, and here:
    if not (out / stage / "facts.json").exists():  # which is written last
        (out / stage / f".begun.json.abc{PARTIAL}").write_bytes(b"half")
    finish(out, *words)
    assert not list(out.rglob(f"*{PARTIAL}"))
    assert weights(out) == weights(whole)
    assert trains or (out / "07-report" / "report.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_ends_with_75(
    whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in NAMES[2:]:
        shutil.rmtree(out / name)
    process = subprocess.Popen(
        command(out, "--until", "04-retrain"), stderr=subprocess.PIPE, text=True
    )
    until(process, out, NAMES[2], 0)
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == 75, said
    assert said.strip().splitlines()[-1].startswith("02-retrain: stopped and saved; run again")
    finish(out, "--until", "04-retrain")
    assert weights(out) == weights(whole)


@pytest.mark.parametrize(
    ("words", "option", "again"),
    [
        (("--set", "steps.2.lr=0.0005"), "lr", NAMES[2:]),
        (("--set", "steps.export.batch=[1]"), "batch", NAMES[6:]),
    ],
)
def test_an_edit_runs_its_stage_and_later_ones_again(
    whole: Path, tmp_path: Path, words: tuple[str, ...], option: str, again: list[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    said = finish(out, *words).stderr
    assert [name for name in NAMES if f"{name}: already done, skipping" not in said] == again
    assert f"{again[0]}: {option} changed, so it runs again" in said
    later = "an earlier step, the model, data, seed or code changed, so it runs again"
    assert f"{again[1]}: {later}" in said


def refused(*words: str) -> str:
    """What a run says that ends with exit code 2."""
    call = [sys.executable, "-m", "compress", "run", *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_an_unwritable_output_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(str(SMOKE), "--out", str(tmp_path / "file" / "run"))
    assert said.startswith("Error: the output folder")
    assert said.endswith("cannot be written: Not a directory")


def test_a_full_disk_is_refused_before_training(tmp_path: Path, monkeypatch) -> None:
    from compress.base.errors import UsageError
    from compress.run import folder

    usage = type("Usage", (), {"free": 3 * 2**20})
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(UsageError, match="has 3 MiB free, a run needs 200 MiB"):
        folder.prepare(tmp_path / "run")


def test_a_missing_data_folder_is_refused(tmp_path: Path) -> None:
    said = refused(str(SMOKE), "--out", str(tmp_path / "run"), "--data", str(tmp_path / "none"))
    assert said == f"Error: there is no data folder {tmp_path / 'none'}"
    assert not (tmp_path / "run" / "00-train").exists()


def test_an_unreachable_amount_names_the_largest(tmp_path: Path) -> None:
    said = refused(str(SMOKE), "--out", str(tmp_path / "r"), "--set", "steps.prune.amount=0.97")
    assert "cannot be removed at round_to 16; the most is 0." in said
    assert not (tmp_path / "r" / "00-train" / "facts.json").exists()


def test_what_this_machine_cannot_do_is_refused_before_training(tmp_path: Path) -> None:
    words = ("--set", "steps.0.precision=fp16", "--device", "cpu")
    said = refused(str(SMOKE), "--out", str(tmp_path / "r"), *words)
    assert said == "Error: precision fp16 needs a GPU; take fp32 or bf16 on the CPU"
    assert not (tmp_path / "r" / "00-train").exists()
