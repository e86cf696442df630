"""docker/: files that are copied exist, pins agree, scripts are clean and do what they say."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from children import descendants, ending
from forked import standing_in
from packaging.requirements import Requirement
from packaging.version import Version

from compress import __version__

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text("utf-8")
APPTAINER = (DOCKER / "apptainer.def").read_text("utf-8")
SCRIPTS = [*DOCKER.glob("*.sh"), *DOCKER.glob("slurm/*")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODELOPT = re.findall(r"^ARG MODELOPT=(\S+)", DOCKERFILE, re.M)[0]


def copied() -> set[str]:
    """Every path that the Dockerfile takes from the project."""
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M)
    return {word.rstrip("/") for line in lines for word in line.split()}


def tool(name: str) -> str:
    """The path of a linter; the test is skipped where it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


def test_everything_copied_into_the_images_exists_and_is_not_ignored():
    kept = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text("utf-8"), re.M))
    assert {"compress", "models", "recipes", "tests", "docker"} <= copied()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert path.split("/")[0] in kept, path
    packed = re.findall(r"^    (\S+) /opt/compress/(\S+)$", APPTAINER, re.M)
    assert all(source == target and (ROOT / source).exists() for source, target in packed)
    assert {source for source, _ in packed} == {path for path in copied() if "/" not in path}


def test_every_file_that_a_command_of_the_image_names_exists():
    named = set(re.findall(r"/opt/compress/([\w./]+\w)", DOCKERFILE + compose_text()))
    named |= set(re.findall(r"docker/[\w./]+\.(?:sh|py|sbatch)", DOCKERFILE + APPTAINER))
    assert {"docker/check.py", "docker/acceptance.sh", "docker/health.py"} <= named
    assert all((ROOT / path).exists() for path in named)


def compose_text() -> str:
    return (DOCKER / "compose.yaml").read_text("utf-8")


def test_pins_agree_with_pyproject_and_doctor():
    from compress.base.machine import CONTAINER

    wanted = {Requirement(line).name: Requirement(line) for line in PROJECT["dependencies"]}
    assert Version(MODELOPT) in wanted["nvidia-modelopt"].specifier
    assert f"docker/install.sh {MODELOPT}" in APPTAINER
    assert f'"${{MODELOPT:-{MODELOPT}}}"' in (DOCKER / "prove_pins.sh").read_text("utf-8")
    assert re.findall(r"^ARG VERSION=(\S+)", DOCKERFILE, re.M) == [__version__]
    tag = re.findall(r"^ARG NGC_TAG=(\S+)", DOCKERFILE, re.M)[0]
    assert CONTAINER.endswith(f"nvcr.io/nvidia/pytorch:{tag}")
    assert f"From: nvcr.io/nvidia/pytorch:{tag}" in APPTAINER
    # What the image calls its torch, and the release that prove_pins.sh takes for it.
    assert wanted["torch"].specifier.contains("2.8.0a0+5228986c39", prereleases=True)
    assert Version("2.8.0") in wanted["torch"].specifier


def test_the_image_runs_as_a_user_without_rights_and_knows_when_it_is_unhealthy():
    user = re.findall(r"^USER (\S+)", DOCKERFILE, re.M)
    assert user == ["${UID}"]
    assert int(re.findall(r"^ARG UID=(\d+)", DOCKERFILE, re.M)[0]) > 0
    assert "HEALTHCHECK" in DOCKERFILE
    assert re.search(r"^RUN .*docker/check\.py", DOCKERFILE, re.M), "no check while it is built"
    sources = DOCKERFILE.index("COPY compress/")
    assert DOCKERFILE.index("RUN docker/install.sh") < sources, "sources before the pip layer"


def test_compose_asks_for_gpus_data_and_runs():
    services = yaml.safe_load(compose_text())["services"]
    assert services.keys() == {"compress", "tests", "acceptance"}
    for service in services.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        targets = [volume.split(":/")[-1] for volume in service["volumes"]]
        assert targets == ["data:ro", "runs", "cache"]
        assert service["build"]["dockerfile"] == "docker/Dockerfile"


