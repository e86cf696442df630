"""Whole runs of recipes/smoke.yaml: repeatable to the bit, whatever kills them, one clear word.

The first run is a process like a user's; the others are forked from one that has imported PyTorch.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from forked import Command

from compress import checkpoint
from compress.base.files import PARTIAL

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
STAGES = ["train", "prune", "retrain", "sparsify", "retrain", "evaluate", "export", "report"]
NAMES = [f"{index:02d}-{word}" for index, word in enumerate(STAGES)]


def begun(out: Path, *words: str) -> Command:
    """A run of the recipe; its output goes to files beside the run folder."""
    return Command("run", str(SMOKE), "--out", str(out), *words, folder=out.parent)


def finish(out: Path, *words: str) -> str:
    """Run the recipe; what was said on standard error."""
    process = begun(out, *words)
    said = process.communicate()[1]
    assert process.poll() == 0, said
    return said


def weights(out: Path, names: Sequence[str] = NAMES[:5]) -> dict[str, bytes]:
    return {name: (out / name / "model.safetensors").read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, "-m", "compress", "run", str(SMOKE), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
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


def test_twice_gives_the_same_bits_with_several_threads(tmp_path: Path, monkeypatch) -> None:
    """With one, see the runs that are killed below."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for name in ("once", "again"):
        words = ["run", str(SMOKE), "--out", str(tmp_path / name), "--until", NAMES[0]]
        subprocess.run([sys.executable, "-m", "compress", *words], capture_output=True, check=True)
    once, again = (tmp_path / name / NAMES[0] / "model.safetensors" for name in ("once", "again"))
    assert once.read_bytes() == again.read_bytes()


def test_a_finished_run_is_not_done_again(whole: Path) -> None:
    before = {name: (whole / name / "facts.json").stat().st_mtime_ns for name in NAMES}
    said = finish(whole)
    assert all(f"{name}: already done, skipping" in said for name in NAMES)
    assert before == {name: (whole / name / "facts.json").stat().st_mtime_ns for name in NAMES}


def test_an_altered_checkpoint_is_refused_with_a_remedy(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    file = run / "02-retrain" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    process = begun(run)
    stderr = process.communicate()[1]
    assert process.poll() == 2
    said = f"was altered: its hash is not in model.json; remove {file.parent} to have it done again"
    assert stderr.splitlines()[-1].endswith(said)
    shutil.rmtree(file.parent)
    finish(run, "--until", NAMES[4])
    assert weights(run) == weights(whole)


def test_every_checkpoint_loads_from_its_folder_alone(whole: Path, tmp_path: Path) -> None:
    for name in NAMES[:5]:
        shutil.copytree(whole / name, tmp_path / name)
        model = checkpoint.load(tmp_path / name)
        assert checkpoint.fingerprint(model) == checkpoint.fingerprint(
            checkpoint.load(whole / name)
        )


def until(process: Command, out: Path, stage: str, extra: float) -> None:
    """Wait until a stage has begun, and `extra` seconds more."""
    while process.poll() is None and not (out / stage / "begun.json").exists():
        time.sleep(0.005)
    time.sleep(extra)


@pytest.mark.slow
@pytest.mark.parametrize("stage", NAMES)
def test_killed_in_any_stage_it_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, stage: str
) -> None:
    """SIGKILL at a random moment of a stage; stages before it are taken from the whole run.

    The run that goes on does the next stage, too: what was resumed is handed on as it should be.
    """
    out, at = tmp_path / "run", NAMES.index(stage)
    last = NAMES[min(at + 1, len(NAMES) - 1)]
    shutil.copytree(whole, out)
    for name in NAMES[at:]:
        shutil.rmtree(out / name)
    process = begun(out, "--until", last)
    until(process, out, stage, random.Random(stage).uniform(0, 0.8))
    process.kill()
    process.communicate()
    (out / f".run.json.abc{PARTIAL}").write_bytes(
        b"half"
    )  # it may have been writing there, and here:
    if not (out / stage / "facts.json").exists():  # which is written last
        (out / stage / f".begun.json.abc{PARTIAL}").write_bytes(b"half")
    finish(out, "--until", last)
    assert not list(out.rglob(f"*{PARTIAL}"))
    assert (out / last / "facts.json").exists()
    done = [name for name in NAMES[:5] if (out / name).exists()]
    assert done == NAMES[: min(at + 2, 5)]
    assert weights(out, done) == weights(whole, done)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_ends_with_75(
    whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in NAMES[2:]:
        shutil.rmtree(out / name)
    process = begun(out, "--until", NAMES[2])
    until(process, out, NAMES[2], 0)
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.poll() == 75, said
    assert said.strip().splitlines()[-1].startswith("02-retrain: stopped and saved; run again")
    finish(out, "--until", NAMES[2])
    assert weights(out, NAMES[:3]) == weights(whole, NAMES[:3])


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
    said = finish(out, *words)
    assert [name for name in NAMES if f"{name}: already done, skipping" not in said] == again
    assert f"{again[0]}: {option} changed, so it runs again" in said
    assert f"{again[1]}: {again[0]} changed, so it runs again" in said


def refused(folder: Path, *words: str) -> str:
    """What a run says that ends with exit code 2."""
    process = Command("run", *words, folder=folder)
    said = process.communicate()[1]
    assert process.poll() == 2, said
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def test_an_unwritable_output_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(tmp_path, str(SMOKE), "--out", str(tmp_path / "file" / "run"))
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
    said = refused(
        tmp_path, str(SMOKE), "--out", str(tmp_path / "run"), "--data", str(tmp_path / "none")
    )
    assert said == f"Error: there is no data folder {tmp_path / 'none'}"
    assert not (tmp_path / "run" / "00-train").exists()


def test_an_unreachable_amount_names_the_largest(tmp_path: Path) -> None:
    said = refused(
        tmp_path, str(SMOKE), "--out", str(tmp_path / "r"), "--set", "steps.prune.amount=0.97"
    )
    assert "cannot be removed at round_to 16; the most is 0." in said
    assert not (tmp_path / "r" / "00-train" / "facts.json").exists()


def test_what_this_machine_cannot_do_is_refused_before_training(tmp_path: Path) -> None:
    words = ("--set", "steps.0.precision=fp16", "--device", "cpu")
    said = refused(tmp_path, str(SMOKE), "--out", str(tmp_path / "r"), *words)
    assert said == "Error: precision fp16 needs a GPU; take fp32 or bf16 on the CPU"
    assert not (tmp_path / "r" / "00-train").exists()