def test_dockerfile_is_clean():
    done = subprocess.run([tool("hadolint"), DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    done = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def python(*words: object, program: Path | str = sys.executable, **more: object):
    command = [str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **more)


@pytest.fixture
def forking(tmp_path):
    """A Python whose processes, and theirs, have PyTorch imported already."""
    with standing_in(tmp_path / "python"):
        yield tmp_path / "python"


def test_pins_keep_what_is_installed_and_see_what_moved(tmp_path):
    kept = python(DOCKER / "pins.py", "keep").stdout.split()
    torch = [line for line in kept if line.startswith("torch==")]
    assert len(torch) == 1
    assert not any("modelopt" in line for line in kept)
    file = tmp_path / "kept.txt"
    file.write_text("\n".join(kept))
    same = python(DOCKER / "pins.py", "changed", file)
    assert (same.returncode, same.stdout) == (0, "the stack of the image is as it was\n")
    file.write_text("torch==1.0\ntensorrt==9.0\n")
    moved = python(DOCKER / "pins.py", "changed", file)
    assert moved.returncode == 1
    assert moved.stdout.splitlines() == [
        f"torch was 1.0 and is {torch[0].removeprefix('torch==')} now",
        "tensorrt was 9.0 and is gone now",
    ]


def test_requirements_are_those_of_the_project_and_its_tests():
    printed = python(DOCKER / "pins.py", "requires").stdout.splitlines()
    assert printed == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]


def test_the_build_fails_where_a_part_cannot_be_imported(tmp_path):
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise ImportError('apex broke')")
    there = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = python(DOCKER / "check.py", "apex.amp", "compress", env=there)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "apex.amp: ImportError: apex broke",
        "compress: imports",
    ]
    assert python(DOCKER / "check.py", "compress", env=there).returncode == 0


def test_health_names_the_steps_that_lack_something(forking, tmp_path):
    recipe = tmp_path / "r.yaml"
    head = "schema: 1\nmodel: {name: ddnet}\nsteps: "
    recipe.write_text(f"{head}[evaluate, {{sparsify: {{backend: asp}}}}]")
    asp = python(DOCKER / "health.py", recipe, program=forking, cwd=ROOT)
    if asp.returncode:  # else this machine has Apex
        assert asp.stdout.startswith("steps[1].sparsify: ")
    recipe.write_text(f"{head}[evaluate]")
    good = python(DOCKER / "health.py", recipe, program=forking, cwd=ROOT)
    assert (good.returncode, good.stdout) == (0, "every step has what it needs\n")
    wrong = python(DOCKER / "health.py", tmp_path / "none.yaml", program=forking, cwd=ROOT)
    assert wrong.returncode == 1
    assert "none.yaml" in wrong.stdout


# The scripts for Slurm, with stand-ins for Slurm


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def cluster(tmp_path):
    """Surroundings of a job, and the folder of what Slurm was asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    asked = tmp_path / "asked"
    stand_in(
        programs,
        "srun",
        f'echo "$@" >>{asked}\nwhile [[ $1 == --* ]]; do shift; done\n'
        f'echo $$ >{tmp_path}/step\nexec setsid --wait "$@"',
    )
    stand_in(
        programs,
        "scontrol",
        f'if [ "$1" = show ]; then echo node1; echo node2; else echo "scontrol $*" >>{asked}; fi',
    )
    stand_in(programs, "torchrun", f'echo "torchrun $*" >>{asked}')
    env = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": f"7{os.getpid()}",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    with standing_in(programs / "python"):
        yield env, asked


def submit(script: str, *words: object, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", DOCKER / "slurm" / script, *map(str, words)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Status of a job when it has ended, and what it said."""
    with ending([job]):
        said = job.communicate(timeout=120)[0]
    return job.returncode, said


def epochs(log: Path) -> list[int]:
    """Numbers of the epochs in a stage's log.csv."""
    lines = log.read_text().splitlines()[1:] if log.exists() else []
    return [int(line.split(",")[0]) for line in lines]


def stop_after(job: subprocess.Popen[str], log: Path, count: int, number: int) -> str:
    """Signal every process under a job when its log has `count` epochs; what it said."""
    deadline = time.monotonic() + 240
    with ending([job]):
        while len(epochs(log)) < count:
            assert job.poll() is None, job.communicate()[0]
            assert time.monotonic() < deadline, "the job does not train"
            time.sleep(0.05)
        for pid in descendants(job.pid):
            os.kill(pid, number)
        return job.communicate(timeout=120)[0]


def test_a_job_goes_back_into_the_queue_after_the_signal_and_then_goes_on(cluster, tmp_path):
    env, asked = cluster
    out = tmp_path / "run"
    words = [ROOT / "recipes" / "smoke.yaml", "--out", out, "--set", "steps.train.epochs=400"]
    log = out / "00-train" / "log.csv"
    for start in (1, 2):
        before = epochs(log)
        job = submit("run.sbatch", *words, env=env)
        said = stop_after(job, log, len(before) + 2, signal.SIGUSR1)
        assert job.returncode == 75, said
        assert asked.read_text().count(f"scontrol requeue {env['SLURM_JOB_ID']}") == start
        assert epochs(log)[: len(before)] == before
    assert epochs(log) == list(range(1, len(epochs(log)) + 1)), "an epoch was done twice"
    assert not (out / "00-train" / "facts.json").exists()
    assert not (ROOT / f".stopped-{env['SLURM_JOB_ID']}").exists()


def test_a_job_that_ends_is_not_queued_again_and_passes_its_status_on(cluster, tmp_path):
    env, asked = cluster
    job = submit("run.sbatch", tmp_path / "none.yaml", env=env)
    code, said = ended(job)
    assert code == 2
    assert "none.yaml" in said
    assert "requeue" not in asked.read_text()


def test_several_gpus_and_nodes_run_under_torchrun_and_a_sweep_does_not(cluster):
    env, asked = cluster
    env |= {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    assert ended(submit("run.sbatch", "r.yaml", "--out", "o", env=env))[0] == 0
    (line,) = [line for line in asked.read_text().splitlines() if line.startswith("torchrun")]
    assert "--nnodes=2 --nproc-per-node=4" in line
    assert "--rdzv-endpoint=node1:29500" in line
    assert line.endswith("--no-python bash docker/slurm/task.sh --work run r.yaml --out o")
    assert ended(submit("array.sbatch", "none.yaml", env=env))[0] == 2
    assert asked.read_text().count("torchrun --") == 1


@pytest.mark.slow
def test_two_processes_under_torchrun_save_together_and_the_job_goes_back(cluster, tmp_path):
    env, asked = cluster
    stand_in(tmp_path / "bin", "torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"')
    stand_in(
        tmp_path / "bin",
        "scontrol",
        f'if [ "$1" = show ]; then echo localhost; else echo "scontrol $*" >>{asked}; fi',
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        env |= {"SLURM_GPUS_ON_NODE": "2", "MASTER_PORT": str(free.getsockname()[1])}
    out = tmp_path / "run"
    words = [ROOT / "recipes" / "smoke.yaml", "--out", out, "--device", "cpu"]
    job = submit("run.sbatch", *words, "--set", "steps.train.epochs=400", env=env)
    said = stop_after(job, out / "00-train" / "log.csv", 2, signal.SIGUSR1)
    assert job.returncode == 75, said
    assert "scontrol requeue" in asked.read_text()
    assert "stopped and saved" in said


def test_a_worker_of_torchrun_that_was_stopped_ends_well_and_leaves_a_mark(cluster, tmp_path):
    env, _ = cluster
    mark = tmp_path / "mark"
    for status, ends, marked in ((75, 0, True), (3, 3, False), (0, 0, False)):
        mark.unlink(missing_ok=True)
        stand_in(tmp_path / "bin", "python", f"exit {status}")
        command = ["bash", DOCKER / "slurm" / "task.sh", "--work", "run", "r.yaml"]
        done = subprocess.run(command, env={**env, "COMPRESS_STOPPED": str(mark)})
        assert (done.returncode, mark.exists()) == (ends, marked)


def test_with_an_image_the_work_is_done_inside_of_it(cluster):
    env, asked = cluster
    stand_in(asked.parent / "bin", "apptainer", "exit 0")
    assert ended(submit("run.sbatch", "r.yaml", env={**env, "SIF": "c.sif"}))[0] == 0
    assert f"apptainer exec --nv --bind {ROOT} --pwd {ROOT} c.sif bash" in asked.read_text()


# The acceptance script

PRETENDS = """
case "$*" in
  *"doctor --json"*) echo '{}' ;;
  *"compress run"*)
    mkdir -p "$OUT/reference/06-export" "$OUT/reference/07-report" && cd "$_" && touch report.html
    cd ../06-export && touch e.onnx e.onnx.json ;;
  *"inspect --json"*) echo '{"layers": []}' ;;
  *apex_masks*) echo "no such thing | here" >&2; exit 3 ;;
  *cuda*) exit 1 ;;
esac
"""


def accept(out: Path, *parts: str, **env: str) -> tuple[int, dict[str, list[str]]]:
    """Run the script; its exit status, and the rows of its summary by part."""
    words = ["bash", DOCKER / "acceptance.sh", out, *parts]
    code = subprocess.run(words, env={**os.environ, **env}, capture_output=True).returncode
    text = (out / "summary.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| ([\w ]+) \| \d+ \| (.*) \|$", text, re.M)
    return code, {name: [state, remark] for name, state, remark in rows}


def test_a_part_that_fails_or_is_missing_does_not_stop_the_rest(tmp_path):
    stand_in(tmp_path, "python", PRETENDS)
    out = tmp_path / "acc"
    code, rows = accept(out, PYTHON=str(tmp_path / "python"), OUT=str(out), ACCEPTANCE_QUICK="1")
    assert code == 1
    assert rows["apex-masks"] == ["FAILED", r"status 3: no such thing \| here"]
    states = {name: state for name, (state, _) in rows.items()}
    assert states["reference"] == states["eligible-picked"] == states["bench-engines"] == "done"
    assert states["bench-training"] == "missing"
    assert rows["gpu-tests"] == ["missing", "no GPU"]
    packed = subprocess.run(["tar", "tzf", f"{out}.tar.gz"], capture_output=True, text=True).stdout
    assert "acc/summary.md" in packed
    assert "acc/reference/06-export/e.onnx.json" in packed


def test_only_the_parts_that_were_asked_for_run(tmp_path):
    stand_in(tmp_path, "python", PRETENDS)
    env = {"PYTHON": str(tmp_path / "python"), "OUT": str(tmp_path / "acc")}
    code, rows = accept(tmp_path / "acc", "doctor", "bench-engines", **env, ACCEPTANCE_QUICK="1")
    assert code == 0
    assert rows.pop("doctor")[0] == "done"
    assert rows.pop("bench-engines") == [
        "missing",
        f"the reference recipe has not ended in {tmp_path}/acc",
    ]
    assert {state for state, _ in rows.values()} == {"not asked"}
    words = ["bash", DOCKER / "acceptance.sh", tmp_path / "other", "references"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "there is no part references; there are machine, doctor, reference"
    )
    assert not (tmp_path / "other").exists()


def test_the_trained_part_says_how_busy_the_gpu_was(tmp_path):
    wait = 'until [ "$(wc -l <"$OUT/gpu.csv")" = 3 ]; do sleep 0.05; done'
    stand_in(tmp_path, "python", PRETENDS.replace("mkdir", f"{wait}; mkdir", 1))
    samples = ("t, 0, 0, 90, 210", "t, 90, 40, 300.5, 1980", "t, 99, 40, 500.5, 1980")
    stand_in(tmp_path, "nvidia-smi", "; ".join(f"echo '{sample}'" for sample in samples))
    out, path = tmp_path / "acc", f"{tmp_path}:{os.environ['PATH']}"
    env = {"PYTHON": str(tmp_path / "python"), "OUT": str(out), "PATH": path}
    _, rows = accept(out, "reference", **env)
    assert rows["reference"] == ["done", "GPU busy 94.5 % while training, 400 W, 2 samples"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two minutes on two idle cores
def test_the_short_form_runs_here(forking, tmp_path):
    env = {"ACCEPTANCE_QUICK": "1", "PYTHON": str(forking), "PYTHONPATH": str(ROOT)}
    code, rows = accept(tmp_path / "acc", **env)
    assert code == 0, rows
    parts = ("reference", "eligible-picked", "bench-engines", "apex-masks")
    assert {rows[name][0] for name in parts} == {"done"}
    assert rows["eligible-picked"][1] == "2 engines"
    (listed, *_) = sorted((tmp_path / "acc").glob("layers-*.json"))
    layers = json.loads(listed.read_text())["layers"]
    assert len(layers) == 45
    assert all(layer["picked"] in ("yes", "no", "unknown") for layer in layers)
